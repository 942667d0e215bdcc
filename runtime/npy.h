// NumPy .npy files (format versions 1 to 3; the layout is described in numpy.lib.format): reading
// through a memory map, with a message for everything that can be wrong, and atomic writing.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "dtype.h"
#include "error.h"
#include "io.h"

namespace tsr {

// A C-contiguous little-endian array in a mapped file.
class NpyFile {
 public:
  explicit NpyFile(const std::string& path) : file_(path) {
    const char* const bytes = file_.data();
    if (file_.size() < 10 || memcmp(bytes, "\x93NUMPY", 6) != 0) {
      throw Error("T0902", quoted(path) + " is not a .npy file" + (file_.size() == 0 ? " (it is empty)" : ""),
                  "write it with numpy.save(path, array); .npz archives and pickles are not read");
    }
    const int major = static_cast<unsigned char>(bytes[6]);
    if (major < 1 || major > 3) throw Error("T0902", quoted(path) + format(" has .npy format version %d; versions 1 to 3 are known", major));
    const size_t prefix = major == 1 ? 10 : 12;
    size_t length = 0;
    if (file_.size() >= prefix)
      for (size_t i = prefix; i-- > 8;) length = length * 256 + static_cast<unsigned char>(bytes[i]);
    if (file_.size() < prefix || file_.size() - prefix < length) throw truncated(prefix + length);
    header_ = std::string(bytes + prefix, length);
    read_header();
    data_ = bytes + prefix + length;
    const size_t have = file_.size() - prefix - length;
    uint64_t need = static_cast<uint64_t>(format_.size);
    for (const int64_t extent : shape)
      if (__builtin_mul_overflow(need, static_cast<uint64_t>(extent), &need)) throw malformed("its shape overflows");
    if (have < need) throw truncated(prefix + length + need);
    if (have > need) throw Error("T0902", quoted(path) + format(" has %llu bytes behind its array", static_cast<unsigned long long>(have - need)),
                                 "the file is damaged or two files were joined; write it again with numpy.save");
  }

  const char* data() const { return data_; }
  Format element() const { return format_; }
  const std::string& path() const { return file_.path(); }
  int rank() const { return static_cast<int>(shape.size()); }

  std::vector<int64_t> shape;

 private:
  Error truncated(uint64_t need) const {
    return Error("T0903", quoted(file_.path()) + format(" is truncated: its header announces %llu bytes, the file has %llu",
                 static_cast<unsigned long long>(need), static_cast<unsigned long long>(file_.size())), "copy or write the file again");
  }
  Error malformed(const char* why) const { return Error("T0902", quoted(file_.path()) + " has a malformed .npy header: " + why, "write it with numpy.save"); }

  // Position just behind "'key':" and spaces.
  size_t value_of(const char* key) const {
    size_t at = header_.find(std::string("'") + key + "'");
    if (at == std::string::npos) throw malformed(format("no '%s'", key).c_str());
    at = header_.find(':', at);
    if (at == std::string::npos) throw malformed("no ':'");
    while (++at < header_.size() && header_[at] == ' ') {}
    return at;
  }

  void read_header() {
    const size_t descr = value_of("descr");
    const size_t close = header_.find('\'', descr + 1);
    if (header_.compare(descr, 1, "'") != 0 || close == std::string::npos) throw unsupported("a structured dtype");
    read_type(header_.substr(descr + 1, close - descr - 1));
    if (header_.compare(value_of("fortran_order"), 4, "True") == 0)
      throw Error("T0904", quoted(file_.path()) + " is stored in Fortran order", "save numpy.ascontiguousarray(array)");
    size_t at = value_of("shape");
    if (header_.compare(at, 1, "(") != 0) throw malformed("bad shape");
    const size_t end = header_.find(')', at);
    if (end == std::string::npos) throw malformed("bad shape");
    while (++at < end) {
      const size_t comma = header_.find(',', at) < end ? header_.find(',', at) : end;
      size_t first = at;
      while (first < comma && header_[first] == ' ') ++first;
      int64_t extent;
      if (first == comma) break;
      if (!parse_int(header_.substr(first, comma - first), &extent) || extent < 0) throw malformed("bad shape");
      shape.push_back(extent);
      at = comma;
    }
  }

  void read_type(const std::string& descr) {
    int64_t size = 0;
    if (descr.size() < 3 || !parse_int(descr.substr(2), &size)) throw unsupported("dtype " + quoted(descr));
    if (descr[0] == '>' && size > 1) throw Error("T0904", quoted(file_.path()) + " is big-endian (dtype " + quoted(descr) + ")",
                                                 "save array.astype(array.dtype.newbyteorder('<'))");
    const char kind = descr[1];
    const bool fits = size == 1 || size == 2 || size == 4 || size == 8 || size == 16;
    if (kind == 'f' && fits && size >= 2 && size <= 8) format_ = {Kind::real, static_cast<int>(size)};
    else if (kind == 'i' && fits && size <= 8) format_ = {Kind::signed_integer, static_cast<int>(size)};
    else if (kind == 'u' && fits && size <= 8) format_ = {Kind::unsigned_integer, static_cast<int>(size)};
    else if (kind == 'b' && size == 1) format_ = {Kind::boolean, 1};
    else if (kind == 'c' && fits && size >= 8) format_ = {Kind::complex, static_cast<int>(size)};
    else throw unsupported("dtype " + quoted(descr));
  }
  Error unsupported(const std::string& what) const {
    return Error("T0904", quoted(file_.path()) + " holds " + what + ", which no input can take", "save the array as float32, float64 or an integer type");
  }

  MappedFile file_;
  std::string header_;
  Format format_ = {Kind::real, 4};
  const char* data_ = nullptr;
};

// "<f4"; bf16 has no NumPy name and is written as float32 by the callers.
inline const char* npy_descr(DType dtype) {
  const char* const names[] = {"<f4", "<f8", "<V2", "<f2", "|i1", "<i2", "<i4", "<i8", "|u1", "|b1", "<c8", "<c16"};
  return names[static_cast<int>(dtype)];
}

// The header of a version 1 file, padded so that the data starts on a multiple of 64 bytes.
inline std::string npy_header(DType dtype, const std::vector<int64_t>& shape) {
  std::string text = std::string("{'descr': '") + npy_descr(dtype) + "', 'fortran_order': False, 'shape': (";
  for (const int64_t extent : shape) text += format("%lld, ", static_cast<long long>(extent));
  text += "), }";
  text.append(63 - (10 + text.size()) % 64, ' ');
  text += '\n';
  std::string out("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(text.size() & 255);
  out += static_cast<char>(text.size() >> 8);
  return out + text;
}

}  // namespace tsr
