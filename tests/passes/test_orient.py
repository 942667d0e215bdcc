"""Orientation: the right operand of every product is read along the columns of the result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function
from tesserac.ir.verify import verify
from tesserac.passes.differentiate import differentiate
from tesserac.passes.expand import expand
from tesserac.passes.orient import Orient, stored_view
from tests.passes.cases import equations_of, function_of
from tests.strategies import inputs_for, programs

orient = Orient().run


def test_an_oriented_product_stays() -> None:
    function = function_of("%x: f32[8,3] %w: f32[3,5]", ['%y: f32[8,5] = contract %x, %w {spec="ak,kn->an"}'])
    assert equations_of(orient(function)) == equations_of(function)


def test_a_transposed_weight_is_copied_once_for_both_products_that_read_it() -> None:
    function = function_of(
        "%x: f32[8,5] %z: f32[8,5] %w: f32[3,5]",
        [
            '%a: f32[8,3] = contract %x, %w {spec="an,kn->ak"}',
            '%b: f32[8,3] = contract %z, %w {spec="an,kn->ak"}',
            "%y: f32[8,3] = add %a, %b",
        ],
    )
    assert equations_of(orient(function)) == [
        "%w_t: f32[5,3] = relayout %w {perm=[1, 0]}",
        '%a: f32[8,3] = contract %x, %w_t {spec="an,nk->ak"}',
        '%b: f32[8,3] = contract %z, %w_t {spec="an,nk->ak"}',
        "%y: f32[8,3] = add %a, %b",
    ]


def test_a_copy_has_the_summed_axes_in_the_order_of_the_other_operand() -> None:
    function = function_of("%x: f32[8,5,12] %y: f32[6,5,8]",
                           ['%z: f32[12,6] = contract %x, %y {spec="amk,nma->kn"}'])
    assert equations_of(orient(function)) == [
        "%y_t: f32[8,5,6] = relayout %y {perm=[2, 1, 0]}",
        '%z: f32[12,6] = contract %x, %y_t {spec="amk,amn->kn"}',
    ]


def test_a_transpose_that_memory_already_has_needs_no_copy() -> None:
    function = function_of(
        "%x: f32[8,5] %w: f32[5,3]",
        [
            "%t: f32[3,5] = transpose %w {perm=[1, 0]}",
            '%y: f32[8,3] = contract %x, %t {spec="an,kn->ak"}',
        ],
    )
    assert "relayout" not in [e.op for e in orient(function).equations]


def test_operands_change_places_where_the_left_one_has_the_columns() -> None:
    function = function_of("%w: f32[3,5] %x: f32[8,3]", ['%y: f32[8,5] = contract %w, %x {spec="kn,ak->an"}'])
    assert equations_of(orient(function)) == ['%y: f32[8,5] = contract %x, %w {spec="ak,kn->an"}']


def test_tables_of_any_rank_are_read_and_filled_as_rows() -> None:
    function = function_of("%t: f32[7,2,3] %i: i32[4] 7", ["%y: f32[4,2,3] = take %t, %i"])
    assert [(e.op, e.result.type.sizes) for e in orient(function).equations] == [
        ("reshape", (7, 6)),
        ("take", (4, 6)),
        ("reshape", (4, 2, 3)),
    ]
    function = function_of("%i: i32[4] 7 %u: f32[4,2,3]", ["%y: f32[7,2,3] = scatter_add %i, %u {rows=7}"])
    assert [(e.op, e.result.type.sizes) for e in orient(function).equations] == [
        ("reshape", (4, 6)),
        ("scatter_add", (7, 6)),
        ("reshape", (7, 2, 3)),
    ]


def test_products_over_several_axes_go_one_axis_at_a_time() -> None:
    function = function_of("%x: f32[2,3,4]", ["%y: f32[3] = reduce_prod %x {axes=[0, 2]}"])
    assert [e.attr("axes") for e in orient(function).equations] == [(2,), (0,)]


def assert_products_are_oriented(function: Function) -> None:
    producer = {v: e for e in function.equations for v in e.results}
    for equation in function.equations:
        if equation.op != "contract":
            continue
        operands, out = str(equation.attr("spec")).split("->")
        left, right = operands.split(",")
        view = stored_view(equation.operands[1], producer)
        if not out or out[-1] not in right or view is None:
            continue
        axis = right.index(out[-1])
        assert view.strides[axis] == 1 or view.shape[axis] == 1, equation
        summed_or_row = [left.index(c) for c in left if (c in right) != (c in out)]
        first = stored_view(equation.operands[0], producer)
        if first is not None and summed_or_row and any(first.shape[a] > 1 for a in summed_or_row):
            assert any(first.strides[a] == 1 for a in summed_or_row), equation


@pytest.mark.property
@given(programs(steps=6))
def test_oriented_programs_compute_the_same(function: Function) -> None:
    before = expand(differentiate(function))
    after = orient(before)
    verify(after)
    assert_products_are_oriented(after)
    values = inputs_for(function)
    wanted, found = (evaluate(f, values, dtype=np.float64) for f in (before, after))
    for name, want in wanted.items():
        np.testing.assert_allclose(found[name], want, rtol=1e-9, atol=1e-9)
