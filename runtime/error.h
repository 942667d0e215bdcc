// Errors as the user sees them, and the small text helpers every message needs. An Error carries
// the code of `tesserac explain`, one line that states what is wrong and one that says what to do.
#pragma once
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "program.h"

namespace tsr {

constexpr int kExitOk = 0, kExitData = 1, kExitUsage = 2, kExitInternal = 3, kExitAgain = 75;  // 75: ended before its time; to be started again

// Thrown by the runtime, caught in cli::run and at the C boundary, nowhere else.
struct Error {
  Error(const char* code_, std::string message_, std::string help_ = "", int exit_code_ = kExitData)
      : code(code_), message(static_cast<std::string&&>(message_)), help(static_cast<std::string&&>(help_)), exit_code(exit_code_) {}
  const char* code;
  std::string message, help;
  int exit_code;

  // "error[T0903]: ...\n  = help: ...\n"
  std::string text() const {
    std::string out = std::string("error[") + code + "]: " + message + "\n";
    if (!help.empty()) out += "  = help: " + help + "\n";
    return out;
  }
};

// printf into a string.
__attribute__((format(printf, 1, 2))) inline std::string format(const char* pattern, ...) {
  va_list first, second;
  va_start(first, pattern);
  va_copy(second, first);
  const int length = vsnprintf(nullptr, 0, pattern, first);
  va_end(first);
  std::string out(static_cast<size_t>(length > 0 ? length : 0), '\0');
  if (length > 0) vsnprintf(&out[0], out.size() + 1, pattern, second);
  va_end(second);
  return out;
}

// "4 x 64 x 32"; "scalar" for rank 0.
inline std::string shape_text(const int64_t* shape, int rank) {
  if (rank == 0) return "scalar";
  std::string out;
  for (int axis = 0; axis < rank; ++axis) out += format(axis ? " x %lld" : "%lld", static_cast<long long>(shape[axis]));
  return out;
}

// "58.2 MB" (powers of ten).
inline std::string bytes_text(double bytes) {
  const char* const units[] = {"bytes", "kB", "MB", "GB", "TB"};
  int unit = 0;
  while (bytes >= 1000 && unit < 4) bytes /= 1000, ++unit;
  return format(unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
}

// A string as a message may quote it: control characters become escapes, long ones are cut.
inline std::string quoted(const std::string& raw) {
  std::string out = "'";
  for (size_t i = 0; i < raw.size() && i < 120; ++i) {
    const unsigned char byte = static_cast<unsigned char>(raw[i]);
    if (byte < 32 || byte == 127) out += format("\\x%02x", byte);
    else out += raw[i];
  }
  return out + (raw.size() > 120 ? "...'" : "'");
}

inline std::string joined(const std::vector<std::string>& items, const char* between = ", ") {
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) out += (i ? between : "") + items[i];
  return out;
}

// Levenshtein distance; names are short.
inline int edit_distance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int above = row[j];
      const int replace = diagonal + (a[i - 1] != b[j - 1]);
      const int insert = (above < row[j - 1] ? above : row[j - 1]) + 1;
      row[j] = replace < insert ? replace : insert;
      diagonal = above;
    }
  }
  return row[b.size()];
}

// The candidate a misspelt name most likely meant, or "" when none is close.
inline std::string nearest(const std::string& name, const std::vector<std::string>& candidates) {
  std::string best;
  int best_distance = static_cast<int>(name.size()) / 3 + 2;
  if (name.size() > 200) return best;
  for (const std::string& candidate : candidates) {
    const int distance = edit_distance(name, candidate);
    if (distance < best_distance) best = candidate, best_distance = distance;
  }
  return best;
}

// The whole text as a number; false when it is none or has trailing characters.
inline bool parse_double(const std::string& text, double* out) {
  if (text.empty() || text[0] == ' ') return false;
  char* end = nullptr;
  *out = strtod(text.c_str(), &end);
  return end == text.c_str() + text.size();
}

inline bool parse_int(const std::string& text, int64_t* out) {
  if (text.empty() || text[0] == ' ') return false;
  char* end = nullptr;
  errno = 0;
  *out = strtoll(text.c_str(), &end, 10);
  return end == text.c_str() + text.size() && errno == 0;
}

}  // namespace tsr
