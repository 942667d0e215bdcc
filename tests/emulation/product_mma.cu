// Products on tensor cores as the test asks for them: `product_mma` reads numbers and operands, writes the result as floats.
// Exits with 2 if CUDA reported an error.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "runtime/cuda/product_mma.cuh"

using namespace tsr;

template <class T>
struct Memory {
  explicit Memory(int64_t n) : count(size_t(n)) {
    cudaMalloc(&p, (count + 1) * sizeof(T));
    cudaMemset(p, 0xff, (count + 1) * sizeof(T));  // NaN: what is not written is seen
  }
  ~Memory() { cudaFree(p); }
  void read(T* to) {
    std::vector<T> host(count);
    if (fread(host.data(), sizeof(T), count, stdin) != count) exit(3);
    cudaMemcpy(to, host.data(), count * sizeof(T), cudaMemcpyHostToDevice);
  }
  size_t count;
  T* p = nullptr;
};

/// What `product_mma` reads first. `move`: operands and result begin one element later than memory.
struct Request {
  int32_t kind, move, m, n, k, lda, ldb, ldc, batch, next_a, next_b, next_c, bias, residual, epilogue;
};

/// A product whose sizes are known when it runs: activation(product + bias) + residual. Null pointers are left out; the residual
/// lies as the result does. With Maps, elements of a pass through silu.
template <class E, class Out, bool LeftAlong, bool RightAlong, bool Aligned, bool Maps>
struct Plain {
  using Element = E;
  static constexpr bool left_along = LeftAlong, right_along = RightAlong, aligned = Aligned, maps = Maps;
  mma::Shape shape;
  Request sizes;
  const E *a, *b;
  Out* c;
  const float *bias, *residual;

  __device__ const E* left(int item) const { return a + item * sizes.next_a; }
  __device__ const E* right(int item) const { return b + item * sizes.next_b; }
  __device__ float map(int, int, int, float x) const { return tsr_silu(x); }
  __device__ float value(int64_t at, int column, float x) const {
    if (bias != nullptr) x += bias[column];
    if (sizes.epilogue == 2) x = tsr_relu(x);
    if (sizes.epilogue == 5) x = tsr_gelu_tanh(x);
    return residual != nullptr ? x + residual[at] : x;
  }
  __device__ void write(int item, int row, int column, const Two<float>& product, bool both) const {
    const int64_t at = item * sizes.next_c + row * sizes.ldc + column;
    c[at] = Out(value(at, column, product[0]));
    if (both) c[at + 1] = Out(value(at + 1, column + 1, product[1]));
  }
};

template <class Cut, bool Aligned, class E, class Out, bool Transposed, bool RightAlong, bool Maps = false>
static int multiply(const Request& r) {
  Memory<E> a(int64_t(r.batch) * r.next_a), b(int64_t(r.batch) * r.next_b);
  Memory<float> bias(r.n), residual(int64_t(r.batch) * r.next_c);
  Memory<Out> c(int64_t(r.batch) * r.next_c);
  a.read(a.p + r.move), b.read(b.p + r.move), bias.read(bias.p), residual.read(residual.p);
  const E *const left = a.p + r.move, *const right = b.p + r.move;
  const float *const add = r.bias != 0 ? bias.p : nullptr, *const more = r.residual != 0 ? residual.p : nullptr;
  const Plain<E, Out, !Transposed, RightAlong, Aligned, Maps> p{{r.m, r.n, r.k, r.lda, r.ldb, r.batch}, r, left, right, c.p + r.move, add, more};
  mma::launch_product<Cut>(nullptr, p);
  cudaError_t error = cudaDeviceSynchronize();
  if (error == cudaSuccess) error = cudaGetLastError();
  if (error != cudaSuccess) {
    fprintf(stderr, "%s\n", cudaGetErrorString(error));
    return 2;
  }
  std::vector<Out> host(c.count);
  cudaMemcpy(host.data(), c.p + r.move, c.count * sizeof(Out), cudaMemcpyDeviceToHost);
  const std::vector<float> out(host.begin(), host.end());
  fwrite(out.data(), sizeof(float), out.size(), stdout);
  return 0;
}

int main() {
  Request r;
  if (fread(&r, sizeof r, 1, stdin) != 1) return 3;
  switch (r.kind) {
    case 0: return multiply<mma::SmallCut, true, __nv_bfloat16, float, false, false>(r);
    case 1: return multiply<mma::SmallCut, true, __nv_bfloat16, __nv_bfloat16, true, false>(r);
    case 2: return multiply<mma::LargeCut, true, __nv_bfloat16, float, false, true>(r);
    case 3: return multiply<mma::SmallCut, false, __half, __half, false, false, true>(r);
    case 4: return multiply<mma::LargeCut, true, float, float, false, false>(r);
    case 5: return multiply<mma::SmallCut, true, float, float, true, true>(r);
    case 6: return multiply<mma::LargeCut, false, __nv_bfloat16, float, false, false>(r);
  }
  return 3;
}
