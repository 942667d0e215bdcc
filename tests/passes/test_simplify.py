"""The simplifier: every rule on its own, the whole on random functions, and what it promises about names and spans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from tesserac.diagnostics import InternalError, Span
from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate as reference
from tesserac.ir.program import Function, Input, Output, Var
from tesserac.ir.text import parse_function
from tesserac.ir.types import DType, TensorType
from tesserac.ir.verify import verify
from tesserac.passes.base import Pass
from tesserac.passes.differentiate import differentiate
from tesserac.passes.expand import expand
from tesserac.passes.rules import RULES
from tesserac.passes.rules.rewriter import Rewriter
from tesserac.passes.simplify import Simplify, simplify
from tests.passes.cases import Case, equations_of, function_of, read_cases
from tests.passes.random_programs import evaluate, functions
from tests.strategies import inputs_for, programs

CASES = read_cases(Path(__file__).with_name("rule_cases.txt"))


def assert_equal_values(before: Function, after: Function, seed: int = 0) -> None:
    """Both functions give the same outputs in float64 to 1e-12 of the largest value met."""
    expected, largest = evaluate(before, seed)
    given_, other = evaluate(after, seed)
    for a, b in zip(expected, given_, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12 * max(largest, other))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_rule_rewrites_as_written(case: Case) -> None:
    result = simplify(case.function, only=(case.rule,))
    assert equations_of(result) == case.after
    assert result != case.function
    verify(result)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_rule_keeps_values(case: Case) -> None:
    assert_equal_values(case.function, simplify(case.function, only=(case.rule,)))


def test_every_rule_has_a_case_a_reason_and_a_name_of_its_own() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert {case.rule for case in CASES} == set(names)
    assert all(rule.reason and "\n" not in rule.reason for rule in RULES)


@pytest.mark.property
@settings(deadline=None)
@given(functions())
def test_random_functions_keep_their_values(function: Function) -> None:
    result = simplify(function)
    verify(result)
    assert_equal_values(function, result)


@pytest.mark.property
@settings(deadline=None)
@given(functions())
def test_simplify_is_idempotent(function: Function) -> None:
    once = simplify(function)
    assert simplify(once) == once


@pytest.mark.property
@settings(deadline=None, max_examples=40)
@given(programs())
def test_differentiated_programs_keep_their_values(function: Function) -> None:
    function = expand(differentiate(function))
    result = simplify(function)
    verify(result)
    assert simplify(result) == result
    inputs = inputs_for(function)
    before, after = (reference(f, inputs, dtype=np.float64) for f in (function, result))
    for name, expected in before.items():
        np.testing.assert_allclose(after[name], expected, rtol=1e-9, atol=1e-10)


def simplified(inputs: str, *equations: str) -> list[str]:
    function = function_of(inputs, list(equations))
    result = simplify(function)
    assert_equal_values(function, result)
    return equations_of(result)


def test_unused_equations_go_and_inputs_stay() -> None:
    function = function_of("%a: f32[3] %b: f32[3]", ["%c: f32[3] = exp %b", "%y: f32[3] = tanh %a"])
    result = simplify(function)
    assert equations_of(result) == ["%y: f32[3] = tanh %a"]
    assert result.inputs == function.inputs


def test_equal_equations_merge_in_either_order_of_commutative_operands() -> None:
    assert simplified("%a: f32[3] %b: f32[3]",
                      "%s: f32[3] = add %a, %b", "%t: f32[3] = add %b, %a", "%d: f32[3] = sub %a, %b",
                      "%e: f32[3] = sub %b, %a", "%p: f32[3] = maximum %s, %t", "%q: f32[3] = div %d, %e",
                      "%y: f32[3] = mul %p, %q")[0] == "%s: f32[3] = add %a, %b"
    assert len(simplified("%a: f32[3] %b: f32[3]", "%d: f32[3] = sub %a, %b", "%e: f32[3] = sub %b, %a",
                          "%y: f32[3] = div %d, %e")) == 3


def test_equal_contractions_merge_whatever_their_letters() -> None:
    assert simplified("%x: f32[3,4] %w: f32[4,5]", '%h: f32[3,5] = contract %x, %w {spec="sd,dn->sn"}',
                      '%g: f32[3,5] = contract %w, %x {spec="jk,ij->ik"}', "%y: f32[3,5] = add %h, %g") == [
        '%h: f32[3,5] = contract %x, %w {spec="sd,dn->sn"}',
        "%full: f32[3,5] = full {dtype=f32, shape=[3, 5], value=2.0}", "%y: f32[3,5] = mul %h, %full"]


def test_merging_cascades_to_users() -> None:
    assert simplified("%a: f32[3]", "%b: f32[3] = neg %a", "%c: f32[3] = neg %b", "%d: f32[3] = neg %c",
                      "%e: f32[3] = exp %b", "%f: f32[3] = exp %d", "%y: f32[3] = maximum %e, %f") == [
        "%b: f32[3] = neg %a", "%e: f32[3] = exp %b"]


def test_zeros_of_either_sign_stay_apart() -> None:
    function = function_of("%a: f32[3]", [
        "%p: f32[3] = full {dtype=f32, shape=[3], value=0.0}", "%m: f32[3] = full {dtype=f32, shape=[3], value=-0.0}",
        "%u: f32[3] = maximum %a, %p", "%v: f32[3] = minimum %a, %m", "%y: f32[3] = add %u, %v"])
    assert sum(e.op == "full" for e in simplify(function).equations) == 2


def test_product_with_zero_stays_because_the_other_factor_may_be_infinite() -> None:
    assert len(simplified("%a: f32[3]", "%z: f32[3] = full {dtype=f32, shape=[3], value=0.0}",
                          "%y: f32[3] = mul %a, %z")) == 2


def test_constants_that_overflow_or_underflow_the_type_are_not_folded() -> None:
    for value in (1e30, 1e-30):
        function = function_of("%a: f32[3]", [f"%c: f32[3] = full {{dtype=f32, shape=[3], value={value}}}",
                                              "%s: f32[3] = mul %a, %c", "%y: f32[3] = mul %s, %c"])
        assert [e.op for e in simplify(function).equations] == ["full", "mul", "mul"]


def test_division_by_a_number_without_inverse_stays() -> None:
    assert [line.split()[3] for line in simplified(
        "%a: f32[3]", "%c: f32[3] = full {dtype=f32, shape=[3], value=1e-40}", "%y: f32[3] = div %a, %c")] == ["full",
                                                                                                            "div"]


def test_sum_of_differences_of_constants_is_not_reassociated() -> None:
    lines = simplified("%a: f32[3]", "%c: f32[3] = full {dtype=f32, shape=[3], value=100000000.0}",
                       "%s: f32[3] = add %a, %c", "%y: f32[3] = sub %s, %c")
    assert [line.split()[3] for line in lines] == ["full", "add", "sub"]


def test_a_shared_inner_value_is_not_computed_twice() -> None:
    lines = simplified("%a: f32[3,4] %s: f32[3,4]", "%n: f32[3,4] = neg %a", "%t: f32[3] = reduce_sum %n {axes=[1]}",
                       "%u: f32[3] = reduce_max %n {axes=[1]}", "%y: f32[3] = add %t, %u")
    assert sum(" neg " in line for line in lines) == 1


def test_gradient_of_a_split_with_other_terms_is_one_concat_and_one_sum() -> None:
    lines = simplified(
        "%dq: f32[2,3] %dk: f32[2,3] %dv: f32[2,2] %g: f32[2,8]",
        "%pv: f32[2,8] = pad %dv {high=[0, 0], low=[0, 6], value=0.0}", "%s: f32[2,8] = add %pv, %g",
        "%pk: f32[2,8] = pad %dk {high=[0, 2], low=[0, 3], value=0.0}", "%t: f32[2,8] = add %s, %pk",
        "%pq: f32[2,8] = pad %dq {high=[0, 5], low=[0, 0], value=0.0}", "%y: f32[2,8] = add %t, %pq")
    assert lines == ["%y.1: f32[2,8] = concat %dq, %dk, %dv {axis=1}", "%y: f32[2,8] = add %y.1, %g"]


def test_pads_that_overlap_or_leave_a_gap_are_added() -> None:
    overlap = simplified("%a: f32[3] %b: f32[3]", "%p: f32[5] = pad %a {high=[2], low=[0], value=0.0}",
                         "%q: f32[5] = pad %b {high=[0], low=[2], value=0.0}", "%y: f32[5] = add %p, %q")
    gap = simplified("%a: f32[2] %b: f32[2]", "%p: f32[5] = pad %a {high=[3], low=[0], value=0.0}",
                     "%q: f32[5] = pad %b {high=[0], low=[3], value=0.0}", "%y: f32[5] = add %p, %q")
    assert all(sum("pad" in line for line in lines) == 2 for lines in (overlap, gap))


def test_pads_of_ones_are_not_a_concat() -> None:
    lines = simplified("%a: f32[2] %b: f32[3]", "%p: f32[5] = pad %a {high=[3], low=[0], value=1.0}",
                       "%q: f32[5] = pad %b {high=[0], low=[2], value=0.0}", "%y: f32[5] = add %p, %q")
    assert not any("concat" in line for line in lines)


def test_split_and_concat_of_all_parts_is_the_value() -> None:
    assert simplified("%x: f32[2,8]", "%a: f32[2,3] = slice %x {limits=[2, 3], starts=[0, 0], strides=[1, 1]}",
                      "%b: f32[2,5] = slice %x {limits=[2, 8], starts=[0, 3], strides=[1, 1]}",
                      "%c: f32[2,8] = concat %a, %b {axis=1}", "%y: f32[2,8] = exp %c") == ["%y: f32[2,8] = exp %x"]


def test_contraction_with_ones_is_a_sum() -> None:
    assert simplified("%x: f32[3,4]", "%one: f32[4,5] = full {dtype=f32, shape=[4, 5], value=1.0}",
                      '%y: f32[3,5] = contract %x, %one {spec="sd,dn->sn"}') == [
        "%y.1: f32[3] = reduce_sum %x {axes=[1]}", "%y: f32[3,5] = broadcast %y.1 {axes=[0], shape=[3, 5]}"]


def test_scalars_of_both_operands_meet_on_the_result() -> None:
    lines = simplified("%x: f32[9,8] %w: f32[9,7]", "%c: f32[9,8] = full {dtype=f32, shape=[9, 8], value=0.5}",
                       "%d: f32[9,7] = full {dtype=f32, shape=[9, 7], value=4.0}", "%s: f32[9,8] = mul %x, %c",
                       "%t: f32[9,7] = mul %w, %d", '%y: f32[8,7] = contract %s, %t {spec="sd,sn->dn"}')
    assert [line.split()[3] for line in lines] == ["contract", "full", "mul"]
    assert "value=2.0" in lines[1]


def test_mean_gradient_is_computed_on_scalars() -> None:
    lines = simplified("%x: f32[4,8] %g: f32[]", "%b: f32[4,8] = broadcast %g {axes=[], shape=[4, 8]}",
                       "%n: f32[4,8] = full {dtype=f32, shape=[4, 8], value=32.0}", "%d: f32[4,8] = div %b, %n",
                       "%y: f32[4,8] = mul %d, %x")
    assert [line.split(":")[1].split()[0] for line in lines] == ["f32[]", "f32[]", "f32[4,8]", "f32[4,8]"]


def test_names_of_the_user_survive_merges_and_rewrites() -> None:
    function = parse_function("""func f(
  input %x: f32[3] "x"
) -> (h: %hidden, z: %hidden2) {
  %neg: f32[3] = neg %x
  %neg.1: f32[3] = neg %x
  %exp: f32[3] = exp %neg
  %hidden: f32[3] = exp %neg.1
  %one: f32[3] = full {dtype=f32, shape=[3], value=1.0}
  %hidden2: f32[3] = sub %hidden, %neg
}
""")
    assert equations_of(simplify(function)) == ["%neg: f32[3] = neg %x", "%hidden: f32[3] = exp %neg",
                                                "%hidden2: f32[3] = add %hidden, %x"]


def test_spans_of_what_the_user_wrote_survive() -> None:
    builder = Builder()
    x = builder.add_input(Input(Var("x", TensorType(DType.F32, (4, 3))), "x"))
    with builder.at(Span.point("model.py", 7, 3)):
        t = builder.op("transpose", x, perm=(1, 0))
    with builder.at(Span.point("model.py", 9, 5)):
        y = builder.op("contract", t, x, named="y", spec="ab,bc->ac")
    result = simplify(builder.finish("f", [Output("y", y)]))
    assert [(e.op, e.span.line, e.result.name) for e in result.equations] == [("contract", 9, "y")]


def test_a_function_that_asks_for_derivatives_only_loses_unused_equations() -> None:
    builder = Builder()
    x = builder.add_input(Input(Var("x", TensorType(DType.F32, (3,))), "x"))
    builder.op("exp", x)
    same = builder.op("add", x, builder.constant(0.0, x.type), named="same")
    loss = builder.op("reduce_sum", builder.op("square", same), axes=(0,))
    (gradient,) = builder.ops("backward", (loss, same))
    result = simplify(builder.finish("f", [Output("g", gradient)]))
    assert [e.op for e in result.equations] == ["full", "add", "square", "reduce_sum", "backward"]


def long_function(length: int) -> Function:
    """A chain of ``length`` groups with constants, views and shared values, as elaboration makes them."""
    builder = Builder()
    x = builder.add_input(Input(Var("x", TensorType(DType.F32, (8, 8))), "x"))
    w = builder.add_input(Input(Var("w", TensorType(DType.F32, (8, 8))), "w"))
    for _ in range(length):
        h = builder.op("contract", x, builder.op("transpose", w, perm=(1, 0)), spec="ab,bc->ac")
        one = builder.op("broadcast", builder.scalar(0.5, DType.F32), shape=(8, 8), axes=())
        h = builder.op("add", builder.op("mul", builder.op("tanh", h), one), builder.constant(0.0, h.type))
        x = builder.op("add", x, h)
    return builder.finish("f", [Output("y", x)])


def test_work_grows_in_proportion_to_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    visits = []
    original = Rewriter.next

    def counted(self: Rewriter):
        visits.append(1)
        return original(self)

    monkeypatch.setattr(Rewriter, "next", counted)
    counts = []
    for length in (25, 250):
        visits.clear()
        simplify(long_function(length))
        counts.append(len(visits))
    assert counts[1] <= 11 * counts[0]


def test_the_pass_and_unknown_rules() -> None:
    assert isinstance(Simplify(), Pass)
    function = function_of("%a: f32[3]", ["%y: f32[3] = mul %a, %a"])
    assert equations_of(Simplify().run(function)) == ["%y: f32[3] = square %a"]
    assert Simplify(only=("neg-neg",)).run(function) == function
    with pytest.raises(InternalError, match="no such rule: typo"):
        simplify(function, only=("typo",))
