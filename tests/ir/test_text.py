"""The text form: round trips, layout, and messages for text that is not IR."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesserac.diagnostics import Span
from tesserac.ir.program import Equation, Function, Input, Output, Program, Var, sorted_attrs
from tesserac.ir.text import TextError, parse_function, parse_program, print_attr, print_function, print_program
from tesserac.ir.types import DType, TensorType
from tesserac.passes.differentiate import differentiate
from tests.ir.models import perceptron, unit
from tests.strategies import programs

GOLDEN = '''\
func net.train(
  input %x: f32[6,4] "x"   # model.py:1
  input %labels: i32[6] "labels" bound=4 ignore=-100   # model.py:1
  param %w: f32[4,4] "net.w" = uniform(-0.1, 0.1)   # model.py:2
  param %v: f32[4] "net.v" = ones nodecay   # model.py:2
) -> (loss: %loss, "grad:net.w": %grad, "grad:net.v": %grad.1) {
  %a: f32[6,4] = contract %x, %w {spec="bi,ij->bj"}   # model.py:3
  %h: f32[6,4] = tanh %a   # model.py:3
  %broadcast: f32[6,4] = broadcast %v {axes=[1], shape=[6, 4]}   # model.py:4
  %g: f32[6,4] = mul %h, %broadcast   # model.py:4
  %logits: f32[6,4] = contract %g, %w {spec="bi,ij->bj"}   # model.py:5
  %loss: f32[] = cross_entropy %logits, %labels {ignore_index=-100}   # model.py:6
  %grad: f32[4,4], %grad.1: f32[4] = backward %loss, %w, %v   # model.py:7
}
'''


def test_golden():
    assert print_function(perceptron()) == GOLDEN
    assert parse_function(GOLDEN) == perceptron()


def test_source_lines_survive():
    again = parse_function(print_function(differentiate(perceptron())))
    assert [e.span.line for e in again.equations] == [e.span.line for e in differentiate(perceptron()).equations]
    assert {i.span.file for i in again.inputs} == {"model.py"}


def test_programs_round_trip():
    program = unit(differentiate(perceptron()))
    text = print_program(program)
    assert parse_program(text) == program
    assert print_program(parse_program(text)) == text


@pytest.mark.property
@given(programs())
def test_random_programs_round_trip(function: Function):
    for form in (function, differentiate(function)):
        assert parse_function(print_function(form)) == form


scalars = st.one_of(st.none(), st.booleans(), st.integers(-2**63, 2**64), st.floats(allow_nan=False), st.text(),
                    st.sampled_from(list(DType)))
attributes = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
names = st.text("abcdeXYZ_019.é", min_size=1).map(lambda s: "v" + s)
words = st.text(min_size=0)


def typed(value):
    """A value with the types of its parts, because 1 == 1.0 == True."""
    return tuple(map(typed, value)) if isinstance(value, tuple) else (type(value), value)


@pytest.mark.property
@given(words, words, words, names, st.dictionaries(names.map(lambda n: n.replace(".", "")), attributes, max_size=3))
def test_anything_that_a_program_may_hold_round_trips(file, path, output, name, attrs):
    var = Var(name, TensorType(DType.F32, (2, "N")))
    result = Var(name + "r", TensorType(DType.F32))
    equation = Equation("custom", (var,), (result,), sorted_attrs(attrs), Span.point("a b#c.py:7", 3, 1))
    function = Function(output, (Input(var, path),), (equation,), (Output(output, result),))
    program = unit(function)
    again = parse_program(print_program(replace(program, file=file)))
    assert again == replace(program, file=file)
    (found,) = again.entries[0].train.equations
    assert typed(tuple(found.attrs)) == typed(sorted_attrs(attrs))
    assert found.span.file == "a b#c.py:7"


def test_special_numbers():
    values = (math.inf, -math.inf, 1.0, 1, True, None, 1e-5, "a\n\"b", DType.BF16, ((1,), ()))
    assert [print_attr(v) for v in values] == [
        "inf", "-inf", "1.0", "1", "true", "none", "1e-05", '"a\\n\\"b"', "bf16", "[[1], []]"]


@pytest.mark.parametrize(("text", "message"), [
    ("", "line 1: expected 'program', found 'end of text'"),
    ('program "f"\nentry x\ntrain fun', "line 3: expected 'func', found 'fun'"),
    ('program "f" ?', "line 1: unexpected character '?'"),
    ('program "f" entry x train func f() -> (y: %y) {}', "line 1: %y is used but not defined above"),
    ('program "f" entry x train func f() -> () {\n%y: f33[] = exp %y\n}', "line 2: expected an element type"),
    ('program "f" entry x train func f() -> () {\n%y: f32[] = exp %y\n}', "line 2: %y is used but not defined above"),
    ('program "f" entry x train func f() -> () {\n%y: f32[] = full {value=?}\n}', "line 2: unexpected character"),
    ('program "f" entry x train func f() -> () {\n%y: f32[] = full {value=word}\n}', "expected a value, found 'word'"),
])
def test_faults_name_the_line(text, message):
    with pytest.raises(TextError) as found:
        parse_program(text)
    assert message in str(found.value)


def test_an_empty_program():
    assert parse_program(print_program(Program("x.py", ()))) == Program("x.py", ())
