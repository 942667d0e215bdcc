"""The CUDA renderer: emitted kernels executed on the host against the evaluator, and compiled by nvcc for GPUs."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from numpy.typing import NDArray

from tesserac.codegen.cuda.project import render_cuda_makefile, render_entry_cuda
from tesserac.driver import front_end, plan_entry
from tesserac.elaborate import Options
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function, Input, Var
from tesserac.ir.types import DType, TensorType
from tesserac.resources import runtime_dir
from tests.codegen.cuda_cases import CASES, Net
from tests.codegen.cuda_support import WHOLE, build_functions, call, compile_on_host, emit, load, run_library
from tests.codegen.test_cuda_experts import FUNCTIONS as MIXTURES
from tests.codegen.test_cuda_transforms import CASES as TRANSFORMS
from tests.emulation.building import ARCHITECTURES, SELECTED
from tests.strategies import inputs_for, programs

RANDOM = 40
PLAIN = Options()
BOTH = f"ARCH={','.join(ARCHITECTURES)}"
NVCC = shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc on this machine")


def random_functions(count: int) -> list[Function]:
    """The first programs that the strategy draws from a fixed seed."""
    found: list[Function] = []

    @seed(2)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(programs())
    def collect(function: Function) -> None:
        found.append(function)

    collect()
    return found[:count]


def agree(
    actual: Mapping[str, NDArray[np.generic]],
    function: Function,
    values: Mapping[str, NDArray[np.generic]],
    seed: int = 0,
    step: int = 0,
) -> None:
    """Every output equals the evaluator's in double precision, up to the rounding of the program's own type."""
    wanted = evaluate(function, values, dtype=np.float64, seed=seed, step=step)
    for name, found in actual.items():
        want, array = np.asarray(wanted[name]), np.asarray(found)
        if array.dtype.kind == "c":
            want, array = (np.stack([v.real, v.imag]) for v in (want, array))
        want = want.astype(np.float64)
        tolerance = 1e-11 if array.dtype == np.float64 else 2e-5
        scale = max(1.0, float(np.max(np.abs(want), initial=0.0)))
        np.testing.assert_allclose(
            np.asarray(array, dtype=np.float64), want, rtol=tolerance * 10, atol=tolerance * scale, err_msg=name
        )


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_on_host([make()[0] for make in CASES.values()], tmp_path_factory.mktemp("cases"))


@pytest.mark.parametrize("name", list(CASES))
def test_kernels_compute_what_the_evaluator_does(name: str, cases: ctypes.CDLL) -> None:
    function, values = CASES[name]()
    agree(call(cases, list(CASES).index(name), function, values, seed=5, step=3), function, values, 5, 3)


@pytest.mark.skipif("race" not in SELECTED, reason="another mode was asked for")
def test_no_kernel_races(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSR_EMULATION_ORDER", "random")
    run_library(build_functions([make()[0] for make in CASES.values()], tmp_path, "race"), "race", __name__)


@pytest.mark.skipif(SELECTED != ("asan",), reason="a minute of compilation: make test-emulation MODE=asan")
def test_no_kernel_leaves_its_arrays(tmp_path: Path) -> None:
    run_library(build_functions([make()[0] for make in CASES.values()], tmp_path, "asan"), "asan", __name__)


def run_cases(library: str) -> None:
    """Every case on a library that ``compile_on_host`` made of them."""
    loaded = ctypes.CDLL(library)
    for number, make_case in enumerate(CASES.values()):
        function, values = make_case()
        agree(call(loaded, number, function, values, seed=5, step=3), function, values, 5, 3)


@pytest.fixture(scope="module")
def randoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Function], ctypes.CDLL]:
    functions = random_functions(RANDOM)
    return functions, compile_on_host(functions, tmp_path_factory.mktemp("random"))


@pytest.mark.parametrize("number", range(RANDOM))
def test_random_programs_compute_what_the_evaluator_does(
    number: int, randoms: tuple[list[Function], ctypes.CDLL]
) -> None:
    function = randoms[0][number]
    values = inputs_for(function, number)
    agree(call(randoms[1], number, function, values), function, values)


def test_two_runs_are_bitwise_the_same(cases: ctypes.CDLL) -> None:
    number = list(CASES).index("embedding")
    function, values = CASES["embedding"]()
    first, second = (call(cases, number, function, values) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_positions_beyond_32_bits_are_counted_in_64(tmp_path: Path) -> None:
    n = Net(1)
    shape = (80000, 40000)
    x = n.b.add_input(Input(Var("x", TensorType(DType.F32, shape)), "x"))
    mean = n.b.op("reduce_sum", n.b.op("square", x), axes=(1,))
    scaled = n.b.op("mul", x, n.b.op("broadcast", n.b.op("rsqrt", mean), shape=shape, axes=(0,)))
    total = n.b.op("reduce_sum", n.b.op("exp", scaled), axes=(0,))
    rows = n.infer(scaled, total)[0]
    m = Net(2)
    y = m.b.add_input(Input(Var("y", TensorType(DType.F32, shape)), "y"))
    compile_on_host([rows, m.infer(m.b.op("sin", y))[0]], tmp_path)
    text = (tmp_path / "f0.kernels.cuh").read_text()
    assert "for (int64_t row = " in text
    assert "int row" not in text
    assert "for (int64_t at = int64_t(blockIdx.x) * 256 + threadIdx.x;" in (tmp_path / "f1.kernels.cuh").read_text()


# -- optimizers ---------------------------------------------------------------------------------------------------

OPTIMIZER = """
#include "runtime/cuda/optimizer.cuh"
using namespace tsr;
static const Tensor kTensors[] = {{"w", DType::f32, 2, {3, 5}, 8, 0, Init::zeros, 0, 0, true, 0, INT64_MIN, false},
                                  {"b", DType::f32, 1, {20000}, 20000, 128, Init::zeros, 0, 0, false, 0,
                                   INT64_MIN, false}};
static const Program kProgram = {"p", "p.py", "0", kTensors, 2, 128 + 20000 * 4, nullptr, nullptr, {}, nullptr, 0};
extern "C" int optimize(int rule, int steps, double clip, float* params, const float* grads, double* norm) {
  cuda::Context context;
  OptimizerSettings settings;
  settings.rule = Rule(rule), settings.clip = clip, settings.weight_decay = 0.1;
  cuda::Arena arena;
  const size_t size = kProgram.param_bytes, p = arena.reserve(size, "p"), g = arena.reserve(size, "g");
  const size_t m = arena.reserve(size, "m"), v = arena.reserve(size, "v");
  arena.allocate(context);
  cuda::Updater<float> updater(context, kProgram, settings);
  cudaMemcpy(arena.at(p), params, size, cudaMemcpyHostToDevice);
  cudaMemcpy(arena.at(g), grads, size, cudaMemcpyHostToDevice);
  char* const moments[] = {arena.at(m), arena.at(v)};
  for (int step = 0; step < steps; ++step) {
    updater.prepare(step, 0.01);
    updater.launch(arena.at(p), arena.at(g), moments);
    context.check(cudaStreamSynchronize(context.stream), "waiting");
  }
  cudaMemcpy(params, arena.at(p), size, cudaMemcpyDeviceToHost);
  cuda::StepResult result;
  cudaMemcpy(&result, updater.result(), sizeof result, cudaMemcpyDeviceToHost);
  *norm = result.norm;
  return context.code;
}
"""


@pytest.fixture(scope="module")
def optimizer(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return load(tmp_path_factory.mktemp("optimizer"), {"optimizer.cpp": OPTIMIZER})


def expected_steps(
    rule: str,
    params: NDArray[np.float64],
    grads: NDArray[np.float64],
    decay: NDArray[np.bool_],
    scale: float,
    steps: int,
) -> NDArray[np.float64]:
    """The rules as their papers and PyTorch state them."""
    lr, wd = 0.01, 0.1 * decay
    m, v = np.zeros_like(params), np.zeros_like(params)
    for step in range(1, steps + 1):
        g = grads * scale + (0 if rule == "adamw" else wd * params)
        if rule == "sgd":
            params = params - lr * g
        elif rule == "momentum":
            m = 0.9 * m + g
            params = params - lr * m
        else:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            shrunk = params * (1 - lr * wd) if rule == "adamw" else params
            params = shrunk - lr * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return params


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam", "adamw"])
def test_optimizers_follow_their_formulas_and_leave_the_padding_alone(
    rule: str, clip: float, optimizer: ctypes.CDLL
) -> None:
    rng = np.random.default_rng(4)
    params, grads = (rng.normal(size=32 + 20000).astype(np.float32) for _ in range(2))
    live = np.ones(params.size, bool)
    live[24:32] = False
    live[:24].reshape(3, 8)[:, 5:] = False
    decay = np.zeros(params.size, bool)
    decay[:24] = True
    grads[~live] = np.nan
    norm = float(np.linalg.norm(grads[live].astype(np.float64)))
    scale = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
    want = expected_steps(rule, params[live].astype(np.float64), grads[live].astype(np.float64), decay[live], scale, 3)
    result, found = params.copy(), ctypes.c_double()
    code = optimizer.optimize(
        ["sgd", "momentum", "adam", "adamw"].index(rule),
        3,
        ctypes.c_double(clip),
        result.ctypes.data_as(ctypes.c_void_p),
        grads.ctypes.data_as(ctypes.c_void_p),
        ctypes.byref(found),
    )
    assert code == 0
    assert found.value == pytest.approx(norm, rel=1e-7)
    np.testing.assert_allclose(result[live], want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result[~live], params[~live])


# -- the text -----------------------------------------------------------------------------------------------------


def write_source(path: Path, folder: Path, options: Options = PLAIN) -> list[str]:
    """Emits a source file's entries; returns the stems."""
    text = path.read_text(encoding="utf-8")
    _, program, _ = front_end(text, str(path), type(WHOLE)(elaboration=options, tile_rows=0, target="cuda"))
    stems = []
    for entry in program.entries:
        files = render_entry_cuda(
            plan_entry(entry, WHOLE), stem=entry.label, source=str(path), lines={str(path): text.splitlines()}
        )
        assert set(files) == {f"{entry.label}.kernels.cuh", f"{entry.label}.program.cu"}
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
        stems.append(entry.label)
    entries = [{"stem": stem, "file": stem} for stem in stems]
    (folder / "Makefile").write_text(render_cuda_makefile(entries, title=path.stem), encoding="utf-8")
    if not (folder / "runtime").exists():
        shutil.copytree(runtime_dir(), folder / "runtime")
    return stems


def test_the_emitted_gpt_reads_like_its_source_and_is_the_same_every_time(root: Path, tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_source(root / "examples" / "gpt.py", tmp_path / name)
        texts.append([(tmp_path / name / f"gpt.{part}").read_text() for part in ("kernels.cuh", "program.cu")])
    assert texts[0] == texts[1]
    kernels, program = texts[0]
    assert "// gpt.py:13  x = x + project(op.flash_attention(q, k, v, heads=H, causal=True))" in kernels
    assert "Epilogue::bias}" in kernels
    assert "atomic" not in kernels
    assert str(root) not in kernels + program
    assert re.search(r"rows_norm1<<<\d+, 256, 0, stream>>>\(\s*input, w->gpt_table, [^;]*\);  // gpt.py:19", program)
    assert "int gpt_train_step(tsr::cuda::Context& context, const tsr::cuda::Call& call)" in program


def test_a_parameter_that_does_not_reach_the_loss_has_a_zero_gradient(tmp_path: Path) -> None:
    n = Net(1)
    n.weight("idle", 3)
    n.trainable.clear()
    loss = n.mean_square(n.b.op("mul", n.weight("w", 4), n.data("x", 4)))
    function, values = n.train(loss)
    agree(call(compile_on_host([function], tmp_path), 0, function, values), function, values)
    program = (tmp_path / "f0.program.cu").read_text()
    assert 'context.check(cudaMemsetAsync(g->idle, 0, sizeof g->idle, stream), "cudaMemsetAsync");' in program


# -- nvcc ---------------------------------------------------------------------------------------------------------


def make(folder: Path, *arguments: str) -> str:
    """Runs make; returns everything it printed."""
    done = subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


@needs_nvcc
@pytest.mark.slow
def test_nvcc_takes_the_gpt_without_warnings_and_without_spills(root: Path, tmp_path: Path) -> None:
    write_source(root / "examples" / "gpt.py", tmp_path)
    printed = make(tmp_path, "compile-only", BOTH, "NVCC=nvcc -Xptxas -v")
    spills = re.findall(
        r"Compiling entry function '(\S+)'.*\n.*\n.*?(\d+) bytes spill stores, (\d+) bytes spill loads", printed
    )
    assert len(spills) > 2 * 20
    assert [entry for entry in spills if entry[1:] != ("0", "0")] == []
    make(tmp_path, "clean")
    assert not list(tmp_path.glob("*.o"))


@needs_nvcc
@pytest.mark.slow
def test_nvcc_takes_every_form_of_kernel_without_warnings(tmp_path: Path, root: Path) -> None:
    """Without optimization, which no warning of the compilers depends on, and which takes most of the time.

    For sm_90a, which more is written for; under `make test-emulation` for both, as the GPT above always is.
    """
    functions = [*(build_case()[0] for build_case in CASES.values()), *random_functions(10)]
    functions += [*TRANSFORMS[:17:3], TRANSFORMS[-1]]
    functions += [MIXTURES[name] for name in ("unequal experts", "capacity", "given routing")]
    shapes = Options(mesh="none", shapes=(("input", "4x64x32"), ("Wo", "32x48")))
    stems = emit(functions, tmp_path)
    stems += write_source(root / "examples" / "chapter6" / "listing1.py", tmp_path, shapes)
    (tmp_path / "all.program.cu").write_text(
        "".join(f'#include "{stem}.program.cu"\n' for stem in stems), encoding="utf-8"
    )
    makefile = render_cuda_makefile([{"stem": "all", "file": "all"}], title="all")
    (tmp_path / "Makefile").write_text(makefile, encoding="utf-8")
    archs = BOTH if "TSR_EMULATION_MODE" in os.environ else f"ARCH={ARCHITECTURES[-1]}"
    make(tmp_path, "compile-only", archs, "NVCC=nvcc -Xcicc -O0 -Xptxas -O0")
