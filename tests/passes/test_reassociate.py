"""Reassociation: cheaper orders are found and shared, values stay, and nothing changes where nothing is gained."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserac.ir.builder import Builder
from tesserac.ir.program import Function, Input, Output, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ir.verify import verify
from tesserac.ops.base import spec_of
from tesserac.passes.base import Pass
from tesserac.passes.reassociate import Reassociate, reassociate, reassociation
from tesserac.passes.simplify import simplify
from tests.passes.cases import equations_of, function_of
from tests.passes.random_programs import evaluate, functions


def flops(function: Function) -> float:
    """Floating-point operations of the function's contractions."""
    total = 0.0
    for e in function.equations:
        rule = spec_of(e.op).flops
        if e.op == "contract" and rule is not None:
            total += rule([v.type for v in e.operands], [v.type for v in e.results], e.attributes)
    return total


def assert_equal_values(before: Function, after: Function) -> None:
    expected, largest = evaluate(before)
    found, other = evaluate(after)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-11 * max(largest, other))


def test_matrix_times_matrix_times_vector_goes_from_the_right() -> None:
    function = function_of("%a: f32[6,7] %b: f32[7,8] %v: f32[8]", [
        '%p: f32[6,8] = contract %a, %b {spec="ij,jk->ik"}', '%y: f32[6] = contract %p, %v {spec="ik,k->i"}'])
    result, changes = reassociation(function)
    assert equations_of(result) == ['%y.1: f32[7] = contract %b, %v {spec="ab,b->a"}',
                                    '%y: f32[6] = contract %a, %y.1 {spec="ab,b->a"}']
    assert [(c.before, c.after) for c in changes] == [(2 * (6 * 7 * 8 + 6 * 8), 2 * (7 * 8 + 6 * 7))]
    assert_equal_values(function, result)
    assert reassociate(result) == result


def test_the_textbook_chain_finds_its_optimum() -> None:
    """Cormen et al., Introduction to Algorithms, 15.2: sizes 30 35 15 5 10 20 25 take 15125 products."""
    sizes = (30, 35, 15, 5, 10, 20, 25)
    builder = Builder()
    chain = [builder.add_input(Input(Var(f"a{i}", TensorType(DType.F64, pair)), f"a{i}"))
             for i, pair in enumerate(itertools.pairwise(sizes))]
    value = chain[0]
    for factor in chain[1:]:
        value = builder.op("contract", value, factor, spec="ij,jk->ik")
    function = builder.finish("chain", [Output("y", value)])
    result = reassociate(function)
    assert flops(result) == 2 * 15125
    assert_equal_values(function, result)
    assert reassociate(result) == result


def scores(tokens: int, width: int, head: int) -> Function:
    """(x Wq)(x Wk)^T, read by something that is not a contraction."""
    return function_of(f"%x: f64[{tokens},{width}] %Wq: f64[{width},{head}] %Wk: f64[{width},{head}]", [
        f'%q: f64[{tokens},{head}] = contract %x, %Wq {{spec="sd,dn->sn"}}',
        f'%k: f64[{tokens},{head}] = contract %x, %Wk {{spec="sd,dn->sn"}}',
        f'%s: f64[{tokens},{tokens}] = contract %q, %k {{spec="sn,tn->st"}}',
        f"%y: f64[{tokens},{tokens}] = exp %s"])


def test_attention_scores_share_the_product_of_weights_where_it_is_cheaper() -> None:
    wide = scores(32, 4, 16)
    result = reassociate(wide)
    assert flops(result) == 2 * (4 * 4 * 16 + 32 * 4 * 4 + 32 * 32 * 4)
    assert_equal_values(wide, result)
    narrow = scores(32, 16, 4)
    assert reassociation(narrow) == (narrow, ())


def test_a_product_that_two_roots_need_is_computed_once() -> None:
    function = function_of("%a: f64[8,8] %b: f64[8,8] %u: f64[8,2] %v: f64[8,8]", [
        '%p: f64[8,8] = contract %a, %b {spec="ij,jk->ik"}', '%s: f64[8,2] = contract %p, %u {spec="ik,kl->il"}',
        '%t: f64[8,8] = contract %p, %v {spec="ik,kl->il"}', "%e: f64[8,2] = exp %s", "%f: f64[8,8] = exp %t",
        '%y: f64[2,8] = contract %e, %f {spec="il,im->lm"}'])
    assert reassociate(function) == function  # (a b) u costs one small product more because a b is there for t
    assert flops(reassociate(function)) == 2 * (512 + 128 + 512 + 128)


def test_products_of_other_operations_are_not_crossed() -> None:
    function = function_of("%a: f64[8,8] %b: f64[8,8] %v: f64[8]", [
        '%p: f64[8,8] = contract %a, %b {spec="ij,jk->ik"}', "%e: f64[8,8] = exp %p",
        '%y: f64[8] = contract %e, %v {spec="ik,k->i"}'])
    assert reassociation(function) == (function, ())


def test_a_result_that_is_returned_is_kept() -> None:
    function = function_of("%a: f64[8,8] %b: f64[8,8] %v: f64[8]", [
        '%p: f64[8,8] = contract %a, %b {spec="ij,jk->ik"}', '%y: f64[8] = contract %p, %v {spec="ik,k->i"}'])
    function = Function(function.name, function.inputs, function.equations,
                        (*function.outputs, Output("p", function.equations[0].result)))
    result = reassociate(function)
    assert flops(result) == 2 * (512 + 64)
    assert_equal_values(function, result)


def test_long_chains_are_searched_in_parts() -> None:
    sizes = [2, 9, 3, 8, 2, 7, 3, 9, 1, 8, 4, 6, 2, 9]
    builder = Builder()
    chain = [builder.add_input(Input(Var(f"a{i}", TensorType(DType.F64, pair)), f"a{i}"))
             for i, pair in enumerate(itertools.pairwise(sizes))]
    value = chain[-1]
    for factor in reversed(chain[:-1]):
        value = builder.op("contract", factor, value, spec="ij,jk->ik")
    function = builder.finish("chain", [Output("y", value)])
    result, changes = reassociation(function)
    assert sum(c.before - c.after for c in changes) == flops(function) - flops(result) > 0
    assert_equal_values(function, result)


def test_it_is_a_pass() -> None:
    assert isinstance(Reassociate(), Pass)
    chain = scores(32, 4, 16)
    assert Reassociate(most_factors=2).run(chain) == chain
    assert flops(Reassociate().run(chain)) < flops(chain)


@st.composite
def product_trees(draw: st.DrawFn) -> Function:
    """Trees and shared products of matrices of drawn sizes."""
    builder = Builder()
    pool = [builder.add_input(Input(Var(f"x{i}", TensorType(DType.F64, (draw(st.integers(1, 5)), draw(
        st.integers(1, 5))))), f"x{i}")) for i in range(draw(st.integers(2, 4)))]
    for _ in range(draw(st.integers(2, 7))):
        a, b = draw(st.sampled_from(pool[-4:])), draw(st.sampled_from(pool))
        first, second = "ij", "kl"
        i, j = draw(st.integers(0, 1)), draw(st.integers(0, 1))
        if a.type.sizes[i] != b.type.sizes[j]:
            continue
        second = second.replace(second[j], first[i])
        pool.append(builder.op("contract", a, b, spec=f"{first},{second}->{first[1 - i]}{second[1 - j]}"))
    outputs = {pool[-1], draw(st.sampled_from(pool))}
    return builder.finish("f", [Output(f"o{n}", v) for n, v in enumerate(sorted(outputs, key=lambda v: v.name))])


@pytest.mark.property
@settings(deadline=None)
@given(product_trees())
def test_random_products_keep_their_values_and_never_cost_more(function: Function) -> None:
    function = simplify(function)
    result, changes = reassociation(function)
    verify(result)
    assert_equal_values(function, result)
    assert flops(result) < flops(function) if changes else result == function


@pytest.mark.property
@settings(deadline=None)
@given(functions())
def test_random_functions_keep_their_values(function: Function) -> None:
    result = reassociate(function)
    verify(result)
    assert_equal_values(function, result)
