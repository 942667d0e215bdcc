// Tensors as files hold them: one safetensors file with whole tensors, or a checkpoint that several ranks wrote, which is a
// folder with a safetensors file per rank and an index that says which part of which tensor is where. A part is a
// rectangle; whoever reads takes the rectangle it needs, whatever the ranks were that wrote (tesserac/checkpoints.py
// reads the same format).
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "error.h"
#include "io.h"
#include "json.h"
#include "safetensors.h"

namespace tsr {

constexpr const char* kIndexName = "/index.json";
constexpr const char* kIndexFormat = "tesserac-checkpoint";

// Part of a tensor: where it begins in every dimension of the whole, and its lengths.
struct Rectangle {
  std::vector<int64_t> at, lengths;

  int64_t elements() const {
    int64_t count = 1;
    for (const int64_t length : lengths) count *= length;
    return count;
  }
  // The common part, empty (some length <= 0) if there is none.
  Rectangle with(const Rectangle& other) const {
    Rectangle out = *this;
    for (size_t d = 0; d < at.size(); ++d) {
      const int64_t end = std::min(at[d] + lengths[d], other.at[d] + other.lengths[d]);
      out.at[d] = std::max(at[d], other.at[d]);
      out.lengths[d] = end - out.at[d];
    }
    return out;
  }
  bool empty() const {
    for (const int64_t length : lengths)
      if (length <= 0) return true;
    return false;
  }
};

// Copies the common part of two rectangles of one tensor between dense arrays of them; `size` bytes an element.
inline void copy_common(const Rectangle& from, const char* in, const Rectangle& to, char* out, size_t size) {
  const Rectangle common = from.with(to);
  if (common.empty()) return;
  const size_t rank = common.at.size();
  const auto offset = [&](const Rectangle& whole, const std::vector<int64_t>& at) {
    int64_t index = 0;
    for (size_t d = 0; d < rank; ++d) index = index * whole.lengths[d] + at[d] - whole.at[d];
    return static_cast<size_t>(index) * size;
  };
  const size_t row = (rank ? static_cast<size_t>(common.lengths[rank - 1]) : 1) * size;
  int64_t rows = 1;
  for (size_t d = 0; d + 1 < rank; ++d) rows *= common.lengths[d];
  std::vector<int64_t> at = common.at;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t rest = r;
    for (size_t d = rank < 2 ? 0 : rank - 1; d-- > 0;) {
      at[d] = common.at[d] + rest % common.lengths[d];
      rest /= common.lengths[d];
    }
    memcpy(out + offset(to, at), in + offset(from, at), row);
  }
}

class Stored {
 public:
  struct Part {
    Rectangle where;
    size_t file;
    const StoredTensor* data;
  };
  // A whole tensor; `data` and `size` of `about` are those of a single part that is the whole, else null.
  struct Whole {
    StoredTensor about;
    std::vector<Part> parts;
  };

  // A file, or the folder of a checkpoint of several ranks. Checks everything but the checksums.
  explicit Stored(const std::string& path) : path_(path) {
    if (is_folder(path)) read_index();
    else read_file();
    verified_.assign(files_.size(), false);
  }

  const std::string& path() const { return path_; }
  const Whole* find(const std::string& name) const {
    for (const Whole& tensor : tensors)
      if (tensor.about.name == name) return &tensor;
    return nullptr;
  }
  std::string meta(const char* key) const {
    for (const auto& entry : metadata)
      if (entry.first == key) return entry.second;
    return "";
  }
  Error damaged(const std::string& why) const {
    return is_folder(path_) ? Error("T0950", quoted(path_) + " is not a usable checkpoint: " + why, "use the checkpoint of an earlier step: the folders step-* beside it")
                            : files_[0]->damaged(why);
  }
  // Whether its writer was a tesserac program, which leaves checksums.
  bool summed() const { return !files_.empty() && !files_[0]->meta("checksum").empty(); }
  void verify_checksums() {
    for (size_t i = 0; i < files_.size(); ++i) verify(i);
  }
  // Compares the files that hold part of `where` with their checksums, each once.
  void verify(const Whole& whole, const Rectangle& where) {
    for (const Part& part : whole.parts)
      if (!part.where.with(where).empty()) verify(part.file);
  }
  // The part `where` of a tensor, dense, in `memory` unless one file has exactly that.
  StoredTensor part(const Whole& whole, const Rectangle& where, std::vector<char>* memory) const {
    StoredTensor out = whole.about;
    out.shape = where.lengths;
    const size_t size = static_cast<size_t>(out.element.size);
    out.size = static_cast<size_t>(where.elements()) * size;
    for (const Part& part : whole.parts)
      if (part.where.at == where.at && part.where.lengths == where.lengths) {
        out.data = part.data->data;
        return out;
      }
    memory->resize(out.size);
    out.data = memory->data();
    for (const Part& part : whole.parts) copy_common(part.where, part.data->data, where, memory->data(), size);
    return out;
  }
  // Gives the memory of the files that a tensor was read from back.
  void release(const Whole& whole) const {
    for (const Part& part : whole.parts) files_[part.file]->release(*part.data);
  }

  std::vector<Whole> tensors;
  Metadata metadata;

 private:
  void verify(size_t file) {
    if (!verified_[file]) files_[file]->verify_checksum();
    verified_[file] = true;
  }

  void read_file() {
    files_.push_back(std::make_unique<SafetensorsFile>(path_));
    metadata = files_[0]->metadata;
    for (const StoredTensor& tensor : files_[0]->tensors)
      tensors.push_back({tensor, {{{std::vector<int64_t>(tensor.shape.size(), 0), tensor.shape}, 0, &tensor}}});
  }

  void read_index() {
    const MappedFile file(path_ + kIndexName);
    Json index;
    JsonParser parser(file.data(), file.data() + file.size());
    if (!parser.parse(&index) || index.type != Json::Type::object) throw damaged("its index is malformed (" + parser.what() + ")");
    const Json* const format = index.find("format");
    const Json* const version = index.find("version");
    const Json* const words = index.find("metadata");
    const Json* const list = index.find("tensors");
    if (!format || format->string != kIndexFormat || !version || version->integer != 1 || !words || !list) throw damaged("its index is not of a version that this program reads");
    for (const auto& entry : words->members) metadata.emplace_back(entry.first, entry.second.string);
    std::vector<std::string> names;
    for (const auto& member : list->members) tensors.push_back(read_tensor(member.first, member.second, &names));
  }

  static bool integers(const Json* list, std::vector<int64_t>* out) {
    if (!list) return false;
    for (const Json& item : list->items) {
      if (!item.is_integer || item.integer < 0) return false;
      out->push_back(item.integer);
    }
    return true;
  }

  Whole read_tensor(const std::string& name, const Json& entry, std::vector<std::string>* names) {
    const Error malformed = damaged("the entry of " + quoted(name) + " in its index is malformed");
    const Json* const type = entry.find("dtype");
    const Json* const parts = entry.find("parts");
    Whole out{{name, type ? type->string : "", {}, {Kind::real, 4}, false, nullptr, 0}, {}};
    out.about.known = safetensors_format(out.about.type, &out.about.element);
    if (!parts || !out.about.known || !integers(entry.find("shape"), &out.about.shape)) throw malformed;
    for (const Json& item : parts->items) {
      const Json* const where = item.find("file");
      const Json* const key = item.find("key");
      Part part{{}, 0, nullptr};
      if (!where || !integers(item.find("offsets"), &part.where.at) || !integers(item.find("lengths"), &part.where.lengths) ||
          part.where.at.size() != out.about.shape.size() || part.where.lengths.size() != out.about.shape.size() || where->string.find('/') != std::string::npos)
        throw malformed;
      part.file = open(where->string, names);
      part.data = files_[part.file]->find(key ? key->string : name);
      if (!part.data || part.data->shape != part.where.lengths || part.data->type != out.about.type)
        throw damaged(quoted(where->string) + " does not hold the part of " + quoted(name) + " that the index names");
      out.parts.push_back(part);
    }
    check_cover(out);
    return out;
  }

  size_t open(const std::string& name, std::vector<std::string>* names) {
    const auto found = std::find(names->begin(), names->end(), name);
    if (found != names->end()) return static_cast<size_t>(found - names->begin());
    names->push_back(name);
    files_.push_back(std::make_unique<SafetensorsFile>(path_ + "/" + name));
    return files_.size() - 1;
  }

  // The parts of a tensor lie inside it, are disjoint, and leave nothing out.
  void check_cover(const Whole& whole) const {
    const Rectangle all{std::vector<int64_t>(whole.about.shape.size(), 0), whole.about.shape};
    int64_t missing = all.elements();
    for (size_t i = 0; i < whole.parts.size(); ++i) {
      const Rectangle& one = whole.parts[i].where;
      const Rectangle inside = one.with(all);
      bool wrong = inside.at != one.at || inside.lengths != one.lengths;
      for (size_t j = 0; j < i; ++j) wrong = wrong || !one.with(whole.parts[j].where).empty();
      if (wrong) throw damaged("parts of " + quoted(whole.about.name) + " overlap or lie outside");
      missing -= one.elements();
    }
    if (missing != 0) throw damaged(format("%lld numbers of ", static_cast<long long>(missing)) + quoted(whole.about.name) + " are in no part");
  }

  std::string path_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<bool> verified_;
};

}  // namespace tsr
