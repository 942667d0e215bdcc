// The right-hand side of `--data KEY=SPEC` and `--input KEY=SPEC`: a file, a sampler, a constant or the values of one
// axis of a grid. Numbers follow the word after colons, which no shell interprets: uniform:-1:1; uniform(-1,1) is the same.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "error.h"
#include "io.h"

namespace tsr {

struct DataSpec {
  enum class Kind { npy, bytes, words, uniform, normal, randint, constant, grid };
  std::string key, text;
  Kind kind = Kind::npy;
  double a = 0, b = 1;  // uniform, grid: low, high; normal: mean, standard deviation; randint: a = bound, 0 for the input's own; constant: a
  int64_t count = 0;    // grid: values
  bool tokens() const { return kind == Kind::bytes || kind == Kind::words; }
  bool sampler() const { return kind >= Kind::uniform && kind <= Kind::randint; }
};

constexpr const char* kSpecHelp =
    "a SPEC is file.npy, file.txt (bytes as tokens), file.u16 (16-bit tokens), uniform:LO:HI, normal:MEAN:STD, randint:N, const:V, zeros or grid:LO:HI:N";

// "KEY=REST" split at the first '='; `flag` names the option in the message.
inline void split_key(const char* flag, const std::string& argument, std::string* key, std::string* rest) {
  const size_t equals = argument.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == argument.size())
    throw Error("T0911", std::string(flag) + " " + quoted(argument) + " is not of the form KEY=VALUE", std::string("example: ") + flag + " input=x.npy", kExitUsage);
  *key = argument.substr(0, equals);
  *rest = argument.substr(equals + 1);
}

namespace spec {

struct Word {
  const char* name;
  DataSpec::Kind kind;
  size_t least, most;  // numbers behind it; uniform and normal take none or both
  const char* form;
};
constexpr Word kWords[] = {{"uniform", DataSpec::Kind::uniform, 0, 2, "uniform:LO:HI with LO < HI"}, {"normal", DataSpec::Kind::normal, 0, 2, "normal:MEAN:STD with STD >= 0"},
                           {"randint", DataSpec::Kind::randint, 0, 1, "randint:N with an integer N >= 1"}, {"const", DataSpec::Kind::constant, 1, 1, "const:V"},
                           {"zeros", DataSpec::Kind::constant, 0, 0, "zeros, without numbers"}, {"grid", DataSpec::Kind::grid, 3, 3, "grid:LO:HI:N, N evenly spaced values from LO to HI"}};

// The numbers in "a:b" or "a,b"; false for anything else and for NaN and infinity.
inline bool numbers(const std::string& text, char separator, std::vector<double>* out) {
  size_t at = 0;
  while (at <= text.size()) {
    size_t end = text.find(separator, at);
    if (end == std::string::npos) end = text.size();
    const std::string item = text.substr(at, end - at);
    const size_t first = item.find_first_not_of(' ');
    double value = 0;
    if (first == std::string::npos || !parse_double(item.substr(first, item.find_last_not_of(' ') + 1 - first), &value) || !std::isfinite(value)) return false;
    out->push_back(value);
    at = end + 1;
  }
  return true;
}

inline bool integral(double value) { return value >= 1 && value <= 9e15 && value == std::floor(value); }

// Puts the numbers where they belong; false when there are too many, too few or impossible ones.
inline bool fill(const Word& word, const std::vector<double>& given, DataSpec* out) {
  const size_t count = given.size();
  if (count < word.least || count > word.most || (word.most == 2 && count == 1)) return false;
  out->kind = word.kind;
  if (count > 0) out->a = given[0];
  if (count > 1) out->b = given[1];
  switch (word.kind) {
    case DataSpec::Kind::uniform: return out->a < out->b;
    case DataSpec::Kind::normal: return out->b >= 0;
    case DataSpec::Kind::randint: return count == 0 || integral(out->a);
    case DataSpec::Kind::grid:
      out->count = integral(given[2]) ? static_cast<int64_t>(given[2]) : 0;
      return out->count > 0;
    default: return true;
  }
}

}  // namespace spec

inline DataSpec parse_spec(const char* flag, const std::string& argument) {
  DataSpec out;
  split_key(flag, argument, &out.key, &out.text);
  const std::string& text = out.text;
  const size_t stop = text.find_first_of("(:");
  const std::string name = text.substr(0, stop);
  const bool colons = stop != std::string::npos && text[stop] == ':', call = stop != std::string::npos && !colons && text.back() == ')';
  std::vector<std::string> names;
  for (const spec::Word& word : spec::kWords) {
    names.push_back(word.name);
    if (name != word.name || (stop != std::string::npos && !colons && !call)) continue;
    const std::string inside = stop == std::string::npos ? "" : call ? text.substr(stop + 1, text.size() - stop - 2) : text.substr(stop + 1);
    std::vector<double> given;
    const bool empty = stop == std::string::npos || (call && inside.empty());
    if ((!empty && !spec::numbers(inside, call ? ',' : ':', &given)) || !spec::fill(word, given, &out))
      throw Error("T0911", std::string(flag) + " " + quoted(argument) + ": wrong arguments of " + word.name, std::string("write ") + word.form, kExitUsage);
    return out;
  }
  if ((colons || call) && name.find_first_of("./ ") == std::string::npos) {
    const std::string guess = nearest(name, names);
    throw Error("T0911", std::string(flag) + " " + quoted(argument) + ": there is no sampler " + quoted(name),
                (guess.empty() ? "" : "did you mean " + guess + "? ") + std::string(kSpecHelp), kExitUsage);
  }
  out.kind = ends_with(text, ".npy") ? DataSpec::Kind::npy : ends_with(text, ".u16") ? DataSpec::Kind::words : DataSpec::Kind::bytes;
  return out;
}

}  // namespace tsr
