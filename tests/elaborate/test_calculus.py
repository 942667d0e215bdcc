"""Derivatives by coordinates in the source, in every spelling, against closed forms.

The field is u = sin(x) exp(y/2) cos(2t), whose derivatives of every order are known: see `exact`.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tesserac.ir.evaluate import evaluate
from tests.elaborate.support import compile_source, infer_of

Array = NDArray[np.float64]
N = 7
FIELD = "op.sin(x) * op.exp(0.5 * y) * op.cos(2 * t)"


def points(*shape: int) -> dict[str, Array]:
    rng = np.random.default_rng(5)
    return {name: rng.uniform(-1.0, 1.0, shape or (N, 1)) for name in "xyt"}


def exact(p: dict[str, Array], x: int = 0, y: int = 0, t: int = 0) -> Any:
    """The derivative of the field of these orders."""
    quarter = np.pi / 2
    return (
        np.sin(p["x"] + x * quarter) * 0.5**y * np.exp(0.5 * p["y"]) * 2.0**t * np.cos(2 * p["t"] + t * quarter)
    )


def fields(body: str, p: dict[str, Array], params: str = "x, y, t", **options: Any) -> dict[str, Array]:
    """The outputs of a module, by the names it returns."""
    source = f"@graph.module\ndef net({params}):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ")
    shape = "x".join(map(str, p["x"].shape))
    result = compile_source(source, **{"shapes": (("x", shape),), **options})
    assert result.program is not None, result.text
    return evaluate(infer_of(result), p, dtype=np.float64)


def check(found: Array, wanted: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


FIRST = [
    "op.grad(u, x)",
    'op.grad(u, "x")',
    'op.grad(u, wrt="x")',
    "op.grad(u, wrt=x)",
    'op.grad(u, axis="x")',
    'op.grad(u, x="x")',
    'op.div(u, "x")',
    'op.div(u, wrt="x")',
    'op.div(u, axis=x)',
    'op.div([u], ["x"])',
    'op.grad([u, 2 * u], "x")[0]',
    'op.grad(u, ["y", x])[1]',
    "op.curl(u, [y, x])[0]",
    "-op.curl(u, [x, y])[1]",
    'graph.jvp(u, wrt="x")',
    "op.jvp(u, x)",
    "graph.jvp(u, x, 0.5) * 2",
    "op.jvp(lambda z: op.sin(z) * op.exp(0.5 * y) * op.cos(2 * t), x)[1]",
    "op.vjp(lambda z: op.sin(z) * op.exp(0.5 * y) * op.cos(2 * t), x, op.exp(0 * x))[1]",
    "graph.forward(lambda z: op.sin(z) * op.exp(0.5 * y) * op.cos(2 * t), (x,), tangents=(op.exp(0 * x),))[1]",
    "autodiff.forward(lambda z: op.sin(z) * op.exp(0.5 * y) * op.cos(2 * t), x)[1]",
    "autodiff.reverse(lambda z: op.sum(op.sin(z) * op.exp(0.5 * y) * op.cos(2 * t)), inputs=[x])",
    "autodiff.reverse(lambda z: op.sum(op.sin(z) * op.exp(0.5 * y) * op.cos(2 * t)))(x)",
    "op.grad(op.sum(u), x)",
]


def test_every_spelling_of_a_first_derivative() -> None:
    p = points()
    body = [f"u = {FIELD}", *(f"d{i} = {text}" for i, text in enumerate(FIRST))]
    found = fields("\n".join([*body, f"return {', '.join(f'd{i}' for i in range(len(FIRST)))}"]), p)
    for i, text in enumerate(FIRST):
        np.testing.assert_allclose(found[f"d{i}"], exact(p, x=1), rtol=1e-12, atol=1e-12, err_msg=text)


HIGHER: list[tuple[str, Any]] = [
    ('op.grad(op.grad(u, "x"), x)', {"x": 2}),
    ('op.grad(u, "x", order=3)', {"x": 3}),
    ('op.grad(op.grad(op.grad(op.grad(u, "t"), "x"), "t"), y)', {"x": 1, "y": 1, "t": 2}),
    ('op.grad(op.div(u, "y"), "x")', {"x": 1, "y": 1}),
    ('op.hessian(u, ["x", "t"])[1][0]', {"x": 1, "t": 1}),
    ('op.hessian(u, ["x", "t"])[1][1]', {"t": 2}),
    ('op.laplacian(u, "y")', {"y": 2}),
    ('graph.hvp(u, "t", 1.0)', {"t": 2}),
    ('graph.hvp(lambda z: op.sum(op.sin(z) * op.exp(0.5 * y) * op.cos(2 * t)), wrt=x, dir=1)', {"x": 2}),
    ('op.jvp(lambda z: op.grad(op.sin(z) * op.exp(0.5 * y) * op.cos(2 * t), z), x)[1]', {"x": 2}),
]


def test_higher_orders_nested_any_way() -> None:
    p = points()
    body = [f"u = {FIELD}", *(f"d{i} = {text}" for i, (text, _) in enumerate(HIGHER))]
    found = fields("\n".join([*body, f"return {', '.join(f'd{i}' for i in range(len(HIGHER)))}"]), p)
    for i, (text, orders) in enumerate(HIGHER):
        np.testing.assert_allclose(found[f"d{i}"], exact(p, **orders), rtol=1e-11, atol=1e-11, err_msg=text)


def test_vector_calculus_of_lists() -> None:
    p = points()
    found = fields(
        f"""
        u = {FIELD}
        v = u * u
        lap = op.laplacian(u, ["x", "y"])
        pair = op.laplacian([u, 3 * u], [x, y, t])[1]
        bi = op.biharmonic(u, ["x", "y"])
        bit = op.biharmonic(u, "t")
        d = op.div([u, v], ["x", "y"])
        dd = op.div([u, v], wrt=[x, y])
        rot = op.curl([u, v], ["x", "y"])
        a, b, c = op.curl([u, v, 2 * u], ["x", "y", "t"])
        return lap, pair, bi, bit, d, dd, rot, a, b, c
        """,
        p,
    )
    u, ux, uy, ut = (exact(p, **o) for o in ({}, {"x": 1}, {"y": 1}, {"t": 1}))
    check(found["lap"], exact(p, x=2) + exact(p, y=2))
    check(found["pair"], 3 * (exact(p, x=2) + exact(p, y=2) + exact(p, t=2)))
    check(found["bi"], exact(p, x=4) + 2 * exact(p, x=2, y=2) + exact(p, y=4), 1e-11)
    check(found["bit"], exact(p, t=4), 1e-11)
    for name in ("d", "dd"):
        check(found[name], ux + 2 * u * uy)
    check(found["rot"], 2 * u * ux - uy)
    check(found["a"], 2 * uy - 2 * u * ut)
    check(found["b"], ut - 2 * ux)
    check(found["c"], 2 * u * ux - uy)


def test_a_coordinate_of_several_columns() -> None:
    """For z [N,3]: gradients [N,3], Jacobians [N,m,3], Hessians [N,3,3]; divergence and curl of fields [N,3]."""
    p = points()
    z = np.concatenate([p["x"], p["y"], p["t"]], axis=1)
    result = compile_source(
        """
        @graph.module
        def net(z: Tensor[7, 3]):
            x, y, t = z[:, 0:1], z[:, 1:2], z[:, 2:3]
            u = op.sin(x) * op.exp(0.5 * y) * op.cos(2 * t)
            flat = u[:, 0]
            g = op.grad(u, "z")
            gf = op.grad(flat, z)
            J = op.grad(op.concat([u, u * u], axis=1), "z")
            H = op.hessian(u, "z")
            lap = op.laplacian(u, z)
            lapf = op.laplacian(flat, "z")
            d = op.div(g, "z")
            rot = op.curl(op.concat([u, u * u, 2 * u], axis=1), "z")
            along = graph.jvp(u, "z", op.concat([y, x, t], axis=1))
            Hv = graph.hvp(u, z, op.concat([y, x, t], axis=1))
            whole = op.grad(op.sum(u), "z")
            return g, gf, J, H, lap, lapf, d, rot, along, Hv, whole
        """
    )
    found = evaluate(infer_of(result), {"z": z}, dtype=np.float64)
    axes = ("x", "y", "t")
    u = exact(p)
    gradient = np.concatenate([exact(p, **{a: 1}) for a in axes], axis=1)
    hessian = np.stack(
        [
            np.concatenate([exact(p, **({a: 2} if a == b else {a: 1, b: 1})) for b in axes], axis=1)
            for a in axes
        ],
        axis=1,
    )
    for name in ("g", "gf", "whole"):
        check(found[name], gradient)
    check(found["J"], np.stack([gradient, 2 * u * gradient], axis=1))
    check(found["H"], hessian)
    trace = np.trace(hessian, axis1=1, axis2=2)
    check(found["lap"], trace[:, None])
    check(found["lapf"], trace)
    check(found["d"], trace[:, None])
    ux, uy, ut = gradient[:, 0:1], gradient[:, 1:2], gradient[:, 2:3]
    check(found["rot"], np.concatenate([2 * uy - 2 * u * ut, ut - 2 * ux, 2 * u * ux - uy], axis=1))
    v = np.concatenate([p["y"], p["x"], p["t"]], axis=1)
    check(found["along"], (gradient * v).sum(axis=1, keepdims=True))
    check(found["Hv"], np.einsum("nij,nj->ni", hessian, v))


def test_coordinates_without_a_second_axis() -> None:
    p = points(N)
    found = fields(f"u = {FIELD}\nd = op.grad(u, 'x')\nm = op.laplacian(u, [x, 'y'])\nreturn d, m", p)
    check(found["d"], exact(p, x=1))
    check(found["m"], exact(p, x=2) + exact(p, y=2))


def test_a_vector_of_values_at_every_point() -> None:
    """op.grad of [N,m] by a column keeps [N,m]: no sum over the components."""
    p = points()
    found = fields(f"u = {FIELD}\nw = op.concat([u, 3 * u], axis=1)\nd = op.grad(w, x)\nreturn d", p)
    check(found["d"], np.concatenate([exact(p, x=1), 3 * exact(p, x=1)], axis=1))


def test_a_scalar_coordinate_and_an_elementwise_quotient() -> None:
    p = points()
    found = fields(
        "s = op.mean(y)\nu = op.sin(s * x)\nd = op.grad(u, s)\nq = op.div(x, y)\nr = op.div(1, y)\nh = op.div(x, 4)\n"
        "g = op.grad(op.mse(u, 0), 'x')\nreturn d, q, r, h, g",
        p,
        params="x, y",
    )
    s = p["y"].mean()
    check(found["d"], p["x"] * np.cos(s * p["x"]))
    check(found["q"], p["x"] / p["y"])
    check(found["r"], 1 / p["y"])
    check(found["h"], p["x"] / 4)
    check(found["g"], 2 * np.sin(s * p["x"]) * np.cos(s * p["x"]) * s / N)


def test_functions_of_several_inputs() -> None:
    p = points()
    found = fields(
        """
        def f(a, b):
            return op.sin(a) * b, a + b * b

        (y0, y1), (d0, d1) = op.jvp(f, (x, y), (t, 2))
        _, (ga, gb) = op.vjp(f, (x, y), (t, x))
        _, pull = op.vjp(f, (x, y))
        ha, hb = pull((t, x))
        ra, rb = autodiff.reverse(lambda a, b: op.sum(a * a * b), inputs=(x, y))
        h = graph.hvp(lambda a, b: op.sum(a * a * a * b), wrt=x, dir=t, inputs=(y,))
        k, m = graph.hvp(lambda w: op.sum(w[0] * w[0] * w[1]), wrt=[x, y], dir=[t, x])
        j = graph.jvp(lambda a, b: a * b, wrt=x, dir=t, inputs=y)
        fixed = op.jvp(lambda a: a * x, x, t)[1]
        s, ds = autodiff.forward(lambda a: op.sin(a) * op.exp(a), x=1.0)
        return d0, d1, ga, gb, ha, hb, ra, rb, h, k, m, j, fixed, s, ds
        """,
        p,
    )
    x, y, t = p["x"], p["y"], p["t"]
    check(found["d0"], np.cos(x) * y * t + 2 * np.sin(x))
    check(found["d1"], t + 4 * y)
    for a, b in (("ga", "gb"), ("ha", "hb")):
        check(found[a], np.cos(x) * y * t + x)
        check(found[b], np.sin(x) * t + 2 * y * x)
    check(found["ra"], 2 * x * y)
    check(found["rb"], x * x)
    check(found["h"], 6 * x * y * t)
    check(found["k"], 2 * y * t + 2 * x * x)
    check(found["m"], 2 * x * t)
    check(found["j"], y * t)
    check(found["fixed"], x * t)  # the x that the function closes over is a constant
    check(found["s"], np.sin(1.0) * np.e)
    check(found["ds"], (np.sin(1.0) + np.cos(1.0)) * np.e)


TRAINED = [
    'op.grad(u, "x", order=3)',
    'op.biharmonic(u, ["x", "y"])',
    'op.div([u, u * u], ["x", "y"]) * op.curl([u, u * u], ["x", "y"])',
    'op.hessian(u, ["x", "y"])[0][1] - op.hessian(u, ["x", "y"])[0][0] ** 2',
    "op.jvp(lambda z: net_of(z, y), x, op.sin(y))[1]",
    "op.grad(op.jvp(lambda z: net_of(z, y), x, op.sin(y))[1], y)",
    "op.vjp(lambda z: net_of(z, y), x, op.sin(u))[1]",
    "graph.hvp(lambda z: op.sum(net_of(z, y) ** 2), wrt=x, dir=y)",
    'graph.hvp(u, "x", op.cos(y))',
    "autodiff.reverse(lambda z: op.sum(op.grad(net_of(z, y), z) ** 2), inputs=x)",
]


def test_losses_made_of_derivatives_have_the_right_gradients() -> None:
    """Every term is trained: its gradient along a random direction against a complex step, and central differences."""
    terms = "\n    ".join(f"e{i} = op.mse({text}, 0.3)" for i, text in enumerate(TRAINED))
    names = ", ".join(f'"e{i}": e{i}' for i in range(len(TRAINED)))
    source = f"""
layer = op.mlp(2, [5], 1, "tanh")

def net_of(x, y):
    return layer(op.concat([x, y], axis=1))

@graph.module
def net(x, y):
    u = net_of(x, y)
    return u

@graph.training_step(module="t")
def step(batch):
    x, y = batch["x"], batch["y"]
    u = net(x, y)
    {terms}
    return {" + ".join(f"e{i}" for i in range(len(TRAINED)))}, {{{names}}}
"""
    result = compile_source(source, shapes=(("x", "4x1"), ("y", "4x1")))
    assert result.program is not None, result.text
    train = result.entry.train
    assert train is not None
    rng = np.random.default_rng(8)
    given = {i.path: rng.normal(size=i.var.type.sizes) for i in train.inputs}
    along = {i.path: rng.normal(size=i.var.type.sizes) for i in train.parameters}
    base = evaluate(train, given, dtype=np.float64)
    slope = sum(float(np.sum(base[f"grad:{k}"] * v)) for k, v in along.items())

    def moved(step: complex) -> dict[str, Any]:
        return {k: v + step * along[k] if k in along else v for k, v in given.items()}

    stepped = evaluate(train, moved(1e-30j), dtype=np.complex128)["loss"]
    np.testing.assert_allclose(slope, stepped.imag / 1e-30, rtol=1e-10)
    up, down = (evaluate(train, moved(s), dtype=np.float64)["loss"] for s in (1e-6, -1e-6))
    np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "tanh", "sine", "silu"])
def test_through_a_network_against_differences(activation: str) -> None:
    """Second derivatives of a network and of its gradients, by central differences in double precision."""
    p = points()
    source = f"""
    @graph.module
    def net(x, y):
        u = op.mlp([x, y], hidden=[6, 5], out_dim=1, activation="{activation}")
        return u, op.grad(u, "x"), op.grad(op.grad(u, "y"), "x"), op.laplacian(u, ["x", "y"])
    """
    result = compile_source(source, shapes=(("x", "7x1"),))
    function = infer_of(result)
    rng = np.random.default_rng(3)
    given = {i.path: rng.normal(size=i.var.type.sizes) for i in function.parameters}

    def at(dx: float, dy: float) -> list[Array]:
        values = evaluate(function, {**given, "x": p["x"] + dx, "y": p["y"] + dy}, dtype=np.float64)
        return list(values.values())

    h = 1e-4
    u, ux, uxy, lap = at(0, 0)
    check(ux, (at(h, 0)[0] - at(-h, 0)[0]) / (2 * h), 1e-6)
    check(uxy, (at(0, h)[1] - at(0, -h)[1]) / (2 * h), 1e-6)
    corners = at(h, 0)[0] + at(-h, 0)[0] + at(0, h)[0] + at(0, -h)[0]
    check(lap, (corners - 4 * u) / h**2, 1e-5)


def test_a_complex_field() -> None:
    """Real and imaginary part separately, as a wave function has them."""
    p = points()
    found = fields(
        f"""
        u = {FIELD}
        h = op.complex(u, u * u)
        d = op.grad(h, "x")
        return op.real(d), op.imag(d), op.real(1j * op.laplacian(h, [x, "t"])), op.imag(op.grad(h, x, order=2))
        """,
        p,
    )
    u, ux, uxx, ut, utt = (exact(p, **o) for o in ({}, {"x": 1}, {"x": 2}, {"t": 1}, {"t": 2}))
    curved = 2 * (ux**2 + u * uxx)
    for value, wanted in zip(found.values(), (ux, 2 * u * ux, -curved - 2 * (ut**2 + u * utt), curved), strict=True):
        check(value, wanted, 1e-11)
