"""Plans: as cheap as anything that was tried, the same whatever the order, and what people expect of known models."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest

from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Function
from tesserac.passes.mesh.roles import Role, role_of
from tesserac.passes.mesh.search import Found, within_memory
from tests.mesh.programs import LAYERS, LISTING1, SEED, function_of, named_mesh, searcher
from tests.models import Model

FREE = role_of("x")


def chain(rng: random.Random) -> Function:
    """Up to six equations: products, pointwise ops, sums, reductions of random sizes."""
    m = Model()
    values = [m.data("x", 4 * rng.randint(1, 3), 2 * rng.randint(1, 4))]
    for step in range(rng.randint(1, 3)):
        x = values[-1]
        kind = rng.choice(["product", "gelu", "add", "square"])
        if kind == "product":
            w = m.weight(f"w{step}", x.type.sizes[1], 4 * rng.randint(1, 256))
            values.append(m.op(step + 1, "contract", x, w, spec="ak,kn->an"))
        elif kind == "add":
            values.append(m.op(step + 1, "add", x, rng.choice([v for v in values if v.type == x.type])))
        else:
            values.append(m.op(step + 1, kind, x))
    if not m.parameters:
        x = values[-1]
        values.append(m.op(4, "contract", x, m.weight("w", x.type.sizes[1], 4), spec="ak,kn->an"))
    square = m.op(8, "square", values[-1])
    return m.train(m.op(9, "reduce_sum", square, axes=(0, 1), named="loss"))


@pytest.mark.parametrize("seed", range(25))
def test_the_search_is_brute_force(seed: int) -> None:
    """Every combination of every equation's, input's and output's choices, costed by the sum itself."""
    rng = random.Random(seed)
    function = chain(rng)
    mesh = named_mesh(rng.choice(["a=2", "a=4"]))
    search = searcher(function, mesh, roles={"a": FREE})
    domains = search.domains.of("a", {})
    count = math.prod(map(len, domains))
    if count > 6000:
        domains = [domain[:2] + domain[-1:] for domain in domains]
        search.domains.of = lambda axis, chosen: domains  # type: ignore[method-assign]
    best = min(search.problem.cost({"a": choice}).key for choice in itertools.product(*domains))
    assert search.run().cost.key == best


@pytest.mark.parametrize("seed", range(10))
def test_on_two_axes_no_other_choice_on_one_is_better(seed: int) -> None:
    """Brute force over one axis with the other as it was found, for both: descent ends where neither can gain."""
    rng = random.Random(seed)
    search = searcher(chain(rng), named_mesh(rng.choice(["a=2,b=2", "a=2,b=4"])), roles={"a": FREE, "b": FREE})
    found = search.run()
    for axis in ("a", "b"):
        domains = search.domains.of(axis, found.plan)
        if math.prod(map(len, domains)) > 2000:
            mine = [(choice,) for choice in found.plan[axis]]
            domains = [tuple({*own, *domain[:2]}) for own, domain in zip(mine, domains, strict=True)]
        tried = itertools.islice(itertools.product(*domains), 2000)
        assert found.cost.key <= min(search.problem.cost({**found.plan, axis: choice}).key for choice in tried)


def shuffled(function: Function, rng: random.Random) -> Function:
    """The same equations in another order in which everything is defined before it is used."""
    known = {item.var.name for item in function.inputs}
    left, order = list(function.equations), []
    while left:
        ready = [e for e in left if all(v.name in known for v in e.operands)]
        equation = rng.choice(ready)
        left.remove(equation)
        order.append(equation)
        known.update(v.name for v in equation.results)
    return replace(function, equations=tuple(order))


def named(found: Found, names: dict[str, str]) -> dict[tuple[str, str], str]:
    """Every node's choice by key and axis."""
    return {(node.key, names.get(axis, axis)): str(choices[i].strategy or choices[i].name)
            for axis, choices in found.plan.items() for i, node in enumerate(found.nodes)}


@pytest.mark.parametrize("mesh", ["tp=2", "dp=2,tp=2", "a=2,b=4"])
def test_neither_the_order_of_equations_nor_names_of_axes_matter(mesh: str) -> None:
    function, grid = function_of(LAYERS, mesh, sets=(("L", "1"),))
    first = searcher(function, grid).run()
    for seed in range(3):
        other = searcher(shuffled(function, random.Random(seed)), grid).run()
        assert other.cost == first.cost
        assert named(other, {}) == named(first, {})
    names = {axis: f"{axis}_other" for axis in grid.axes}
    renamed = Mesh(tuple(names.values()), grid.shape, grid.devices)
    again = searcher(function, renamed).run()
    assert again.cost == first.cost
    assert named(again, {new: old for old, new in names.items()}) == named(first, {})


def test_less_memory_never_costs_less() -> None:
    function, grid = function_of(LAYERS, "dp=4,tp=2")
    roles = {axis: replace(role_of(axis), cut_weights=True, stores_weights=True) for axis in grid.axes}
    search = searcher(function, grid, roles=roles)
    free = search.run()
    before = free
    for share in (1.0, 0.9, 0.8, 0.7):
        found = within_memory(search, free.memory * share)
        if found.memory > free.memory * share:
            break
        assert found.cost.nanoseconds >= before.cost.nanoseconds - 1
        assert found.memory <= before.memory
        before = found
    assert before is not free, "no plan with less memory was found at all"


def test_where_nothing_fits_the_plan_keeps_least() -> None:
    """However dear memory gets, it stays apart from what is impossible: every choice has its price."""
    search = searcher(*function_of(LAYERS, "tp=4", sets=(("D", "1024"), ("F", "4096"), ("S", "256"))))
    least = within_memory(search, 1.0).memory
    assert least < search.run().memory
    assert least <= min(search.run(price).memory for price in (1e-9, 1e-7, 1e-5))


def test_tables_of_many_layers_stay_small() -> None:
    function, grid = function_of(LAYERS, "tp=4", sets=(("L", "96"), ("D", "512"), ("F", "2048"), ("S", "512")))
    found = searcher(function, grid).run()
    assert found.exact
    assert found.width <= 6


# ------------------------------------------------------------------------------------------------ known answers


def chosen(found: Found, axis: str, *keys: str) -> list[str]:
    """Names of choices."""
    return [found.choice(axis, key).name for key in keys]


def test_listing_1_with_heads_is_megatron() -> None:
    source = LISTING1.replace("x @ Wv)", "x @ Wv, heads=8)")
    function, grid = function_of(source, shapes=SEED)
    found = searcher(function, grid).run()
    assert chosen(found, "tp", "Wq", "Wk", "Wv", "Wo") == ["S(1)", "S(1)", "S(1)", "S(0)"]
    assert chosen(found, "tp", "attn", "out") == ["h", "k"]
    assert chosen(found, "dp", "input", "labels", "attn") == ["S(0)", "S(0)", "b"]
    assert chosen(found, "dp", "Wq", "Wk", "Wv", "Wo") == ["R"] * 4


def test_listing_1_with_one_head_cuts_the_queries() -> None:
    function, grid = function_of(LISTING1, shapes=SEED)
    found = searcher(function, grid).run()
    assert chosen(found, "tp", "attn", "out") == ["s", "m"]
    assert chosen(found, "tp", "Wq", "Wk", "Wv", "Wo") == ["R", "S(1)", "S(1)", "R"]


def test_a_tensor_axis_cuts_weights_and_never_the_batch() -> None:
    function, grid = function_of(LAYERS, "tp=4")
    found = searcher(function, grid).run()
    weights = [node for node in found.nodes if node.weight and len(node.results[0].type.sizes) == 2]
    assert len(weights) == 12
    assert all(found.choice("tp", node.key).results[0].is_cut for node in weights)
    assert found.choice("tp", "x").name == "R"
    norms = [node.key for node in found.nodes if node.equation is not None and node.equation.op == "layernorm"]
    places = {key: str(found.choice("tp", key).results[0]) for key in norms}
    assert sorted(places.values()) == ["R*", "S(1)", "S(1)", "S(1)"]  # the first one reads data: nothing to gather


def test_points_of_a_free_axis_are_cut_and_weights_are_not() -> None:
    source = """
from tessera import graph, op
layers = op.mlp(3, [64, 64], 1)
@graph.module
def psi(x: Tensor[65536, 3]):
    return layers(x)
@graph.training_step(module="pinn")
def step(batch):
    return graph.backward(op.mean(psi(batch["x"]) ** 2))
"""
    function, grid = function_of(source, "x=8")
    found = searcher(function, grid, roles={"x": FREE}).run()
    for node in found.nodes:
        if node.weight:
            assert found.choice("x", node.key).name == "R"
    assert found.choice("x", "x").name == "S(0)"


def test_a_role_that_may_not_use_a_collective_does_not() -> None:
    function, grid = function_of(LAYERS, "x=4")
    roles: dict[str, Role] = {"x": replace(FREE, collectives=frozenset({"all_reduce"}))}
    found = searcher(function, grid, roles=roles).run()
    assert not found.cost.impossible
    assert searcher(function, grid, roles={"x": FREE}).run().cost.key <= found.cost.key
