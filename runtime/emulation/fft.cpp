// cuFFT's calls that runtime/cuda/fft_library.cuh makes, on the host: transforms in double precision, by the prime factors of
// their length (Cooley and Tukey 1965). Lines have to lie in device memory whole, or the call fails.
#include <cmath>
#include <complex>
#include <map>
#include <vector>

#include "../cuda/cufft_api.h"
#include "host_api.h"
#include "scheduler.h"

namespace tsr::emulation {
bool on_device(const void* p, size_t bytes, const char* what);

namespace {
using Number = std::complex<double>;

struct Transform {
  int length, distance, batch;
  bool wide;
  cudaStream_t stream = nullptr;
};
std::map<cufftHandle, Transform>& transforms() {
  static auto& all = *new std::map<cufftHandle, Transform>;
  return all;
}

/// y = the transform of n numbers that lie `step` apart.
void transform(const Number* x, int64_t n, int64_t step, double direction, Number* y) {
  if (n == 1) {
    *y = *x;
    return;
  }
  int64_t p = 2;
  while (p * p <= n && n % p != 0) ++p;
  if (n % p != 0) p = n;
  const int64_t m = n / p;
  std::vector<Number> parts(static_cast<size_t>(n)), roots;
  for (int64_t r = 0; r < p; ++r) transform(x + r * step, m, step * p, direction, parts.data() + r * m);
  for (int64_t k = 0; k < n; ++k) roots.push_back(std::polar(1.0, direction * 6.283185307179586476925 * double(k) / double(n)));
  for (int64_t k = 0; k < n; ++k) {
    Number sum = 0;
    for (int64_t r = 0; r < p; ++r) sum += parts[size_t(r * m + k % m)] * roots[size_t(r * k % n)];
    y[k] = sum;
  }
}

template <class T>
cufftResult run(cufftHandle handle, T* from, T* to, int direction) {
  const auto found = transforms().find(handle);
  if (found == transforms().end()) return CUFFT_INVALID_PLAN;
  const Transform t = found->second;
  const size_t bytes = (size_t(t.batch - 1) * size_t(t.distance) + size_t(t.length)) * sizeof(T);
  if (t.wide != (sizeof(T) == 16) || !on_device(from, bytes, "cufftExec") || !on_device(to, bytes, "cufftExec")) return CUFFT_INVALID_VALUE;
  enqueue(t.stream, [=] {
    std::vector<Number> x(size_t(t.length)), y(size_t(t.length));
    for (int64_t line = 0; line < t.batch; ++line) {
      for (int k = 0; k < t.length; ++k) x[size_t(k)] = {from[line * t.distance + k].x, from[line * t.distance + k].y};
      transform(x.data(), t.length, 1, direction, y.data());
      for (int k = 0; k < t.length; ++k) to[line * t.distance + k].x = decltype(from->x)(y[size_t(k)].real()), to[line * t.distance + k].y = decltype(from->x)(y[size_t(k)].imag());
    }
  });
  return CUFFT_SUCCESS;
}
}  // namespace
}  // namespace tsr::emulation

extern "C" {
cufftResult cufftPlanMany(cufftHandle* plan, int rank, int* n, int* inembed, int istride, int idist, int* onembed, int ostride, int odist, cufftType type, int batch) {
  if (rank != 1 || n[0] < 1 || batch < 1 || inembed == nullptr || onembed == nullptr || istride != 1 || ostride != 1 || idist != odist) return CUFFT_INVALID_VALUE;
  static int next = 0;
  *plan = ++next;
  transforms()[*plan] = {n[0], idist, batch, type == CUFFT_Z2Z};
  return CUFFT_SUCCESS;
}
cufftResult cufftSetStream(cufftHandle plan, cudaStream_t stream) {
  const auto found = transforms().find(plan);
  if (found == transforms().end()) return CUFFT_INVALID_PLAN;
  found->second.stream = stream;
  return CUFFT_SUCCESS;
}
cufftResult cufftExecC2C(cufftHandle plan, cufftComplex* from, cufftComplex* to, int direction) { return run(plan, from, to, direction); }
cufftResult cufftExecZ2Z(cufftHandle plan, cufftDoubleComplex* from, cufftDoubleComplex* to, int direction) { return run(plan, from, to, direction); }
cufftResult cufftDestroy(cufftHandle plan) { return transforms().erase(plan) == 1 ? CUFFT_SUCCESS : CUFFT_INVALID_PLAN; }
}
