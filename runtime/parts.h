// What the ranks of a mesh write of a checkpoint: which rank holds which part of which tensor, and the index that says so.
#pragma once
#include <exception>
#include <string>
#include <vector>

#include "error.h"
#include "json.h"
#include "program.h"
#include "ranks.h"
#include "safetensors.h"
#include "stored.h"
#include "tensor.h"

namespace tsr {

// One rank of a mesh, by its number.
class Seat {
 public:
  Seat(const Mesh& mesh, int rank) : mesh_(mesh) {
    for (int axis = mesh.axis_count; axis-- > 0; rank /= mesh.sizes[axis]) coordinates_[axis] = rank % mesh.sizes[axis];
  }
  int size(int axis) const { return mesh_.sizes[axis]; }
  int coordinate(int axis) const { return coordinates_[axis]; }

 private:
  const Mesh& mesh_;
  int coordinates_[kMaxAxes] = {};
};

template <class Where>
inline Rectangle rectangle_of(const Tensor& tensor, const Where* ranks) {
  const Corner corner = corner_of(tensor, ranks);
  return {{corner.at, corner.at + tensor.rank}, {tensor.shape, tensor.shape + tensor.rank}};
}

struct Held {
  int rank;
  Rectangle where;
};

// Every part of a tensor once, with the rank that writes it. Of the ranks with equal parts it is another one for every
// `index`, so that all of them have something to do.
inline std::vector<Held> holders(const Tensor& tensor, int index, const Mesh& mesh) {
  const unsigned cut = dividing_axes(tensor);
  int world = 1, copies = 1;
  for (int axis = 0; axis < mesh.axis_count; ++axis) {
    world *= mesh.sizes[axis];
    if (!(cut >> axis & 1u)) copies *= mesh.sizes[axis];
  }
  std::vector<Held> out;
  for (int rank = 0; rank < world; ++rank) {
    const Seat seat(mesh, rank);
    if (!holds(tensor, &seat)) continue;
    int copy = 0;
    for (int axis = 0; axis < mesh.axis_count; ++axis)
      if (!(cut >> axis & 1u)) copy = copy * mesh.sizes[axis] + seat.coordinate(axis);
    if (copy == index % copies) out.push_back({rank, rectangle_of(tensor, &seat)});
  }
  return out;
}

inline std::string part_file(int rank) { return format("rank-%05d.safetensors", rank); }

inline std::string numbers_text(const std::vector<int64_t>& numbers) {
  std::string out = "[";
  for (size_t i = 0; i < numbers.size(); ++i) out += format(i ? ",%lld" : "%lld", static_cast<long long>(numbers[i]));
  return out + "]";
}

// The index of a checkpoint with these tensors (whole ones' names and types; their parts by `holders` of the program's).
struct Indexed {
  TensorHeader header;
  const Tensor* tensor;
  int index;
};

inline std::string index_text(const std::vector<Indexed>& tensors, const Metadata& metadata, const Mesh& mesh) {
  std::string out = std::string("{\"format\":\"") + kIndexFormat + "\",\"version\":1,\n\"metadata\":{";
  for (size_t i = 0; i < metadata.size(); ++i) out += (i ? "," : "") + json_string(metadata[i].first) + ":" + json_string(metadata[i].second);
  out += "},\n\"tensors\":{";
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor whole = whole_of(*tensors[i].tensor);
    out += (i ? ",\n" : "\n") + json_string(tensors[i].header.name) + ":{\"dtype\":\"" + safetensors_name(tensors[i].header.dtype) + "\",\"shape\":" +
           numbers_text({whole.shape, whole.shape + whole.rank}) + ",\"parts\":[";
    const std::vector<Held> parts = holders(*tensors[i].tensor, tensors[i].index, mesh);
    for (size_t k = 0; k < parts.size(); ++k)
      out += (k ? "," : "") + std::string("{\"file\":\"") + part_file(parts[k].rank) + "\",\"offsets\":" + numbers_text(parts[k].where.at) + ",\"lengths\":" +
             numbers_text(parts[k].where.lengths) + "}";
    out += "]}";
  }
  return out + "\n}}\n";
}

// Runs `action` on every rank. Where it throws on one, it throws on all, with the same code: there its own error, elsewhere
// one that names the first such rank.
template <class Action>
inline void together(Ranks* ranks, const Action& action) {
  struct { int64_t code; int64_t exit_code; char message[1000], help[1000]; } word{};
  std::exception_ptr mine;
  try {
    action();
  } catch (const Error& error) {
    mine = std::current_exception();
    word.code = atoi(error.code + 1);
    word.exit_code = error.exit_code;
    snprintf(word.message, sizeof word.message, "%s", error.message.c_str());
    snprintf(word.help, sizeof word.help, "%s", error.help.c_str());
  }
  if (ranks && ranks->size() > 1) {
    int64_t first = mine ? -ranks->rank() : -ranks->size();
    ranks->all_reduce(Ranks::kOwn, Ranks::kWorld, Reduce::max, DType::i64, &first, 1);
    const int culprit = static_cast<int>(-first);
    if (culprit < ranks->size()) ranks->broadcast(Ranks::kOwn, Ranks::kWorld, &word, sizeof word, culprit);
    if (culprit < ranks->size() && culprit != ranks->rank()) {
      static char code[8];  // an Error keeps the pointer; ranks fail together one at a time
      snprintf(code, sizeof code, "T%04d", static_cast<int>(word.code));
      throw Error(code, format("rank %d: ", culprit) + word.message, word.help, static_cast<int>(word.exit_code));
    }
  }
  if (mine) std::rethrow_exception(mine);
}

}  // namespace tsr
