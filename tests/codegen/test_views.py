"""Views against NumPy: the strides we compute are the ones NumPy has, or NumPy would have to copy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from tesserac.codegen.stage_values import equal_rows, padded_row
from tesserac.codegen.views import VIEW_OPS, View, apply, dense, dense_strides, reshaped
from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Input, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.base import Array, spec_of

ITEM = 8


def read(view: View, memory: Array) -> Array:
    """The elements a view shows."""
    assert memory.dtype.itemsize == ITEM
    return as_strided(memory[view.offset :], view.shape, [s * ITEM for s in view.strides])


def view_equation(op: str, operand: tuple[int, ...], /, **attrs: object) -> Equation:
    b = Builder()
    x = b.add_input(Input(Var("x", TensorType(DType.F64, operand)), "x"))
    b.op(op, x, **attrs)  # type: ignore[arg-type]
    return b.equations[-1]


def check(equation: Equation, view: View, memory: Array) -> View | None:
    """Compares a view of the memory with the op itself; gives the view."""
    result = apply(equation, view)
    if result is not None:
        (wanted,) = spec_of(equation.op).evaluate([read(view, memory)], equation.attributes)
        assert result.shape == equation.result.type.sizes
        np.testing.assert_array_equal(read(result, memory), wanted)
    return result


@pytest.mark.parametrize(
    ("op", "shape", "attrs"),
    [
        ("broadcast", (3,), {"shape": (4, 3), "axes": (1,)}),
        ("broadcast", (3,), {"shape": (3, 4), "axes": (0,)}),
        ("broadcast", (), {"shape": (2, 2), "axes": ()}),
        ("broadcast", (1, 3), {"shape": (5, 3), "axes": (0, 1)}),
        ("transpose", (2, 3, 4), {"perm": (2, 0, 1)}),
        ("slice", (5, 6), {"starts": (1, 2), "limits": (5, 6), "strides": (2, 3)}),
        ("slice", (5, 6), {"starts": (4, 0), "limits": (5, 6), "strides": (1, 1)}),
        ("reshape", (2, 3, 4), {"shape": (6, 4)}),
        ("reshape", (2, 12), {"shape": (2, 1, 3, 4)}),
        ("reshape", (2, 12), {"shape": (24,)}),
        ("reshape", (1,), {"shape": ()}),
        ("stop_gradient", (2, 3), {}),
    ],
)
def test_every_view_op_has_strides_in_dense_memory(op: str, shape: tuple[int, ...], attrs: dict[str, object]) -> None:
    assert check(view_equation(op, shape, **attrs), dense(shape), np.arange(float(math.prod(shape)))) is not None


def test_the_cases_above_are_all_view_ops() -> None:
    assert {"broadcast", "transpose", "slice", "reshape", "stop_gradient"} == VIEW_OPS


def test_a_merge_across_padded_rows_has_no_strides() -> None:
    padded = dense((3, 4), row_stride=6)
    assert padded.strides == (6, 1)
    assert reshaped(padded, (12,)) is None
    assert reshaped(padded, (3, 2, 2)) == View((3, 2, 2), (6, 2, 1))
    assert reshaped(dense((2, 3, 4), row_stride=6), (6, 4)) == View((6, 4), (6, 1))


def test_transposed_axes_do_not_merge() -> None:
    turned = View((4, 3), (1, 4))
    assert reshaped(turned, (12,)) is None
    assert reshaped(turned, (2, 2, 3)) == View((2, 2, 3), (2, 1, 4))


@st.composite
def chains(draw: st.DrawFn) -> tuple[View, list[Equation], Array]:
    """A padded buffer and view equations over it, one after another."""
    shape = tuple(draw(st.lists(st.sampled_from((1, 2, 3, 4, 6)), min_size=1, max_size=4)))
    row = shape[-1] + draw(st.sampled_from((0, 0, 1, 5)))
    memory = np.arange(float(math.prod(shape[:-1]) * row))
    equations: list[Equation] = []
    now = shape
    for _ in range(draw(st.integers(1, 4))):
        equation = draw(_steps(now))
        equations.append(equation)
        now = equation.result.type.sizes
    return dense(shape, row), equations, memory


@st.composite
def _steps(draw: st.DrawFn, shape: tuple[int, ...]) -> Equation:
    rank = len(shape)
    op = draw(st.sampled_from(("broadcast", "transpose", "slice", "reshape", "reshape")))
    if op == "transpose":
        return view_equation(op, shape, perm=tuple(draw(st.permutations(range(rank)))))
    if op == "slice" and rank:
        starts = tuple(draw(st.integers(0, n - 1)) for n in shape)
        limits = tuple(draw(st.integers(s + 1, n)) for s, n in zip(starts, shape, strict=True))
        steps = tuple(draw(st.sampled_from((1, 1, 2, 3))) for _ in shape)
        return view_equation(op, shape, starts=starts, limits=limits, strides=steps)
    if op == "broadcast" and rank < 5:
        at = draw(st.integers(0, rank))
        target = (*shape[:at], draw(st.sampled_from((1, 2, 3))), *shape[at:])
        return view_equation(op, shape, shape=target, axes=tuple(i for i in range(rank + 1) if i != at))
    return view_equation("reshape", shape, shape=draw(_shapes_of(math.prod(shape))))


@st.composite
def _shapes_of(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    result = []
    while size > 1:
        factor = draw(st.sampled_from([d for d in range(2, size + 1) if size % d == 0]))
        result.append(factor)
        size //= factor
    for _ in range(draw(st.integers(0, 1))):
        result.insert(draw(st.integers(0, len(result))), 1)
    return tuple(result)


@pytest.mark.property
@given(chains())
def test_chains_of_views_show_what_numpy_shows(case: tuple[View, list[Equation], Array]) -> None:
    view, equations, memory = case
    for equation in equations:
        result = check(equation, view, memory)
        if result is None:
            assert equation.op == "reshape"
            assert not _numpy_needs_no_copy(read(view, memory), equation.result.type.sizes)
            return
        view = result


def _numpy_needs_no_copy(array: Array, shape: tuple[int, ...]) -> bool:
    return np.shares_memory(array.reshape(shape), array)


@pytest.mark.property
@given(st.lists(st.integers(1, 5), max_size=4), st.integers(0, 7))
def test_dense_strides_are_numpys(shape: list[int], extra: int) -> None:
    sizes = tuple(shape)
    assert dense_strides(sizes) == tuple(s // ITEM for s in np.empty(sizes).strides)
    if sizes:
        padded = np.empty((*sizes[:-1], sizes[-1] + extra))[..., : sizes[-1]]
        assert dense_strides(sizes, sizes[-1] + extra) == tuple(s // ITEM for s in padded.strides)


def test_normalized_views_ignore_the_strides_of_single_elements() -> None:
    assert View((1, 3), (99, 1)).normalized() == View((1, 3), (0, 1))


@pytest.mark.parametrize(
    ("shape", "row"), [((8, 256), 272), ((8, 384), 400), ((8, 128), 128), ((8, 300), 300), ((256,), 256), ((), 1)]
)
def test_long_rows_of_our_own_memory_are_padded_to_an_odd_number_of_cache_lines(
    shape: tuple[int, ...], row: int
) -> None:
    assert padded_row(shape) == row


def test_rows_of_a_part_of_a_concat_need_not_lie_equally_far_apart() -> None:
    assert equal_rows(View((4, 3, 5), (15, 5, 1)))
    assert not equal_rows(View((4, 3, 5), (25, 5, 1)))
    assert equal_rows(View((4, 5), (25, 1)))
