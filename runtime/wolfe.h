// A line search for the strong Wolfe conditions: Nocedal and Wright, "Numerical Optimization" (2nd edition), algorithms
// 3.5 and 3.6 with cubic interpolation (3.59).
#pragma once
#include <cmath>

namespace tsr {

// The loss along a line, at one step length.
struct LinePoint {
  double step, value, slope;
};

struct WolfeSettings {
  double decrease = 1e-4, curvature = 0.9;  // c1 and c2
  double noise = 0;                          // how much of the loss is rounding: so much more counts as no more
  int evaluations = 25;                      // at most
};

enum class SearchEnd {
  wolfe,      // both conditions hold
  decrease,   // evaluations are used up, or the interval is empty; the loss is lower, the slope is not flat enough
  none        // no lower loss found; the point is where the line starts
};

// Minimiser of the cubic through two points and their slopes, kept away from the ends of the interval between them.
inline double cubic_step(const LinePoint& a, const LinePoint& b) {
  const double low = std::fmin(a.step, b.step), high = std::fmax(a.step, b.step), margin = 0.1 * (high - low);
  const double d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.step - b.step);
  const double root = d1 * d1 - a.slope * b.slope;
  double step = 0.5 * (low + high);
  if (std::isfinite(root) && root >= 0) {
    const double d2 = std::copysign(std::sqrt(root), b.step - a.step);
    const double cubic = b.step - (b.step - a.step) * (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2);
    if (std::isfinite(cubic)) step = cubic;
  }
  return std::fmin(std::fmax(step, low + margin), high - margin);
}

// `at(step)` evaluates the loss; `start` is its point at step 0, where it falls. `*used` counts evaluations.
// On return the last evaluation was at `*out`.
template <class Line>
inline SearchEnd strong_wolfe(const Line& at, const LinePoint& start, double first, const WolfeSettings& settings, LinePoint* out, int* used) {
  const double noise = settings.noise * std::fabs(start.value);
  const auto falls = [&](const LinePoint& p) { return std::isfinite(p.value) && p.value <= start.value + settings.decrease * p.step * start.slope + noise; };
  const auto flat = [&](const LinePoint& p) { return std::fabs(p.slope) <= -settings.curvature * start.slope; };
  LinePoint low = start, high = start, last = start;  // `low` is the best point, `high` the other end once the minimum is bracketed
  bool bracketed = false;
  double step = first;
  for (*used = 0; *used < settings.evaluations;) {
    const double value_before = low.value;
    last = at(step);
    ++*used;
    if (falls(last) && flat(last)) {
      *out = last;
      return SearchEnd::wolfe;
    }
    if (!falls(last) || (last.value >= value_before && (bracketed || *used > 1))) {
      high = last;
      bracketed = true;
    } else {
      if (bracketed ? last.slope * (high.step - low.step) >= 0 : last.slope >= 0) high = low, bracketed = true;
      low = last;
    }
    if (!bracketed) {
      step *= 4;
      continue;
    }
    if (std::fabs(high.step - low.step) <= 1e-14 * std::fmax(std::fabs(high.step), std::fabs(low.step))) break;
    step = cubic_step(low, high);
  }
  const SearchEnd end = low.step > 0 && low.value < start.value ? SearchEnd::decrease : SearchEnd::none;
  *out = end == SearchEnd::none ? start : low;
  if (last.step != out->step) at(out->step), ++*used;
  return end;
}

}  // namespace tsr
