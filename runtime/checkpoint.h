// Checkpoints: one safetensors file per saved step with weights, optimizer moments and, as metadata,
// step, seed and settings; of several ranks, a folder with a file per rank and an index (stored.h), which a program of
// any mesh reads. Written atomically and verified by checksum when read, so that a kill, a full disk or a damaged
// file costs at most the steps since the checkpoint before.
#pragma once
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "error.h"
#include "io.h"
#include "optimizer.h"
#include "parts.h"
#include "ranks.h"
#include "safetensors.h"
#include "session.h"
#include "shares.h"
#include "stored.h"
#include "weights.h"

namespace tsr {

struct Resumed {
  int64_t step = 0;                    // steps done; the next is this one (counted from 0)
  std::string path;                    // "" when there was nothing to resume from
  Metadata metadata;
  std::vector<std::string> warnings;   // newer files that had to be skipped

  std::string meta(const std::string& key) const {
    for (const auto& entry : metadata)
      if (entry.first == key) return entry.second;
    return "";
  }
};

class Checkpoints {
 public:
  // ranks: null where one process runs the program.
  explicit Checkpoints(const std::string& folder, Ranks* ranks = nullptr) : folder_(folder), ranks_(ranks) {}

  // Steps that have a checkpoint here, ascending.
  std::vector<int64_t> steps() const {
    std::vector<int64_t> out;
    for (const std::string& name : list_folder(folder_)) {
      int64_t step;
      const size_t end = ends_with(name, kSuffix) ? name.size() - strlen(kSuffix) : name.size();
      if (name.compare(0, 5, "step-") != 0 || !parse_int(name.substr(5, end - 5), &step) || step < 0) continue;
      if (end < name.size() || is_folder(folder_ + "/" + name)) out.push_back(step);
    }
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
  }

  // The newest whole checkpoint, "" when there is none.
  std::string newest() const {
    const std::vector<int64_t> found = steps();
    for (size_t i = found.size(); i-- > 0;) {
      try {
        Stored(path(found[i])).verify_checksums();
        return path(found[i]);
      } catch (const Error& error) {
        fprintf(stderr, "warning: skipped a checkpoint: %s\n", error.message.c_str());
      }
    }
    return "";
  }

  // Creates the folder and removes what killed writers left behind.
  void prepare() const {
    together(ranks_, [&] {
      if (!first()) return;
      make_folder(folder_);
      if (access(folder_.c_str(), W_OK | X_OK) != 0) throw write_error(folder_, errno);
      for (const std::string& name : list_folder(folder_)) {
        const std::string mark = std::string(kSuffix) + ".tmp-";
        const size_t at = name.find(mark);
        if (name.compare(0, 5, "step-") != 0) continue;
        if (ends_with(name, kUnfinished)) remove_folder(folder_ + "/" + name);
        if (at == std::string::npos) continue;
        const pid_t writer = static_cast<pid_t>(atol(name.c_str() + at + mark.size()));
        if (writer <= 0 || kill(writer, 0) != 0) ::unlink((folder_ + "/" + name).c_str());
      }
    });
  }

  void save(const Session& session, const OptimizerSettings& optimizer, int64_t step, const Metadata& settings, int64_t keep) const {
    const Program& program = session.program();
    Metadata metadata = {{"tesserac.kind", "checkpoint"}, {"tesserac.program", program.name}, {"tesserac.version", program.version},
                         {"step", format("%lld", static_cast<long long>(step))}, {"optimizer", rule_text(optimizer)}};
    metadata.insert(metadata.end(), settings.begin(), settings.end());
    const Shares shares(program);
    const std::vector<Indexed> tensors = all_tensors(session, shares, optimizer);
    if (ranks_ && ranks_->size() > 1) save_parts(session, shares, tensors, step, metadata);
    else save_whole(session, shares, tensors, step, metadata);
    if (first()) prune(keep);
  }

  // Restores the newest checkpoint that is whole. Files that are not are reported and skipped; a
  // whole one of another program or optimizer is an error.
  Resumed resume(Session* session, const OptimizerSettings& optimizer) const {
    Resumed out;
    for (int64_t step = before(INT64_MAX); step >= 0; step = before(step)) {
      std::unique_ptr<Stored> file;
      try {
        together(ranks_, [&] {
          file = std::make_unique<Stored>(path(step));
          check(file.get(), *session, optimizer, &out);
        });
      } catch (const Error& error) {
        if (strcmp(error.code, "T0913") != 0 && strcmp(error.code, "T0901") != 0 && strcmp(error.code, "T0950") != 0) throw;
        out.warnings.push_back(error.message);
        continue;
      }
      restore(*file, session, optimizer, &out);
      return out;
    }
    if (!out.warnings.empty()) throw Error("T0918", "no checkpoint in " + quoted(folder_) + " can be used:\n  - " + joined(out.warnings, "\n  - "),
                                           "restore one of the files, or start again in another folder");
    return out;
  }

 private:
  static constexpr const char* kSuffix = ".safetensors";
  static constexpr const char* kUnfinished = ".tmp";

  std::string name_of(int64_t step) const { return folder_ + format("/step-%09lld", static_cast<long long>(step)); }
  std::string path(int64_t step) const { return is_folder(name_of(step)) ? name_of(step) : name_of(step) + kSuffix; }
  bool first() const { return !ranks_ || ranks_->rank() == 0; }
  static std::string prefix(const OptimizerSettings& optimizer, int moment) { return moment < 0 ? std::string() : kOptimizerPrefix + moment_name(optimizer, moment) + "."; }
  // What must be equal for the moments to fit.
  static std::string rule_text(const OptimizerSettings& optimizer) {
    const std::string name = kRuleNames[static_cast<int>(optimizer.rule)];
    return optimizer.rule == Rule::lbfgs ? name + format(" --lbfgs-history %d", optimizer.history) : name;
  }

  // The newest step before `step` that has a checkpoint, as rank 0 sees the folder; -1: none.
  int64_t before(int64_t step) const {
    int64_t out = -1;
    for (const int64_t found : first() ? steps() : std::vector<int64_t>())
      if (found < step) out = found;
    if (ranks_) ranks_->broadcast(Ranks::kOwn, Ranks::kWorld, &out, sizeof out, 0);
    return out;
  }

  // Weights, then each moment of every weight.
  static std::vector<Indexed> all_tensors(const Session& session, const Shares& shares, const OptimizerSettings& optimizer) {
    std::vector<Indexed> out;
    const Program& program = session.program();
    for (int moment = -1; moment < session.moment_count(); ++moment)
      for (int i = 0; i < program.param_count; ++i)
        out.push_back({header_of(program.params[i], prefix(optimizer, moment)), &program.params[i], static_cast<int>(out.size()), moment >= 0 && shares.divided(i) ? &shares : nullptr, i});
    return out;
  }

  // A part that this rank holds of a tensor, and where it lies in memory: `arena` and, as if it were a whole one, `tensor`.
  struct Piece {
    Part part;
    Tensor tensor;
    char* arena;
    TensorHeader header() const { return {part.key, tensor.dtype, part.where.lengths, dense_bytes(tensor)}; }
  };
  std::vector<Piece> pieces_of(const Session& session, const Shares& shares, const Indexed& item) const {
    const int moment = item.index / session.program().param_count - 1;
    char* const arena = moment < 0 ? session.params() : session.moments()[moment];
    std::vector<Piece> out;
    size_t at = moment < 0 ? item.tensor->offset : shares.moment(item.param, ranks_);
    for (Part& part : parts_of(item, ranks_)) {
      Tensor tensor = *item.tensor;
      std::copy(part.where.lengths.begin(), part.where.lengths.end(), tensor.shape);
      tensor.offset = at;
      if (item.shares) tensor.row_stride = 0;
      at += dense_bytes(tensor);
      out.push_back({part, tensor, arena});
    }
    return out;
  }

  void save_whole(const Session& session, const Shares& shares, const std::vector<Indexed>& tensors, int64_t step, const Metadata& metadata) const {
    std::vector<Piece> pieces;
    for (const Indexed& item : tensors)
      for (Piece& piece : pieces_of(session, shares, item)) pieces.push_back(piece);
    write_pieces(name_of(step) + kSuffix, pieces, metadata);
    if (is_folder(name_of(step))) remove_folder(name_of(step));
  }

  // The folder gets its name when every file in it is complete.
  void save_parts(const Session& session, const Shares& shares, const std::vector<Indexed>& tensors, int64_t step, const Metadata& metadata) const {
    const Mesh& mesh = *session.program().mesh;
    const std::string folder = name_of(step), unfinished = folder + kUnfinished, replaced = folder + ".old" + kUnfinished;
    try {
      together(ranks_, [&] {
        if (!first()) return;
        remove_folder(unfinished);
        make_folder(unfinished);
      });
      together(ranks_, [&] { save_part(session, shares, tensors, unfinished + "/" + part_file(ranks_->rank())); });
      together(ranks_, [&] {
        if (!first()) return;
        AtomicFile index(unfinished + kIndexName);
        const std::string text = index_text(tensors, metadata, mesh);
        index.write(text.data(), text.size());
        index.commit();
        if (is_folder(folder)) ::rename(folder.c_str(), replaced.c_str());
        if (::rename(unfinished.c_str(), folder.c_str()) != 0) throw write_error(folder, errno);
        sync_folder(folder_);
        remove_folder(replaced);
        ::unlink((folder + kSuffix).c_str());
      });
    } catch (const Error&) {
      if (first()) remove_folder(unfinished);
      throw;
    }
  }
  void save_part(const Session& session, const Shares& shares, const std::vector<Indexed>& tensors, const std::string& path) const {
    std::vector<Piece> mine;
    for (const Indexed& item : tensors) {
      const std::vector<Held> held = holders(item, *session.program().mesh);
      if (std::none_of(held.begin(), held.end(), [&](const Held& one) { return one.rank == ranks_->rank(); })) continue;
      for (Piece& piece : pieces_of(session, shares, item)) mine.push_back(piece);
    }
    if (!mine.empty()) write_pieces(path, mine, {{"tesserac.kind", "part of a checkpoint"}, {"rank", format("%d", ranks_->rank())}});
  }
  static void write_pieces(const std::string& path, const std::vector<Piece>& pieces, const Metadata& metadata) {
    std::vector<TensorHeader> headers;
    for (const Piece& piece : pieces) headers.push_back(piece.header());
    write_safetensors(path, headers, metadata, [&](size_t i, char* out) { pack(pieces[i].tensor, pieces[i].arena, out); });
  }

  // Throws unless the checkpoint is whole and of this program and optimizer.
  void check(Stored* file, const Session& session, const OptimizerSettings& optimizer, Resumed* out) const {
    const Program& program = session.program();
    if (file->meta("tesserac.kind") != "checkpoint" || !parse_int(file->meta("step"), &out->step)) throw file->damaged("it holds weights, not a checkpoint");
    if (file->meta("tesserac.program") != program.name)
      throw Error("T0919", quoted(file->path()) + " belongs to program " + quoted(file->meta("tesserac.program")) + ", not to '" + program.name + "'", "use another --checkpoint folder");
    check_tensors(program, *file, true);
    if (file->meta("optimizer") != rule_text(optimizer))
      throw Error("T0919", quoted(file->path()) + " was written by optimizer " + quoted(file->meta("optimizer")) + ", this run uses '" + rule_text(optimizer) + "'",
                  "pass the same --optimizer, or take the weights alone with --weights FILE and another --checkpoint folder");
    const Shares shares(program);
    for (const Indexed& item : all_tensors(session, shares, optimizer)) {
      const Stored::Whole* const stored = file->find(item.header.name);
      if (!stored || !same_shape(whole_of(*item.tensor), stored->about)) throw file->damaged("the moments of '" + std::string(item.tensor->name) + "' are missing");
      for (const Part& part : parts_of(item, ranks_)) file->verify(*stored, part.where);
    }
  }

  void restore(const Stored& file, Session* session, const OptimizerSettings& optimizer, Resumed* out) const {
    const Shares shares(session->program());
    std::vector<char> memory;
    for (const Indexed& item : all_tensors(*session, shares, optimizer)) {
      const Stored::Whole& whole = *file.find(item.header.name);
      for (const Piece& piece : pieces_of(*session, shares, item)) place(piece.tensor, file.part(whole, piece.part.where, &memory), piece.arena);
      file.release(whole);
    }
    out->path = file.path();
    out->metadata = file.metadata;
  }

  void prune(int64_t keep) const {
    const std::vector<int64_t> found = steps();
    for (size_t i = 0; keep > 0 && i + static_cast<size_t>(keep) < found.size(); ++i) {
      const std::string old = path(found[i]);
      if (is_folder(old)) remove_folder(old);
      else ::unlink(old.c_str());
    }
  }

  std::string folder_;
  Ranks* ranks_;
};

}  // namespace tsr
