"""Equal layers as one variable: the same sum, the same plans, and a second look where that would cost something."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tesserac.passes.mesh import folding, planning
from tesserac.passes.mesh.elimination import cost_of
from tesserac.passes.mesh.planning import NOTHING, Planned, plan
from tesserac.passes.mesh.search import Searcher
from tesserac.passes.mesh.settings import Pin
from tests.mesh.programs import H100, LAYERS, function_of, searcher

EIGHT = (("L", "8"), ("D", "512"), ("F", "2048"), ("S", "512"))


def deep(mesh: str) -> Searcher:
    """A search of eight equal layers."""
    return searcher(*function_of(LAYERS, mesh, sets=EIGHT))


def planned(mesh: str) -> Planned:
    """The plan of eight equal layers."""
    return plan(*function_of(LAYERS, mesh, sets=EIGHT), H100)


@pytest.mark.parametrize("mesh", ["tp=4", "dp=2,tp=4", "x=2,y=2"])
def test_a_folded_plan_costs_what_it_costs_unfolded(mesh: str) -> None:
    whole = deep(mesh)
    small = whole.folded()
    assert len(small.problem.nodes) < len(whole.problem.nodes) / 3
    assert sum(node.count for node in small.problem.nodes) == len(whole.nodes)
    rng = random.Random(1)
    for price in (0.0, 1e-12):
        chosen = {}
        for axis in small.order:
            chosen[axis] = tuple(rng.choice(choices) for choices in small.domains.of(axis, chosen))
        unfolded = small.folding.unfolded(chosen)
        small.problem.price = whole.problem.price = price
        assert small.problem.cost(chosen) == whole.problem.cost(unfolded)
        assert small.problem.memory(chosen) == pytest.approx(whole.problem.memory(unfolded), rel=1e-12)
        axis = small.order[-1]
        domains = small.domains.of(axis, chosen)
        _, tables = small.problem.tables(axis, domains, chosen)
        at = [domain.index(choice) for domain, choice in zip(domains, chosen[axis], strict=True)]
        total = small.problem.cost(chosen)
        assert cost_of(at, tables)[1:] == (total.collectives, total.bytes)


@pytest.mark.parametrize("mesh", ["tp=4", "dp=2,tp=4", "x=2,tp=2"])
def test_plans_are_those_of_layers_that_may_differ(mesh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folded = planned(mesh)
    monkeypatch.setattr(Searcher, "folded", lambda self: self)
    whole = planned(mesh)
    assert folded.found.cost == whole.found.cost
    assert {axis: [c.name for c in choices] for axis, choices in folded.found.plan.items()} == \
        {axis: [c.name for c in choices] for axis, choices in whole.found.plan.items()}
    assert [(s.template.name, s.found.cost) for s in folded.templates] == \
        [(s.template.name, s.found.cost) for s in whole.templates]


def test_where_alike_nodes_should_differ_the_search_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """At distance 0 the four products of attention are one variable: none can be cut by columns and another by rows."""
    best = planned("dp=2,tp=4").found.cost
    monkeypatch.setattr(folding, "DISTANCE", 0)
    coarse = deep("dp=2,tp=4").folded().run()
    assert coarse.cost.key > best.key
    assert planned("dp=2,tp=4").found.cost == best


def test_pinned_nodes_stand_for_themselves() -> None:
    function, mesh = function_of(LAYERS, "tp=4", sets=EIGHT)
    path = next(item.path for item in function.inputs if item.is_parameter and "6" in item.path)
    pin = Pin(path, None, "tp", (), ())
    roles = {axis: planning.NOTHING.role(axis) for axis in mesh.axes}
    small = Searcher(function, mesh, H100, roles, [pin]).folded()
    key = next(item.var.name for item in function.inputs if item.path == path)
    assert [node.count for node in small.problem.nodes if node.key == key] == [1]
    found = plan(function, mesh, H100, replace(NOTHING, pins=(pin,))).found
    assert found.choice("tp", key).results[0].is_cut


def test_many_layers_are_few_variables() -> None:
    counts = [len(searcher(*function_of(LAYERS, "tp=4", sets=(("L", str(layers)),))).folded().problem.nodes)
              for layers in (24, 96)]
    assert counts[0] == counts[1] < 100
