"""Mixtures of experts against a direct dense formulation in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function
from tests.elaborate.mixtures import Arrays, Expert, dense_mixture, mixture_source, mlp, values_for
from tests.elaborate.support import EXAMPLES, compile_source, infer_of, paths, train_of


def routed(source: str, gate: np.ndarray[Any, Any] | None = None, seed: int = 0) -> tuple[Any, Arrays, Function]:
    result = compile_source(source)
    assert result.program is not None, result.text
    function = infer_of(result)
    given = {} if gate is None else {"net.router.gate": gate}
    values = values_for(function, seed, **given)
    return evaluate(function, values, dtype=np.float64)["net"], values, function


GATES = {
    "random": lambda rng, x: rng.normal(size=(6, 4)),
    "all tokens to one expert": lambda rng, x: np.linalg.pinv(x) @ (np.ones((len(x), 1)) * [[0.0, 1.0, 9.0, 8.0]]),
    "an expert without a token": lambda rng, x: rng.normal(size=(6, 4)) @ np.diag([1.0, 1.0, 1.0, 0.0])
    - np.linalg.pinv(x) @ (np.ones((len(x), 1)) * [[0.0, 0.0, 0.0, 50.0]]),
    "ties": lambda rng, x: np.repeat(rng.normal(size=(6, 2)), 2, axis=1),
    "all tied": lambda rng, x: np.zeros((6, 4)),
}


@pytest.mark.parametrize("extra", ["", ', "topk", k=1', ', "topk", k=3', ', strategy="topk", k=4', ', "switch"'])
@pytest.mark.parametrize("kind", GATES)
def test_a_mixture_is_the_dense_sum(kind: str, extra: str) -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(6, 6))
    gate = GATES[kind](rng, x)
    result = compile_source(mixture_source(6, extra=extra))
    function = infer_of(result)
    p = values_for(function, 3, x=x, **{"net.router.gate": gate})
    found = evaluate(function, p, dtype=np.float64)["net"]
    k = 1 if "switch" in extra else int(extra[-1]) if extra else 2
    experts = [mlp(p, f"net.experts.{e}") for e in range(4)]
    np.testing.assert_allclose(found, dense_mixture(x, gate, experts, k, "switch" in extra), rtol=1e-12, atol=1e-12)


def test_the_gates_of_the_cases_do_what_they_are_called() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(6, 6))
    best = {kind: np.argsort(-(x @ gate(rng, x)), axis=1, kind="stable")[:, :2] for kind, gate in GATES.items()}
    assert set(best["all tokens to one expert"][:, 0]) == {2}
    assert 3 not in best["an expert without a token"]
    assert best["all tied"].tolist() == [[0, 1]] * 6


def test_one_token() -> None:
    found, p, _ = routed(mixture_source(1))
    experts = [mlp(p, f"net.experts.{e}") for e in range(4)]
    np.testing.assert_allclose(found, dense_mixture(p["x"], p["net.router.gate"], experts, 2), rtol=1e-12)


def test_one_expert() -> None:
    found, p, _ = routed(mixture_source(5, experts=1, extra=', "switch"'))
    np.testing.assert_allclose(found, mlp(p, "net.experts.0")(p["x"]), rtol=1e-12)


def test_leading_axes_are_tokens() -> None:
    source = mixture_source(6).replace("Tensor[6, 6]", "Tensor[2, 3, 6]")
    found, _, function = routed(source)
    flat, _, _ = routed(mixture_source(6), seed=0)
    np.testing.assert_array_equal(found, flat.reshape(2, 3, 6))
    assert [e.op for e in function.equations].count("grouped_contract") == 2


def test_isomorphic_experts_are_merged_and_keep_their_parameters() -> None:
    _, _, function = routed(mixture_source(6))
    assert paths(function) == [*(f"net.experts.{e}.{n}" for e in range(4) for n in ("w1", "b1", "w2", "b2")),
                               "net.router.gate"]
    assert [e.op for e in function.equations] == [
        "contract", "topk", "softmax", "route", "dispatch", "grouped_contract", "grouped_rows", "add", "gelu",
        "grouped_contract", "grouped_rows", "add", "combine"]
    assert [len(e.operands) for e in function.equations if e.op == "grouped_contract"] == [6, 6]


SPELLINGS = {
    "router": "op.router(experts)(x)",
    "policy": 'op.moe(x, experts=experts, router=op.router("top2"))',
    "policy by name": 'op.moe(x, experts=experts, router=op.router(policy="top2"))',
    "mixture_of_experts": 'op.mixture_of_experts(x, experts=experts, router=op.router("top2"))',
    "moe_layer": "op.moe_layer(x, experts)",
    "moe": 'op.moe(x, experts, router="topk", k=2)',
    "strategy from a policy": 'op.router(experts, op.router("topk", k=2))(x)',
    "factory": 'op.mixture_of_experts(experts, router="top2")(x)',
    "recursive once": 'op.recursive_mixture(experts, depth=1, strategy="top2")(x)',
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_mean_the_same(spelling: str) -> None:
    def compiled(expression: str) -> tuple[Function, np.ndarray[Any, Any]]:
        function = infer_of(compile_source(f"""
        experts = [op.mlp(6, [5], 6) for _ in range(4)]

        @graph.module
        def net(x: Tensor[5, 6]):
            return {expression}
        """))
        return function, evaluate(function, values_for(function), dtype=np.float64)["net"]

    function, found = compiled(SPELLINGS[spelling])
    _, expected = compiled(SPELLINGS["router"])
    np.testing.assert_array_equal(found, expected)
    assert paths(function)[-1].endswith(".gate")


def test_the_parts_make_the_whole() -> None:
    source = """
    experts = [op.mlp(6, [5], 6) for _ in range(4)]

    @graph.module
    def net(x: Tensor[5, 6], g: Tensor[6, 4]):
        gates, chosen = op.topk(x @ g, 2, softmax=True)
        route = op.moe_route(chosen, 4)
        rows = op.moe_experts(op.moe_dispatch(x, route), experts, route)
        return op.moe_combine(rows, route, gates), op.moe_apply(x, experts, chosen, gates)
    """
    function = infer_of(compile_source(source))
    p = values_for(function)
    parts, whole = evaluate(function, p, dtype=np.float64).values()
    gate = next(v for k, v in p.items() if k.rpartition(".")[2] == "g")
    experts = [mlp(p, f"net.experts.{e}") for e in range(4)]
    np.testing.assert_allclose(parts, dense_mixture(p["x"], gate, experts, 2), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize(("depth", "strategy"), [(1, "dense"), (3, "dense"), (2, "top2"), (3, "switch")])
def test_recursive_mixtures_share_experts_and_gate(depth: int, strategy: str) -> None:
    source = f"""
    mixture = op.recursive_mixture([op.mlp(6, [5], 6) for _ in range(3)], depth={depth}, strategy="{strategy}")

    @graph.module
    def net(x: Tensor[2, 4, 6]):
        return mixture(x)
    """
    function = infer_of(compile_source(source))
    assert len(paths(function)) == 13
    p = values_for(function, 9)
    gate = p["net.mixture.gate"]
    experts = [mlp(p, path.removesuffix(".w1")) for path in paths(function) if path.endswith(".w1")]
    z = p["x"].reshape(8, 6)
    for _ in range(depth):
        z = dense_mixture(z, gate, experts, {"dense": 3, "top2": 2, "switch": 1}[strategy], strategy == "switch")
    found = evaluate(function, p, dtype=np.float64)["net"]
    np.testing.assert_allclose(found.reshape(8, 6), z, rtol=1e-11, atol=1e-12)


def test_recursive_applies_a_function_to_its_own_result() -> None:
    source = """
    step = op.recursive(lambda x: op.tanh(op.linear(x, 4)), depth=3)

    @graph.module
    def net(x: Tensor[5, 4]):
        return step(x)
    """
    function = infer_of(compile_source(source))
    assert len(paths(function)) == 2
    p = values_for(function)
    weight, bias = (p[path] for path in paths(function))
    z = p["x"]
    for _ in range(3):
        z = np.tanh(z @ weight + bias)
    np.testing.assert_allclose(evaluate(function, p, dtype=np.float64)["net"], z, rtol=1e-12)


def test_a_router_is_shared_by_its_call_sites() -> None:
    source = """
    router = op.router([lambda x: op.linear(x, 6) for _ in range(3)])

    @graph.module
    def net(x: Tensor[5, 6]):
        return router(router(x))
    """
    function = infer_of(compile_source(source))
    assert len(paths(function)) == 7
    assert paths(function)[1] == "net.router.experts.0.lambda.linear.weight"


def test_listing_3() -> None:
    text = (EXAMPLES / "chapter6" / "listing3.py").read_text()
    function = infer_of(compile_source(text, header=False, shapes=(("x", "512x4096"),)))
    assert sum(i.var.type.size for i in function.parameters) == 1_073_938_432 + 16 * 4096
    assert {"moe_layer.experts.3.w1", "moe_layer.router.gate"} <= set(paths(function))
    small = infer_of(compile_source(text, header=False, shapes=(("x", "9x6"),),
                                    set_literals=((4096, 6), (8192, 5), (16, 4))))
    p = values_for(small)
    experts = [mlp(p, f"moe_layer.experts.{e}") for e in range(4)]
    expected = dense_mixture(p["x"], p["moe_layer.router.gate"], experts, 2)
    np.testing.assert_allclose(evaluate(small, p, dtype=np.float64)["moe_layer"], expected, rtol=1e-12, atol=1e-12)


def test_listing_3_inside_the_whole_chapter() -> None:
    text = (EXAMPLES / "chapter6.md").read_text()
    shapes = (("x", "12x8"),)
    literals = ((4096, 8), (8192, 16))
    result = compile_source(text, header=False, file="chapter6.md", entry="moe_layer", mesh="none", shapes=shapes,
                            set_literals=literals)
    alone = compile_source((EXAMPLES / "chapter6" / "listing3.py").read_text(), header=False, shapes=shapes,
                           set_literals=literals)
    assert result.entry == alone.entry


def test_a_loss_from_the_command_line_trains_a_mixture_without_module() -> None:
    source = 'Y = op.recursive_mixture([op.mlp(8, [8], 8) for _ in range(4)], depth=3)(batch["input"])\n'
    result = compile_source(source, shapes=(("input", "5x8"),), loss="mse:Y,target")
    function = train_of(result)
    assert [i.path for i in function.data] == ["input", "target"]
    assert paths(function)[0] == "main.mlp.0.w1"
    assert len(paths(function)) == 17
    p = values_for(function)
    found = evaluate(function, p, dtype=np.float64)
    prediction = evaluate(infer_of(result), p, dtype=np.float64)["Y"]
    assert found["loss"] == pytest.approx(float(((prediction - p["target"]) ** 2).mean()), rel=1e-7)


@pytest.mark.parametrize("strategy", ["dense", "top2", "switch"])
def test_complex_tokens_are_gated_by_both_of_their_parts(strategy: str) -> None:
    source = f"""
    mixture = op.recursive_mixture([op.mlp(6, [5], 6, activation="tanh") for _ in range(3)], 2, "{strategy}")

    @graph.module
    def net(a: Tensor[7, 6], b: Tensor[7, 6]):
        y = mixture(op.complex(a, b))
        return op.real(y), op.imag(y)

    @graph.training_step(module="t")
    def step(batch: {{"a": Tensor[7, 6], "b": Tensor[7, 6]}}):
        re, im = net(batch["a"], batch["b"])
        return op.mean(op.square(re)) + op.mean(re * im)
    """
    result = compile_source(source)
    assert result.program is not None, result.text
    function = infer_of(result)
    rng = np.random.default_rng(3)
    p = {i.path: rng.normal(size=i.var.type.sizes) for i in function.inputs}
    p |= {i.path: p[i.path] + 1j * rng.normal(size=i.var.type.sizes)
          for i in function.inputs if i.var.type.dtype.is_complex}
    assert p["net.mixture.gate"].shape == (12, 3)
    assert np.iscomplexobj(p[next(path for path in p if path.endswith(".w1"))])

    def split_mlp(stem: str) -> Expert:
        def run(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            h = z @ p[f"{stem}.w1"] + p[f"{stem}.b1"]
            return (np.tanh(h.real) + 1j * np.tanh(h.imag)) @ p[f"{stem}.w2"] + p[f"{stem}.b2"]

        return run

    experts = [split_mlp(path.removesuffix(".w1")) for path in p if path.endswith(".w1")]
    z = p["a"] + 1j * p["b"]
    for _ in range(2):
        features = np.concatenate([z.real, z.imag], 1)
        weights = dense_mixture(features, p["net.mixture.gate"], [lambda x, e=e: np.eye(3)[[e] * 7] for e in range(3)],
                                {"dense": 3, "top2": 2, "switch": 1}[strategy], strategy == "switch")
        z = sum(weights[:, e: e + 1] * f(z) for e, f in enumerate(experts))
    found = list(evaluate(function, p, dtype=np.float64).values())
    np.testing.assert_allclose(found[0] + 1j * found[1], z, rtol=1e-11, atol=1e-12)
    train = train_of(result)
    gradients = evaluate(train, p, dtype=np.float64)
    for item in train.parameters:
        along = rng.normal(size=item.var.type.sizes)
        if item.var.type.dtype.is_complex:
            along = along + 1j * rng.normal(size=item.var.type.sizes)
        up, down = (evaluate(train, p | {item.path: p[item.path] + s * along}, dtype=np.float64)["loss"]
                    for s in (1e-6, -1e-6))
        slope = float((np.conj(gradients[f"grad:{item.path}"]) * along).sum().real)
        assert slope == pytest.approx(float(up - down) / 2e-6, rel=2e-6, abs=2e-8), item.path


def test_dropout_inside_experts_is_left_out_of_inference() -> None:
    source = """
    experts = [lambda x: op.dropout(op.linear(x, 6), 0.5) for _ in range(3)]
    router = op.router(experts)

    @graph.module
    def net(x):
        return router(x)

    @graph.training_step(module="t")
    def step(batch: {"x": Tensor[9, 6]}):
        return op.mean(net(batch["x"]))
    """
    result = compile_source(source)
    plain = compile_source(source.replace("op.dropout(op.linear(x, 6), 0.5)", "op.linear(x, 6)"))
    p = values_for(infer_of(plain))
    np.testing.assert_array_equal(evaluate(infer_of(result), p)["net"], evaluate(infer_of(plain), p)["net"])
    ops = [e.op for e in train_of(result).equations]
    assert ops.count("random_uniform") == ops.count("grouped_contract") == 1
    assert "random_uniform" not in [e.op for e in infer_of(result).equations]


def test_modules_as_experts_share_their_parameters_and_add_no_outputs() -> None:
    source = """
    @graph.module
    def first(x, W: Tensor[6, 6], b):
        return op.relu(x @ W + b)

    @graph.module
    def second(x, W: Tensor[6, 6]):
        return x @ W

    router = op.router([first, second, first])

    @graph.training_step(module="t")
    def step(batch: {"x": Tensor["B", "S", 6]}):
        return op.mean(op.square(router(batch["x"])))
    """
    result = compile_source(source, dims=(("B", 2), ("S", 4)))
    function = train_of(result)
    assert sorted(paths(function)) == ["first.W", "first.b", "second.W", "t.router.gate"]
    assert result.entry.infer is None
    p = values_for(function)
    x = p["x"].reshape(8, 6)
    experts: list[Expert] = [lambda z: np.maximum(z @ p["first.W"] + p["first.b"], 0), lambda z: z @ p["second.W"],
                             lambda z: np.maximum(z @ p["first.W"] + p["first.b"], 0)]
    expected = (dense_mixture(x, p["t.router.gate"], experts, 2) ** 2).mean()
    assert float(evaluate(function, p, dtype=np.float64)["loss"]) == pytest.approx(float(expected), rel=1e-7)
