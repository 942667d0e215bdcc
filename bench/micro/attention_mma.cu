// Attention on tensor cores beside the kernel for CUDA cores, on the same bf16 numbers: largest errors, relative to the largest
// value, and milliseconds. A line of JSON per size; exits with 1 where the two differ. With -DTINY, sizes for the emulation; with
// -DTSR_SM_90A, which needs code for sm_90a, the kernels are that device's, and the ones for all devices are timed beside them.
#include <cstdio>
#include <vector>

#include "runtime/cuda/attention.cuh"
#include "runtime/cuda/attention_wgmma_backward.cuh"

template <int Batch, int Length, int Heads, int Width, bool Causal>
struct Sizes {
  static constexpr int batch = Batch, queries = Length, keys = Length, heads = Heads, kv_heads = Heads, head_dim = Width, value_dim = Width;
  static constexpr bool causal = Causal;
  static constexpr int warps = 4;
  static constexpr int64_t row = Heads * Width, all = Batch * Length * row;
  static constexpr int64_t q_row = row, k_row = row, v_row = row, o_row = row, d_o_row = row, dq_row = row, dk_row = row, dv_row = row;
  static constexpr int64_t one = Length * row, q_batch = one, k_batch = one, v_batch = one, o_batch = one, d_o_batch = one, dq_batch = one, dk_batch = one, dv_batch = one;
};

template <class T>
struct Memory {
  explicit Memory(int64_t n) : count(size_t(n)) { cudaMalloc(&p, count * sizeof(T)); }
  Memory(int64_t n, unsigned seed, float scale) : Memory(n) {
    std::vector<T> host(count);
    for (size_t i = 0; i < count; ++i) {
      seed = seed * 1664525u + 1013904223u;
      host[i] = T(float(__nv_bfloat16((float(seed >> 8) / float(1 << 23) - 1) * scale)));
    }
    cudaMemcpy(p, host.data(), count * sizeof(T), cudaMemcpyHostToDevice);
  }
  ~Memory() { cudaFree(p); }
  std::vector<T> host() const {
    std::vector<T> out(count);
    cudaMemcpy(out.data(), p, count * sizeof(T), cudaMemcpyDeviceToHost);
    return out;
  }
  size_t count;
  T* p = nullptr;
};

template <class F>
static double milliseconds(const F& launch) {
  cudaEvent_t first = nullptr, last = nullptr;
  cudaEventCreate(&first), cudaEventCreate(&last);
  launch();
  const int repeats = 20;
  cudaEventRecord(first);
  for (int i = 0; i < repeats; ++i) launch();
  cudaEventRecord(last);
  cudaEventSynchronize(last);
  float all = 0;
  cudaEventElapsedTime(&all, first, last);
  cudaEventDestroy(first), cudaEventDestroy(last);
  return all / repeats;
}

template <class T>
static double difference(const Memory<T>& found, const Memory<float>& wanted) {
  const std::vector<T> a = found.host();
  const std::vector<float> b = wanted.host();
  double worst = 0, largest = 1e-30;
  for (size_t i = 0; i < a.size(); ++i) {
    const double distance = double(float(a[i])) - double(b[i]), size = double(b[i]) < 0 ? -double(b[i]) : double(b[i]);
    worst = distance > worst || distance != distance ? (distance != distance ? 1e30 : distance) : -distance > worst ? -distance : worst;
    largest = size > largest ? size : largest;
  }
  return worst / largest;
}

template <class A>
static bool race(const char* name) {
  using E = __nv_bfloat16;
  constexpr float scale = A::head_dim == 64 ? 0.125f : A::head_dim == 128 ? 0.08838835f : 0.0625f;
  const Memory<E> q(A::all, 1, 2), k(A::all, 2, 2), v(A::all, 3, 1), d_o(A::all, 4, 1);
  Memory<E> o(A::all), dq(A::all), dk(A::all), dv(A::all);
  const int64_t rows = int64_t(A::batch) * A::heads * A::queries;
  Memory<float> lse(rows), delta(rows);
  auto forward = [&] { tsr::attention_forward_tensor_cores<A, E, E>(nullptr, q.p, k.p, v.p, o.p, lse.p, scale); };
  auto forward_mma = [&] { tsr::attention_forward_mma<A, E, E>(nullptr, q.p, k.p, v.p, o.p, lse.p, scale); };
  auto backward = [&] { tsr::attention_backward_tensor_cores<A, E, E, E>(nullptr, q.p, k.p, v.p, o.p, lse.p, d_o.p, dq.p, dk.p, dv.p, scale, delta.p); };
  auto backward_mma = [&] { tsr::attention_backward_mma<A, E, E, E>(nullptr, q.p, k.p, v.p, o.p, lse.p, d_o.p, dq.p, dk.p, dv.p, scale, delta.p); };
  forward(), backward();
  double worst = 0;
  {
    const Memory<float> fq(A::all, 1, 2), fk(A::all, 2, 2), fv(A::all, 3, 1), fd_o(A::all, 4, 1);
    Memory<float> fo(A::all), fdq(A::all), fdk(A::all), fdv(A::all), flse(rows), fdelta(rows);
    tsr::attention_forward<A, float>(nullptr, fq.p, fk.p, fv.p, fo.p, flse.p, scale);
    tsr::attention_backward<A, float>(nullptr, fq.p, fk.p, fv.p, fo.p, flse.p, fd_o.p, fdq.p, fdk.p, fdv.p, scale, fdelta.p);
    for (const double x : {difference(o, fo), difference(lse, flse), difference(dq, fdq), difference(dk, fdk), difference(dv, fdv)}) worst = x > worst ? x : worst;
  }
  const double forward_ms = milliseconds(forward), forward_mma_ms = milliseconds(forward_mma), backward_ms = milliseconds(backward), backward_mma_ms = milliseconds(backward_mma);
  const cudaError_t error = cudaDeviceSynchronize(), launched = cudaGetLastError();
  const bool good = worst <= 2e-2 && error == cudaSuccess && launched == cudaSuccess;
  const double pairs = double(rows) * A::keys / (A::causal ? 2 : 1), flops = 4 * pairs * A::head_dim;
  printf("{\"name\": \"%s\", \"batch\": %d, \"length\": %d, \"heads\": %d, \"width\": %d, \"causal\": %s, \"error\": %.3g, \"good\": %s, ", name, A::batch, A::queries, A::heads,
         A::head_dim, A::causal ? "true" : "false", worst, good ? "true" : "false");
  printf("\"forward_ms\": %.4f, \"forward_mma_ms\": %.4f, \"backward_ms\": %.4f, \"backward_mma_ms\": %.4f, ", forward_ms, forward_mma_ms, backward_ms, backward_mma_ms);
  printf("\"forward_flops\": %.6g, \"backward_flops\": %.6g}\n", flops, 2.5 * flops);
  return good;
}

int main() {
#ifdef TINY
  return race<Sizes<1, 70, 2, 64, true>>("tiny") ? 0 : 1;
#else
  bool good = race<Sizes<8, 2048, 32, 64, false>>("64 full");
  good = race<Sizes<8, 2048, 32, 64, true>>("64 causal") && good;
  good = race<Sizes<8, 2048, 16, 128, false>>("128 full") && good;
  good = race<Sizes<8, 2048, 16, 128, true>>("128 causal") && good;
  good = race<Sizes<8, 2048, 8, 256, true>>("256 causal") && good;
  good = race<Sizes<32, 1024, 12, 64, true>>("GPT-2") && good;
  return good ? 0 : 1;
#endif
}
