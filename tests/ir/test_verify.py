"""The verifier accepts what the builder makes and rejects every mutation of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesserac.diagnostics import InternalError
from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Function, Output, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ir.verify import verify
from tesserac.passes.differentiate import differentiate
from tesserac.passes.expand import expand
from tests.ir.models import data, perceptron
from tests.strategies import programs


@pytest.mark.property
@given(programs())
def test_passes_leave_valid_programs(function: Function):
    verify(function)
    verify(differentiate(function))
    verify(expand(differentiate(function)))


def changed(function: Function, index: int, **fields: object) -> Function:
    equations = list(function.equations)
    equations[index] = replace(equations[index], **fields)
    return replace(function, equations=tuple(equations))


OTHER = Var("other", TensorType(DType.F32, (6, 4)))
A = Var("a", TensorType(DType.F32, (6, 4)))


@pytest.mark.parametrize(("mutate", "message"), [
    (lambda f: changed(f, 1, operands=(OTHER,)), "%other is used before it is defined"),
    (lambda f: changed(f, 1, operands=(replace(A, type=TensorType(DType.F64, (6, 4))),)),
     "%a is used as f64[6,4] but defined as f32[6,4]"),
    (lambda f: changed(f, 1, results=(A,)), "%a is defined twice"),
    (lambda f: changed(f, 1, results=(replace(f.equations[1].result, type=TensorType(DType.F32, (4, 6))),)),
     "tanh yields f32[6,4], not f32[4,6]"),
    (lambda f: changed(f, 1, op="tahn"), "there is no op 'tahn'"),
    (lambda f: changed(f, 1, operands=(A, A)), "tanh takes 1 operands, not 2"),
    (lambda f: changed(f, 1, attrs=(("speed", 1),)), "tanh has the attributes [] in this order, not ['speed']"),
    (lambda f: changed(f, 0, attrs=()), "contract has the attributes ['spec'] in this order, not []"),
    (lambda f: changed(f, 0, attrs=(("spec", "bi,ij->jj"),)), "the shape rule of contract rejects it"),
    (lambda f: changed(f, 0, attrs=(("spec", 3),)), "the shape rule of contract rejects it"),
    (lambda f: replace(f, equations=f.equations[::-1]), "is used before it is defined"),
    (lambda f: replace(f, equations=f.equations[:-1]), "%grad is used before it is defined"),
    (lambda f: replace(f, outputs=f.outputs + f.outputs[:1]), "output 'loss' occurs twice"),
    (lambda f: replace(f, inputs=(f.inputs[0], replace(f.inputs[1], path="x"), *f.inputs[2:])), "input path 'x'"),
    (lambda f: replace(f, inputs=f.inputs[1:]), "%x is used before it is defined"),
])
def test_mutations_are_rejected(mutate, message):
    with pytest.raises(InternalError) as found:
        verify(mutate(perceptron()))
    assert message in str(found.value)


@given(st.data())
def test_dropping_any_used_equation_is_noticed(data):
    function = differentiate(perceptron())
    used = {v.name for e in function.equations for v in e.operands} | {o.var.name for o in function.outputs}
    index = data.draw(st.sampled_from([i for i, e in enumerate(function.equations) if e.results[0].name in used]))
    with pytest.raises(InternalError, match="before it is defined"):
        verify(replace(function, equations=function.equations[:index] + function.equations[index + 1:]))


def test_the_message_shows_five_lines_around():
    b = Builder()
    x = data(b, "x", 3)
    for i in range(20):
        x = b.op("exp", x, named=f"e{i}")
    function = b.finish("chain", [Output("y", x)])
    with pytest.raises(InternalError) as found:
        verify(changed(function, 10, op="log2"))
    lines = str(found.value).splitlines()
    assert lines[0] == "invalid IR in chain: there is no op 'log2'"
    assert len(lines) == 12
    assert lines[6] == "--> %e10: f32[3] = log2 %e9"
    assert lines[1].strip().startswith("%e5:")
    assert lines[-1].strip().startswith("%e15:")


def test_negative_sizes_are_impossible():
    bad = Equation("full", (), (Var("z", TensorType(DType.F32, (-1,))),),
                   (("dtype", DType.F32), ("shape", (-1,)), ("value", 0.0)))
    with pytest.raises(InternalError, match="impossible shape"):
        verify(Function("f", (), (bad,), ()))
