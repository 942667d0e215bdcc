// JSON: a parser for the headers of safetensors files and the pieces a writer of one line needs.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace tsr {

struct Json {
  enum class Type { null, boolean, number, string, array, object };
  Type type = Type::null;
  bool truth = false;
  double number = 0;
  int64_t integer = 0;      // set when the number was written as an integer
  bool is_integer = false;
  std::string string;
  std::vector<Json> items;                              // array
  std::vector<std::pair<std::string, Json>> members;    // object, in file order

  const Json* find(const char* key) const {
    for (const auto& member : members)
      if (member.first == key) return &member.second;
    return nullptr;
  }
};

// Recursive descent over [begin, end). On failure parse() returns false; what() says why.
class JsonParser {
 public:
  JsonParser(const char* begin, const char* end) : begin_(begin), at_(begin), end_(end) {}

  bool parse(Json* out) {
    if (!value(out, 0)) return false;
    skip();
    return at_ == end_ || fail("trailing characters");
  }
  std::string what() const { return format("%s at byte %lld", reason_, static_cast<long long>(at_ - begin_)); }

 private:
  static constexpr int kDeepest = 32;
  bool fail(const char* reason) { if (!*reason_) reason_ = reason; return false; }
  void skip() { while (at_ < end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_; }
  bool take(char wanted) { skip(); if (at_ < end_ && *at_ == wanted) { ++at_; return true; } return false; }
  bool word(const char* text) {
    const size_t length = strlen(text);
    if (static_cast<size_t>(end_ - at_) < length || memcmp(at_, text, length) != 0) return fail("unknown word");
    at_ += length;
    return true;
  }

  bool value(Json* out, int depth) {
    if (depth > kDeepest) return fail("nested too deeply");
    skip();
    if (at_ == end_) return fail("unexpected end");
    switch (*at_) {
      case '{': return object(out, depth);
      case '[': return array(out, depth);
      case '"': out->type = Json::Type::string; return text(&out->string);
      case 't': out->type = Json::Type::boolean; out->truth = true; return word("true");
      case 'f': out->type = Json::Type::boolean; return word("false");
      case 'n': return word("null");
      default: return numeral(out);
    }
  }
  bool object(Json* out, int depth) {
    out->type = Json::Type::object;
    ++at_;
    if (take('}')) return true;
    do {
      skip();
      out->members.emplace_back();
      if (at_ == end_ || *at_ != '"' || !text(&out->members.back().first)) return fail("expected a key");
      if (!take(':')) return fail("expected ':'");
      if (!value(&out->members.back().second, depth + 1)) return false;
    } while (take(','));
    return take('}') || fail("expected ',' or '}'");
  }
  bool array(Json* out, int depth) {
    out->type = Json::Type::array;
    ++at_;
    if (take(']')) return true;
    do {
      out->items.emplace_back();
      if (!value(&out->items.back(), depth + 1)) return false;
    } while (take(','));
    return take(']') || fail("expected ',' or ']'");
  }
  bool numeral(Json* out) {
    char buffer[64];
    size_t length = 0;
    bool integer = true;
    while (at_ + length < end_ && length + 1 < sizeof buffer && strchr("+-0123456789.eE", at_[length]) && at_[length]) {
      buffer[length] = at_[length];
      integer = integer && !strchr(".eE", buffer[length]);
      ++length;
    }
    buffer[length] = 0;
    if (!parse_double(buffer, &out->number)) return fail("unexpected character");
    out->type = Json::Type::number;
    out->is_integer = integer && parse_int(buffer, &out->integer);
    at_ += length;
    return true;
  }
  bool text(std::string* out) {
    for (++at_; at_ < end_; ++at_) {
      const char c = *at_;
      if (c == '"') { ++at_; return true; }
      if (static_cast<unsigned char>(c) < 32) return fail("control character in a string");
      if (c != '\\') { out->push_back(c); continue; }
      if (++at_ == end_) break;
      const char* const from = "\"\\/bfnrt";
      const char* const to = "\"\\/\b\f\n\r\t";
      if (*at_ == 'u') { if (!unicode(out)) return fail("bad \\u escape"); }
      else if (const char* hit = *at_ ? strchr(from, *at_) : nullptr) out->push_back(to[hit - from]);
      else return fail("bad escape");
    }
    return fail("unterminated string");
  }
  bool hex4(uint32_t* out) {  // at_ is on the 'u'; ends on the last digit
    if (end_ - at_ < 5) return false;
    *out = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = *++at_;
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) return false;
      *out = *out * 16 + static_cast<uint32_t>(digit);
    }
    return true;
  }
  bool unicode(std::string* out) {
    uint32_t point, low;
    if (!hex4(&point)) return false;
    if (point >= 0xd800 && point < 0xdc00) {  // a surrogate pair
      if (end_ - at_ < 3 || at_[1] != '\\' || at_[2] != 'u') return false;
      at_ += 2;
      if (!hex4(&low) || low < 0xdc00 || low > 0xdfff) return false;
      point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
    }
    if (point < 0x80) { out->push_back(static_cast<char>(point)); return true; }
    const int extra = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    const uint32_t lead = extra == 1 ? 0xc0 : extra == 2 ? 0xe0 : 0xf0;
    out->push_back(static_cast<char>(lead | (point >> (6 * extra))));
    for (int i = extra - 1; i >= 0; --i) out->push_back(static_cast<char>(0x80 | ((point >> (6 * i)) & 0x3f)));
    return true;
  }

  const char* begin_;
  const char* at_;
  const char* end_;
  const char* reason_ = "";
};

// A string literal, quotes included.
inline std::string json_string(const std::string& raw) {
  std::string out = "\"";
  for (const char c : raw) {
    if (c == '"' || c == '\\') out += '\\', out += c;
    else if (c == '\n') out += "\\n";
    else if (static_cast<unsigned char>(c) < 32) out += format("\\u%04x", c);
    else out += c;
  }
  return out + "\"";
}

// Writes a number into `out` (at least 32 bytes) without allocating: `digits` significant digits (9
// give a float back exactly, 17 a double); null for NaN and infinities, which JSON does not know.
inline const char* json_number(double value, char* out, int digits = 9) {
  if (std::isfinite(value)) snprintf(out, 32, "%.*g", digits, value);
  else strcpy(out, "null");
  return out;
}

}  // namespace tsr
