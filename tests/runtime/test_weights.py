"""Reading weights takes no memory beside them: the file's pages are given back while it is read."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.runtime.harness import build

PROGRAM = r"""
#include <sys/resource.h>

#include "memory.h"
#include "weights.h"

static long peak_kb() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

int main(int, char** arguments) {
  using namespace tsr;
  constexpr int kCount = 16;
  constexpr int64_t kSide = 1024;  // 4 MB each
  std::vector<std::string> names;
  for (int i = 0; i < kCount; ++i) names.push_back("net.w" + std::to_string(i));
  std::vector<Tensor> params;
  for (int i = 0; i < kCount; ++i)
    params.push_back({names[i].c_str(), DType::f32, 2, {kSide, kSide}, kSide, size_t(i) * kSide * kSide * 4,
                      Init::zeros, 0, 0, true, 0, INT64_MIN, false});
  Program program{};
  program.name = "net", program.version = "1", program.params = params.data(), program.param_count = kCount;
  Arena arena;
  const size_t at = arena.reserve(kCount * kSide * kSide * 4);
  arena.map(false);
  float* const values = reinterpret_cast<float*>(arena.at(at));
  for (int64_t i = 0; i < kCount * kSide * kSide; ++i) values[i] = float(i % 1000);
  save_weights(program, arena.at(at), arguments[1]);
  for (int64_t i = 0; i < kCount * kSide * kSide; ++i) values[i] = -1;
  const long before = peak_kb();
  load_weights(program, arguments[1], arena.at(at));
  for (int64_t i = 0; i < kCount * kSide * kSide; ++i)
    if (values[i] != float(i % 1000)) return 1;
  printf("%ld\n", peak_kb() - before);
}
"""


def test_weights_are_read_without_keeping_the_file_in_memory(tmp_path: Path) -> None:
    program = build(PROGRAM, "quick", tmp_path)
    done = subprocess.run([program, tmp_path / "net.safetensors"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 << 10, "kB more than the 64 MB of the weights themselves"
