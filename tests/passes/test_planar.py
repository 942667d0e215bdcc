"""The planar pass against complex arithmetic of NumPy's: every op, random programs, signs, zeros, forms of products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function, Input, Output, Var
from tesserac.ir.text import parse_function, print_function
from tesserac.ir.types import DType, TensorType
from tesserac.ir.verify import verify
from tesserac.ops import contract
from tesserac.passes.differentiate import differentiate
from tesserac.passes.planar import planar, planar_plainly, product_forms
from tests.ops.support import Case, cases, fed, operands, scalar_function
from tests.passes.complex_programs import complex_programs, from_planes, in_planes, values_for

CASES = [c for c in cases() if c.is_complex]


def same(function: Function, values, plain: bool = False) -> Function:
    """Checks that the planar form computes the same; returns it."""
    made = planar_plainly(function) if plain else planar(function)
    verify(made)
    assert not any(v.type.dtype.is_complex for v in made.variables())
    wanted = evaluate(function, values, dtype=np.float64)
    found = from_planes(function, evaluate(made, in_planes(function, values), dtype=np.float64))
    for name, want in wanted.items():
        scale = max(1.0, float(np.abs(want).max(initial=0.0)))
        np.testing.assert_allclose(found[name], want, rtol=1e-12, atol=1e-12 * scale, err_msg=name)
    return made


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_every_op_on_planes(case: Case, plain: bool):
    b = Builder()
    results = b.ops(case.spec.name, operands(b, case.sample.arrays), dict(case.sample.attrs))
    same(b.finish("f", [Output(f"y{i}", v) for i, v in enumerate(results)]), fed(case.sample.arrays), plain)


@pytest.mark.parametrize("case", [c for c in CASES if c.spec.name != "stop_gradient"], ids=lambda c: c.id)
def test_every_gradient_on_planes(case: Case):
    same(differentiate(scalar_function(case, 2)), fed(case.sample.arrays))


@pytest.mark.property
@settings(max_examples=40, deadline=None)
@given(complex_programs())
def test_random_programs(function: Function):
    verify(function)
    assert parse_function(print_function(function)) == function
    same(differentiate(function), values_for(function))


@pytest.mark.parametrize("spec", ["ab,bc->ac", "ab,ac->bc", "xab,xbc->xac"])
def test_three_products(spec: str, monkeypatch: pytest.MonkeyPatch):
    """The three-product form, with every combination of conjugated operands, and either operand the larger one."""
    monkeypatch.setattr(contract, "SUMS_ARE_WORTH", 0.0)
    rng = np.random.default_rng(3)
    first, second, _ = contract.parse_spec(spec)
    for rows, columns in ((3, 7), (7, 3)):
        sizes = {"x": 2, "a": rows, "b": 5, "c": columns}
        shapes = [tuple(sizes[c] for c in letters) for letters in (first, second)]
        arrays = [rng.normal(size=s) + 1j * rng.normal(size=s) for s in shapes]
        b = Builder()
        x, y = operands(b, arrays)
        conj = [(x, y), (b.op("conj", x), y), (x, b.op("conj", y)), (b.op("conj", x), b.op("conj", y))]
        pairs = [*conj, (b.op("neg", x), b.op("conj", y))]
        outputs = [Output(f"y{i}", b.op("contract", *pair, spec=spec)) for i, pair in enumerate(pairs)]
        made = same(b.finish("f", outputs), fed(arrays))
        assert sum(e.op == "contract" for e in made.equations) <= 3 * len(pairs)


def test_forms_are_reported():
    b = Builder()
    x, w, r = (b.add_input(Input(Var(n, TensorType(d, s)), n)) for n, d, s in (
        ("x", DType.C64, (64, 64)), ("w", DType.C64, (64, 64)), ("r", DType.F32, (64, 2))))
    real = b.op("cast", r, dtype=DType.C64)
    values = [b.op("contract", x, w, spec="ab,bc->ac"), b.op("contract", x, real, spec="ab,bc->ac"),
              b.op("contract", real, b.op("conj", real), spec="ab,ac->bc"),
              b.op("contract", w, b.op("slice", x, starts=(0, 0), limits=(64, 2), strides=(1, 1)), spec="ab,bc->ac")]
    function = b.finish("f", [Output(f"y{i}", v) for i, v in enumerate(values)])
    forms = [form for _, form in product_forms(function)]
    assert [form.products for form in forms] == [3, 2, 1, 4]
    assert forms[0].reason == "32 operations saved per element of the sums, more than 24"
    assert forms[1].reason == "an operand is real or imaginary"


def count(function: Function, op: str) -> int:
    return sum(e.op == op for e in planar(function).equations)


def test_real_parts_stay_real():
    """A real factor costs two products, conjugation and signs nothing, and no plane of zeros is multiplied."""
    b = Builder()
    z, r = (b.add_input(Input(Var(n, TensorType(d, (4, 4))), n)) for n, d in (("z", DType.C64), ("r", DType.F32)))
    real = b.op("cast", r, dtype=DType.C64)
    product = b.op("contract", b.op("neg", b.op("conj", z)), real, spec="ab,bc->ac")
    turned = b.op("mul", product, b.op("complex", b.constant(0.0, r.type), b.constant(1.0, r.type)))
    function = b.finish("f", [Output("re", b.op("real", turned)), Output("im", b.op("imag", turned))])
    same(function, values_for(function))
    assert count(function, "contract") == 2
    assert count(function, "mul") == 0
    assert count(function, "full") == 0


def test_a_program_of_real_numbers_is_left_alone():
    b = Builder()
    x = b.add_input(Input(Var("x", TensorType(DType.F32, (3,))), "x"))
    function = b.finish("f", [Output("y", b.op("exp", x))])
    assert planar(function) is function


def test_scalars_and_unused_parts():
    b = Builder()
    z = b.add_input(Input(Var("z", TensorType(DType.C64)), "z"))
    function = b.finish("f", [Output("y", b.op("exp", z)), Output("x", b.op("real", z))])
    same(function, values_for(function))


def test_large_and_small_numbers():
    """Division and absolute value neither overflow nor vanish where the result is an ordinary number."""
    b = Builder()
    x, y = (b.add_input(Input(Var(n, TensorType(DType.C64, (4,))), n)) for n in "xy")
    function = b.finish("f", [Output("q", b.op("div", x, y)), Output("m", b.op("magnitude", x))])
    numbers = np.array([1e30 - 2e30j, 3e-30 + 1e-30j, 0.0, -2.0j], np.complex64)
    divisors = np.array([2e30 + 1e30j, -1e-30j, 1.0, 1e-20 + 0j], np.complex64)
    found = from_planes(function, evaluate(planar(function), in_planes(function, {"x": numbers, "y": divisors})))
    np.testing.assert_allclose(found["q"], numbers.astype(complex) / divisors.astype(complex), rtol=1e-5)
    np.testing.assert_allclose(found["m"], np.abs(numbers.astype(complex)), rtol=1e-6)
