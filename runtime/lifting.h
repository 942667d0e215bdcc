// One lifting step of a wavelet transform (Sweldens 1996). The steps of a wavelet are constants of the emitted code: a type
// with where its two streams start in a line, its `steps`, and what the streams are multiplied by behind them.
#pragma once

namespace tsr {

/// Details (or, not `onto_details`, the approximation) of pair k get the sum of taps[j] times the other of pair
/// k + first + j, for j < count.
struct Lift {
  bool onto_details;
  int first, count;
  double taps[2];
};

}  // namespace tsr
