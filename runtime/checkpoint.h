// Checkpoints: one safetensors file per saved step with weights, optimizer moments and, as metadata,
// step, seed and settings. Written atomically and verified by checksum when read, so that a kill, a
// full disk or a damaged file costs at most the steps since the checkpoint before.
#pragma once
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "error.h"
#include "io.h"
#include "optimizer.h"
#include "safetensors.h"
#include "session.h"
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
  explicit Checkpoints(const std::string& folder) : folder_(folder) {}

  // Steps that have a file here, ascending.
  std::vector<int64_t> steps() const {
    std::vector<int64_t> out;
    for (const std::string& name : list_folder(folder_)) {
      int64_t step;
      if (name.compare(0, 5, "step-") == 0 && ends_with(name, ".safetensors") && parse_int(name.substr(5, name.size() - 17), &step) && step >= 0) out.push_back(step);
    }
    std::sort(out.begin(), out.end());
    return out;
  }

  // The newest whole checkpoint, "" when there is none.
  std::string newest() const {
    const std::vector<int64_t> found = steps();
    for (size_t i = found.size(); i-- > 0;) {
      try {
        SafetensorsFile(path(found[i])).verify_checksum();
        return path(found[i]);
      } catch (const Error& error) {
        fprintf(stderr, "warning: skipped a checkpoint: %s\n", error.message.c_str());
      }
    }
    return "";
  }

  // Creates the folder and removes what killed writers left behind.
  void prepare() const {
    make_folder(folder_);
    if (access(folder_.c_str(), W_OK | X_OK) != 0) throw write_error(folder_, errno);
    for (const std::string& name : list_folder(folder_)) {
      const size_t mark = name.find(".safetensors.tmp-");
      if (name.compare(0, 5, "step-") != 0 || mark == std::string::npos) continue;
      const pid_t writer = static_cast<pid_t>(atol(name.c_str() + mark + 17));
      if (writer <= 0 || kill(writer, 0) != 0) ::unlink((folder_ + "/" + name).c_str());
    }
  }

  void save(const Session& session, const OptimizerSettings& optimizer, int64_t step, const Metadata& settings, int64_t keep) const {
    const Program& program = session.program();
    std::vector<TensorHeader> headers;
    for (int i = 0; i < program.param_count; ++i) headers.push_back(header_of(program.params[i]));
    for (int moment = 0; moment < session.moment_count(); ++moment)
      for (int i = 0; i < program.param_count; ++i) headers.push_back(header_of(program.params[i], prefix(optimizer, moment)));
    Metadata metadata = {{"tesserac.kind", "checkpoint"}, {"tesserac.program", program.name}, {"tesserac.version", program.version},
                         {"step", format("%lld", static_cast<long long>(step))}, {"optimizer", rule_text(optimizer)}};
    metadata.insert(metadata.end(), settings.begin(), settings.end());
    const size_t count = static_cast<size_t>(program.param_count);
    write_safetensors(path(step), headers, metadata, [&](size_t index, char* out) {
      const char* const arena = index < count ? session.params() : session.moments()[index / count - 1];
      pack(program.params[index % count], arena, out);
    });
    prune(keep);
  }

  // Restores the newest checkpoint that is whole. Files that are not are reported and skipped; a
  // whole one of another program or optimizer is an error.
  Resumed resume(Session* session, const OptimizerSettings& optimizer) const {
    Resumed out;
    std::vector<int64_t> found = steps();
    for (size_t i = found.size(); i-- > 0;) {
      try {
        restore(path(found[i]), session, optimizer, &out);
        return out;
      } catch (const Error& error) {
        if (strcmp(error.code, "T0913") != 0 && strcmp(error.code, "T0901") != 0) throw;
        out.warnings.push_back(error.message);
      }
    }
    if (!found.empty()) throw Error("T0918", "no checkpoint in " + quoted(folder_) + " can be used:\n  - " + joined(out.warnings, "\n  - "),
                                    "restore one of the files, or start again in another folder");
    return out;
  }

 private:
  std::string path(int64_t step) const { return folder_ + format("/step-%09lld.safetensors", static_cast<long long>(step)); }
  static std::string prefix(const OptimizerSettings& optimizer, int moment) { return kOptimizerPrefix + moment_name(optimizer, moment) + "."; }
  // What must be equal for the moments to fit.
  static std::string rule_text(const OptimizerSettings& optimizer) {
    const std::string name = kRuleNames[static_cast<int>(optimizer.rule)];
    return optimizer.rule == Rule::lbfgs ? name + format(" --lbfgs-history %d", optimizer.history) : name;
  }

  void restore(const std::string& file_path, Session* session, const OptimizerSettings& optimizer, Resumed* out) const {
    const Program& program = session->program();
    const SafetensorsFile file(file_path);
    file.verify_checksum();
    if (file.meta("tesserac.kind") != "checkpoint" || !parse_int(file.meta("step"), &out->step)) throw file.damaged("it holds weights, not a checkpoint");
    if (file.meta("tesserac.program") != program.name)
      throw Error("T0919", quoted(file_path) + " belongs to program " + quoted(file.meta("tesserac.program")) + ", not to '" + program.name + "'", "use another --checkpoint folder");
    check_tensors(program, file, true);
    if (file.meta("optimizer") != rule_text(optimizer))
      throw Error("T0919", quoted(file_path) + " was written by optimizer " + quoted(file.meta("optimizer")) + ", this run uses '" + rule_text(optimizer) + "'",
                  "pass the same --optimizer, or take the weights alone with --weights FILE and another --checkpoint folder");
    for (int moment = 0; moment < session->moment_count(); ++moment)
      for (int i = 0; i < program.param_count; ++i) {
        const StoredTensor* const stored = file.find(prefix(optimizer, moment) + program.params[i].name);
        if (!stored || !same_shape(program.params[i], *stored)) throw file.damaged("the moments of '" + std::string(program.params[i].name) + "' are missing");
      }
    for (int moment = -1; moment < session->moment_count(); ++moment)
      for (int i = 0; i < program.param_count; ++i)
        place(program.params[i], *file.find((moment < 0 ? std::string() : prefix(optimizer, moment)) + program.params[i].name), moment < 0 ? session->params() : session->moments()[moment]);
    out->path = file_path;
    out->metadata = file.metadata;
  }

  void prune(int64_t keep) const {
    const std::vector<int64_t> found = steps();
    for (size_t i = 0; keep > 0 && i + static_cast<size_t>(keep) < found.size(); ++i) ::unlink(path(found[i]).c_str());
  }

  std::string folder_;
};

}  // namespace tsr
