// `generate`: continues a text, byte by byte, with a model whose infer function maps tokens [B, S]
// to scores [B, S, V]. Causality makes padding on the right harmless.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "checkpoint.h"
#include "infer.h"
#include "options.h"
#include "random.h"
#include "session.h"

namespace tsr {
namespace cli {

constexpr Flag kGenerateFlags[] = {
    {"--prompt", "TEXT", "the text to continue (a line break)"},
    {"--tokens", "N", "how many tokens to add (200)"},
    {"--temperature", "X", "0 takes the likeliest token, 1 samples the model's distribution (0.8)"},
    {"--top-k", "N", "sample among the N likeliest tokens only (0: all)"},
    {"--weights", "FILE", "weights (safetensors, or a checkpoint)"},
    {"--checkpoint", "DIR", "take the newest checkpoint of this folder"},
    {"--seed", "N", "of the sampling (0)"},
    {"--threads", "N", "threads (OMP_NUM_THREADS, else the processors available)"},
};
constexpr Command kGenerate = {"generate", "Continues a text with a trained token model.", kGenerateFlags, sizeof kGenerateFlags / sizeof kGenerateFlags[0], nullptr,
    "Tokens are bytes. Once the text is longer than the model's window, the oldest tokens drop out."};

// Index of the output with scores for every position; throws when this is no token model.
inline int scores_output(const Program& program) {
  const Function* const f = program.infer;
  bool tokens = f && f->input_count == 1 && f->inputs[0].rank == 2 && is_integer(f->inputs[0].dtype) && f->inputs[0].batched;
  for (int i = 0; tokens && i < f->output_count; ++i) {
    const Tensor& out = f->outputs[i];
    const bool real = out.dtype == DType::f32 || out.dtype == DType::f64 || out.dtype == DType::bf16 || out.dtype == DType::f16;
    if (real && out.rank == 3 && out.shape[0] == f->inputs[0].shape[0] && out.shape[1] == f->inputs[0].shape[1]) return i;
  }
  throw Error("T0924", std::string(program.name) + " is no token model", "generate needs one integer input [B, S] and an output of scores [B, S, V]", kExitUsage);
}

struct Sampling {
  double temperature;
  int64_t top_k;
  uint64_t seed;
};

// Draws a token from scores. `order` is workspace of the same length.
inline int64_t draw(const std::vector<double>& scores, const Sampling& sampling, uint64_t index, std::vector<int64_t>* order) {
  const int64_t size = static_cast<int64_t>(scores.size());
  int64_t best = 0;
  for (int64_t i = 0; i < size; ++i) {
    (*order)[static_cast<size_t>(i)] = i;
    if (std::isnan(scores[static_cast<size_t>(i)])) throw Error("T0915", "the model's scores hold NaN", "these weights come from a run that diverged; use an earlier checkpoint");
    if (scores[static_cast<size_t>(i)] > scores[static_cast<size_t>(best)]) best = i;
  }
  if (sampling.temperature == 0) return best;
  const int64_t kept = sampling.top_k > 0 && sampling.top_k < size ? sampling.top_k : size;
  const auto better = [&](int64_t a, int64_t b) {
    const double x = scores[static_cast<size_t>(a)], y = scores[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  if (kept < size) std::partial_sort(order->begin(), order->begin() + kept, order->end(), better);
  const double top = scores[static_cast<size_t>(best)];
  const auto weight = [&](int64_t i) { return std::exp((scores[static_cast<size_t>((*order)[static_cast<size_t>(i)])] - top) / sampling.temperature); };
  double total = 0, block[kRandomBlock];
  for (int64_t i = 0; i < kept; ++i) total += weight(i);
  uniform_block(sampling.seed, stream_of("generate"), index, block);
  double left = block[0] * total;
  for (int64_t i = 0; i < kept; ++i)
    if ((left -= weight(i)) < 0) return (*order)[static_cast<size_t>(i)];
  return best;
}

inline std::string generate_weights(const Arguments& arguments) {
  const std::string folder = arguments.text("--checkpoint");
  if (folder.empty() == !arguments.has("--weights")) throw usage_error("generate: give either --weights FILE or --checkpoint DIR", "train writes both: --save FILE, --checkpoint DIR");
  if (folder.empty()) return arguments.text("--weights");
  const std::string newest = Checkpoints(folder).newest();
  if (newest.empty()) throw Error("T0918", "no checkpoint in " + quoted(folder) + " can be used", "train with --checkpoint " + folder + " first");
  return newest;
}

inline void put_token(int64_t token) {
  if (token < 256) putchar(static_cast<int>(token));
  else printf("<%lld>", static_cast<long long>(token));
}

inline int generate_command(const Program& program, const Arguments& arguments) {
  const int chosen = scores_output(program);
  const Function& function = *program.infer;
  const Tensor& input = function.inputs[0];
  const Tensor& output = function.outputs[chosen];
  const int64_t window = input.shape[1], vocabulary = output.shape[2], count = arguments.integer("--tokens", 200, 0);
  const Sampling sampling = {arguments.real("--temperature", 0.8, 0), arguments.integer("--top-k", 0, 0), static_cast<uint64_t>(arguments.integer("--seed", 0, 0))};
  const std::string prompt = arguments.text("--prompt", "\n");
  const std::string weights = generate_weights(arguments);
  Session session(program, thread_count(arguments), process_ranks());
  session.reserve(false, true, 0);
  const size_t tokens_at = session.arena().reserve(dense_bytes(input));
  std::vector<size_t> offsets;
  for (int i = 0; i < function.output_count; ++i) offsets.push_back(session.arena().reserve(dense_bytes(function.outputs[i])));
  session.map(false);
  load_weights(program, weights, session.params(), session.ranks());
  std::vector<void*> out;
  for (const size_t offset : offsets) out.push_back(session.arena().at(offset));
  const void* const in[] = {session.arena().at(tokens_at)};

  std::vector<int64_t> text, order(static_cast<size_t>(vocabulary));
  for (const char c : prompt) text.push_back(static_cast<unsigned char>(c));
  check_integers(input, {"--prompt", 0, true}, 0, text.data(), static_cast<int64_t>(text.size()));
  fputs(prompt.c_str(), stdout);
  std::vector<double> scores(static_cast<size_t>(vocabulary));
  for (int64_t step = 0; step < count; ++step) {
    const int64_t length = static_cast<int64_t>(text.size()), used = length < window ? length : window;
    store_integers(input.dtype, text.data() + (length - used), session.arena().at(tokens_at), static_cast<size_t>(used));
    session.infer(in, out.data(), 1, sampling.seed, static_cast<uint64_t>(step));
    load_reals(format_of(output.dtype), static_cast<char*>(out[static_cast<size_t>(chosen)]) + static_cast<size_t>((used - 1) * vocabulary) * dtype_size(output.dtype), scores.data(), scores.size());
    const int64_t token = draw(scores, sampling, static_cast<uint64_t>(step), &order);
    put_token(token);
    fflush(stdout);
    text.push_back(token);
  }
  putchar('\n');
  return kExitOk;
}

}  // namespace cli
}  // namespace tsr
