// The command line of a built program. An emitted main is one call:
//   int main(int argc, char** argv) { return tsr::cli::run(TransformerLM_program, argc, argv); }
#pragma once
#include <omp.h>
#include <signal.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "bench.h"
#include "describe.h"
#include "error.h"
#include "generate.h"
#include "infer.h"
#include "options.h"
#include "profile.h"
#include "selftest.h"
#include "train_command.h"

namespace tsr {
namespace cli {

struct Entry {
  const Command* command;
  int (*run)(const Program&, const Arguments&);
};

constexpr Entry kCommands[] = {{&kTrain, train_command}, {&kInfer, infer_command}, {&kGenerate, generate_command}, {&kBench, bench_command},
                               {&kDescribe, describe_command}, {&kSelftest, selftest_command}, {&kProfile, profile_command}};

inline void print_help(const Program& program) {
  printf("%s, compiled from %s by tesserac %s\n\nusage: %s COMMAND [flags]\n\n", program.name, program.source_file, program.version, program.name);
  for (const Entry& entry : kCommands) printf("  %-10s %s\n", entry.command->name, entry.command->summary);
  printf("\n`%s COMMAND --help` lists the flags of a command; --version prints the version.\nexit codes: 0 ok, 1 bad data or a failed selftest, 2 usage, 3 internal error\n", program.name);
}

// One of the ranks of a program on a mesh. Rank 0 alone writes on standard output.
inline void join_ranks(const Program& program) {
  static std::unique_ptr<Ranks> ranks;
  ranks.reset(program.mesh->join(program));
  process_ranks() = ranks.get();
  if (ranks->rank() != 0 && !freopen("/dev/null", "w", stdout)) throw write_error("/dev/null", errno);
}

inline int dispatch(const Program& program, int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  if (name == "--help" || name == "-h" || name == "help") { print_help(program); return kExitOk; }
  if (name == "--version") { printf("%s (tesserac %s)\n", program.name, program.version); return kExitOk; }
  std::vector<std::string> names;
  for (const Entry& entry : kCommands) {
    names.push_back(entry.command->name);
    if (name != entry.command->name) continue;
    for (int i = 2; i < argc; ++i)
      if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) { print_command_help(program.name, *entry.command); return kExitOk; }
    const Arguments arguments(*entry.command, argc - 2, argv + 2);
    omp_set_num_threads(thread_count(arguments));
    if (program.mesh && entry.run != describe_command) join_ranks(program);
    if (process_ranks() && arguments.has("--reproducible")) process_ranks()->in_order();
    return entry.run(program, arguments);
  }
  if (name.empty()) throw usage_error("no command given", "commands: " + joined(names));
  const std::string guess = nearest(name, names);
  throw usage_error("unknown command " + quoted(name), (guess.empty() ? "" : "did you mean " + guess + "? ") + ("commands: " + joined(names)));
}

// Before the ranks have met, rank 0 speaks for all of them.
inline bool elsewhere(const Program& program) {
  if (!program.mesh) return false;
  for (const char* const name : {"TSR_RANK", "RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"})
    if (getenv(name)) return atoi(getenv(name)) != 0;
  return false;
}

inline int run(const Program& program, int argc, char** argv) {
  signal(SIGXFSZ, SIG_IGN);  // a file-size limit becomes a write error with a message instead of a kill
  try {
    const int code = dispatch(program, argc, argv);
    if (process_ranks() && code == kExitOk) process_ranks()->barrier(Ranks::kWorld);  // nobody has succeeded before all have
    if (fflush(stdout) != 0 || ferror(stdout)) throw write_error("standard output", errno);
    return code;
  } catch (const Error& error) {
    fflush(stdout);
    if (!process_ranks()) {
      if (error.exit_code != kExitUsage || !elsewhere(program)) fputs(error.text().c_str(), stderr);
    } else if (process_ranks()->fail()) {  // of several that fail one speaks
      fprintf(stderr, "rank %d: %s", process_ranks()->rank(), error.text().c_str());
    }
    return error.exit_code;
  } catch (const std::bad_alloc&) {
    fputs(Error("T0926", "out of memory").text().c_str(), stderr);
    return kExitData;
  } catch (...) {
    fputs("internal error: unknown exception; please report it with the command line and the output of `describe`\n", stderr);
    return kExitInternal;
  }
}

}  // namespace cli
}  // namespace tsr
