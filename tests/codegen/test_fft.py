"""Transforms in emitted programs against the evaluator: ops, axes, tiles, prologues and epilogues."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tesserac.codegen.cpu.project import render_entry
from tesserac.driver import CompileOptions, plan_entry
from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Entry, Function, Initializer, Input, Output, Var
from tesserac.ir.types import DType, TensorType
from tesserac.passes.differentiate import differentiate
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
        wavelets((3, 4), 1, 2, "db4"),
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


def test_a_filter_is_one_kernel() -> None:
    text = emitted(filtered((64, 128)))
    (kernel,) = text.split("static void")[1:]
    assert "fft_real_rows<float, 128>" in kernel, "of real numbers, half the work"
    assert kernel.index("fft_real_rows") < kernel.index(" fft_rows<float, 128>") < kernel.index("vtanh")


def learned(shape: Sequence[int], axis: int, dtype: DType = DType.F32) -> Function:
    """The loss of a filter with complex weights for every bin, and gradients of these and of what is in front."""
    b = Builder()
    x, y = given(b, "x", shape, dtype), given(b, "y", shape, dtype)
    n, bins = shape[axis], shape[axis] // 2 + 1
    params = [
        b.add_input(Input(Var(name, TensorType(dtype, (bins,))), f"net.{name}", Initializer("uniform", -1.0, 1.0)))
        for name in ("re", "im")
    ]
    gain = b.add_input(Input(Var("gain", TensorType(dtype, (n,))), "net.gain", Initializer("uniform", 0.5, 1.5)))
    scaled = b.op("mul", x, b.op("broadcast", gain, shape=tuple(shape), axes=(axis,)))
    spectrum = b.op("rfft", scaled, axis=axis, norm="ortho", interior=1.0)
    weights = b.op("complex", *params)
    weights = b.op("broadcast", weights, shape=spectrum.type.sizes, axes=(axis,))
    back = b.op("irfft", b.op("mul", spectrum, weights), axis=axis, n=n, norm="ortho", interior=1.0)
    off = b.op("sub", b.op("tanh", back), y)
    loss = b.op("reduce_sum", b.op("square", off), axes=tuple(range(len(shape))))
    grads = b.ops("backward", (loss, *params, gain))
    outputs = [Output(f"grad:net.{n}", g) for n, g in zip(("re", "im", "gain"), grads, strict=True)]
    return b.finish("f", [Output("loss", loss), *outputs])


def twice(shape: Sequence[int], axis: int) -> Function:
    """Two filters in a row, the second of complex numbers, and a spectrum that is an output, too."""
    b = Builder()
    x, g, h = given(b, "x", shape), given(b, "g", shape), given(b, "h", shape)
    attrs = {"axis": axis, "norm": "backward"}
    re, im = b.ops("fft_pair", (x,), attrs)
    y = b.ops("ifft_pair", (b.op("mul", re, g), b.op("mul", im, h)), attrs)
    re, im = b.ops("fft_pair", (b.op("tanh", y[0]), y[1]), attrs)
    z = b.ops("ifft_pair", (b.op("mul", re, h), b.op("mul", im, g)), attrs)
    return b.finish("f", [Output("z", z[0]), Output("w", z[1]), Output("re", re)])


def turned(shape: Sequence[int]) -> Function:
    """A filter along the last axis of a view whose other axes memory walks in another order than the spectrum's."""
    b = Builder()
    x, g = given(b, "x", shape), given(b, "g", (shape[0], shape[2], shape[1]))
    view = b.op("transpose", x, perm=(0, 2, 1))
    re, im = b.ops("fft_pair", (view,), {"axis": 2, "norm": "ortho"})
    y = b.ops("ifft_pair", (b.op("mul", re, g), b.op("mul", im, g)), {"axis": 2, "norm": "ortho"})
    return b.finish("f", [Output("y", y[0]), Output("z", y[1])])


def test_filters_and_their_gradients_equal_the_evaluator(tmp_path: Path) -> None:
    made = [
        learned((16, 64), 1),
        learned((40, 45), 1),
        learned((8, 24, 5), 1),
        learned((16, 37), 1, DType.F64),
        twice((9, 40), 1),
        twice((3, 12, 21), 1),
        turned((16, 45, 20)),
    ]
    library = compile_functions(made, tmp_path)
    random = np.random.default_rng(4)
    for number, function in enumerate(made):
        text = (tmp_path / f"f{number}.kernels.h").read_text(encoding="utf-8")
        kernels = 1 if function is made[-1] else 2  # two: forward and backward, or one after another
        assert text.count("static void filter") == kernels, number
        values = {i.path: random.standard_normal(i.var.type.sizes) for i in function.inputs}
        values = {k: v.astype(function.data[0].var.type.dtype.numpy) for k, v in values.items()}
        wanted = evaluate(differentiate(function), values, dtype=np.float64)
        for workers in (2, 1):
            found = call(library, number, function, values, workers=workers)
            again = call(library, number, function, values, workers=workers)
            for name, want in wanted.items():
                allowed = (1e-12 if found[name].dtype == np.float64 else 4e-6) * np.abs(want).max()
                assert np.abs(found[name] - want).max() <= allowed, (number, name)
                assert np.array_equal(found[name], again[name]), (number, name)


def test_the_spectrum_of_a_tile_fits_the_cache() -> None:
    for length, rows in ((4096, 16), (512, 32)):
        plans = plan_entry(Entry("f", None, filtered((256, length)), None, False), CompileOptions())
        assert plans.infer is not None
        assert [stage.tile for stage in plans.infer.staged.stages] == [rows]


def test_what_follows_a_transform_is_stored_instead_of_it() -> None:
    text = emitted(rows_and_sums(24))
    first = text.split("static void")[1]
    assert "rfft_columns<float, 20>" in first or "rfft_rows<float, 20>" in first
