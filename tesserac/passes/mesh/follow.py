"""An assignment that follows where a function's inputs lie: the forward function beside a planned training step.

Parameters lie where training wants them, and rows of a batch lie where axes divide them; every equation takes, one
after another, the strategy that moves the fewest bytes from what its operands are, and among those one that shares the
work.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from tesserac.diagnostics import InternalError
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Equation, Function
from tesserac.passes.batched import batched_outputs
from tesserac.passes.mesh.conversions import backward_collective, collective
from tesserac.passes.mesh.experts import EXPERTS, TOKENS, mixture_strategies
from tesserac.passes.mesh.owned import owned_experts
from tesserac.passes.mesh.partition import Assignment, AxisAssignment
from tesserac.passes.mesh.placements import REPLICATED, Placement, Placements, Shard
from tesserac.passes.mesh.roles import Kinds, Role
from tesserac.passes.mesh.strategy import REQUESTS, Strategy, after, strategies
from tesserac.passes.placement import batch_size

WEIGHTS = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 0.5, None: 0.0}
"""What a collective costs per byte, about; a tensor that every rank computes again counts half of its bytes."""


def rows_over(function: Function, mesh: Mesh, axes: Collection[str]) -> tuple[dict[str, Placements], ...]:
    """Inputs and outputs of a forward function whose rows ``axes`` divide, as long as a batch comes apart evenly."""
    left = batch = batch_size(function)
    lies = []
    for axis, size in mesh.sizes.items():
        cut = left is not None and axis in axes and left % size == 0
        lies.append(Shard(0) if cut else REPLICATED)
        left = left // size if left is not None and cut else left
    cut_inputs = [i.path for i in function.data if i.var.type.rank and i.var.type.sizes[0] == batch]
    return dict.fromkeys(cut_inputs, tuple(lies)), dict.fromkeys(sorted(batched_outputs(function, batch)), tuple(lies))


def following(function: Function, mesh: Mesh, inputs: Mapping[str, Placements], outputs: Mapping[str, Placements],
              roles: Mapping[str, Role]) -> Assignment:
    """Strategies of all axes; ``inputs`` by path and ``outputs`` by name are R where they say nothing.

    ``roles``: what every axis may cut.
    """
    forms, kinds = list(function.equations), Kinds(function)
    found: dict[str, AxisAssignment] = {}
    for position, (axis, size) in enumerate(mesh.sizes.items()):
        start = {item.path: inputs[item.path][position] for item in function.inputs if item.path in inputs}
        left = {name: placements[position] for name, placements in outputs.items()}
        lies = {item.var.name: start.get(item.path, REPLICATED) for item in function.inputs}
        form = replace(function, equations=tuple(forms))
        mixtures = _mixtures(form, size, start, any(p.is_cut for p in left.values()))
        options = [(mixtures[number],) if number in mixtures else _allowed(equation, size, kinds, roles[axis])
                   for number, equation in enumerate(forms)]
        chosen = []
        for equation, ways in zip(forms, options, strict=True):
            chosen.append(_cheapest(equation, ways, lies))
            if equation.op not in REQUESTS:
                lies.update((v.name, p) for v, p in zip(equation.results, chosen[-1].results, strict=True))
        _narrow(form, options, chosen, lies, left)
        found[axis] = AxisAssignment(tuple(chosen), start, left)
        forms = [after(equation, strategy, size) for equation, strategy in zip(forms, chosen, strict=True)]
    return found


def _mixtures(function: Function, size: int, lies: Mapping[str, Placement], rows: bool) -> dict[int, Strategy]:
    """Mixtures whose experts' parameters lie at the experts' ranks send rows there, as training does.

    Where the ranks divide ``rows``, each of them sorts its own.
    """
    if not any(place.kind == "O" for place in lies.values()):
        return mixture_strategies(function, size, TOKENS) if rows else {}
    whole = {item.path for item in function.parameters if lies.get(item.path, REPLICATED).kind != "O"}
    found, held = owned_experts(function, mixture_strategies(function, size, EXPERTS), size, whole)
    if any(held.get(path) != place for path, place in lies.items() if place.kind == "O"):
        raise InternalError(f"{function.name} needs experts' parameters elsewhere than training has them")
    return found


def _allowed(equation: Equation, size: int, kinds: Kinds, role: Role) -> tuple[Strategy, ...]:
    """The strategies that share no work, or along what the axis is there for."""
    return tuple(s for s in strategies(equation, size)
                 if s.letter is None or kinds.of_letter(equation, s.letter) in role.allow)


def _narrow(function: Function, options: Sequence[tuple[Strategy, ...]], chosen: list[Strategy],
            lies: dict[str, Placement], left: Mapping[str, Placement]) -> None:
    """What was made whole where nothing was cut yet, and is read in one way in parts only, is made in those parts."""
    wanted: dict[str, set[Placement]] = {}
    for output in function.outputs:
        wanted.setdefault(output.var.name, set()).add(left.get(output.name, REPLICATED))
    for number in reversed(range(len(chosen))):
        equation = function.equations[number]
        if equation.op not in REQUESTS and chosen[number].name in ("R", "R*"):
            reads = [wanted.get(v.name, set()) for v in equation.results]
            parts = [s for s in options[number]
                     if all(read == {made} and made.is_cut for read, made in zip(reads, s.results, strict=True))]
            if parts:
                chosen[number] = _least(equation, parts, lies)
                lies.update((v.name, p) for v, p in zip(equation.results, chosen[number].results, strict=True))
        operands = chosen[number].operands or tuple(lies[v.name] for v in equation.operands)
        for var, lie in zip(equation.operands, operands, strict=True):
            wanted.setdefault(var.name, set()).add(lie)


def _cheapest(equation: Equation, options: Sequence[Strategy], lies: Mapping[str, Placement]) -> Strategy:
    if equation.op in REQUESTS or len(options) == 1:
        return options[0]
    if all(lies[v.name].kind in ("R", "R*") for v in equation.operands):  # nothing to follow yet: R* fits all uses
        return next((s for s in options if s.name == "R*"), options[0])
    return _least(equation, options, lies)


def _least(equation: Equation, options: Sequence[Strategy], lies: Mapping[str, Placement]) -> Strategy:
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
        ahead -= var.type.bytes if have.kind == wanted.kind == "P" else 0.0
    ahead += sum(v.type.bytes for v, made in zip(equation.results, strategy.results, strict=True) if made.kind == "P")
    return ahead, not strategy.cuts, later
