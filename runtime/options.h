// Command-line flags, described once per command: parsing, suggestions for misspelt names, --help.
#pragma once
#include <sched.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace tsr {

struct Flag {
  const char* name;    // "--steps"
  const char* value;   // "N"; null for a switch
  const char* help;
};

struct Command {
  const char* name;
  const char* summary;
  const Flag* flags;
  int flag_count;
  const char* positional;  // name of one optional positional argument, or null
  const char* notes;       // printed below the flags
};

inline Error usage_error(const std::string& message, const std::string& help) { return Error("T0920", message, help, kExitUsage); }

class Arguments {
 public:
  Arguments(const Command& command, int argc, char** argv) : command_(command) {
    for (int i = 0; i < argc; ++i) {
      const std::string word = argv[i];
      if (word.compare(0, 1, "-") != 0 || word == "-") {
        if (!command.positional || !positional_.empty()) throw usage_error(std::string(command.name) + ": unexpected argument " + quoted(word), try_help());
        positional_ = word;
        continue;
      }
      const size_t equals = word.find('=');
      const Flag* const flag = find(word.substr(0, equals));
      if (!flag->value) {
        if (equals != std::string::npos) throw usage_error(std::string(command.name) + ": " + flag->name + " takes no value", try_help());
        given_.emplace_back(flag->name, "");
      } else if (equals != std::string::npos) {
        given_.emplace_back(flag->name, word.substr(equals + 1));
      } else {
        if (i + 1 == argc || strncmp(argv[i + 1], "--", 2) == 0)
          throw usage_error(std::string(command.name) + ": " + flag->name + " needs a value: " + flag->name + " " + flag->value, try_help());
        given_.emplace_back(flag->name, argv[++i]);
      }
      if (flag->value && given_.back().second.empty())  // of a shell's variable that is not set, say: never what was meant
        throw usage_error(std::string(command.name) + ": " + flag->name + " is empty", std::string("write ") + flag->name + " " + flag->value);
    }
  }

  bool has(const char* flag) const { return last(flag) != nullptr; }
  const std::string& positional() const { return positional_; }
  std::string text(const char* flag, const char* otherwise = "") const { return last(flag) ? *last(flag) : otherwise; }
  std::vector<std::string> all(const char* flag) const {
    std::vector<std::string> out;
    for (const auto& entry : given_)
      if (entry.first == flag) out.push_back(entry.second);
    return out;
  }
  int64_t integer(const char* flag, int64_t otherwise, int64_t low, int64_t high = INT64_MAX) const {
    int64_t out = otherwise;
    if (has(flag) && (!parse_int(*last(flag), &out) || out < low || out > high))
      throw bad_value(flag, high == INT64_MAX ? format("an integer of at least %lld", static_cast<long long>(low))
                                              : format("an integer from %lld to %lld", static_cast<long long>(low), static_cast<long long>(high)));
    return out;
  }
  double real(const char* flag, double otherwise, double low, double high = 1e300) const {
    double out = otherwise;
    if (has(flag) && (!parse_double(*last(flag), &out) || !(out >= low && out <= high)))
      throw bad_value(flag, high == 1e300 ? format("a number of at least %g", low) : format("a number from %g to %g", low, high));
    return out;
  }
  // One of `words`; returns its index.
  int choice(const char* flag, int otherwise, const std::vector<std::string>& words) const {
    if (!has(flag)) return otherwise;
    for (size_t i = 0; i < words.size(); ++i)
      if (*last(flag) == words[i]) return static_cast<int>(i);
    const std::string guess = nearest(*last(flag), words);
    throw Error("T0921", std::string(flag) + " " + quoted(*last(flag)) + " is unknown", (guess.empty() ? "" : "did you mean " + guess + "? ") + ("known: " + joined(words)), kExitUsage);
  }
  Error bad_value(const char* flag, const std::string& want) const {
    return Error("T0921", std::string(flag) + " " + quoted(text(flag)) + " is not " + want, try_help(), kExitUsage);
  }

 private:
  std::string try_help() const { return std::string("`") + command_.name + " --help` lists the flags"; }
  const Flag* find(const std::string& name) const {
    std::vector<std::string> names;
    for (int i = 0; i < command_.flag_count; ++i) {
      if (name == command_.flags[i].name) return &command_.flags[i];
      names.push_back(command_.flags[i].name);
    }
    const std::string guess = nearest(name, names);
    throw usage_error(std::string(command_.name) + ": unknown flag " + quoted(name), (guess.empty() ? "" : "did you mean " + guess + "? ") + try_help());
  }
  const std::string* last(const char* flag) const {
    for (size_t i = given_.size(); i-- > 0;)
      if (given_[i].first == flag) return &given_[i].second;
    return nullptr;
  }

  const Command& command_;
  std::vector<std::pair<std::string, std::string>> given_;
  std::string positional_;
};

inline void print_command_help(const char* program, const Command& command) {
  printf("%s %s%s%s%s [flags]\n\n%s\n\n", program, command.name, command.positional ? " [" : "", command.positional ? command.positional : "", command.positional ? "]" : "", command.summary);
  for (int i = 0; i < command.flag_count; ++i) {
    const Flag& flag = command.flags[i];
    printf("  %-26s %s\n", (std::string(flag.name) + (flag.value ? std::string(" ") + flag.value : "")).c_str(), flag.help);
  }
  if (command.notes) printf("\n%s\n", command.notes);
}

// --threads, else OMP_NUM_THREADS, else the processors this process may run on.
inline int thread_count(const Arguments& arguments) {
  int64_t count = 0;
  const char* const variable = getenv("OMP_NUM_THREADS");
  if (variable) count = atol(variable);
  if (count < 1 || count > 4096) {
    cpu_set_t set;
    count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  }
  return static_cast<int>(arguments.integer("--threads", count, 1, 4096));
}

}  // namespace tsr
