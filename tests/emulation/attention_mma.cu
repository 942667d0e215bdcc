// Attention on tensor cores with the sizes that the test lists: `attention_mma CASE` reads the scale and the operands, writes
// results as floats: o, lse, dq, dk, dv. `First`: where the queries begin among more. Exits with 2 if CUDA reported an error. With
// TSR_SM_90A: as sm_90a computes them. Cases of which many tiles come and go are compiled with TSR_LONG. With TSR_FIRST there is the first
// alone, computed as suits the device.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "runtime/cuda/attention_wgmma_backward.cuh"

template <int Batch, int Queries, int Keys, int Heads, int KvHeads, int HeadDim, int ValueDim, bool Causal>
struct Sizes {
  static constexpr int batch = Batch, queries = Queries, keys = Keys, heads = Heads, kv_heads = KvHeads, head_dim = HeadDim, value_dim = ValueDim;
  static constexpr bool causal = Causal;
  static constexpr int warps = 4;
  // Queries and their gradient have room between rows, as parts of a wider matrix do.
  static constexpr int64_t q_row = Heads * HeadDim + 16, q_batch = Queries * q_row, dq_row = q_row, dq_batch = q_batch;
  static constexpr int64_t k_row = KvHeads * HeadDim, k_batch = Keys * k_row, dk_row = k_row, dk_batch = k_batch;
  static constexpr int64_t v_row = KvHeads * ValueDim, v_batch = Keys * v_row, dv_row = v_row, dv_batch = v_batch;
  static constexpr int64_t o_row = Heads * ValueDim, o_batch = Queries * o_row, d_o_row = o_row, d_o_batch = o_batch;
};

template <class T>
struct Memory {
  explicit Memory(int64_t n) : count(size_t(n)) {
    cudaMalloc(&p, count * sizeof(T));
    cudaMemset(p, 0xff, count * sizeof(T));  // NaN: what is not written is seen
  }
  ~Memory() { cudaFree(p); }
  void read() {
    std::vector<T> host(count);
    if (fread(host.data(), sizeof(T), count, stdin) != count) exit(3);
    cudaMemcpy(p, host.data(), count * sizeof(T), cudaMemcpyHostToDevice);
  }
  void write() const {
    std::vector<T> host(count);
    cudaMemcpy(host.data(), p, count * sizeof(T), cudaMemcpyDeviceToHost);
    const std::vector<float> out(host.begin(), host.end());
    fwrite(out.data(), sizeof(float), count, stdout);
  }
  size_t count;
  T* p = nullptr;
};

/// What says to kernels where queries begin: nothing, or a number in the device's memory.
template <int First>
struct Beginning {
  Beginning() { cudaMalloc(&p, sizeof(int)), cudaMemcpy(p, &first, sizeof(int), cudaMemcpyHostToDevice); }
  ~Beginning() { cudaFree(p); }
  const int* get() const { return p; }
  int first = First;
  int* p = nullptr;
};
template <>
struct Beginning<-1> {
  tsr::attention::Whole get() const { return {}; }
};

template <class A, class E, class Out, int First = -1>
static int attend() {
  float scale = 0;
  if (fread(&scale, sizeof scale, 1, stdin) != 1) return 3;
  Memory<E> q(A::batch * A::q_batch), k(A::batch * A::k_batch), v(A::batch * A::v_batch), d_o(A::batch * A::d_o_batch);
  Memory<Out> o(A::batch * A::o_batch), dq(A::batch * A::dq_batch), dk(A::batch * A::dk_batch), dv(A::batch * A::dv_batch);
  const int64_t rows = int64_t(A::batch) * A::heads * A::queries;
  Memory<float> lse(rows), delta(rows);
  q.read(), k.read(), v.read(), d_o.read();
  const Beginning<First> begin;
#ifdef TSR_FIRST
  tsr::attention_forward_tensor_cores<A>(nullptr, q.p, k.p, v.p, o.p, lse.p, scale, begin.get());
  tsr::attention_backward_tensor_cores<A>(nullptr, q.p, k.p, v.p, o.p, lse.p, d_o.p, dq.p, dk.p, dv.p, scale, delta.p, begin.get());
#elif defined(TSR_SM_90A)
  if (!tsr::flash::launch_wide<A>(nullptr, q.p, k.p, v.p, o.p, lse.p, scale, begin.get())) return 4;
  if constexpr (tsr::flash::Sizes<A>::widest <= 128) {
    if (!tsr::flash::launch_wide_backward<A>(nullptr, q.p, k.p, v.p, o.p, lse.p, d_o.p, dq.p, dk.p, dv.p, scale, delta.p, begin.get())) return 4;
  } else {
    tsr::attention_backward_tensor_cores<A>(nullptr, q.p, k.p, v.p, o.p, lse.p, d_o.p, dq.p, dk.p, dv.p, scale, delta.p, begin.get());
  }
#else
  tsr::attention_forward_mma<A, E, Out>(nullptr, q.p, k.p, v.p, o.p, lse.p, scale, begin.get());
  tsr::attention_backward_mma<A, E, Out, Out>(nullptr, q.p, k.p, v.p, o.p, lse.p, d_o.p, dq.p, dk.p, dv.p, scale, delta.p, begin.get());
#endif
  cudaError_t error = cudaDeviceSynchronize();
  if (error == cudaSuccess) error = cudaGetLastError();
  if (error != cudaSuccess) {
    fprintf(stderr, "%s\n", cudaGetErrorString(error));
    return 2;
  }
  o.write(), lse.write(), dq.write(), dk.write(), dv.write();
  return 0;
}

int main(int, char** arguments) {
  switch (atoi(arguments[1])) {
    case 0: return attend<Sizes<2, 150, 150, 2, 1, 64, 64, true>, __nv_bfloat16, float>();
#ifndef TSR_FIRST
    case 1: return attend<Sizes<1, 37, 100, 2, 2, 40, 24, false>, __half, __half>();
    case 2: return attend<Sizes<1, 70, 133, 2, 1, 128, 128, true>, __half, float>();
    case 3: return attend<Sizes<1, 66, 72, 1, 1, 256, 208, true>, __nv_bfloat16, __nv_bfloat16>();
    case 4: return attend<Sizes<1, 33, 65, 4, 2, 32, 32, false>, __nv_bfloat16, __nv_bfloat16>();
    case 5: return attend<Sizes<1, 40, 40, 1, 1, 80, 96, true>, __nv_bfloat16, float>();
    case 6: return attend<Sizes<1, 140, 400, 2, 1, 64, 64, true>, __nv_bfloat16, float, 150>();  // no query sees the last keys
#ifdef TSR_SM_90A
    case 7: return attend<Sizes<1, 140, 530, 1, 1, 64, 64, true>, __half, __half>();  // more tiles than stages, rows that see one more
#endif
#ifdef TSR_LONG
    case 8: return attend<Sizes<1, 300, 333, 4, 2, 128, 128, true>, __nv_bfloat16, __nv_bfloat16>();
    case 9: return attend<Sizes<1, 410, 330, 2, 1, 64, 128, false>, __half, float>();
    case 10: return attend<Sizes<1, 520, 520, 1, 1, 96, 64, true>, __nv_bfloat16, float>();
#endif
#endif
  }
  return 3;
}
