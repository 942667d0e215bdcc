"""Rows of the conversion table: the value stays what it is, and the way back is the transpose."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tesserac.ir.builder import Builder
from tesserac.ir.program import Input, Output, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.base import Array
from tesserac.passes.differentiate import differentiate
from tesserac.passes.mesh import conversions
from tesserac.passes.mesh.conversions import (
    LATENCY,
    TABLE,
    Row,
    backward,
    backward_collective,
    collective,
    convert,
    step_bytes,
    steps_from,
    version_tree,
    way,
)
from tesserac.passes.mesh.placements import PARTIAL, REPLICATED, VARYING, Placement, Shard, local_type
from tesserac.passes.mesh.simulate import join, run_ranks
from tests.mesh.drawing import mesh_of

SHAPE = (12, 24)
KINDS = {"R": (REPLICATED,), "R*": (VARYING,), "P": (PARTIAL,), "S": (Shard(0), Shard(1))}
PAIRS = [(a, b) for source, target in TABLE for a in KINDS[source] for b in KINDS[target] if a != b]


def lying(placement: Placement, size: int, rng: np.random.Generator) -> list[Array]:
    """What the ranks have of a random value."""
    if placement.kind in ("R", "R*"):
        return [rng.normal(size=SHAPE)] * size
    shape = local_type(TensorType(DType.F64, SHAPE), (placement,), (size,)).sizes
    return [rng.normal(size=shape) for _ in range(size)]


def products(source: Placement, target: Placement, size: int) -> tuple[float, float, float]:
    """<C x, y>, <x, C^T y>, and how far C x is from x."""
    b, mesh, rng = Builder(), mesh_of(f"tp={size}"), np.random.default_rng(size)
    types = [local_type(TensorType(DType.F64, SHAPE), (p,), (size,)) for p in (source, target.dual)]
    x, y = (b.add_input(Input(Var(name, t), name)) for name, t in zip("xy", types, strict=True))
    moved = convert(b, x, "tp", size, source, target)
    (back,) = b.ops("pullback", (moved, y, x))
    function = differentiate(b.finish("row", [Output("moved", moved), Output("back", back)]))
    given = [lying(source, size, rng), lying(target.dual, size, rng)]
    values = run_ranks(function, mesh, [{"x": p, "y": q} for p, q in zip(*given, strict=True)])

    def whole(name: str, placement: Placement) -> Array:
        return join([v[name] for v in values], (placement,), mesh)

    outputs = {o.name: o.var.name for o in function.outputs}
    before, after = whole("x", source), whole(outputs["moved"], target)
    ct = whole("y", target.dual)
    return (float((after * ct).sum()), float((before * whole(outputs["back"], source.dual)).sum()),
            float(np.abs(after - before).max()))


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(("source", "target"), PAIRS, ids=[f"{a}-{b}" for a, b in PAIRS])
def test_the_way_back_is_the_transpose(source: Placement, target: Placement, size: int):
    forward, back, moved = products(source, target, size)
    assert moved < 1e-12
    assert forward == pytest.approx(back, rel=1e-12)


WRONG = {
    ("P", "R*"): Row("all_reduce", "all_reduce", (("to", "R"),)),
    ("S", "R"): Row("all_gather", "all_gather", (("to", "R*"),)),
    ("S", "R*"): Row("all_gather", "all_gather", (("to", "R"),)),
    ("R", "R*"): Row("unvary", None),
    ("R", "P"): Row("keep_first", None, (("of", "R*"),)),
    ("R*", "R"): Row("vary", None),
    ("R*", "S"): Row("shard_slice", None, (("of", "R"),)),
    ("R*", "P"): Row("keep_first", None, (("of", "R"),)),
    ("P", "R"): Row("unvary", None),
    ("P", "S"): Row("shard_slice", None, (("of", "R*"),)),
    ("S", "S"): Row("all_gather", "all_gather", (("to", "R"),)),
    ("S", "P"): Row("all_gather", "all_gather", (("to", "R"),)),
    ("R", "S"): Row("shard_slice", None, (("of", "R*"),)),
}


def test_every_row_is_broken_once():
    assert WRONG.keys() == TABLE.keys()


@pytest.mark.parametrize("key", WRONG, ids=["-".join(k) for k in WRONG])
def test_a_wrong_row_fails(key: tuple[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(conversions.TABLE, key, WRONG[key])
    source, target = KINDS[key[0]][0], KINDS[key[1]][-1]
    try:
        forward, back, moved = products(source, target, 2)
    except Exception as error:
        assert re.search("agree|typed|differ", str(error)), error  # noqa: PT017
        return
    assert moved > 1e-6 or abs(forward - back) > 1e-6


def test_every_conversion_has_a_row_and_every_row_goes_back():
    everywhere = [*KINDS["R"], *KINDS["R*"], *KINDS["P"], *KINDS["S"]]
    for source in everywhere:
        for target in everywhere:
            if source != target:
                assert (source.kind, target.kind) in TABLE
                start, end = backward(source, target)
                assert start == end or (start.kind, end.kind) in TABLE


def test_what_the_table_sends():
    """Table 1.3 of the literature: Megatron's f and g, sequence parallelism, FSDP, Ulysses."""
    sent = {(str(a), str(b)): (collective(a, b), backward_collective(a, b)) for a, b in PAIRS}
    assert sent["P", "R"] == ("all_reduce", None)
    assert sent["R", "R*"] == (None, "all_reduce")
    assert sent["P", "S(1)"] == ("reduce_scatter", "all_gather")
    assert sent["S(0)", "R*"] == ("all_gather", "reduce_scatter")
    assert sent["S(0)", "R"] == ("all_gather", None)
    assert sent["R", "S(0)"] == (None, "all_gather")
    assert sent["R*", "S(0)"] == (None, None)
    assert sent["S(0)", "S(1)"] == ("all_to_all", "all_to_all")


def test_versions_are_shared():
    """Three consumers that need all of a cut value gather it once."""
    x = TensorType(DType.F32, SHAPE)
    tree = version_tree(x, (4,), (Shard(0),), [(VARYING,)] * 3)
    assert [(s.source, s.target) for s in tree] == [(Shard(0), VARYING)]
    tree = version_tree(x, (4,), (PARTIAL,), [(Shard(0),), (Shard(1),), (Shard(0),)])
    assert sum(step_bytes(x, (4,), s) - 2 * LATENCY for s in tree) <= x.bytes * 4


def test_an_axis_cut_twice_opens_from_the_inside():
    """Cut by both mesh axes along one tensor axis: the later one is nested in the earlier and goes first."""
    x = TensorType(DType.F32, SHAPE)
    both = (Shard(0), Shard(0))
    assert all(step.axis == 1 for step in steps_from(x, (2, 2), both))
    found = way(x, (2, 2), frozenset({both}), (REPLICATED, Shard(0)))
    assert found[0].axis == 1
    for step in found:
        assert step in set(steps_from(x, (2, 2), step.before))


def test_uneven_cuts_are_refused():
    with pytest.raises(ValueError, match="cannot be cut into 5"):
        local_type(TensorType(DType.F32, SHAPE), (Shard(0),), (5,))
