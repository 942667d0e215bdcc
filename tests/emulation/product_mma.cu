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

struct Silu {
  __device__ float operator()(float x) const { return tsr_silu(x); }
};

/// What `product_mma` reads first. `move`: operands and result begin one element later than memory.
struct Request {
  int32_t kind, move, m, n, k, lda, ldb, ldc, batch, next_a, next_b, next_c, bias, residual, epilogue;
};

// How a product is launched: as product_mma chooses, or one of the kernels it chooses from.
using Large = mma::ProductCut<128, 128, 2, 4, 1>;
using Small = mma::ProductCut<64, 64, 2, 2, 3>;
struct AsProductChooses {
  template <class E, bool Transposed, bool RightAlong, class... Arguments>
  static void launch(const Arguments&... arguments) { mma::product_mma<E, Transposed, RightAlong>(nullptr, arguments...); }
};
template <class Cut, bool Aligned>
struct One {
  template <class E, bool Transposed, bool RightAlong, class... Arguments>
  static void launch(const Arguments&... arguments) { mma::launch_product<Cut, E, !Transposed, RightAlong, Aligned>(nullptr, arguments...); }
};

template <class Way, class E, class Out, bool Transposed, bool RightAlong, class Prologue = mma::AsItIs>
static int multiply(const Request& r) {
  const cuda::Matmul s = {r.m, r.n, r.k, r.lda, r.ldb, r.ldc, Transposed, r.batch, r.next_a, r.next_b, r.next_c, cuda::Epilogue(r.epilogue)};
  Memory<E> a(int64_t(r.batch) * r.next_a), b(int64_t(r.batch) * r.next_b);
  Memory<float> bias(r.n), residual(int64_t(r.batch) * r.next_c);
  Memory<Out> c(int64_t(r.batch) * r.next_c);
  a.read(a.p + r.move), b.read(b.p + r.move), bias.read(bias.p), residual.read(residual.p);
  const E *const left = a.p + r.move, *const right = b.p + r.move;
  const mma::Finish<Out> finish{c.p + r.move, r.bias != 0 ? bias.p : nullptr, r.residual != 0 ? residual.p : nullptr, s.ldc, s.next_c, s.epilogue};
  Way::template launch<E, Transposed, RightAlong>(s, left, right, Prologue(), finish);
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
    case 0: return multiply<AsProductChooses, __nv_bfloat16, float, false, false>(r);
    case 1: return multiply<One<Small, true>, __nv_bfloat16, __nv_bfloat16, true, false>(r);
    case 2: return multiply<One<Large, true>, __nv_bfloat16, float, false, true>(r);
    case 3: return multiply<One<Small, false>, __half, __half, false, false, mma::Mapped<Silu>>(r);
    case 4: return multiply<One<Large, true>, float, float, false, false>(r);
    case 5: return multiply<One<Small, true>, float, float, true, true>(r);
  }
  return 3;
}
