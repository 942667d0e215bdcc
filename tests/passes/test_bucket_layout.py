"""Buckets of gradients in place: whatever their shapes, nothing that is still wanted is written over."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tesserac.codegen.stage_values import padded_row
from tesserac.codegen.views import dense
from tesserac.diagnostics import Span
from tesserac.ir.program import Equation, Function, Initializer, Input, Output, Var, sorted_attrs
from tesserac.ir.types import DType, TensorType
from tesserac.passes.bucket_layout import in_order_of_buckets, lay_out_buckets
from tesserac.passes.mesh.buckets import bucket_gradients
from tesserac.passes.mesh.overlap import overlapped
from tesserac.passes.plan import outer_places, rounded, storage_bytes

SHAPES = st.sampled_from([(16,), (32, 16), (3,), (), (256,), (4, 256), (2, 2, 384), (5, 7), (1, 512), (48,)])
SPAN = Span.point("test.py", 1, 1)
Memory = NDArray[np.float64]


def program(drawn: list[tuple[tuple[int, ...], tuple[str, ...]]]) -> Function:
    """Gradients of parameters of these shapes that are reduced along these axes, in as few buckets as there can be."""
    inputs, equations, outputs = [], [], []
    for number, (shape, axes) in enumerate(drawn):
        kind = TensorType(DType.F32, shape)
        parameter, grad = Var(f"w{number}", kind), Var(f"t{number}", kind)
        inputs.append(Input(parameter, f"w{number}", Initializer("zeros")))
        equations.append(Equation("neg", (parameter,), (grad,), (), SPAN))
        for axis in axes:
            total = Var(f"{grad.name}.{axis}", kind)
            attrs = sorted_attrs({"axis": axis, "size": 2, "kind": "sum", "to": "R"})
            equations.append(Equation("all_reduce", (grad,), (total,), attrs, SPAN))
            grad = total
        outputs.append(Output(f"grad:w{number}", grad))
    return Function("train", tuple(inputs), tuple(equations), tuple(outputs))


def strides(kind: TensorType) -> tuple[int, ...]:
    """Of a gradient where the table of parameters has it."""
    return dense(kind.sizes, padded_row(kind.sizes)).strides


def elements(start: int, shape: tuple[int, ...], steps: tuple[int, ...]) -> NDArray[np.int64]:
    """Where the elements of a tensor lie."""
    found = np.array(start)
    for size, step in zip(shape, steps, strict=True):
        found = found[..., None] + step * np.arange(size)
    return found


def split(flat: Memory, like: tuple[Var, ...]) -> list[Memory]:
    """Tensors that lie one behind the other."""
    ends = np.cumsum([v.type.size for v in like])[:-1]
    return [piece.reshape(v.type.sizes) for piece, v in zip(np.split(flat, ends), like, strict=True)]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(SHAPES, st.sampled_from([("a",), ("b",), ("a", "b"), ("b", "a")])), min_size=1, max_size=9),
       st.integers(1, 4000), st.booleans(), st.booleans())
def test_nothing_is_lost(drawn: list[tuple[tuple[int, ...], tuple[str, ...]]], limit: int, moves: bool,
                         early: bool) -> None:
    """Terms are written, each exchange doubles its range, what has to move moves: all gradients are right."""
    function = bucket_gradients(program(drawn), limit)
    function = overlapped(function) if early else function
    order = in_order_of_buckets(function.inputs, [function])
    assert {i.path for i in order} == {i.path for i in function.inputs}
    rooms = [rounded(storage_bytes(dense(i.var.type.sizes, padded_row(i.var.type.sizes)), 4)) // 4 for i in order]
    origins = np.cumsum([0, *rooms])
    places = outer_places(function, [i.path for i in order])
    layout = lay_out_buckets(function, places, moves)
    memory: Memory = np.full(origins[-1], np.nan)
    elsewhere: dict[Var, Memory] = {}

    def where(var: Var) -> NDArray[np.int64] | None:
        place = places.get(var)
        if place is None or place.kind not in ("grad", "bucket"):
            return None
        steps = strides(var.type) if place.kind == "grad" else dense(var.type.sizes).strides
        return elements(origins[place.index] + place.offset // 4, var.type.sizes, steps)

    def put(var: Var, value: Memory) -> None:
        at = where(var)
        if at is None:
            elsewhere[var] = value
        else:
            memory[at] = value

    def get(var: Var) -> Memory:
        at = where(var)
        return elsewhere[var] if at is None else memory[at]

    for equation in function.equations:
        first = equation.results[0]
        if equation.op == "neg":
            put(first, np.arange(first.type.size).reshape(first.type.sizes) + 1.0 + len(elsewhere))
            elsewhere[Var(f"wanted {first.name}", first.type)] = get(first).copy()
            continue
        run = layout.runs.get(first)
        ends, begins = equation.op == "all_reduce_end", equation.op == "all_reduce_begin"
        if run is None:
            given = [get(v).ravel() for v in equation.operands]
            dense_sums = np.concatenate(given) * (1 if ends else 2)
            for var, piece in zip(equation.results, split(dense_sums, equation.results), strict=True):
                put(var, piece)
            continue
        start = origins[places[run.memory].index] + places[run.memory].offset // 4
        for var in () if ends else equation.operands:
            at, there = run.tensors[var]
            if there:
                assert np.array_equal(where(var), elements(start + at, var.type.sizes, dense(var.type.sizes).strides))
            else:
                memory[start + at : start + at + var.type.size] = get(var).ravel()
        if not ends:
            memory[start : start + sum(v.type.size for v in equation.operands)] *= 2
        for var in () if begins else reversed(equation.results):
            at, there = run.tensors[var]
            assert there or moves
            if there:
                assert np.array_equal(where(var), elements(start + at, var.type.sizes, dense(var.type.sizes).strides))
            else:
                put(var, memory[start + at : start + at + var.type.size].reshape(var.type.sizes).copy())
    for number, (shape, axes) in enumerate(drawn):
        kind = TensorType(DType.F32, shape)
        wanted = elsewhere[Var(f"wanted t{number}", kind)] * 2 ** len(axes)
        assert np.array_equal(get(function.outputs[number].var), wanted)
    fit = all(math.prod(shape) % 16 == 0 and padded_row(shape) == shape[-1] for shape, _ in drawn if shape)
    if fit and () not in [shape for shape, _ in drawn] and len({axes for _, axes in drawn}) == 1:
        assert len(layout.values) == sum(len(axes) for _, axes in drawn)  # nothing is packed
