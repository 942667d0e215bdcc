"""Buckets of gradients beside the backward pass: where they begin and end, in tiles too, and what a plan predicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Equation, Function
from tesserac.ir.verify import verify
from tesserac.passes.differentiate import differentiate
from tesserac.passes.mesh.hardware import Link, load
from tesserac.passes.mesh.planning import Planned, Settings, plan
from tesserac.passes.mesh.simulate import simulate
from tesserac.passes.mesh.traffic import collectives
from tesserac.passes.pipeline import optimize
from tesserac.passes.tile import Tile
from tests.mesh.drawing import difference, mesh_of
from tests.mesh.models import transformer
from tests.strategies import inputs_for

BUCKET = 1024
"""Bytes that a layer of `transformer` fills more than once."""


@pytest.fixture(scope="module")
def planned() -> Planned:
    """Two layers over two data ranks, in several buckets."""
    return plan(transformer(2), mesh_of("dp=2"), load("cpu-local"), Settings(bucket=BUCKET))


def ops(function: Function) -> list[str]:
    """Names of the ops in order."""
    return [e.op for e in function.equations]


def test_all_but_the_last_begin_early(planned: Planned) -> None:
    """Ends stand behind everything else, in the order of the beginnings; products come between."""
    found = ops(planned.joint)
    begins = [i for i, op in enumerate(found) if op == "all_reduce_begin"]
    ends = [i for i, op in enumerate(found) if op == "all_reduce_end"]
    assert len(begins) == len(ends) >= 3
    assert "contract" not in found[ends[0]:]
    assert "contract" in found[begins[-1]:ends[0]]
    assert found[-1] == "all_reduce"
    order = [planned.joint.equations[i].results[0] for i in begins]
    assert [planned.joint.equations[i].operands[0] for i in ends] == order


def at_once(function: Function) -> Function:
    """The function with every all-reduce where it ends."""
    begun = {e.result: e for e in function.equations if e.op == "all_reduce_begin"}
    equations = []
    for equation in function.equations:
        if equation.op == "all_reduce_end":
            begin = begun[equation.operands[0]]
            attrs = tuple(item for item in begin.attrs if item[0] != "shares")
            equation = Equation("all_reduce", begin.operands, equation.results, attrs, begin.span)
        if equation.op != "all_reduce_begin":
            equations.append(equation)
    return Function(function.name, function.inputs, tuple(equations), function.outputs)


def test_meaning(planned: Planned) -> None:
    """Simulated ranks have the gradients of one device, and the same bits as if every exchange was awaited at once."""
    verify(planned.joint)
    inputs = inputs_for(planned.function, 3)
    expected = evaluate(differentiate(planned.function), inputs, dtype=np.float64)
    found = simulate(planned.sharded, inputs, function=planned.joint)
    waiting = at_once(planned.joint)
    assert not {"all_reduce_begin", "all_reduce_end"} & set(ops(waiting))
    later = simulate(planned.sharded, inputs, function=waiting)
    for name, value in expected.items():
        assert difference(found[name], value) < 1e-12
        assert np.array_equal(found[name], later[name])


def test_shares() -> None:
    """Where ranks get shares of the sums, those begin early too: the same buckets, gathers last, moments in shares."""
    settings = Settings(bucket=BUCKET, zero=1)
    shared, whole = (plan(transformer(2), mesh_of("dp=2"), load("cpu-local"), s)
                     for s in (settings, Settings(bucket=BUCKET)))
    verify(shared.joint)
    inputs = inputs_for(shared.function, 3)
    expected = evaluate(differentiate(shared.function), inputs, dtype=np.float64)
    found = simulate(shared.sharded, inputs, function=shared.joint)
    assert all(difference(found[name], value) < 1e-12 for name, value in expected.items())
    kinds = [[(c.kind, c.begun, c.bytes) for c in p.collectives if c.phase == "gradient"] for p in (shared, whole)]
    assert {kind for kind, _, _ in kinds[0]} == {"reduce_scatter"}
    assert [(begun, size) for _, begun, size in kinds[0]] == [(begun, size) for _, begun, size in kinds[1]]
    gathers = [(c.kind, c.begun, c.bytes) for c in shared.collectives if c.phase == "update"]
    assert sorted(size for _, _, size in gathers) == sorted(size for _, _, size in kinds[0])
    assert {(kind, begun) for kind, begun, _ in gathers} == {("all_gather", False)}
    assert shared.memory.moments * 2 == whole.memory.moments


def test_tiles_stop_where_a_bucket_begins(planned: Planned) -> None:
    """A stage that begins a bucket is followed by a stage of tiles with the rest of the backward pass."""
    staged = Tile(rows=8).run(optimize(planned.joint))
    kinds = ["tiles" if s.tiles else " ".join(op for op in ops_of(s.equations) if "_" in op) for s in staged.stages]
    begins = [i for i, kind in enumerate(kinds) if "all_reduce_begin" in kind]
    assert begins
    assert all(kinds[i + 1] == "tiles" for i in begins)
    assert "all_reduce_end" in kinds[-1]


def ops_of(equations: object) -> list[str]:
    """Names of the ops of a stage."""
    return [e.op for e in equations]  # type: ignore[attr-defined]


def test_one_bucket_is_awaited_at_once() -> None:
    """Behind the last gradient there is nothing to compute: the program stays as it was."""
    found = plan(transformer(), mesh_of("dp=2"), load("cpu-local"))
    assert not {"all_reduce_begin", "all_reduce_end"} & set(ops(found.joint))
    assert not any(c.begun for c in found.collectives)


def test_prediction(planned: Planned) -> None:
    """What hides is what begins early, as far as the machine can exchange beside computing and there is time for it."""
    def exposed(overlap: float, slower: float = 1.0, latency: float = 2e-5) -> list[tuple[bool, float]]:
        link = Link(latency, 4e9)
        hardware = replace(load("cpu-local"), overlap=overlap, flops={"f32": 1e11 / slower}, node=link)
        found = collectives(planned.sharded.function, planned.joint, planned.mesh, hardware)
        return [(c.begun, c.exposed / c.seconds) for c in found if c.phase == "gradient"]

    assert [begun for begun, _ in exposed(1.0)] == [True] * (len(exposed(1.0)) - 1) + [False]
    assert all(share == 1.0 for _, share in exposed(0.0))
    assert exposed(1.0)[-1] == (False, 1.0)
    assert all(share > 0.9 for _, share in exposed(1.0, latency=1.0))
    assert all(share == (1.0 if not begun else 0.0) for begun, share in exposed(1.0, slower=1e6))
    assert all(share == pytest.approx(1.0 if not begun else 0.25) for begun, share in exposed(0.75, slower=1e6))
