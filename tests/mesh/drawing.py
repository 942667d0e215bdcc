"""Random assignments of strategies, and the comparison of a simulated mesh with one device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from random import Random

import numpy as np

from tesserac.ir.evaluate import evaluate
from tesserac.ir.mesh import Mesh, parse_mesh
from tesserac.ir.program import Function
from tesserac.ir.types import TensorType
from tesserac.ir.verify import verify
from tesserac.passes.differentiate import differentiate, expand_derivatives
from tesserac.passes.mesh.experts import EXPERTS, TOKENS, mixture_strategies
from tesserac.passes.mesh.owned import owned_experts
from tesserac.passes.mesh.partition import Assignment, AxisAssignment, partition
from tesserac.passes.mesh.placements import REPLICATED, Placement, Shard, local_type
from tesserac.passes.mesh.program import rank_program
from tesserac.passes.mesh.simulate import simulate
from tesserac.passes.mesh.strategy import Strategy, after, strategies
from tests.strategies import inputs_for

SEEN: Counter[str] = Counter()
"""How often each kind of strategy was drawn."""


def draw_assignment(function: Function, mesh: Mesh, rng: Random) -> Assignment:
    """Any legal strategy for every equation, any even cut of inputs and outputs, one axis after another."""
    forms = list(function.equations)
    inputs = {item.path: item.var.type for item in function.inputs}
    outputs = {o.name: o.var.type for o in function.outputs if not o.name.startswith("grad:")}
    found = {}
    modes: set[str] = set()
    for name, size in mesh.squeezed().sizes.items():
        chosen = []
        for equation in forms:
            chosen.append(_pick(strategies(equation, size), rng))
        mixtures = _mixtures(replace(function, equations=tuple(forms)), size, set(modes), rng)
        held: dict[str, Placement] = {}
        if rng.random() < 0.7:
            mixtures, held = owned_experts(replace(function, equations=tuple(forms)), mixtures, size)
        chosen = [mixtures.get(i, strategy) for i, strategy in enumerate(chosen)]
        modes.update(s.name for s in mixtures.values() if s.name == EXPERTS)
        forms = [after(equation, strategy, size) for equation, strategy in zip(forms, chosen, strict=True)]
        placed = {path: held.get(path, place) for path, place in _placements(inputs, size, rng, held).items()}
        found[name] = AxisAssignment(tuple(chosen), placed, _placements(outputs, size, rng))
    slots = {path: place.slot for axis in found.values() for path, place in axis.inputs.items() if place.slot}
    return {name: replace(axis, inputs={path: place if place.slot else axis.inputs[slots.get(path, path)]
                                        for path, place in axis.inputs.items()}) for name, axis in found.items()}


def _mixtures(function: Function, size: int, taken: set[str], rng: Random) -> dict[int, Strategy]:
    """Mixtures of experts cut by tokens or spread over the ranks, sometimes; spread over one axis at most."""
    mode = rng.choice([TOKENS, TOKENS if EXPERTS in taken else EXPERTS, ""])
    found = mixture_strategies(function, size, mode) if mode else {}
    SEEN[mode] += bool(found)
    return found


def _pick(legal: tuple[Strategy, ...], rng: Random) -> Strategy:
    chosen = rng.choice(legal)
    SEEN["cut" if chosen.cuts and not chosen.parts else chosen.name.split("(")[0].rstrip("0123456789")] += 1
    return chosen


def _placements(types: dict[str, TensorType], size: int, rng: Random,
                uncut: Collection[str] = ()) -> dict[str, Placement]:
    found = {}
    for name, type_ in types.items():
        cuts = [] if name in uncut else [Shard(axis) for axis, n in enumerate(type_.sizes) if n % size == 0]
        found[name] = rng.choice([REPLICATED, *cuts])
        types[name] = local_type(type_, (found[name],), (size,))
    return found


def worst_difference(function: Function, mesh: Mesh, rng: Random) -> float:
    """Largest relative difference of any output between a mesh under random strategies and one device, in float64."""
    forward = expand_derivatives(function)
    inputs = inputs_for(function, rng.randrange(1 << 16))
    expected = evaluate(differentiate(function), inputs, dtype=np.float64)
    assignment = draw_assignment(forward, mesh, rng)
    if rng.random() < 0.5:
        found = simulate(partition(forward, mesh, assignment), inputs)
    else:  # simplified and with buckets, as it is emitted
        shared = rng.choice([None, *mesh.squeezed().axes])
        ranks = rank_program(function, mesh, assignment, bucket_bytes=rng.choice((1, 300, 1 << 20)), shared=shared)
        SEEN["shares"] += any(e.op == "reduce_shares" for e in ranks.function.equations)
        verify(ranks.function)
        found = simulate(ranks.sharded, inputs, function=differentiate(ranks.function))
    assert set(found) == set(expected)
    return max((difference(found[name], expected[name]) for name in expected), default=0.0)


def mesh_of(text: str) -> Mesh:
    """``dp=2,tp=2``."""
    mesh = parse_mesh(text)
    assert isinstance(mesh, Mesh), mesh
    return mesh


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest element expected where that is above 1; infinite for a NaN."""
    assert found.shape == expected.shape
    if not expected.size or expected.dtype == bool:
        return 0.0 if np.array_equal(found, expected) else np.inf
    with np.errstate(all="ignore"):
        apart = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
    return apart if np.isfinite(apart) else (0.0 if np.array_equal(found, expected, equal_nan=True) else np.inf)
