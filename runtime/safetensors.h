// The safetensors file format (an 8-byte header length, a JSON header, dense little-endian data):
// reading through a memory map with every bound checked, and atomic writing with a checksum. The
// checksum lives in __metadata__, where other readers ignore it.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "dtype.h"
#include "error.h"
#include "io.h"
#include "json.h"

namespace tsr {

using Metadata = std::vector<std::pair<std::string, std::string>>;

// 64-bit checksum of a byte stream fed in pieces whose sizes are multiples of 8 except the last.
// Four independent multiply-xor lanes: memory speed, and any changed bit changes the result.
class Checksum {
 public:
  void add(const char* data, size_t size) {
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
      uint64_t word;
      memcpy(&word, data + i, 8);
      mix(word);
    }
    if (i < size) {
      uint64_t word = 0;
      memcpy(&word, data + i, size - i);
      mix(word);
    }
  }
  uint64_t value() const {
    uint64_t out = count_;
    for (const uint64_t lane : lanes_) out = (out ^ lane ^ (lane >> 29)) * 0x9e3779b97f4a7c15u;
    return out ^ (out >> 32);
  }

 private:
  void mix(uint64_t word) {
    uint64_t& lane = lanes_[count_++ & 3];
    lane = (lane ^ word) * 0xff51afd7ed558ccdu;
    lane ^= lane >> 32;
  }
  uint64_t lanes_[4] = {1, 2, 3, 4};
  uint64_t count_ = 0;
};

constexpr size_t kChecksumDigits = 16;

struct StoredTensor {
  std::string name, type;
  std::vector<int64_t> shape;
  Format element;
  bool known;         // false: a type this runtime cannot convert (F8_E4M3, ...)
  const char* data;
  size_t size;        // bytes

  int64_t elements() const {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    return count;
  }
};

inline bool safetensors_format(const std::string& name, Format* out) {
  struct Entry { const char* name; Format format; };
  const Entry entries[] = {{"F32", {Kind::real, 4}}, {"F64", {Kind::real, 8}}, {"F16", {Kind::real, 2}}, {"BF16", {Kind::brain, 2}},
                           {"I8", {Kind::signed_integer, 1}}, {"I16", {Kind::signed_integer, 2}}, {"I32", {Kind::signed_integer, 4}},
                           {"I64", {Kind::signed_integer, 8}}, {"U8", {Kind::unsigned_integer, 1}}, {"U16", {Kind::unsigned_integer, 2}},
                           {"U32", {Kind::unsigned_integer, 4}}, {"U64", {Kind::unsigned_integer, 8}}, {"BOOL", {Kind::boolean, 1}},
                           {"C64", {Kind::complex, 8}}, {"C128", {Kind::complex, 16}}};
  for (const Entry& entry : entries)
    if (name == entry.name) { *out = entry.format; return true; }
  return false;
}

inline const char* safetensors_name(DType dtype) {
  const char* const names[] = {"F32", "F64", "BF16", "F16", "I8", "I16", "I32", "I64", "U8", "BOOL", "C64", "C128"};
  return names[static_cast<int>(dtype)];
}

// A checked, mapped file.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path) : file_(path) {
    if (file_.size() < 10) throw damaged("it has only " + format("%llu bytes", static_cast<unsigned long long>(file_.size())));
    uint64_t length;
    memcpy(&length, file_.data(), 8);
    if (length > kLongestHeader) throw damaged("it does not start with the length of a header");
    if (length > file_.size() - 8) throw truncated(8 + length);
    if (file_.data()[8] != '{') throw damaged("no JSON header follows its length");
    const char* const text = file_.data() + 8;
    Json header;
    JsonParser parser(text, text + length);
    if (!parser.parse(&header) || header.type != Json::Type::object) throw damaged("its JSON header is malformed (" + parser.what() + ")");
    data_ = text + length;
    data_size_ = file_.size() - 8 - length;
    uint64_t used = 0;
    for (const auto& member : header.members) {
      if (member.first == "__metadata__") {
        for (const auto& entry : member.second.members) metadata.emplace_back(entry.first, entry.second.string);
        continue;
      }
      tensors.push_back(read_entry(member.first, member.second, &used));
    }
    if (used > data_size_) throw truncated(8 + length + used);
    if (used < data_size_) throw damaged(format("%llu bytes follow its last tensor", static_cast<unsigned long long>(data_size_ - used)));
  }

  const std::string& path() const { return file_.path(); }
  const StoredTensor* find(const std::string& name) const {
    for (const StoredTensor& tensor : tensors)
      if (tensor.name == name) return &tensor;
    return nullptr;
  }
  std::string meta(const char* key) const {
    for (const auto& entry : metadata)
      if (entry.first == key) return entry.second;
    return "";
  }
  // Compares the data with the checksum stored when a tesserac program wrote the file.
  void verify_checksum() const {
    Checksum sum;
    for (size_t at = 0; at < data_size_; at += kPiece) {
      const size_t size = data_size_ - at < kPiece ? data_size_ - at : kPiece;
      sum.add(data_ + at, size);
      file_.release(data_ + at, size);
    }
    const std::string want = meta("checksum");
    if (want != format("%016llx", static_cast<unsigned long long>(sum.value()))) throw damaged("its data does not match its checksum");
  }
  // Gives the memory of a tensor back after it was read.
  void release(const StoredTensor& tensor) const { file_.release(tensor.data, tensor.size); }
  Error damaged(const std::string& why) const {
    return Error("T0913", quoted(file_.path()) + " is not a usable safetensors file: " + why,
                 "write it again, with tesserac programs or safetensors.numpy.save_file / safetensors.torch.save_file");
  }

  std::vector<StoredTensor> tensors;
  Metadata metadata;

 private:
  static constexpr size_t kPiece = size_t{1} << 22;
  static constexpr uint64_t kLongestHeader = 100'000'000;  // as the reference implementation
  Error truncated(uint64_t need) const {
    return damaged(format("it is truncated, its header announces %llu bytes and the file has %llu", static_cast<unsigned long long>(need),
                          static_cast<unsigned long long>(file_.size())));
  }

  StoredTensor read_entry(const std::string& name, const Json& entry, uint64_t* used) const {
    const Json* const type = entry.find("dtype");
    const Json* const shape = entry.find("shape");
    const Json* const offsets = entry.find("data_offsets");
    const std::string where = "the header entry of " + quoted(name) + " ";
    if (!type || !shape || !offsets || offsets->items.size() != 2 || !offsets->items[0].is_integer || !offsets->items[1].is_integer)
      throw damaged(where + "lacks dtype, shape or data_offsets");
    StoredTensor out{name, type->string, {}, {Kind::real, 4}, false, nullptr, 0};
    out.known = safetensors_format(out.type, &out.element);
    uint64_t need = out.known ? static_cast<uint64_t>(out.element.size) : 1;
    for (const Json& extent : shape->items) {
      if (!extent.is_integer || extent.integer < 0 || __builtin_mul_overflow(need, static_cast<uint64_t>(extent.integer), &need))
        throw damaged(where + "has an impossible shape");
      out.shape.push_back(extent.integer);
    }
    const int64_t begin = offsets->items[0].integer, end = offsets->items[1].integer;
    if (begin < 0 || end < begin || (out.known && static_cast<uint64_t>(end - begin) != need))
      throw damaged(where + "has offsets that do not fit its shape");
    if (static_cast<uint64_t>(end) > *used) *used = static_cast<uint64_t>(end);
    out.size = static_cast<size_t>(end - begin);
    out.data = static_cast<uint64_t>(end) <= data_size_ ? data_ + begin : nullptr;  // null only when the file is rejected as truncated
    return out;
  }

  MappedFile file_;
  const char* data_ = nullptr;
  size_t data_size_ = 0;
};

// What to write: dense data produced one tensor at a time by `fill(index, buffer)`.
struct TensorHeader {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  size_t bytes;
};

template <class Fill>
inline void write_safetensors(const std::string& path, const std::vector<TensorHeader>& tensors, const Metadata& metadata, const Fill& fill) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\",\"checksum\":\"";
  const size_t checksum_at = 8 + header.size();
  header.append(kChecksumDigits, '0');
  header += '"';
  for (const auto& entry : metadata) header += "," + json_string(entry.first) + ":" + json_string(entry.second);
  header += "}";
  size_t offset = 0, largest = 0;
  for (const TensorHeader& tensor : tensors) {
    header += "," + json_string(tensor.name) + ":{\"dtype\":\"" + safetensors_name(tensor.dtype) + "\",\"shape\":[";
    for (size_t axis = 0; axis < tensor.shape.size(); ++axis) header += format(axis ? ",%lld" : "%lld", static_cast<long long>(tensor.shape[axis]));
    header += format("],\"data_offsets\":[%zu,%zu]}", offset, offset + tensor.bytes);
    offset += tensor.bytes;
    if (tensor.bytes > largest) largest = tensor.bytes;
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  AtomicFile file(path);
  const uint64_t length = header.size();
  file.write(&length, 8);
  file.write(header.data(), header.size());
  std::vector<char> buffer(largest + 8);
  Checksum sum;
  size_t carried = 0;  // bytes at the front of the buffer that did not fill a word: the sum is over the stream, whatever the tensors' sizes
  for (size_t i = 0; i < tensors.size(); ++i) {
    fill(i, buffer.data() + carried);
    file.write(buffer.data() + carried, tensors[i].bytes);
    const size_t have = carried + tensors[i].bytes, whole = have / 8 * 8;
    sum.add(buffer.data(), whole);
    memmove(buffer.data(), buffer.data() + whole, have - whole);
    carried = have - whole;
  }
  sum.add(buffer.data(), carried);
  file.write_at(checksum_at, format("%016llx", static_cast<unsigned long long>(sum.value())).c_str(), kChecksumDigits);
  file.commit();
}

}  // namespace tsr
