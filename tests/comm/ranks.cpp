// A program of ranks without a model: `environment NAME=VALUE...` prints what discover() makes of an environment; `check
// SIZES` compares every exchange with what it should give; `digest SIZES` prints what they give, in short; `steps N` exchanges for a while, so that ranks can be lost.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#ifdef TEST_GPUS
#include "runtime/cuda/nccl.cuh"
static constexpr auto kJoin = tsr::comm::join_gpus;
#else
#include "runtime/comm/join.h"
static constexpr auto kJoin = tsr::comm::join;
#endif

using namespace tsr;

static int print_environment(int argc, char** argv) {
  std::map<std::string, std::string> given;
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    given[word.substr(0, word.find('='))] = word.substr(word.find('=') + 1);
  }
  const comm::Start start = comm::discover([&](const char* name) { return given.count(name) ? given[name].c_str() : nullptr; });
  printf("%d/%d local %d by %s job '%s' at %s:%d\n", start.rank, start.world, start.local, start.by.c_str(), start.job.c_str(), start.host.c_str(), start.port);
  return 0;
}

static int wrong(const char* what, int axis, int64_t count) {
  printf("WRONG: %s over axis %d of %lld elements\n", what, axis, static_cast<long long>(count));
  return 1;
}

// Element i of what the rank at coordinate k of an axis holds; small integers, so that sums are exact in any order.
static float value(int k, int64_t i) { return static_cast<float>((i * 7 + k * 13) % 101 - 50); }

static int check(Ranks& ranks, int axis, int64_t count) {
  const int n = axis == Ranks::kWorld ? ranks.size() : ranks.size(axis), me = axis == Ranks::kWorld ? ranks.rank() : ranks.coordinate(axis);
  std::vector<float> x(static_cast<size_t>(count)), all(static_cast<size_t>(n * count)), back(static_cast<size_t>(n * count));
  for (int64_t i = 0; i < count; ++i) x[static_cast<size_t>(i)] = value(me, i);
  ranks.all_gather(0, axis, x.data(), all.data(), static_cast<size_t>(count) * sizeof(float));
  for (int k = 0; k < n; ++k)
    for (int64_t i = 0; i < count; ++i)
      if (all[static_cast<size_t>(k * count + i)] != value(k, i)) return wrong("all_gather", axis, count);
  ranks.all_to_all(0, axis, all.data(), back.data(), static_cast<size_t>(count) * sizeof(float));
  for (int k = 0; k < n; ++k)
    for (int64_t i = 0; i < count; ++i)
      if (back[static_cast<size_t>(k * count + i)] != value(me, i)) return wrong("all_to_all", axis, count);
  for (const Reduce kind : {Reduce::sum, Reduce::max, Reduce::min}) {
    std::vector<float> y = x, part(static_cast<size_t>(count));
    ranks.all_reduce(0, axis, kind, DType::f32, y.data(), count);
    ranks.reduce_scatter(0, axis, kind, DType::f32, all.data(), part.data(), count);
    for (int64_t i = 0; i < count; ++i) {
      float want = value(0, i);
      for (int k = 1; k < n; ++k) {
        const float term = value(k, i);
        want = kind == Reduce::sum ? want + term : kind == Reduce::max ? (term > want ? term : want) : (term < want ? term : want);
      }
      if (y[static_cast<size_t>(i)] != want) return wrong("all_reduce", axis, count);
      const float mine = value(me, i);
      if (part[static_cast<size_t>(i)] != (kind == Reduce::sum ? static_cast<float>(n) * mine : mine)) return wrong("reduce_scatter", axis, count);
    }
  }
  // Two at a time beside a third, which has to wait for them: what it would change is theirs until their end.
  std::vector<float> early = x, later = x, last = x;
  ranks.all_reduce_begin(0, axis, Reduce::sum, DType::f32, early.data(), count);
  ranks.all_reduce_begin(1, axis, Reduce::max, DType::f32, later.data(), count);
  if (count > 37) ranks.all_reduce(0, Ranks::kWorld, Reduce::min, DType::f32, last.data(), count);
  ranks.all_reduce_end(1), ranks.all_reduce_end(0);
  ranks.all_reduce(0, axis, Reduce::sum, DType::f32, x.data(), count);
  if (early != x) return wrong("all_reduce in two halves", axis, count);
  for (int64_t i = 0; i < count; ++i) x[static_cast<size_t>(i)] = value(me, i);
  ranks.all_reduce(0, axis, Reduce::max, DType::f32, x.data(), count);
  if (later != x) return wrong("the second all_reduce in two halves", axis, count);
  for (int64_t i = 0; i < count; ++i) x[static_cast<size_t>(i)] = value(me, i);
  std::vector<size_t> out(static_cast<size_t>(n)), in(static_cast<size_t>(n));
  size_t sent = 0, received = 0;
  for (int k = 0; k < n; ++k) {
    out[static_cast<size_t>(k)] = static_cast<size_t>((me * 3 + k * 5) % 4 * count), in[static_cast<size_t>(k)] = static_cast<size_t>((k * 3 + me * 5) % 4 * count);
    sent += out[static_cast<size_t>(k)], received += in[static_cast<size_t>(k)];
  }
  const std::vector<char> give(sent + 1, static_cast<char>(me + 1));
  std::vector<char> take(received + 1, 0);
  ranks.all_to_all_v(0, axis, give.data(), out.data(), take.data(), in.data());
  size_t at = 0;
  for (int k = 0; k < n; ++k)
    for (size_t i = 0; i < in[static_cast<size_t>(k)]; ++i)
      if (take[at++] != static_cast<char>(k + 1)) return wrong("all_to_all_v", axis, count);
  std::vector<float> sent_out = x;
  ranks.broadcast(0, axis, sent_out.data(), sent_out.size() * sizeof(float), n - 1);
  for (int64_t i = 0; i < count; ++i)
    if (sent_out[static_cast<size_t>(i)] != value(n - 1, i)) return wrong("broadcast", axis, count);
  ranks.barrier(axis);
  return 0;
}

// A hash of everything that this rank gets from exchanges of numbers whose sums are rounded.
static std::string digest(Ranks& ranks, int axes) {
  std::string got;
  const auto add = [&](const void* data, size_t bytes) { got += comm::hash_text(static_cast<const char*>(data), bytes); };
  for (int axis = Ranks::kWorld; axis < axes; ++axis)
    for (const int64_t count : {int64_t{1}, int64_t{1001}, axis == Ranks::kWorld ? int64_t{1500000} : int64_t{60000}}) {
      const int n = axis == Ranks::kWorld ? ranks.size() : ranks.size(axis);
      std::vector<float> x(static_cast<size_t>(count)), out(static_cast<size_t>(count));
      std::vector<double> y(static_cast<size_t>(std::min<int64_t>(count, 60000)));
      for (size_t i = 0; i < x.size(); ++i) x[i] = 1.0f / static_cast<float>(1 + (i * 31 + static_cast<size_t>(ranks.rank()) * 77) % 1009);
      for (size_t i = 0; i < y.size(); ++i) y[i] = 1.0 / (1.0 + static_cast<double>(x[i]));
      const int64_t part = std::max<int64_t>(count / n, 1);
      std::vector<float> blocks(static_cast<size_t>(part * n)), gathered(static_cast<size_t>(part * n));
      for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = x[i % x.size()];
      for (const Reduce kind : {Reduce::sum, Reduce::max, Reduce::min}) {
        out = x;
        ranks.all_reduce(0, axis, kind, DType::f32, out.data(), count);
        add(out.data(), out.size() * sizeof(float));
        ranks.reduce_scatter(0, axis, kind, DType::f32, blocks.data(), out.data(), part);
        add(out.data(), static_cast<size_t>(part) * sizeof(float));
      }
      ranks.all_reduce(0, axis, Reduce::sum, DType::f64, y.data(), static_cast<int64_t>(y.size()));
      add(y.data(), y.size() * sizeof(double));
      ranks.all_gather(0, axis, x.data(), gathered.data(), static_cast<size_t>(part) * sizeof(float));
      ranks.all_to_all(0, axis, gathered.data(), blocks.data(), static_cast<size_t>(part) * sizeof(float));
      ranks.broadcast(0, axis, x.data(), x.size() * sizeof(float), n - 1);
      add(gathered.data(), gathered.size() * sizeof(float)), add(blocks.data(), blocks.size() * sizeof(float)), add(x.data(), x.size() * sizeof(float));
    }
  return comm::hash_text(got.data(), got.size());
}

// On the device what check() has found right on the host: kernels and copies on a stream before, the exchange after them.
static int check_device(Ranks& ranks, int axis, int64_t count) {
#ifdef TEST_GPUS
  const int n = axis == Ranks::kWorld ? ranks.size() : ranks.size(axis);
  const size_t bytes = static_cast<size_t>(count) * sizeof(float), all = bytes * static_cast<size_t>(n);
  std::vector<float> x(static_cast<size_t>(n * count)), want(x), got(x);
  for (size_t i = 0; i < x.size(); ++i) x[i] = 1.0f / static_cast<float>(1 + (i + static_cast<size_t>(ranks.rank()) * 77) % 1009);
  char *in = nullptr, *out = nullptr;
  cudaMalloc(&in, all), cudaMalloc(&out, all);
  for (int which = 0; which < 5; ++which) {
    const auto exchange = [&](void* from, void* to) {
      if (which == 0) ranks.all_reduce(0, axis, Reduce::sum, DType::f32, from, count);
      if (which == 1) ranks.all_gather(0, axis, from, to, bytes);
      if (which == 2) ranks.reduce_scatter(0, axis, Reduce::max, DType::f32, from, to, count);
      if (which == 3) ranks.all_to_all(0, axis, from, to, bytes);
      if (which == 4) ranks.broadcast(0, axis, from, bytes, n - 1);
    };
    std::vector<float> host = x;
    std::fill(want.begin(), want.end(), 0.0f);
    exchange(host.data(), want.data());
    cudaMemcpy(in, x.data(), all, cudaMemcpyHostToDevice), cudaMemset(out, 0, all);
    cudaDeviceSynchronize();
    exchange(in, out);
    cudaMemcpy(got.data(), out, all, cudaMemcpyDeviceToHost);
    if (got != want) return wrong("out of an exchange on the device", axis, which);
    cudaMemcpy(got.data(), in, all, cudaMemcpyDeviceToHost);
    if (got != host) return wrong("in of an exchange on the device", axis, which);
  }
  cudaFree(in), cudaFree(out);
#else
  (void)ranks, (void)axis, (void)count;
#endif
  return 0;
}

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  try {
    if (command == "environment") return print_environment(argc, argv);
    static const Collective table[] = {{"all_reduce", 0, "model.py:7", 4000}, {"all_reduce", 0, "model.py:8", 4000}};
    Mesh mesh = {1, {"a"}, {1}, getenv("TEST_PLAN") ? getenv("TEST_PLAN") : "plan", table, 2, kJoin};
    mesh.axis_count = argc - 2 - (command == "steps");
    const char* const names[] = {"a", "b", "c", "d"};
    for (int i = 0; i < mesh.axis_count; ++i) mesh.names[i] = names[i], mesh.sizes[i] = atoi(argv[2 + i]);
    Program program{};
    program.name = "ranks", program.version = "test", program.mesh = &mesh;
    const std::unique_ptr<Ranks> ranks(mesh.join(program));
    if (getenv("TEST_IN_ORDER")) ranks->in_order();
    if (command == "check") {
      for (int axis = Ranks::kWorld; axis < mesh.axis_count; ++axis)
        for (const int64_t count : {int64_t{1}, int64_t{37}, int64_t{5000}})
          if (check(*ranks, axis, count) != 0 || check_device(*ranks, axis, count) != 0) return 1;
      float x = 1, y = 0;  // rounding tells the order: ((2^24 + 1) + 1) ... stays 2^24, any other order does not
      x = ranks->rank() == 0 ? 16777216.0f : 1.0f;
      ranks->all_reduce(0, Ranks::kWorld, Reduce::sum, DType::f32, &x, 1);
      if (x != 16777216.0f + y) return wrong("order of a sum", -1, 1);
    } else if (command == "digest") {
      const std::string all = digest(*ranks, mesh.axis_count);
      std::vector<char> words(static_cast<size_t>(ranks->size()) * all.size());
      ranks->all_gather(0, Ranks::kWorld, all.data(), words.data(), all.size());
      if (ranks->rank() == 0) printf("%s by %s\n", std::string(words.begin(), words.end()).c_str(), ranks->backend().c_str());
      return 0;
    } else {
      for (int64_t step = 0; step < atoi(argv[argc - 1]); ++step) {
        float x = 1;
        ranks->at_step(step);
        ranks->all_reduce(0, 0, Reduce::sum, DType::f32, &x, 1);
        usleep(20000);
      }
    }
    if (ranks->rank() == 0) printf("ok: %lld calls, %lld bytes\n", static_cast<long long>(ranks->traffic(0).calls), static_cast<long long>(ranks->traffic(0).bytes));
  } catch (const Error& error) {
    fputs(error.text().c_str(), stderr);
    return error.exit_code;
  }
  return 0;
}
