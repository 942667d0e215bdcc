"""Products of bf16 operands on CUDA: our own kernel where it takes an epilogue along, cuBLASLt elsewhere; executed."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tesserac.codegen.cuda.project import render_entry_cuda
from tesserac.driver import CompileOptions, compile_source, plan_entry
from tesserac.elaborate import Options
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Entry
from tesserac.ir.types import DType
from tesserac.passes.differentiate import differentiate
from tesserac.passes.pipeline import optimize
from tests.codegen.cuda_cases import Case, Net, embedding, late_queries, products
from tests.codegen.cuda_support import WHOLE, build_functions, call, run_library
from tests.codegen.test_cuda import needs_nvcc
from tests.codegen.test_experts import CASES as MIXTURES
from tests.codegen.test_experts import values_for
from tests.conftest import ROOT
from tests.emulation.building import SELECTED, compiled
from tests.mixtures import mixture


def dropped(m: int, n_: int) -> Case:
    """Bias, activation, random numbers by index and a residual; rows of the batch are rows of one product."""
    n = Net(m)
    shape = (3, m, n_)
    y = n.b.op("contract", n.data("x", 3, m, 24), n.data("w", 24, n_), spec="amk,kn->amn")
    biased = n.b.op("add", y, n.b.op("broadcast", n.data("bias", n_), shape=shape, axes=(2,)))
    keep = n.b.op("lt", n.b.op("random_uniform", shape=shape, dtype=DType.F32, stream=12), n.b.constant(0.5, y.type))
    positions = n.b.op("broadcast", n.data("positions", m, n_), shape=shape, axes=(1, 2))
    return n.infer(n.b.op("select", keep, n.b.op("gelu", biased), positions))


def strided(spec: str, left: tuple[int, ...], right: tuple[int, ...], keeps: bool = False) -> Case:
    """An epilogue behind products with outer loops; with ``keeps`` the product itself is a result, too."""
    n = Net(len(spec) + left[0])
    y = n.b.op("contract", n.data("x", *left), n.data("w", *right), spec=spec)
    return n.infer(n.b.op("sin", y), *([y] if keeps else []))


def experts(name: str, **changes: Any) -> Case:
    """A mixture of experts."""
    case = replace(MIXTURES[name], **changes)
    function = mixture(case, "moe")
    return differentiate(function), values_for(function, case)


CASES: dict[str, tuple[Callable[[], Case], tuple[int, ...]]] = {
    # how many products our kernel takes, cuBLASLt takes, and the kernels for rows of experts take
    "dropped": (lambda: dropped(20, 40), (1, 0, 0)),
    "dropped_odd": (lambda: dropped(5, 37), (1, 0, 0)),
    "kept": (lambda: strided("mk,kn->mn", (70, 33), (33, 80), keeps=True), (1, 0, 0)),
    "transposed": (lambda: strided("km,kn->mn", (40, 70), (40, 24)), (1, 0, 0)),
    "two_axes": (lambda: strided("ambk,abkn->abmn", (2, 20, 3, 16), (2, 3, 16, 8)), (1, 0, 0)),
    "two_axes_odd": (lambda: strided("ambk,abkn->ambn", (2, 20, 3, 7), (2, 3, 7, 9)), (1, 0, 0)),
    "large_tiles": (lambda: strided("amk,akn->amn", (130, 33, 24), (130, 24, 20)), (1, 0, 0)),
    "many_terms": (lambda: strided("mk,kn->mn", (3, 1100), (1100, 5)), (0, 1, 0)),
    "trained": (lambda: products(70, 64, 40, "gelu"), (3, 2, 0)),
    "scores": (lambda: embedding(9, 300, 8), (0, 3, 0)),
    "late_queries": (lambda: late_queries(8), (0, 0, 0)),
    "experts": (lambda: experts("unequal experts"), (0, 2, 7)),
    "experts_gradients": (lambda: experts("given routing", gradients=True), (0, 2, 5)),
    "experts_tiles": (lambda: experts("given routing", tokens=300, width=72, hidden=136, choices=1), (0, 0, 5)),
    "experts_large": (
        lambda: experts("given routing", tokens=800, width=24, hidden=130, experts=3, choices=1),
        (0, 0, 5),
    ),
}


def texts(case: Case) -> tuple[str, str]:
    """Kernels and program."""
    function = case[0]
    trains = any(o.name.startswith("grad:") for o in function.outputs)
    entry = Entry("f", function if trains else None, None if trains else function, None, True)
    files = render_entry_cuda(plan_entry(entry, WHOLE), stem="f", source="case.py", lines={})
    return files["f.kernels.cuh"], files["f.program.cu"]


@pytest.mark.parametrize("name", CASES)
def test_the_rule_chooses(name: str) -> None:
    make, wanted = CASES[name]
    program = texts(make())[1]
    names = (r"product_mma\(", r"matmul<float>\(", r"mma::grouped_")
    assert tuple(len(re.findall(name, program)) for name in names) == wanted


def check(library: ctypes.CDLL) -> None:
    """Every case against the evaluator, which rounds the same operands."""
    for number, (make, _) in enumerate(CASES.values()):
        function, values = make()
        model = evaluate(optimize(function, mixed=True, whole=True), values, seed=5, step=3)
        trains = any(o.name.startswith("grad:") for o in function.outputs)
        for name, found in call(library, number, function, values, seed=5, step=3).items():
            # What is rounded after a sum may fall to the other side.
            tolerance = 4e-3 if trains else 2e-5
            scale = max(1e-3, float(np.abs(model[name]).max()))
            np.testing.assert_allclose(found, model[name], rtol=0, atol=tolerance * scale, err_msg=f"{number} {name}")


def run_cases(library: str) -> None:
    """What `run_library` calls."""
    check(ctypes.CDLL(library))


@pytest.mark.parametrize("mode", SELECTED if os.environ.get("TSR_EMULATION_MODE") else ("race",))
def test_products_compute_what_the_evaluator_does(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = [make()[0] for make, _ in CASES.values()]
    monkeypatch.setenv("TSR_EMULATION_ORDER", "random")
    monkeypatch.setenv("TSR_EMULATION_ASYNC", "late" if mode == "race" else "random")
    run_library(build_functions(functions, tmp_path, mode, mixed=True), mode, "tests.codegen.test_cuda_mixed")


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_products_do_not_spill(arch: str, tmp_path: Path) -> None:
    source = (ROOT / "examples/gpt2_124m.py").read_text(encoding="utf-8")
    options = CompileOptions(Options(sets=(("L", "1"),), precision="bf16"), tile_rows=0, target="cuda")
    files = compile_source(source, "gpt2_124m.py", options).files
    kernels = next(text for name, text in files.items() if name.endswith(".kernels.cuh"))
    structs = re.findall(r"^struct product_\w+ \{.*?^\};", kernels, re.MULTILINE | re.DOTALL)
    names = [text.split()[1] for text in structs]
    uses = [f"(void*)&mma::product<mma::LargeCut, {name}>" for name in names]
    for cut in ("LargeCut", "SmallCut"):
        of_experts = [f"contract_blocks<mma::{cut}, {along}, true, " for along in ("true", "false")]
        of_experts.append(f"outer_blocks<mma::{cut}, true, ")
        uses += [f"(void*)&mma::grouped_{start}__nv_bfloat16, 8>" for start in of_experts]
    lines = ['#include "runtime/cuda/grouped_mma.cuh"', "using namespace tsr;", *structs]
    found = compiled("\n".join([*lines, f"void* kernels[] = {{{', '.join(uses)}}};"]), tmp_path, [arch])
    assert len(found) == len(names) + 6 >= 10
    assert not [(k.entry, k.spills) for k in found if k.spills]
