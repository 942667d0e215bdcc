"""The choice between Taylor mode and shared covectors: right values either way, and the work that was counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tesserac.inspection.derivatives import derivative_lines
from tesserac.ir.program import Function, Var
from tesserac.ir.types import DType
from tesserac.ir.verify import verify
from tesserac.passes.decision import Decision, decide, decisions
from tesserac.passes.differentiate import differentiate
from tesserac.passes.simplify import simplify
from tesserac.passes.spaces import independent
from tests.passes.fields import Field, products, run, values_for

WIDE = (7, 9)


def printed(field: Field, hidden: tuple[int, ...] = WIDE, act: str = "tanh") -> Var:
    """The loss of listing 6.2: u, v, p are the first derivatives of one potential."""
    b = field.b
    x, y, t = (field.coordinate(n) for n in "xyt")
    psi = field.mlp([x, y, t], hidden, act=act)
    u, v, p = (field.d(psi, c) for c in (x, y, t))
    continuity = b.op("add", field.d(u, x), field.d(v, y))
    convection = b.op("add", b.op("mul", u, field.d(u, x)), b.op("mul", v, field.d(u, y)))
    momentum = b.op("add", b.op("add", field.d(u, t), convection), field.d(p, x))
    return field.mean_square(continuity, momentum)


def navier_stokes(field: Field, hidden: tuple[int, ...] = WIDE, act: str = "tanh") -> Var:
    """Stream function and pressure, third derivatives of the former."""
    b = field.b
    x, y, t = (field.coordinate(n) for n in "xyt")
    out = field.mlp([x, y, t], hidden, out=2, act=act)
    n = field.points
    psi = b.op("slice", out, starts=(0, 0), limits=(n, 1), strides=(1, 1), named="psi")
    p = b.op("slice", out, starts=(0, 1), limits=(n, 2), strides=(1, 1), named="p")
    u, v = field.d(psi, y), b.op("neg", field.d(psi, x))

    def momentum(w: Var, along: Var) -> Var:
        carried = b.op("add", b.op("mul", u, field.d(w, x)), b.op("mul", v, field.d(w, y)))
        viscous = b.op("add", field.d(w, x, x), field.d(w, y, y))
        return b.op("sub", b.op("add", b.op("add", field.d(w, t), carried), field.d(p, along)), viscous)

    return field.mean_square(momentum(u, x), momentum(v, y))


def biharmonic(field: Field, hidden: tuple[int, ...] = WIDE, act: str = "tanh") -> Var:
    b = field.b
    x, y = field.coordinate("x"), field.coordinate("y")
    psi = field.mlp([x, y], hidden, act=act)
    laplacian = b.op("add", field.d(psi, x, x), field.d(psi, y, y))
    return field.mean_square(b.op("add", field.d(laplacian, x, x), field.d(laplacian, y, y)))


def laplacian_of_four(field: Field, hidden: tuple[int, ...] = WIDE, act: str = "tanh") -> Var:
    x = field.coordinate("x", 4)
    u = field.mlp([x], hidden, act=act)
    total = field.d(field.d(u, x, component=0), x, component=0)
    for i in range(1, 4):
        total = field.b.op("add", total, field.d(field.d(u, x, component=i), x, component=i))
    return field.mean_square(total)


def gradient_of_four(field: Field, hidden: tuple[int, ...] = WIDE, act: str = "tanh") -> Var:
    x = field.coordinate("x", 4)
    u = field.mlp([x], hidden, act=act)
    return field.mean_square(*(field.d(u, x, component=i) for i in range(4)))


def hard_boundary(field: Field, hidden: tuple[int, ...] = WIDE, act: str = "tanh") -> Var:
    """u = x (1 - x) net(x, y): what is asked of u is asked of the network."""
    b = field.b
    x, y = field.coordinate("x"), field.coordinate("y")
    bubble = b.op("mul", x, b.op("sub", b.constant(1.0, x.type), x))
    u = b.op("mul", bubble, field.mlp([x, y], hidden, act=act))
    return field.mean_square(b.op("add", field.d(u, x, x), field.d(u, y, y)), u)


def normed(field: Field, hidden: tuple[int, ...] = WIDE, act: str = "tanh") -> Var:
    """A fused norm, a softmax, a product of two branches and a quotient on the way."""
    b = field.b
    x, y = field.coordinate("x"), field.coordinate("y")
    h = b.op(act, field.linear(b.op("concat", x, y, axis=1), 6, "1"))
    normal = b.op("layernorm", field.linear(h, 6, "2"), field.weight("gain", 6), field.weight("bias", 6))
    gate = b.op("softmax", field.linear(h, 6, "3"))
    mixed = b.op("div", b.op("mul", normal, gate), b.op("add", b.op("square", h), b.constant(1.0, h.type)))
    psi = field.linear(b.op("add", mixed, h), 1, "4")
    return field.mean_square(b.op("add", field.d(psi, x, x, y), field.d(psi, y, y, y)), field.d(psi, x, y))


def two_columns(field: Field, hidden: tuple[int, ...] = WIDE, act: str = "tanh") -> Var:
    """A field of two columns asked for as a whole, in five coordinates: a covector per column still pays."""
    x = field.coordinate("x", 5)
    u = field.mlp([x], hidden, out=2, act=act)
    return field.mean_square(*(field.d(field.d(u, x, component=i), x, component=i) for i in range(5)))


CASES: dict[str, Callable[..., Var]] = {f.__name__: f for f in (
    printed, navier_stokes, biharmonic, laplacian_of_four, gradient_of_four, hard_boundary, normed, two_columns)}


def decision_of(function: Function) -> Decision:
    (group,) = independent(function)
    return decide(function, group)


@pytest.mark.parametrize("act", ["tanh", "gelu"])
@pytest.mark.parametrize("name", CASES)
def test_both_ways_give_the_same_loss_and_gradients(name, act):
    field = Field(points=3)
    function = field.train(CASES[name](field, act=act))
    assert decision_of(function).chosen.reverse, "the case is meant to take reverse rows"
    chosen = differentiate(function)
    verify(chosen)
    values = values_for(function)
    expected = run(differentiate(function, plain=True), values)
    for program in (chosen, simplify(chosen)):
        found = run(program, values)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "taylor", "chosen"), [
    ("printed", 24, 15), ("biharmonic", 39, 27), ("navier_stokes", 39, 18), ("laplacian_of_four", 27, 18),
    ("gradient_of_four", 15, 6), ("hard_boundary", 15, 12)])
def test_the_rows_counted_are_those_of_the_program(name, taylor, chosen):
    """Rows of 11 x 13 products per point with the gradient, counted before and found after."""
    field = Field(points=3)
    function = field.train(CASES[name](field, (11, 13)))
    decision = decision_of(function)
    assert (decision.taylor.counted.rows, decision.chosen.counted.rows) == (taylor, chosen)
    assert products(simplify(differentiate(function)), 3, 11, 13) == chosen
    # Equal cotangents of two channels (a Laplacian's) are one row to the simplifier: Taylor mode may need fewer.
    plain = products(simplify(differentiate(function, plain=True)), 3, 11, 13)
    assert taylor - 3 <= plain <= taylor


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
def test_the_printed_loss_at_its_own_size(dtype):
    field = Field(points=4096, dtype=dtype)
    function = field.train(printed(field, (256, 256), "gelu"))
    decision = decision_of(function)
    assert (decision.taylor.counted.rows, decision.chosen.counted.rows) == (24, 15)
    program = simplify(differentiate(function))
    verify(program)
    assert products(program, 4096, 256, 256) == 15


def test_deeper_networks_take_the_same_rows_in_every_layer():
    field = Field()
    function = field.train(printed(field, (8, 8, 8, 8)))
    assert decision_of(function).chosen.counted.rows == 15
    assert products(simplify(differentiate(function)), 3, 8, 8) == 3 * 15


def test_plain_taylor_mode_where_nothing_is_gained():
    """One coordinate; and a vector field of as many columns as there are derivatives."""
    field = Field()
    x = field.coordinate("x")
    u = field.mlp([x], (64, 64))
    assert not decision_of(field.train(field.mean_square(field.d(u, x, x, x)))).chosen.reverse
    field = Field()
    x, y = field.coordinate("x"), field.coordinate("y")
    u = field.mlp([x, y], (64, 64), out=3)
    loss = field.mean_square(field.d(u, x, x), field.d(u, y, y))
    assert not decision_of(field.train(loss)).chosen.reverse


def test_without_a_gradient_only_the_forward_rows_count():
    field = Field()
    x, y = field.coordinate("x"), field.coordinate("y")
    psi = field.mlp([x, y], (64, 64))
    function = field.function(field.b.op("add", field.d(psi, x, x), field.d(psi, y, y)))
    decision = decision_of(function)
    assert (decision.taylor.counted.rows, decision.chosen.counted.rows) == (5, 4)
    assert products(simplify(differentiate(function)), 3, 64, 64) == 4


def test_the_explanation_lists_every_way_with_its_rows():
    field = Field(points=64)
    lines = derivative_lines(field.train(printed(field, (256, 256))))
    rows = {line[:24].strip(): int(line[24:30]) for line in lines if line.startswith("    ")}
    assert rows == {"Taylor": 24, "collapsed Taylor": 16, "forward over reverse": 18, "shared covector": 15}
    (taken,) = (line for line in lines if line.endswith("<- taken"))
    assert "shared covector" in taken
    assert "channels 1 x y t; reverse rows of z3 1" in taken
    assert lines[1] == "  of z3: x y t xx xy xt yy"


def test_forward_over_reverse_costs_what_is_counted():
    """Built by hand: a pullback to the coordinates, then derivatives of its results."""
    field = Field()
    b = field.b
    x, y, t = (field.coordinate(n) for n in "xyt")
    psi = field.mlp([x, y, t], (11, 13))
    u, v, p = b.ops("pullback", (psi, b.constant(1.0, psi.type), x, y, t))
    continuity = b.op("add", field.d(u, x), field.d(v, y))
    convection = b.op("add", b.op("mul", u, field.d(u, x)), b.op("mul", v, field.d(u, y)))
    # u_t = p_x: the tangent along t is not needed.
    momentum = b.op("add", b.op("add", field.d(p, x), convection), field.d(p, x))
    function = field.train(field.mean_square(continuity, momentum))
    assert products(simplify(differentiate(function, plain=True)), 3, 11, 13) == 18
    values = values_for(function)
    other = Field()
    expected = run(differentiate(other.train(printed(other, (11, 13))), plain=True), values)
    found = run(differentiate(function), values)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-11)


def test_a_field_behind_a_rule_of_the_source_is_decided_like_any_other():
    """v = f(u) with f' = 2u by its own rule: v_xx + v_yy = 2 u (u_xx + u_yy) + 2 (u_x^2 + u_y^2)."""

    def loss(field: Field, ruled: bool) -> Var:
        b, x, y = field.b, field.coordinate("x"), field.coordinate("y")
        u = field.mlp([x, y], WIDE)
        v = b.op("square", u)
        if ruled:
            upstream = b.constant(0.0, u.type)
            cotangent = b.op("mul", upstream, b.op("mul", u, b.constant(2.0, u.type)))
            v = b.op("custom_grad", b.op("abs", u), upstream, cotangent, u)
        return field.mean_square(b.op("add", field.d(v, x, x), field.d(v, y, y)))

    ruled, plain = Field(), Field()
    function = ruled.train(loss(ruled, True))
    assert decision_of(function).chosen.reverse
    values = values_for(function)
    expected = run(differentiate(plain.train(loss(plain, False)), plain=True), values)
    for program in (differentiate(function), differentiate(function, plain=True)):
        found = run(program, values)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("points", [7, 3])
def test_a_network_with_its_points_in_columns(points):
    """As many points as units would hide an axis taken for another: covectors are left alone there."""
    field = Field(points=points)
    b, x, y = field.b, field.coordinate("x"), field.coordinate("y")
    h = b.op("transpose", b.op("concat", x, y, axis=1), perm=(1, 0))
    for name, shape in (("A", (7, 2)), ("B", (7, 7))):
        h = b.op("tanh", b.op("contract", field.weight(name, *shape), h, spec="ij,jk->ik"))
    u = b.op("transpose", b.op("contract", field.weight("C", 1, 7), h, spec="ij,jk->ik"), perm=(1, 0))
    weighed = b.op("add", b.op("mul", x, field.d(u, x, x)), field.d(u, y, y))
    function = field.train(field.mean_square(weighed))
    assert not decision_of(function).chosen.reverse
    lines = derivative_lines(function)
    (taken,) = (line for line in lines if line.endswith("<- taken"))
    assert taken.split()[0] == "Taylor"
    # One channel for both second derivatives is 12 rows instead of 15, and the explanation owns up to it.
    assert any("collapsed Taylor        12" in line and "counted only" in line for line in lines)
    assert lines[-1] == "  what is counted only would be less work, but there is no program for it"
    values = values_for(function)
    expected = run(differentiate(function, plain=True), values)
    for key, value in run(differentiate(function), values).items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-9, atol=1e-11)


def test_points_inside_and_on_a_boundary_are_decided_apart():
    """One network, evaluated at two batches of points: second derivatives here, a slope there."""
    field = Field()
    b = field.b
    x, y = field.coordinate("x"), field.coordinate("y")
    xe, ye = field.coordinate("xe"), field.coordinate("ye")
    inside = field.mlp([x, y], (11, 13))
    h = b.op("concat", xe, ye, axis=1)
    for layer in range(0, 6, 2):
        w, bias = field.weights[layer: layer + 2]
        z = b.op("contract", h, w, spec="nk,kj->nj")
        h = b.op("add", z, b.op("broadcast", bias, shape=z.type.shape, axes=(1,)))
        h = b.op("tanh", h) if layer < 4 else h
    residual = b.op("add", field.d(inside, x, x), field.d(inside, y, y))
    function = field.train(field.mean_square(residual, field.d(h, xe), field.d(h, ye)))
    (group,) = independent(function)
    assert sorted(d.work.rows for d in decisions(function, group)) == [6, 12]
    program = differentiate(function)
    assert products(simplify(program), 3, 11, 13) == 18
    values = values_for(function)
    expected, found = run(differentiate(function, plain=True), values), run(program, values)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-11)
