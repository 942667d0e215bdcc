"""An assignment that follows where a function's inputs lie: the forward function beside a planned training step.

Parameters lie where training wants them; every equation then takes, one after another, the strategy that moves the
fewest bytes from what its operands are, and among those one that shares the work.
"""

from __future__ import annotations

from collections.abc import Mapping

from tesserac.diagnostics import InternalError
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Equation, Function
from tesserac.passes.mesh.conversions import backward_collective, collective
from tesserac.passes.mesh.experts import EXPERTS, mixture_strategies
from tesserac.passes.mesh.owned import owned_experts
from tesserac.passes.mesh.partition import Assignment, AxisAssignment
from tesserac.passes.mesh.placements import REPLICATED, Placement, Placements
from tesserac.passes.mesh.strategy import REQUESTS, Strategy, after, strategies

WEIGHTS = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 0.5, None: 0.0}
"""What a collective costs per byte, about; a tensor that every rank computes again counts half of its bytes."""


def following(function: Function, mesh: Mesh, inputs: Mapping[str, Placements]) -> Assignment:
    """Strategies of all axes; ``inputs`` by path, R where it says nothing, and outputs are whole everywhere."""
    forms = list(function.equations)
    found: dict[str, AxisAssignment] = {}
    for position, (axis, size) in enumerate(mesh.sizes.items()):
        start = {item.path: inputs[item.path][position] for item in function.inputs if item.path in inputs}
        lies = {item.var.name: start.get(item.path, REPLICATED) for item in function.inputs}
        mixtures = _mixtures(function, size, start)
        chosen = []
        for number, equation in enumerate(forms):
            strategy = mixtures.get(number) or _cheapest(equation, lies, size)
            chosen.append(strategy)
            if equation.op not in REQUESTS:
                lies.update((v.name, p) for v, p in zip(equation.results, strategy.results, strict=True))
            forms[number] = after(equation, strategy, size)
        found[axis] = AxisAssignment(tuple(chosen), start)
    return found


def _mixtures(function: Function, size: int, lies: Mapping[str, Placement]) -> dict[int, Strategy]:
    """Mixtures whose experts' parameters lie at the experts' ranks send rows there, as training does."""
    if not any(place.kind == "O" for place in lies.values()):
        return {}
    whole = {item.path for item in function.parameters if lies.get(item.path, REPLICATED).kind != "O"}
    found, held = owned_experts(function, mixture_strategies(function, size, EXPERTS), size, whole)
    if any(held.get(path) != place for path, place in lies.items() if place.kind == "O"):
        raise InternalError(f"{function.name} needs experts' parameters elsewhere than training has them")
    return found


def _cheapest(equation: Equation, lies: Mapping[str, Placement], size: int) -> Strategy:
    options = strategies(equation, size)
    if equation.op in REQUESTS:
        return options[0]
    if all(lies[v.name].kind in ("R", "R*") for v in equation.operands):  # nothing to follow yet: R* fits all uses
        return next((s for s in options if s.name == "R*"), options[0])
    return min(options, key=lambda s: _cost(equation, s, lies))


def _cost(equation: Equation, strategy: Strategy, lies: Mapping[str, Placement]) -> tuple[float, bool, float]:
    """Bytes to convert the operands, whether every rank does all the work, and what results and gradients send."""
    ahead, later = sum(WEIGHTS[t.collective] * t.bytes for t in strategy.traffic), 0.0
    for var, wanted in zip(equation.operands, strategy.operands, strict=True):
        have = lies[var.name]
        if have != wanted:
            ahead += WEIGHTS[collective(have, wanted)] * var.type.bytes
            if var.type.dtype.is_differentiable:
                later += WEIGHTS[backward_collective(have, wanted)] * var.type.bytes
    later += sum(2.0 * v.type.bytes for v, made in zip(equation.results, strategy.results, strict=True)
                 if made.kind == "P")
    return ahead, not strategy.cuts, later
