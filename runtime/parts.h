// What the ranks of a mesh write of a checkpoint: which rank holds which part of which tensor, and the index that says so.
#pragma once
#include <algorithm>
#include <exception>
#include <string>
#include <vector>

#include "error.h"
#include "json.h"
#include "program.h"
#include "ranks.h"
#include "safetensors.h"
#include "shares.h"
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

// The rectangles that a run of a tensor's elements consists of, in the order of the elements.
inline void cut_run(const Tensor& tensor, int dim, Span run, Rectangle outer, std::vector<Rectangle>* out) {
  if (run.first >= run.last) return;
  if (dim == tensor.rank) return out->push_back(outer);
  int64_t inner = 1;
  for (int d = dim + 1; d < tensor.rank; ++d) inner *= tensor.shape[d];
  const auto within = [&](int64_t row) {  // what the run has of one row
    Rectangle one = outer;
    one.at[static_cast<size_t>(dim)] = row, one.lengths[static_cast<size_t>(dim)] = 1;
    cut_run(tensor, dim + 1, {std::max<int64_t>(run.first - row * inner, 0), std::min(run.last - row * inner, inner)}, one, out);
  };
  const int64_t begin = (run.first + inner - 1) / inner, end = run.last / inner;  // whole rows
  if (run.first % inner) within(run.first / inner);
  if (begin < end) {
    outer.at[static_cast<size_t>(dim)] = begin, outer.lengths[static_cast<size_t>(dim)] = end - begin;
    out->push_back(outer);
  }
  if (run.last % inner && end * inner >= run.first) within(end);
}

inline std::vector<Rectangle> rectangles_of(const Tensor& tensor, Span run) {
  std::vector<Rectangle> out;
  cut_run(tensor, 0, run, {std::vector<int64_t>(static_cast<size_t>(tensor.rank), 0), {tensor.shape, tensor.shape + tensor.rank}}, &out);
  return out;
}

// A tensor of a checkpoint: `header` has its name and type, `tensor` is the parameter's. `shares`: ranks have shares of it.
struct Indexed {
  TensorHeader header;
  const Tensor* tensor;
  int index;
  const Shares* shares = nullptr;
  int param = 0;
};

// The parts of it that one rank holds, each under a key in the rank's file; of shares, in the order of their elements.
struct Part {
  std::string key;
  Rectangle where;
};

template <class Where>
inline std::vector<Part> parts_of(const Indexed& item, const Where* ranks) {
  if (!holds(*item.tensor, ranks)) return {};
  if (!item.shares) return {{item.header.name, rectangle_of(*item.tensor, ranks)}};
  const Corner corner = corner_of(*item.tensor, ranks);
  std::vector<Part> out;
  for (Rectangle& where : rectangles_of(*item.tensor, item.shares->span(item.param, ranks))) {
    for (size_t d = 0; d < where.at.size(); ++d) where.at[d] += corner.at[d];
    out.push_back({item.header.name + (out.empty() ? std::string() : format("#%zu", out.size())), where});
  }
  return out;
}

struct Held {
  int rank;
  Part part;
};

// Every part of a tensor once, with the rank that writes it. Of the ranks with equal parts it is another one for every
// `index`, so that all of them have something to do.
inline std::vector<Held> holders(const Indexed& item, const Mesh& mesh) {
  const unsigned cut = dividing_axes(*item.tensor) | (item.shares ? 1u << item.shares->axis(item.param) : 0);
  int world = 1, copies = 1;
  for (int axis = 0; axis < mesh.axis_count; ++axis) {
    world *= mesh.sizes[axis];
    if (!(cut >> axis & 1u)) copies *= mesh.sizes[axis];
  }
  std::vector<Held> out;
  for (int rank = 0; rank < world; ++rank) {
    const Seat seat(mesh, rank);
    int copy = 0;
    for (int axis = 0; axis < mesh.axis_count; ++axis)
      if (!(cut >> axis & 1u)) copy = copy * mesh.sizes[axis] + seat.coordinate(axis);
    if (copy != item.index % copies) continue;
    for (Part& part : parts_of(item, &seat)) out.push_back({rank, part});
  }
  return out;
}

inline std::string part_file(int rank) { return format("rank-%05d.safetensors", rank); }

inline std::string numbers_text(const std::vector<int64_t>& numbers) {
  std::string out = "[";
  for (size_t i = 0; i < numbers.size(); ++i) out += format(i ? ",%lld" : "%lld", static_cast<long long>(numbers[i]));
  return out + "]";
}

// The index of a checkpoint with these tensors (whole ones' names and types; their parts by `holders`).
inline std::string index_text(const std::vector<Indexed>& tensors, const Metadata& metadata, const Mesh& mesh) {
  std::string out = std::string("{\"format\":\"") + kIndexFormat + "\",\"version\":1,\n\"metadata\":{";
  for (size_t i = 0; i < metadata.size(); ++i) out += (i ? "," : "") + json_string(metadata[i].first) + ":" + json_string(metadata[i].second);
  out += "},\n\"tensors\":{";
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor whole = whole_of(*tensors[i].tensor);
    out += (i ? ",\n" : "\n") + json_string(tensors[i].header.name) + ":{\"dtype\":\"" + safetensors_name(tensors[i].header.dtype) + "\",\"shape\":" +
           numbers_text({whole.shape, whole.shape + whole.rank}) + ",\"parts\":[";
    const std::vector<Held> parts = holders(tensors[i], mesh);
    for (size_t k = 0; k < parts.size(); ++k) {
      const Part& part = parts[k].part;
      out += (k ? "," : "") + std::string("{\"file\":\"") + part_file(parts[k].rank) + "\"" + (part.key == tensors[i].header.name ? "" : ",\"key\":" + json_string(part.key)) +
             ",\"offsets\":" + numbers_text(part.where.at) + ",\"lengths\":" + numbers_text(part.where.lengths) + "}";
    }
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
