// What a call chose among alternatives (Function::choices), as its reference wants to know it.
#pragma once
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "dtype.h"
#include "program.h"

namespace tsr {

class Choices {
 public:
  // `shared`: what the call left in Call::shared.
  Choices(const Function& function, const char* shared, double tolerance) : function_(function) {
    for (int i = 0; i < function.choice_count; ++i) {
      const Choice& choice = function.choices[i];
      const size_t count = static_cast<size_t>(choice.rows * choice.k);
      std::vector<int64_t> integers(count);
      load_integers(format_of(choice.dtype), shared + choice.offset, integers.data(), count);
      made_.emplace_back(integers.begin(), integers.end());
    }
    for (const auto& made : made_) chosen_.push_back({made.data(), tolerance, 0, 0, 0});
  }
  Choices(const Choices&) = delete;
  Choices& operator=(const Choices&) = delete;

  Chosen* for_reference() { return chosen_.empty() ? nullptr : chosen_.data(); }
  bool same_as(const Choices& other) const { return made_ == other.made_; }

  // After the reference ran: a line for each choice in which it differs. False if one is wrong.
  bool report() const {
    bool right = true;
    for (size_t i = 0; i < chosen_.size(); ++i) {
      const Choice& choice = function_.choices[i];
      const Chosen& chosen = chosen_[i];
      if (chosen.turned == 0 && chosen.wrong == 0) continue;
      const std::string name = std::string("choices at ") + choice.source + " (" + choice.name + ")";
      const long long all = static_cast<long long>(choice.rows), turned = static_cast<long long>(chosen.turned), wrong = static_cast<long long>(chosen.wrong);
      if (wrong == 0)
        printf("  %-36s %lld of %lld rows chose otherwise within rounding of a tie (%.1e of the largest); the reference follows  ok\n", name.c_str(), turned, all, chosen.gap * chosen.tolerance);
      else
        printf("  %-36s %lld of %lld rows chose otherwise, %.1e of the largest apart  FAIL\n", name.c_str(), wrong, all, chosen.gap * chosen.tolerance);
      right = right && wrong == 0;
    }
    return right;
  }

 private:
  const Function& function_;
  std::vector<std::vector<double>> made_;
  std::vector<Chosen> chosen_;
};

}  // namespace tsr
