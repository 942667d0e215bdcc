// The right-hand side of `--data KEY=SPEC`: a file or a sampler.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "error.h"
#include "io.h"

namespace tsr {

struct DataSpec {
  enum class Kind { npy, bytes, words, uniform, normal, zeros, randint };
  std::string key, text;
  Kind kind = Kind::npy;
  double a = 0, b = 1;  // uniform: low, high; normal: mean, standard deviation; randint: a = bound, 0 for the input's own
  bool tokens() const { return kind == Kind::bytes || kind == Kind::words; }
  bool sampler() const { return kind >= Kind::uniform; }
};

constexpr const char* kSpecHelp =
    "a SPEC is file.npy, file.txt (bytes as tokens), file.u16 (16-bit tokens), uniform(lo,hi), normal(mean,std), zeros or randint(n)";

// "KEY=REST" split at the first '='; `flag` names the option in the message.
inline void split_key(const char* flag, const std::string& argument, std::string* key, std::string* rest) {
  const size_t equals = argument.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == argument.size())
    throw Error("T0911", std::string(flag) + " " + quoted(argument) + " is not of the form KEY=VALUE", std::string("example: ") + flag + " input=x.npy", kExitUsage);
  *key = argument.substr(0, equals);
  *rest = argument.substr(equals + 1);
}

inline DataSpec parse_spec(const char* flag, const std::string& argument) {
  DataSpec spec;
  split_key(flag, argument, &spec.key, &spec.text);
  const std::string& text = spec.text;
  const size_t open = text.find('(');
  const std::string word = text.substr(0, open);
  const std::vector<std::string> words = {"uniform", "normal", "zeros", "randint"};
  int found = -1;
  for (int i = 0; i < 4; ++i)
    if (word == words[static_cast<size_t>(i)]) found = i;
  const bool call = open != std::string::npos && text.back() == ')';
  if (found < 0 && call && word.find_first_of("./ ") == std::string::npos) {
    const std::string guess = nearest(word, words);
    throw Error("T0911", std::string(flag) + " " + quoted(argument) + ": there is no sampler " + quoted(word),
                (guess.empty() ? "" : "did you mean " + guess + "? ") + std::string(kSpecHelp), kExitUsage);
  }
  if (found < 0 || (open != std::string::npos && !call)) {
    spec.kind = ends_with(text, ".npy") ? DataSpec::Kind::npy : ends_with(text, ".u16") ? DataSpec::Kind::words : DataSpec::Kind::bytes;
    return spec;
  }
  std::vector<double> numbers;
  std::string inside = call ? text.substr(open + 1, text.size() - open - 2) : "";
  bool bad = false;
  while (!inside.empty()) {
    const size_t comma = inside.find(',');
    std::string item = inside.substr(0, comma);
    item.erase(0, item.find_first_not_of(' ') == std::string::npos ? item.size() : item.find_first_not_of(' '));
    item.erase(item.find_last_not_of(' ') + 1);
    double value = 0;
    bad = bad || !parse_double(item, &value) || value - value != 0 || comma == inside.size() - 1;
    numbers.push_back(value);
    inside.erase(0, comma == std::string::npos ? inside.size() : comma + 1);
  }
  const size_t count = numbers.size();
  spec.kind = static_cast<DataSpec::Kind>(static_cast<int>(DataSpec::Kind::uniform) + found);
  if (spec.kind == DataSpec::Kind::randint) {
    bad = bad || count > 1 || (count == 1 && !(numbers[0] >= 1 && numbers[0] <= 9e15));
    spec.a = count == 1 ? numbers[0] : 0;
  } else if (spec.kind == DataSpec::Kind::zeros) {
    bad = bad || count > 0;
  } else {
    bad = bad || (count != 0 && count != 2);
    if (count == 2) spec.a = numbers[0], spec.b = numbers[1];
  }
  if (bad) throw Error("T0911", std::string(flag) + " " + quoted(argument) + ": wrong arguments of " + word, kSpecHelp, kExitUsage);
  return spec;
}

}  // namespace tsr
