"""Transforms in emitted programs against the evaluator: ops, axes, tiles, prologues and epilogues."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tesserac.codegen.cpu.project import render_entry
from tesserac.driver import CompileOptions, plan_entry
from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Entry, Function, Input, Output, Var
from tesserac.ir.types import DType, TensorType
from tests.codegen.compiled import call, compile_functions


def given(b: Builder, name: str, shape: Sequence[int], dtype: DType = DType.F32) -> Var:
    return b.add_input(Input(Var(name, TensorType(dtype, tuple(shape))), name))


def one_op(
    op: str, shape: Sequence[int], axis: int, norm: str, dtype: DType = DType.F32, operands: int = 2, **attrs: float
) -> Function:
    b = Builder()
    xs = [given(b, f"x{i}", shape, dtype) for i in range(operands)]
    results = b.ops(op, xs, {"axis": axis, "norm": norm, **attrs})
    return b.finish("f", [Output(f"y{i}", v) for i, v in enumerate(results)])


def filtered(shape: Sequence[int]) -> Function:
    """A spectral filter: pointwise before, between and after the transforms."""
    b = Builder()
    x, h = given(b, "x", shape), given(b, "h", shape[-1:])
    last = len(shape) - 1
    again = b.op("broadcast", h, shape=tuple(shape), axes=(last,))
    re, im = b.ops("fft_pair", (b.op("mul", x, b.constant(2.0, x.type)),), {"axis": last, "norm": "ortho"})
    products = [b.op("mul", part, again) for part in (re, im)]
    y, _ = b.ops("ifft_pair", products, {"axis": last, "norm": "ortho"})
    return b.finish("f", [Output("y", b.op("tanh", y)), Output("im", im)])


def wavelets(shape: Sequence[int], axis: int, level: int, kind: str, dtype: DType = DType.F32) -> Function:
    b = Builder()
    x = given(b, "x", shape, dtype)
    results = [b.op(name, x, axis=axis, level=level, type=kind) for name in ("wavelet", "iwavelet")]
    return b.finish("f", [Output(f"y{i}", v) for i, v in enumerate(results)])


def rows_and_sums(batch: int) -> Function:
    """In tiles: a transform of a transposed view along a middle axis, and a reduction of what comes out."""
    b = Builder()
    x = given(b, "x", (batch, 3, 20))
    turned = b.op("transpose", x, perm=(0, 2, 1))
    re, im = b.ops("rfft_pair", (turned,), {"axis": 1, "norm": "forward", "interior": 2.0})
    power = b.op("add", b.op("square", re), b.op("square", im))
    total = b.op("reduce_sum", power, axes=(1,))
    back = b.op("irfft_pair", power, im, axis=1, n=20, norm="backward")
    return b.finish("f", [Output("total", total), Output("back", b.op("transpose", back, perm=(0, 2, 1)))])


def functions() -> list[Function]:
    return [
        one_op("fft_pair", (6, 48), 1, "ortho"),
        one_op("ifft_pair", (37,), 0, "backward"),
        one_op("fft_pair", (5, 12, 7), 1, "forward", operands=1),
        one_op("ifft_pair", (3, 70), 1, "ortho", operands=1),
        one_op("ifft_pair", (9, 21), 0, "backward", DType.F64, operands=1),
        one_op("fft_pair", (4, 30, 2, 3), 1, "backward"),
        one_op("ifft_pair", (30, 33), 0, "ortho", DType.F64),
        one_op("rfft_pair", (5, 64), 1, "ortho", operands=1),
        one_op("rfft_pair", (7, 5), 0, "ortho", operands=1, interior=0.5),
        one_op("irfft_pair", (6, 33), 1, "ortho", n=64, interior=0.5),
        one_op("irfft_pair", (5, 9), 0, "forward", DType.F64, n=9),
        one_op("fft_pair", (4, 1), 1, "ortho"),
        one_op("fft_pair", (1, 40, 1), 1, "ortho"),
        wavelets((5, 24), 1, 3, "haar"),
        wavelets((3, 16, 2), 1, 4, "db2"),
        wavelets((4, 40), 1, 2, "db4", DType.F64),
        filtered((40, 96)),
        filtered((3, 8, 100)),
        rows_and_sums(24),
    ]


def test_emitted_transforms_equal_the_evaluator(tmp_path: Path) -> None:
    made = functions()
    library = compile_functions(made, tmp_path)
    random = np.random.default_rng(2)
    for number, function in enumerate(made):
        values = {i.path: random.standard_normal(i.var.type.sizes) for i in function.inputs}
        values = {k: v.astype(function.data[0].var.type.dtype.numpy) for k, v in values.items()}
        wanted = evaluate(function, values, dtype=np.float64)
        found = call(library, number, function, values)
        for name, want in wanted.items():
            allowed = (1e-13 if found[name].dtype == np.float64 else 2e-6) * np.abs(want).max()
            assert np.abs(found[name] - want).max() <= allowed, (number, name)


def emitted(function: Function) -> str:
    plans = plan_entry(Entry("f", None, function, None, False), CompileOptions())
    return render_entry(plans, stem="f", source="f.py", lines={})["f.kernels.h"]


def test_a_filter_is_two_kernels_and_no_pass_between_them() -> None:
    text = emitted(filtered((64, 128)))
    assert text.count("static void") == 2
    first, second = text.split("static void")[1:]
    assert "fft_real_rows<float, 128>" in first, "of real numbers, half the work"
    assert "fft_rows<float, 128>" in second
    assert "vtanh" in text.split("static void")[2]


def test_the_spectrum_of_a_tile_fits_the_cache() -> None:
    for length, rows in ((4096, 16), (512, 32)):
        plans = plan_entry(Entry("f", None, filtered((256, length)), None, False), CompileOptions())
        assert plans.infer is not None
        assert [stage.tile for stage in plans.infer.staged.stages] == [rows]


def test_what_follows_a_transform_is_stored_instead_of_it() -> None:
    text = emitted(rows_and_sums(24))
    first = text.split("static void")[1]
    assert "rfft_columns<float, 20>" in first or "rfft_rows<float, 20>" in first
