"""Mixed precision in emitted programs: what they compute, and a small GPT that trains in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tesserac.driver import CompileOptions, compile_source, front_end
from tesserac.elaborate import Options
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function
from tesserac.ir.text import print_function
from tesserac.passes.differentiate import differentiate
from tesserac.passes.pipeline import optimize
from tests.codegen.compiled import call, compile_functions
from tests.codegen.test_programs import BATCH, EXAMPLES
from tests.conftest import ROOT
from tests.passes.test_mixed import MODEL
from tests.strategies import inputs_for, programs

GPT = (("L", "2"), ("D", "48"), ("H", "3"), ("S", "33"), ("B", "6"), ("V", "256"))


def functions_of(source: str, sets: tuple[tuple[str, str], ...] = ()) -> list[Function]:
    _, program, _ = front_end(source, "net.py", CompileOptions(Options(sets=sets, mesh="none", precision="bf16")))
    return list(program.functions())


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """The largest error relative to the largest entry."""
    return float(np.abs(got.astype(np.float64) - want).max() / max(np.abs(want).max(), 1e-30))


@pytest.mark.parametrize("tile_rows", [16, 0])
def test_emitted_programs_compute_what_the_evaluator_does_with_bf16_operands(tile_rows: int, tmp_path: Path) -> None:
    functions = functions_of(MODEL) + functions_of((ROOT / "examples/gpt.py").read_text(encoding="utf-8"), GPT)
    library = compile_functions(functions, tmp_path, CompileOptions(tile_rows=tile_rows), mixed=True)
    for number, function in enumerate(functions):
        values = inputs_for(function)
        exact = evaluate(differentiate(function), values, dtype=np.float64)
        model = evaluate(optimize(function, mixed=True), values)
        plain = evaluate(differentiate(function), values)
        found = call(library, number, function, values)
        rounded = 0
        top = max(np.abs(v).max() for k, v in exact.items())
        for name, want in exact.items():
            size = max(np.abs(want).max(), 1e-3 * top) / max(np.abs(want).max(), 1e-30)
            assert distance(found[name], want) < 5e-2 * size, name
            # Where float32 sums differ in their last bit, a few of the operands are rounded to the other side.
            assert distance(found[name], model[name].astype(np.float64)) < 4e-3 * size, name
            rounded += distance(found[name], want) > 20 * distance(plain[name], want)
        assert rounded > len(exact) / 2  # it is not simply float32


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The GPT of the examples, small, in both precisions."""
    text = (ROOT / "examples/gpt.py").read_text(encoding="utf-8")
    found = {}
    for precision in ("fp32", "bf16"):
        folder = tmp_path_factory.mktemp(precision)
        project = compile_source(text, "gpt.py", CompileOptions(Options(sets=GPT, mesh="none", precision=precision)))
        for name, content in project.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
        (folder / "text.txt").write_bytes((ROOT / "examples/data/moby_dick.txt").read_bytes()[:40000])
        strict = {**os.environ, "CXXFLAGS": "-Werror"}
        for goal in (("OPTIMIZE=-O1", "command_line.o"), ("gpt",)):  # kernels as users have them
            done = subprocess.run(["make", *goal], cwd=folder, env=strict, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[:4000]
        found[precision] = folder
    return found


def run(folder: Path, *arguments: str) -> str:
    command = ["./gpt", *arguments, "--threads", "2"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_selftest_passes_at_the_tolerance_of_bf16(projects: dict[str, Path]) -> None:
    told = run(projects["bf16"], "selftest")
    assert "bf16 products and f32 against double-precision loops" in told
    assert "selftest: ok" in told
    assert "tolerance 2e-02" in told
    assert "tolerance 2e-04" in run(projects["fp32"], "selftest")
    worst = max(float(e) for e in re.findall(r"max error +(\S+)", told))
    assert 5e-4 < worst < 2e-2


def losses(folder: Path, name: str) -> list[float]:
    run(folder, "train", "--data", "input=text.txt", "--optimizer", "adamw", "--lr", "1e-3", "--steps", "20", "--quiet",
        "--log", f"{name}.jsonl", "--save", f"{name}.safetensors")  # fmt: skip
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_training_follows_float32_and_repeats_bit_for_bit(projects: dict[str, Path]) -> None:
    mixed, plain = losses(projects["bf16"], "a"), losses(projects["fp32"], "a")
    assert len(mixed) == len(plain) == 20
    assert mixed[-1] < 0.9 * mixed[0]
    assert mixed != plain
    np.testing.assert_allclose(mixed, plain, rtol=0.02)
    assert losses(projects["bf16"], "b") == mixed
    assert (projects["bf16"] / "a.safetensors").read_bytes() == (projects["bf16"] / "b.safetensors").read_bytes()
    weights = load_file(projects["bf16"] / "a.safetensors")
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}
    # Master weights are not rounded: bf16 would leave the lower halves zero.
    assert np.any(weights["gpt.blocks.0.mlp.w1"].view(np.uint32) & 0xFFFF)


def test_padded_rows_of_bf16_are_an_odd_number_of_cache_lines() -> None:
    from tesserac.codegen.stage_values import padded_row
    from tesserac.ir.types import DType

    for columns in (256, 512, 1024, 4096):
        assert padded_row((4, columns), DType.BF16) * 2 // 64 % 2 == 1
        assert padded_row((4, columns)) * 4 // 64 % 2 == 1
    assert padded_row((4, 48), DType.BF16) == 48


def test_the_reference_stays_in_full_precision() -> None:
    source = (ROOT / "examples/gpt.py").read_text(encoding="utf-8")
    texts = [compile_source(source, "gpt.py", CompileOptions(Options(precision=p))).files for p in ("fp32", "bf16")]
    assert texts[0]["gpt.reference.cpp"] == texts[1]["gpt.reference.cpp"]
    assert ["gemm_bf16.h" in text["gpt.kernels.h"] for text in texts] == [False, True]
    assert ["runtime/gemm_bf16.h" in text for text in texts] == [False, True]


@pytest.mark.property
@settings(max_examples=EXAMPLES // 2, phases=[Phase.generate], deadline=None)
@given(st.lists(programs(), min_size=BATCH, max_size=BATCH))
def test_random_programs_in_mixed_precision(functions: list[Function]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        library = compile_functions(functions, Path(folder), mixed=True)
        for number, function in enumerate(functions):
            values = inputs_for(function)
            optimized = optimize(function, mixed=True)
            model, exact = (evaluate(optimized, values, dtype=dtype) for dtype in (None, np.float64))
            found = call(library, number, function, values)
            for name, want in model.items():
                if want.dtype.kind != "f" or not np.isfinite(exact[name]).all():
                    continue
                # Operands next to a tie or a step (relu, sign) may fall to either side: allow what rounding does.
                slack = 4e-3 * max(1.0, np.abs(want).max(initial=0.0)) + 2 * np.abs(want - exact[name]).max(initial=0.0)
                error = np.abs(found[name].astype(np.float64) - want).max(initial=0.0)
                assert error <= slack, f"{name}: {error} > {slack}\n{print_function(function)}"
