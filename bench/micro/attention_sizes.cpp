// Speed of attention forward and backward for one batch element, one thread, best of many windows, and of the vector functions.
// GFLOP/s count every key for full attention and the visible half for causal attention.
#include <cmath>
#include <cstdio>

#include "attention.h"
#include "micro.h"
#include "philox.h"

using namespace tsr;

template <class A>
static void measure() {
  constexpr int S = A::queries;
  float *qkv = micro::allocate<float>(long(S) * A::ldq), *d_qkv = micro::allocate<float>(long(S) * A::ldq);
  float *o = micro::allocate<float>(long(S) * A::ldo), *d_o = micro::allocate<float>(long(S) * A::ldo);
  float *lse = micro::allocate<float>(A::heads * S), *scratch = micro::allocate<float>(attention_scratch<float, A>());
  float* kept = micro::allocate<float>(attention_kept<float, A>());
  for (long i = 0; i < long(S) * A::ldq; ++i) qkv[i] = random_uniform<float>(1, 1, i) - 0.5f;
  for (long i = 0; i < long(S) * A::ldo; ++i) d_o[i] = random_uniform<float>(1, 2, i) - 0.5f;
  const int width = A::heads * A::head_size;
  const float scale = 1.0f / std::sqrt(float(A::head_size));
  auto forward = [&](float* p) { attention_forward<A>(qkv, qkv + width, qkv + 2 * width, o, lse, scale, scratch, p); };
  auto backward = [&](float* p) {
    attention_backward<A>(qkv, qkv + width, qkv + 2 * width, o, lse, d_o, d_qkv, d_qkv + width, d_qkv + 2 * width, scale, scratch, p);
  };
  double peak = 0, f = 1e9, kept_f = 1e9, b = 1e9, kept_fb = 1e9;
  for (int window = 0; window < 30; ++window) {
    peak = micro::best(peak, micro::fma_peak<float>());
    f = micro::least(f, micro::seconds_per_call([&] { forward(nullptr); }, 5));
    kept_f = micro::least(kept_f, micro::seconds_per_call([&] { forward(kept); }, 5));
    b = micro::least(b, micro::seconds_per_call([&] { backward(nullptr); }, 10));
    kept_fb = micro::least(kept_fb, micro::seconds_per_call([&] { forward(kept), backward(kept); }, 10));
  }
  const double unit = 2e-9 * S * A::keys * A::head_size * A::heads * (A::causal ? 0.5 * (S + 1) / S : 1.0);  // one product
  auto line = [&](const char* what, double seconds, int products) {
    std::printf("S %d, %d x %d%s  %-34s %7.3f ms  %6.1f GFLOP/s  %5.1f %% of peak %.1f\n", S, A::heads, A::head_size, A::causal ? " causal" : "", what,
                seconds * 1e3, products * unit / seconds, 100 * products * unit / seconds / peak, peak);
  };
  line("forward", f, 2);
  line("forward, probabilities kept", kept_f, 2);
  line("backward, recomputing", b, 5);
  line("forward and backward, kept", kept_fb, 6);
}

constexpr int n = 4096;
alignas(64) static float x[n], y[n];

template <class F>
static void function_speed(const char* name, F f) {
  for (int i = 0; i < n; ++i) x[i] = random_uniform<float>(2, 3, i) * 8 - 4;
  double seconds = 1e9;
  for (int window = 0; window < 30; ++window)
    seconds = micro::least(seconds, micro::seconds_per_call(
                                        [&] {
                                          columns<float, n>([&](auto c) { c.store(y, f(c.load(x))); });
                                          asm volatile("" : : "r"(y) : "memory");
                                        },
                                        1));
  std::printf("%-12s %6.2f elements per ns\n", name, n / seconds * 1e-9);
}

int main() {
  measure<Attention<512, 512, 512, 1, 1, kFull, 1552, 1552, 1552, 528>>();
  measure<Attention<512, 512, 64, 8, 8, kFull, 1552, 1552, 1552, 528>>();
  measure<Attention<256, 256, 64, 4, 4, kCausal, 784, 784, 784, 272>>();
  function_speed("exp", [](Vec<float> x) { return vexp(x); });
  function_speed("log", [](Vec<float> x) { return vlog(x); });
  function_speed("tanh", [](Vec<float> x) { return vtanh(x); });
  function_speed("erf", [](Vec<float> x) { return verf(x); });
  function_speed("sin", [](Vec<float> x) { return vsin(x); });
  function_speed("sigmoid", [](Vec<float> x) { return vsigmoid(x); });
  function_speed("gelu", [](Vec<float> x) { return vgelu(x); });
  function_speed("dgelu", [](Vec<float> x) { return vdgelu(x); });
  function_speed("gelu_tanh", [](Vec<float> x) { return vgelu_tanh(x); });
  function_speed("dgelu_tanh", [](Vec<float> x) { return vdgelu_tanh(x); });
}
