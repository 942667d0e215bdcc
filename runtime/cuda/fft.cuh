// Discrete Fourier transforms of lines, any length, with what comes before and after them: a block transforms a few lines in
// shared memory. Stockham's passes need no reordering (Govindaraju et al. 2008, "High performance discrete Fourier transforms
// on graphics processors"); lengths with large prime factors go through a convolution (Bluestein 1970). Lines that shared memory
// cannot hold take the same way through device memory.
#pragma once
#include "fft_tables.cuh"
#include "math.cuh"

namespace tsr {

constexpr int kFftThreads = 256;
constexpr int kFftBlocksOutside = 64;  // blocks that have lines in device memory at once

template <class T>
__device__ inline Complex<T> operator+(Complex<T> a, Complex<T> b) { return {a.re + b.re, a.im + b.im}; }
template <class T>
__device__ inline Complex<T> operator-(Complex<T> a, Complex<T> b) { return {a.re - b.re, a.im - b.im}; }
template <class T>
__device__ inline Complex<T> operator*(Complex<T> a, Complex<T> b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
template <class T>
__device__ inline Complex<T> conjugate(Complex<T> a) { return {a.re, -a.im}; }
/// Real and imaginary part exchanged: the inverse transform is the transform between two of these.
template <class T>
__device__ inline Complex<T> swapped(Complex<T> a) { return {a.im, a.re}; }

/// v = its transform of R numbers; root(k) = exp(-2 pi i k / R) where R has no form of its own.
template <int R, class T, class Root>
__device__ inline void butterfly(Complex<T> (&v)[R], Root root) {
  if constexpr (R == 2) {
    const Complex<T> a = v[0], b = v[1];
    v[0] = a + b, v[1] = a - b;
  } else if constexpr (R == 4) {
    const Complex<T> a = v[0] + v[2], b = v[0] - v[2], c = v[1] + v[3], d = v[1] - v[3], turned = {d.im, -d.re};
    v[0] = a + c, v[1] = b + turned, v[2] = a - c, v[3] = b - turned;
  } else if constexpr (R == 8) {
    constexpr T half = T(0.70710678118654752440);
    Complex<T> even[4] = {v[0], v[2], v[4], v[6]}, odd[4] = {v[1], v[3], v[5], v[7]};
    butterfly<4>(even, root);
    butterfly<4>(odd, root);
    odd[1] = {half * (odd[1].re + odd[1].im), half * (odd[1].im - odd[1].re)};
    odd[2] = {odd[2].im, -odd[2].re};
    odd[3] = {half * (odd[3].im - odd[3].re), -half * (odd[3].re + odd[3].im)};
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = even[k] + odd[k], v[k + 4] = even[k] - odd[k];
  } else {
    Complex<T> x[R];
    for (int t = 0; t < R; ++t) x[t] = v[t];
    for (int k = 0; k < R; ++k) {
      Complex<T> sum = x[0];
      for (int t = 1; t < R; ++t) sum = sum + x[t] * root(k * t % R);
      v[k] = sum;
    }
  }
}

/// The factors of a transform, pass by pass.
template <int... R>
struct Factors {};

/// One pass: every R numbers that are M / R apart, Done of whose factors are done.
template <int M, int Pitch, int Done, int R, class T>
__device__ inline void fft_pass(int lines, const Complex<T>* from, Complex<T>* to, const Complex<T>* roots) {
  constexpr int apart = M / R;
  for (int at = threadIdx.x; at < lines * apart; at += kFftThreads) {
    const int j = at % apart, inner = j % Done, line = at / apart * Pitch;
    Complex<T> v[R];
#pragma unroll
    for (int t = 0; t < R; ++t) {
      v[t] = from[line + j + t * apart];
      if (Done > 1 && t > 0) v[t] = v[t] * roots[inner * t * (apart / Done)];
    }
    butterfly<R>(v, [&](int k) { return roots[k * apart]; });
#pragma unroll
    for (int t = 0; t < R; ++t) to[line + (j - inner) * R + inner + t * Done] = v[t];
  }
  __syncthreads();
}

/// All passes; returns which of the two buffers holds the result. All threads of the block must call it.
template <int M, int Pitch, int Done, class T>
__device__ inline Complex<T>* fft_passes(int, Complex<T>* from, Complex<T>*, const Complex<T>*, Factors<>) { return from; }
template <int M, int Pitch, int Done, class T, int R, int... Rest>
__device__ inline Complex<T>* fft_passes(int lines, Complex<T>* from, Complex<T>* to, const Complex<T>* roots, Factors<R, Rest...>) {
  fft_pass<M, Pitch, Done, R>(lines, from, to, roots);
  return fft_passes<M, Pitch, Done * R>(lines, to, from, roots, Factors<Rest...>());
}

/// complex numbers to complex ones; real ones to all n bins; real ones forwards to bins 0 .. n / 2; such bins backwards to
/// real numbers.
enum class FftForm { complex, real, forwards, backwards };

/// A transform of N numbers in blocks of Lines lines, in passes over M numbers. Upright: neighbouring lines are neighbours in
/// memory, rather than the numbers of a line. Outside: in device memory.
template <class Real, FftForm Form, bool Backwards, int N, int Lines, bool Upright, bool Outside, int M, int... Radix>
struct FftPlan {
  using T = Real;
  using Passes = Factors<Radix...>;
  static constexpr FftForm form = Form;
  static constexpr bool inverse = Backwards, upright = Upright, outside = Outside;
  static constexpr bool halved = Form != FftForm::complex && N % 2 == 0;  // pairs of real numbers are one complex number
  static constexpr int n = N, lines = Lines, passes = M, length = halved ? N / 2 : N;
  static constexpr bool bluestein = M > length;
  static constexpr int pitch = (M > length + 1 ? M : length + 1) | 1;  // odd: lines start in different banks
  static constexpr size_t bytes = size_t(2) * Lines * pitch * sizeof(Complex<T>);
};

/// Calls f(line, k) for k < size of every line, neighbouring threads with neighbours in memory.
template <class Plan, class F>
__device__ inline void for_each(int lines, int size, F f) {
  for (int at = threadIdx.x; at < lines * size; at += kFftThreads) {
    if (Plan::upright) f(at % lines, at / lines);
    else f(at / size, at % size);
  }
}

/// Half a spectrum as the transform sees it: bins that stand for two numbers times `interior`, real where they stand for one.
template <class Plan, class T>
__device__ inline Complex<T> bin(Complex<T> x, int k, T interior) {
  const bool alone = k == 0 || 2 * k == Plan::n;
  return alone ? Complex<T>{x.re, T(0)} : Complex<T>{x.re * interior, x.im * interior};
}

/// Brings the lines from `first` on to buffer a; the inverse ones swapped.
template <class Plan, class T, class F>
__device__ inline void fft_read(const F& f, int64_t first, int lines, T interior, const Complex<T>* turn, Complex<T>* a, Complex<T>* b) {
  constexpr int pitch = Plan::pitch, m = Plan::length;
  if constexpr (Plan::form == FftForm::complex) {
    for_each<Plan>(lines, Plan::n, [&](int l, int k) {
      const Complex<T> x = f.read(first + l, k);
      a[l * pitch + k] = Plan::inverse ? swapped(x) : x;
    });
  } else if constexpr (Plan::form != FftForm::backwards) {
    for_each<Plan>(lines, Plan::n, [&](int l, int k) {
      if (Plan::halved) reinterpret_cast<T*>(a + l * pitch)[k] = f.read(first + l, k);
      else a[l * pitch + k] = {f.read(first + l, k), T(0)};
    });
  } else {
    for_each<Plan>(lines, Plan::n / 2 + 1, [&](int l, int k) { b[l * pitch + k] = bin<Plan>(f.read(first + l, k), k, interior); });
    __syncthreads();
    for_each<Plan>(lines, m, [&](int l, int k) {
      const Complex<T>* const x = b + l * pitch;
      if (Plan::halved) {
        const Complex<T> other = conjugate(x[m - k]), odd = (x[k] - other) * conjugate(turn[k]);
        a[l * pitch + k] = swapped(x[k] + other + Complex<T>{-odd.im, odd.re});
      } else {
        a[l * pitch + k] = swapped(2 * k > Plan::n ? conjugate(x[Plan::n - k]) : x[k]);
      }
    });
  }
  __syncthreads();
}

/// Transforms the lines in a; returns where they are then.
template <class Plan, class T>
__device__ inline Complex<T>* fft_transform(int lines, const FftTables<T>& tables, Complex<T>* a, Complex<T>* b) {
  constexpr int pitch = Plan::pitch, m = Plan::length, passes = Plan::passes;
  constexpr typename Plan::Passes factors{};
  if constexpr (!Plan::bluestein) {
    return fft_passes<passes, pitch, 1>(lines, a, b, tables.roots, factors);
  } else {
    for_each<Plan>(lines, passes, [&](int l, int k) { a[l * pitch + k] = k < m ? a[l * pitch + k] * tables.chirp[k] : Complex<T>{T(0), T(0)}; });
    __syncthreads();
    Complex<T>* const spectrum = fft_passes<passes, pitch, 1>(lines, a, b, tables.roots, factors);
    for_each<Plan>(lines, passes, [&](int l, int k) { spectrum[l * pitch + k] = swapped(spectrum[l * pitch + k] * tables.filter[k]); });
    __syncthreads();
    Complex<T>* const y = fft_passes<passes, pitch, 1>(lines, spectrum, spectrum == a ? b : a, tables.roots, factors);
    for_each<Plan>(lines, m, [&](int l, int k) { y[l * pitch + k] = swapped(y[l * pitch + k]) * tables.chirp[k]; });
    __syncthreads();
    return y;
  }
}

/// Bin k <= n / 2 of the real numbers that were transformed to y.
template <class Plan, class T>
__device__ inline Complex<T> bin_of_reals(const Complex<T>* y, int k, const Complex<T>* turn) {
  constexpr int m = Plan::length;
  const Complex<T> x = y[k % m];
  if (!Plan::halved) return x;
  const Complex<T> other = conjugate(y[(m - k) % m]), odd = (x - other) * turn[k], even = x + other;
  return {T(0.5) * (even.re + odd.im), T(0.5) * (even.im - odd.re)};
}

/// Hands the transformed lines on.
template <class Plan, class T, class F>
__device__ inline void fft_write(const F& f, int64_t first, int lines, T interior, const Complex<T>* turn, const Complex<T>* y) {
  constexpr int pitch = Plan::pitch;
  if constexpr (Plan::form == FftForm::complex) {
    for_each<Plan>(lines, Plan::n, [&](int l, int k) { f.write(first + l, k, Plan::inverse ? swapped(y[l * pitch + k]) : y[l * pitch + k]); });
  } else if constexpr (Plan::form == FftForm::forwards) {
    for_each<Plan>(lines, Plan::n / 2 + 1, [&](int l, int k) {
      f.write(first + l, k, bin<Plan>(bin_of_reals<Plan>(y + l * pitch, k, turn), k, interior));
    });
  } else if constexpr (Plan::form == FftForm::real) {
    for_each<Plan>(lines, Plan::n, [&](int l, int k) {
      const bool mirrored = 2 * k > Plan::n;  // the inverse transform is the conjugate here
      const int from = mirrored ? Plan::n - k : k;
      const Complex<T> x = bin<Plan>(bin_of_reals<Plan>(y + l * pitch, from, turn), from, T(1));
      f.write(first + l, k, mirrored != Plan::inverse ? conjugate(x) : x);
    });
  } else {
    for_each<Plan>(lines, Plan::n, [&](int l, int k) {
      const Complex<T> x = y[l * pitch + (Plan::halved ? k / 2 : k)];  // swapped
      f.write(first + l, k, Plan::halved && k % 2 != 0 ? x.re : x.im);
    });
  }
}

/// All `count` lines, Plan::lines by a block at a time. f.read(line, k) and f.write(line, k, value) are the program's.
template <class Plan, class F>
__global__ void __launch_bounds__(kFftThreads) fft_lines(int64_t count, F f, FftTables<typename Plan::T> tables, typename Plan::T interior, Complex<typename Plan::T>* outside) {
  using T = typename Plan::T;
  extern __shared__ __align__(16) unsigned char fft_memory[];
  Complex<T>* const a = Plan::outside ? outside + blockIdx.x * (Plan::bytes / sizeof(Complex<T>)) : reinterpret_cast<Complex<T>*>(fft_memory);
  Complex<T>* const b = a + Plan::lines * Plan::pitch;
  for (int64_t first = int64_t(blockIdx.x) * Plan::lines; first < count; first += int64_t(gridDim.x) * Plan::lines) {
    const int lines = count - first < Plan::lines ? int(count - first) : Plan::lines;
    fft_read<Plan>(f, first, lines, interior, tables.turn, a, b);
    const Complex<T>* const y = fft_transform<Plan>(lines, tables, a, b);
    fft_write<Plan>(f, first, lines, interior, tables.turn, y);
    __syncthreads();  // before the next lines come
  }
}

namespace cuda {

/// Puts the transform of `count` lines on the context's stream. `outside`: kFftBlocksOutside times Plan::bytes of memory, for a
/// plan that needs them. The first call makes tables, which takes memory: it must not be captured.
template <class Plan, class F>
void fft(Context& context, int64_t count, const F& f, typename Plan::T interior, void* outside) {
  using T = typename Plan::T;
  const FftTables<T> tables = fft_tables<T>(context, Plan::n, Plan::length, Plan::passes);
  if (context.code != 0) return;
  const int64_t groups = (count + Plan::lines - 1) / Plan::lines, most = Plan::outside ? kFftBlocksOutside : 65535;
  const size_t bytes = Plan::outside ? 0 : Plan::bytes;
  if (bytes > 48 << 10) context.check(cudaFuncSetAttribute(fft_lines<Plan, F>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "shared memory of a transform");
  fft_lines<Plan, F><<<unsigned(groups < most ? groups : most), kFftThreads, bytes, context.stream>>>(count, f, tables, interior, static_cast<Complex<T>*>(outside));
}

}  // namespace cuda
}  // namespace tsr
