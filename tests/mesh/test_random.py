"""Random programs under random legal strategies on random meshes: as on one device, forward and backward."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tesserac.diagnostics import InternalError
from tesserac.passes.mesh import conversions
from tesserac.passes.mesh.conversions import Row
from tests.mesh.drawing import SEEN, mesh_of, worst_difference
from tests.mesh.models import transformer
from tests.strategies import programs

TOLERANCE = 1e-9
MESHES = tuple(map(mesh_of, ("tp=2", "tp=4", "dp=2,tp=2", "dp=4,tp=2", "dp=2,one=1,tp=4", "dp=2,sp=2,tp=2", "one=1")))


@pytest.mark.property
@settings(max_examples=max(320, settings().max_examples), deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), st.integers(0, 1 << 30), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_random_programs(function, seed: int, sizes: list[int]):
    mesh = mesh_of(",".join(f"{axis}={size}" for axis, size in zip("abc", sizes, strict=False)))
    assert worst_difference(function, mesh, Random(seed)) < TOLERANCE


@pytest.mark.parametrize("seed", range(10))
def test_transformers(seed: int):
    """Twenty assignments each: 200 in all."""
    rng = Random(seed)
    for _ in range(20):
        function = transformer(rng.choice((1, 1, 2)), *rng.choice(((4, 2), (4, 1), (4, 4), (1, 1), (8, 2))),
                               causal=rng.random() < 0.7)
        mesh = rng.choice(MESHES)
        assert worst_difference(function, mesh, rng) < TOLERANCE


def test_all_kinds_of_strategies_are_drawn():
    SEEN.clear()
    rng = Random(5)
    for _ in range(10):
        worst_difference(transformer(), rng.choice(MESHES[:4]), rng)
    assert min(SEEN[kind] for kind in ("cut", "R", "R*", "lin", "stat")) > 10, SEEN


BROKEN = {
    "no all-reduce of a replicated value's cotangent": (("R", "R*"), Row("unvary", None)),
    "cotangents of a gathered value are not added": (("S", "R*"), Row("all_gather", None, (("to", "R"),))),
    "one rank's cotangent of a sum is taken for all": (("P", "R*"), Row("all_reduce", None, (("to", "R"),))),
    "the value of every rank is a term of the sum": (("R", "P"), Row("unvary", None)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_of_the_table_is_caught(name: str, monkeypatch: pytest.MonkeyPatch):
    key, row = BROKEN[name]
    monkeypatch.setitem(conversions.TABLE, key, row)
    rng, caught = Random(1), 0
    for _ in range(8):
        try:
            caught += worst_difference(transformer(), MESHES[rng.randrange(4)], rng) > 1e-6
        except InternalError:  # ranks that must agree do not
            caught += 1
    assert caught >= 4
