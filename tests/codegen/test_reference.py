"""The emitted reference program against the ops' NumPy meaning: it is compiled and run."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tesserac.ops  # noqa: F401  (registers the ops)
from tesserac.codegen.reference import RESERVED, SUPPORTED_OPS, render_reference, render_reference_file
from tesserac.diagnostics import InternalError, Span
from tesserac.ir.builder import Builder
from tesserac.ir.program import Function, Initializer, Input, Output, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.base import all_specs, spec_of
from tesserac.passes.differentiate import differentiate
from tesserac.passes.expand import expand
from tesserac.resources import runtime_dir

Arrays = Mapping[str, np.ndarray[Any, Any]]
SEED, STEP = 0x9876543210, 3
DTYPES = {np.dtype("f8"): DType.F64, np.dtype("i8"): DType.I64, np.dtype("i4"): DType.I32, np.dtype("?"): DType.BOOL,
          np.dtype("u1"): DType.U8, np.dtype("f4"): DType.F32, np.dtype("i2"): DType.I16, np.dtype("i1"): DType.I8}
# What passes make after the reference has been taken: of rows of all experts in one array.
LATER = {"grouped_number", "grouped_table"}
KINDS = {"fused", "transform", "layout", "complex", "collective", "rank"}
PRIMITIVES = [s for s in all_specs() if s.kind not in KINDS and s.expand is None and s.name not in LATER]


class Call(ctypes.Structure):
    """tsr::Call of runtime/program.h."""

    _fields_ = [("inputs", ctypes.c_void_p), ("outputs", ctypes.c_void_p), ("params", ctypes.c_void_p),
                ("grads", ctypes.c_void_p), ("shared", ctypes.c_void_p), ("scratch", ctypes.c_void_p),
                ("workers", ctypes.c_int), ("elements", ctypes.c_int64), ("seed", ctypes.c_uint64),
                ("step", ctypes.c_uint64)]


def compile_text(text: str, folder: Path, *flags: str) -> ctypes.CDLL:
    """Compiles emitted text without a warning and loads it."""
    (folder / "runtime").symlink_to(runtime_dir())
    (folder / "reference.cpp").write_text(text, encoding="utf-8")
    subprocess.run(["g++", "-std=c++17", "-O1", "-march=native", "-fopenmp", "-Wall", "-Wextra", "-Werror", "-fPIC",
                    "-shared", *flags, "-I.", "reference.cpp", "-o", "reference.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "reference.so"))


def run(library: ctypes.CDLL, name: str, function: Function, arrays: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """Calls the compiled function with inputs by path; outputs and gradients by name."""
    data = []
    for item in function.data:
        kept = np.float64 if item.var.type.dtype.is_float else item.var.type.dtype.numpy
        data.append(np.ascontiguousarray(arrays[item.path], dtype=kept))
    params = np.concatenate([np.ravel(arrays[i.path]).astype(np.float64) for i in function.parameters] or [np.zeros(1)])
    grads = np.full(sum(i.var.type.size for i in function.parameters) + 1, np.nan)
    plain = [o for o in function.outputs if not o.name.startswith("grad:")]
    outputs = [np.full(o.var.type.sizes, np.nan) for o in plain]
    pointers = [(ctypes.c_void_p * (len(a) + 1))(*[x.ctypes.data for x in a]) for a in (data, outputs)]
    call = Call(ctypes.cast(pointers[0], ctypes.c_void_p), ctypes.cast(pointers[1], ctypes.c_void_p),
                params.ctypes.data, grads.ctypes.data, None, None, 1, 1, SEED, STEP)
    symbol = f"{name}_reference"
    getattr(library, f"_Z{len(symbol)}{symbol}RKN3tsr4CallE")(ctypes.byref(call))
    results = {o.name: a for o, a in zip(plain, outputs, strict=True)}
    at = 0
    for item in function.parameters:
        size = item.var.type.size
        results[f"grad:{item.path}"] = grads[at:at + size].reshape(item.var.type.sizes)
        at += size
    assert np.isnan(grads[at]), "written behind the gradients"
    return results


def evaluate(function: Function, arrays: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """The same by the ops' evaluate rules."""
    values: dict[Var, np.ndarray[Any, Any]] = {i.var: np.asarray(arrays[i.path]) for i in function.inputs}
    for equation in function.equations:
        attrs = {**equation.attributes, "seed": SEED, "step": STEP}
        results = spec_of(equation.op).evaluate([values[v] for v in equation.operands], attrs)
        values.update(zip(equation.results, results, strict=True))
    return {o.name: values[o.var] for o in function.outputs}


def data_input(builder: Builder, name: str, array: np.ndarray[Any, Any]) -> Var:
    return builder.add_input(Input(Var(name, TensorType(DTYPES[array.dtype], array.shape)), name))


def parameter(builder: Builder, name: str, shape: Sequence[int]) -> Var:
    var = Var(name, TensorType(DType.F64, tuple(shape)))
    return builder.add_input(Input(var, name, Initializer("zeros")))


def agree(actual: Arrays, expected: Arrays) -> None:
    for name, array in expected.items():
        want = np.asarray(array, dtype=np.float64)
        scale = max(1.0, float(np.max(np.abs(want), initial=0.0)))
        tolerance = 1e-12 if array.dtype != np.float32 else 2.0**-23
        np.testing.assert_allclose(actual[name], want, rtol=0, atol=tolerance * scale, err_msg=name)


def sample_functions() -> list[tuple[str, Function, Arrays]]:
    """Every sample of every primitive op as a function of its own."""
    found = []
    for spec in PRIMITIVES:
        for number, sample in enumerate(spec.samples() if spec.samples else ()):
            if any(np.iscomplexobj(a) for a in sample.arrays):
                continue  # the reference sees planes, see tests/passes/test_planar.py
            builder = Builder()
            operands = [data_input(builder, f"x{i}", np.asarray(a)) for i, a in enumerate(sample.arrays)]
            results = builder.ops(spec.name, operands, dict(sample.attrs))
            if any(v.type.dtype.is_complex for v in results):
                continue
            outputs = [Output(f"y{i}", v) for i, v in enumerate(results)]
            function = builder.finish(f"{spec.name}.{number}", outputs)
            arrays = {f"x{i}": np.asarray(a) for i, a in enumerate(sample.arrays)}
            found.append((f"{spec.name}_{number}", function, arrays))
    return found


SAMPLES = sample_functions()


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    text = render_reference_file([(n, f, ()) for n, f, _ in SAMPLES], source="samples.py", sources={})
    return compile_text(text, tmp_path_factory.mktemp("samples"))


def test_every_primitive_is_supported_and_sampled() -> None:
    assert {s.name for s in PRIMITIVES} <= SUPPORTED_OPS
    assert {f.equations[-1].op for _, f, _ in SAMPLES} == SUPPORTED_OPS


@pytest.mark.parametrize("case", SAMPLES, ids=lambda c: c[0])
def test_an_op_means_what_numpy_says(case: tuple[str, Function, Arrays], sampled: ctypes.CDLL) -> None:
    name, function, arrays = case
    agree(run(sampled, name, function, arrays), evaluate(function, arrays))


def build(text: str, folder: Path, name: str, function: Function, arrays: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    return run(compile_text('#include "runtime/reference.h"\n' + text, folder), name, function, arrays)


def gradient_function() -> tuple[Function, Arrays]:
    """loss = sum((x W + b)^2) with its gradients written out, one parameter that is not used and one metric."""
    builder = Builder()
    x = data_input(builder, "x", np.zeros((5, 3)))
    w, unused, b = parameter(builder, "W", (3, 4)), parameter(builder, "unused", (7,)), parameter(builder, "b", (4,))
    with builder.at(Span.point("/somewhere/model.py", 2, 1)):
        bias = builder.op("broadcast", b, shape=(5, 4), axes=(1,))
        y = builder.op("add", builder.op("contract", x, w, spec="sd,dn->sn"), bias, named="y")
        loss = builder.op("reduce_sum", builder.op("mul", y, y), axes=(0, 1), named="loss")
    with builder.at(Span.point("/somewhere/model.py", 3, 1)):
        dy = builder.op("mul", y, builder.constant(2.0, y.type), named="dy")
        dw = builder.op("contract", x, dy, spec="sd,sn->dn", named="dW")
        db = builder.op("reduce_sum", dy, axes=(0,), named="db")
        builder.op("exp", dy, named="dead")
    outputs = [Output("loss", loss), Output("metric", y), Output("grad:b", db), Output("grad:W", dw)]
    assert unused not in {o.var for o in outputs}
    rng = np.random.default_rng(1)
    arrays = {"x": rng.normal(size=(5, 3)), "W": rng.normal(size=(3, 4)), "unused": np.ones(7), "b": rng.normal(size=4)}
    return builder.finish("gpt.train", outputs), arrays


SOURCES = {"/somewhere/model.py": "import x\ny = x @ W + b  # */ \\\nreturn op.sum(y * y)\n"}


def test_gradients_lie_in_the_order_of_the_parameters_with_zeros_where_there_is_none(tmp_path: Path) -> None:
    function, arrays = gradient_function()
    text = render_reference(function, name="gpt_train", sources=SOURCES)
    results = build(text, tmp_path, "gpt_train", function, arrays)
    agree(results, evaluate(function, arrays))
    np.testing.assert_array_equal(results["grad:unused"], np.zeros(7))


def test_the_text_reads_like_the_program() -> None:
    function, _ = gradient_function()
    text = render_reference(function, name="gpt_train", sources=SOURCES)
    assert text == render_reference(function, name="gpt_train", sources=SOURCES)
    lines = [re.sub(" +", " ", line.strip()) for line in text.splitlines()]
    product = 'Tensor contract_2 = contract("sd,dn->sn", x, last(W)); // model.py:2: y = x @ W + b # * / \\ .'
    assert product in lines
    assert "Tensor y = add(last(contract_2), broadcast(last(b), {5, 4}, {1})); // model.py:2" in lines
    assert "Tensor mul_2 = mul(y, y); // model.py:2" in lines
    assert "Tensor dy = mul(y, 2.0); // model.py:3: return op.sum(y * y)" in lines
    assert "params.skip(7); // unused is not used" in lines
    assert not any("dead" in line or "somewhere" in line for line in lines)


def test_every_value_is_given_up_at_its_last_use() -> None:
    function, _ = gradient_function()
    text = render_reference(function, name="gpt_train", sources={})
    for name in ("W", "b", "x", "dy"):
        assert len(re.findall(rf"last\({name}\)", text)) == 1
    assert "last(y)" not in text
    builder = Builder()
    x = data_input(builder, "x", np.zeros(3))
    square = builder.op("mul", x, x)
    values, _ = builder.ops("topk", (square,), {"k": 2})
    text = render_reference(builder.finish("f", [Output("o", values)]), name="f", sources={})
    assert "mul(x, x); release(x);" in text
    assert "auto [topk_2, topk_1] = topk(last(mul_2), 2); release(topk_1);" in text


HOSTILE = ["class", "add", "Tensor", "tsr", "call", "last", "x y", "x.y", "α", "1", "*/", "\\", "\n#error", '"',
           "params", "operator", "DType", "int", "NULL", "release", "??/", "std"]


def test_names_of_the_source_cannot_break_the_program(tmp_path: Path) -> None:
    builder = Builder()
    total = data_input(builder, "x", np.zeros(3))
    for name in HOSTILE:
        total = builder.op("add", total, parameter(builder, name, (3,)), named=name)
    with builder.at(Span.point('we"ird\\\n*/.py', 1, 1)):
        total = builder.op("exp", total, named="exp")
    function = builder.finish("f\n#error", [Output("o */ \\", total)])
    arrays = {name: np.full(3, 0.01 * i) for i, name in enumerate(["x", *HOSTILE])}
    text = render_reference(function, name="f", sources={'we"ird\\\n*/.py': "\\"})
    agree(build(text, tmp_path, "f", function, arrays), evaluate(function, arrays))


def test_every_op_is_in_the_library_and_reserved() -> None:
    headers = "".join(header.read_text() for header in sorted(runtime_dir().glob("reference*.h")))
    declared = set(re.findall(r"^(?:inline )?(?:Tensor|TensorPair|Tensors<\w>) (\w+)\(", headers, re.MULTILINE))
    assert declared >= SUPPORTED_OPS
    assert RESERVED >= SUPPORTED_OPS


def test_what_the_library_lacks_is_an_internal_error() -> None:
    builder = Builder()
    x = data_input(builder, "x", np.zeros((2, 3)))
    fused = builder.finish("f", [Output("y", builder.op("softmax", x))])
    with pytest.raises(InternalError, match="softmax"):
        render_reference(fused, name="f", sources={})
    z = builder.op("cast", x, dtype=DType.C64)
    with pytest.raises(InternalError, match="c64"):
        render_reference(builder.finish("f", [Output("z", z)]), name="f", sources={})
    with pytest.raises(InternalError, match="identifier"):
        render_reference(fused, name="a b", sources={})


def test_constants_are_numbers_only_beside_a_tensor_of_the_full_shape(tmp_path: Path) -> None:
    builder = Builder()
    x = data_input(builder, "x", np.zeros((2, 3)))
    two, three = builder.constant(2.0, x.type), builder.constant(3.0, x.type)
    yes = builder.op("full", value=True, shape=(2, 3), dtype=DType.BOOL)
    seven = builder.op("full", value=7.9, shape=(2, 3), dtype=DType.I32)
    outputs = [builder.op("mul", two, three), builder.op("sub", two, x), builder.op("select", yes, two, three),
               builder.op("select", builder.op("lt", x, two), three, x), builder.op("exp", two), three,
               builder.op("cast", seven, dtype=DType.F64), builder.op("concat", two, x, axis=0),
               builder.op("contract", two, three, spec="ab,cb->ac")]
    function = builder.finish("f", [Output(f"o{i}", v) for i, v in enumerate(outputs)])
    arrays = {"x": np.arange(6.0).reshape(2, 3)}
    text = render_reference(function, name="f", sources={})
    assert "sub(2.0, x)" in text
    agree(build(text, tmp_path, "f", function, arrays), evaluate(function, arrays))


def test_a_differentiated_model_agrees(tmp_path: Path) -> None:
    """Fused ops are expanded and then differentiated, which is what a build renders."""
    builder = Builder()
    ids, labels = (data_input(builder, name, np.zeros((2, 5), "i4")) for name in ("ids", "labels"))
    shapes = {"E": (7, 6), "g": (6,), "b": (6,), "W": (6, 6), "U": (6, 7)}
    p = {name: parameter(builder, name, shape) for name, shape in shapes.items()}
    x = builder.op("layernorm", builder.op("take", p["E"], ids), p["g"], p["b"])
    h = builder.op("gelu", builder.op("contract", x, p["W"], spec="bsd,dn->bsn"))
    o, _ = builder.ops("attention", (h, x, h), {"heads": 2, "kv_heads": 2, "causal": True, "scale": 0.5})
    logits = builder.op("contract", builder.op("add", o, x), p["U"], spec="bsd,dn->bsn")
    loss = builder.op("cross_entropy", logits, labels, named="loss")
    gradients = builder.ops("backward", (loss, *p.values()))
    outputs = [Output("loss", loss), *(Output(f"grad:{n}", g) for n, g in zip(p, gradients, strict=True))]
    function = differentiate(expand(builder.finish("gpt.train", outputs)))
    rng = np.random.default_rng(3)
    arrays: dict[str, Any] = {n: rng.normal(size=shape) for n, shape in shapes.items()}
    arrays |= {n: rng.integers(0, 7, (2, 5)).astype("i4") for n in ("ids", "labels")}
    results = build(render_reference(function, name="gpt", sources={}), tmp_path, "gpt", function, arrays)
    agree(results, evaluate(function, arrays))
    step = 1e-6
    for name in shapes:  # and the gradients are gradients: central differences along a random direction
        direction = rng.normal(size=shapes[name])
        ends = [float(evaluate(function, arrays | {name: arrays[name] + s * direction})["loss"]) for s in (step, -step)]
        slope = float(np.sum(results[f"grad:{name}"] * direction))
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-9)


UNARY = ["neg", "sin", "tanh", "square", "relu", "gelu", "stop_gradient", "sigmoid"]
BINARY = ["add", "sub", "mul", "maximum", "minimum"]


def random_function(seed: int) -> tuple[Function, Arrays]:
    """Random ops on 3x4 tensors, each on any of the last values: every pattern of reuse occurs."""
    rng = np.random.default_rng(seed)
    builder = Builder()
    values = [data_input(builder, "x", np.zeros((3, 4))), parameter(builder, "w", (3, 4))]
    for _ in range(int(rng.integers(5, 25))):
        a, b = (values[int(rng.integers(max(0, len(values) - 6), len(values)))] for _ in range(2))
        match int(rng.integers(0, 8)):
            case 0 | 1:
                new = builder.op(str(rng.choice(UNARY)), a)
            case 2 | 3:
                new = builder.op(str(rng.choice(BINARY)), a, b)
            case 4:
                new = builder.op("reshape", builder.op("reshape", a, shape=(2, 6)), shape=(3, 4))
            case 5:
                new = builder.op("contract", builder.op("contract", a, b, spec="ij,kj->ik"), a, spec="ik,kj->ij")
                new = builder.op("tanh", new)
            case 6:
                new = builder.op("select", builder.op("lt", a, b), b, a)
            case _:
                row = builder.op("reduce_max", a, axes=(int(rng.integers(0, 1)),))
                new = builder.op("sub", b, builder.op("broadcast", row, shape=(3, 4), axes=(1,)))
        values.append(new)
    outputs = [Output("last", values[-1]), Output("some", values[int(rng.integers(0, len(values)))]),
               Output("grad:w", values[-1])]
    arrays = {"x": rng.normal(size=(3, 4)), "w": rng.normal(size=(3, 4))}
    return builder.finish("f", outputs), arrays


def test_random_programs_agree(tmp_path: Path) -> None:
    functions = [random_function(seed) for seed in range(40)]
    text = render_reference_file([(f"f{i}", f, ()) for i, (f, _) in enumerate(functions)], source="f.py", sources={})
    library = compile_text(text, tmp_path, "-fsanitize=undefined", "-fno-sanitize-recover=all")
    for i, (function, arrays) in enumerate(functions):
        agree(run(library, f"f{i}", function, arrays), evaluate(function, arrays))
