"""Experts of unequal structure, experts with tensors of their own in any place, and gradients of all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function
from tests.elaborate.mixtures import Arrays, Expert, dense_mixture, mlp, values_for
from tests.elaborate.support import compile_source, infer_of, paths, train_of

UNEQUAL = """
def bottleneck(x, gain, w):
    h = op.rmsnorm(x, gain)
    return x + op.tanh(h @ w) * 0.5

def scale(x):
    return op.layernorm(x) * op.sigmoid(op.linear(x, 6))

shared = op.linear(6, 6)
experts = [op.mlp(6, [5], 6), op.mlp(6, [3], 6), scale, op.mlp(6, [5], 6), lambda x: shared(x) - 1.0, lambda x: x,
           lambda x: op.log(x - 0.5) * 0.1]
router = op.router(experts, "topk", k=3)

@graph.module
def net(x: Tensor[9, 6]):
    return router(x)
"""


def unequal_experts(p: Arrays) -> list[Expert]:
    def scale(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        stem = "net.router.experts.2.scale"
        norm = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        norm = norm * p[f"{stem}.layernorm.weight"] + p[f"{stem}.layernorm.bias"]
        return norm / (1 + np.exp(-(x @ p[f"{stem}.linear.weight"] + p[f"{stem}.linear.bias"])))

    def logarithm(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with np.errstate(invalid="ignore"):
            return np.log(x - 0.5) * 0.1

    return [mlp(p, "net.experts.0"), mlp(p, "net.experts.1"), scale, mlp(p, "net.experts.3"),
            lambda x: x @ p["net.shared.weight"] + p["net.shared.bias"] - 1.0, lambda x: x, logarithm]


def unequal_values(function: Function) -> dict[str, np.ndarray[Any, Any]]:
    """Only tokens with large features choose the logarithm, which is undefined for all others."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(9, 6))
    x[:3] = 1.5 + rng.random((3, 6))
    gate = rng.normal(size=(6, 7)) * 0.3
    gate[:, 6] = np.linalg.pinv(x) @ np.array([9.0] * 3 + [-9.0] * 6)
    return values_for(function, 2, x=x, **{"net.router.gate": gate})


def test_unequal_experts_run_as_groups() -> None:
    function = infer_of(compile_source(UNEQUAL))
    p = unequal_values(function)
    found = evaluate(function, p, dtype=np.float64)["net"]
    weights = dense_mixture(p["x"], p["net.router.gate"], [lambda x, e=e: np.eye(7)[[e] * 9] for e in range(7)], 3)
    expected = sum(np.where(weights[:, e: e + 1] > 0, weights[:, e: e + 1] * f(p["x"]), 0)
                   for e, f in enumerate(unequal_experts(p)))
    assert (p["x"] < 0.5).any()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    groups = [e.attr("experts") for e in function.equations if e.op == "grouped_contract"]
    assert groups == [(0, 3), (0, 3), (1,), (1,), (2,), (4,)]


FORMS = {
    "heads": ("op.einsum('mhd,hde->mhe', x.reshape(x.shape[0], 2, 3), w).reshape(x.shape[0], 6)", (2, 3, 3)),
    "stays": ("op.einsum('mhd,de->mhe', x.reshape(x.shape[0], 2, 3), w).reshape(x.shape[0], 6)", (3, 3)),
    "joined": ("op.einsum('mhd,hde->me', x.reshape(x.shape[0], 2, 3), w)", (2, 3, 4)),
    "transposed": ("x @ w.T", (4, 6)),
    "given transposed": ("op.einsum('md,ed->me', x, w)", (4, 6)),
    "on the left": ("(w @ x.T).T", (4, 6)),
    "vector": ("op.einsum('md,d->m', x, w)", (6,)),
    "outer": ("op.einsum('md,e->mde', x, w).reshape(x.shape[0], 12)", (2,)),
    "static": ("x * op.exp(w) + op.sum(w)", (6,)),
    "norm": ("op.layernorm(x, w, w * 2.0)", (6,)),
    "rows of a table": ("op.take(w, op.argmax(x, axis=-1))", (6, 3)),
    "summed": ("op.einsum('md,kd->m', x, w)", (2, 6)),
    "scaled mean": ("x - op.mean(x, axis=-1, keepdims=True) * w", (6,)),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_an_expert_may_do_with_tensors_of_its_own(form: str) -> None:
    """Experts as partial applications: two with the same body and a parameter each, applied by hand."""
    body, shape = FORMS[form]
    size = ", ".join(map(str, shape))
    source = f"""
    def expert(x, w):
        return {body}

    @graph.module
    def net(x: Tensor[7, 6], g: Tensor[6, 3], u: Tensor[{size}], v: Tensor[{size}], t: Tensor[{size}]):
        gates, chosen = op.topk(x @ g, 2, softmax=True)
        y = op.moe_apply(x, [lambda r: expert(r, u), lambda r: expert(r, v), lambda r: expert(r, t)], chosen, gates)
        z = [expert(x, w) for w in (u, v, t)]
        return y, z[0], z[1], z[2]
    """
    function = infer_of(compile_source(source))
    p = values_for(function)
    y, *every = evaluate(function, p, dtype=np.float64).values()
    gate = next(v for k, v in p.items() if k.endswith("g"))
    weights = dense_mixture(p["x"], gate, [lambda x, e=e: np.eye(3)[[e] * 7] for e in range(3)], 2)
    expected = np.einsum("te,te...->t...", weights, np.stack(every, 1))
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


TRAINED = {
    "equal": ("experts = [op.mlp(6, [5], 6) for _ in range(4)]\nrouter = op.router(experts)\n", "router(x)"),
    "switch": ("experts = [op.mlp(6, [5], 6) for _ in range(4)]\nrouter = op.router(experts, 'switch')\n", "router(x)"),
    "capacity": ("router = op.router([op.mlp(6, [5], 6) for _ in range(3)], capacity_factor=0.7)\n", "router(x)"),
    "recursive": ("router = op.recursive_mixture([op.mlp(6, [4], 6) for _ in range(3)], depth=2)\n", "router(x)"),
    "recursive top2": ("router = op.recursive_mixture([op.mlp(6, [4], 6) for _ in range(3)], 2, 'top2')\n",
                       "router(x)"),
    "unequal": (UNEQUAL[: UNEQUAL.index("@graph")], "router(x)"),
    "forms": ("def e(x, i):\n    return op.layernorm(op.linear(x, 6) * op.linear(op.rmsnorm(x), 6))\n"
              "router = op.router([lambda x: e(x, 0) for _ in range(3)])\n", "router(x)"),
}


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_by_finite_differences(name: str) -> None:
    head, call = TRAINED[name]
    source = f"""{head}
@graph.module
def net(x: Tensor[9, 6]):
    return {call}

@graph.training_step(module="t")
def step(batch: {{"x": Tensor[9, 6], "y": Tensor[9, 6]}}):
    return op.mse(net(batch["x"]), batch["y"])
"""
    result = compile_source(source)
    assert result.program is not None, result.text
    function = train_of(result)
    p = unequal_values(function) if name == "unequal" else values_for(function, 4)
    found = evaluate(function, p, dtype=np.float64)
    assert all(np.isfinite(v).all() for v in found.values())
    rng = np.random.default_rng(1)
    for item in function.parameters:
        along = rng.normal(size=item.var.type.sizes)
        up, down = (evaluate(function, p | {item.path: p[item.path] + s * along}, dtype=np.float64)["loss"]
                    for s in (1e-6, -1e-6))
        slope = float((found[f"grad:{item.path}"] * along).sum())
        assert slope == pytest.approx(float(up - down) / 2e-6, rel=2e-6, abs=2e-9), item.path


def test_an_expert_without_tokens_has_no_gradient() -> None:
    source = """
router = op.router([op.mlp(6, [5], 6) for _ in range(4)], name="router")
@graph.module
def net(x: Tensor[9, 6]):
    return router(x)
@graph.training_step(module="t")
def step(batch: {"x": Tensor[9, 6]}):
    return op.mean(op.square(net(batch["x"])))
"""
    function = train_of(compile_source(source))
    rng = np.random.default_rng(7)
    x = rng.normal(size=(9, 6)) + 3.0
    gate = rng.normal(size=(6, 4)) * 0.1
    gate[:, 3] = -9.0
    found = evaluate(function, values_for(function, x=x, **{"net.router.gate": gate}), dtype=np.float64)
    for path in paths(function):
        idle = ".experts.3." in path or ".mlp.3" in path
        if path != "net.router.gate":
            assert np.any(found[f"grad:{path}"]) != idle, path
    assert not found["grad:net.router.gate"][:, 3].any()
    assert found["grad:net.router.gate"][:, :3].any()
