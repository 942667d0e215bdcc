"""Parameters of experts that one rank alone holds: ``O(c)`` on the axis of the experts, c being their rank there.

Where every rank has some of the experts, what it reads of the others' parameters is nothing. A parameter that only one
expert of one mixture reads lies at that expert's rank, with its gradient and moments, and no other rank knows it. All
ranks run the same program, so the parameters of experts e, e + E/n, e + 2E/n, ... share one input of it, their
``slot``: the path of the first of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from tesserac.ir.program import Equation, Function, Input
from tesserac.passes.mesh.experts import EXPERTS, GROUPED
from tesserac.passes.mesh.placements import Owned, Placement
from tesserac.passes.mesh.strategy import REQUESTS, Strategy


def owned_experts(function: Function, chosen: Mapping[int, Strategy], size: int,
                  whole: Collection[str] = ()) -> tuple[dict[int, Strategy], dict[str, Placement]]:
    """The mixtures' strategies with experts' parameters at their ranks where that can be, and how these lie by path.

    ``chosen``: what ``mixture_strategies`` found on an axis of ``size`` ranks. ``whole``: paths of parameters that have
    to lie on all ranks.
    """
    groups = {number: _tensors(function.equations[number]) for number, strategy in chosen.items()
              if strategy.name == EXPERTS and function.equations[number].op in GROUPED}
    inputs = {item.var.name: item for item in function.parameters if item.path not in whole}
    names = {name for group in groups.values() for name in group if name in inputs}
    names -= _read_elsewhere(function, groups)
    while True:
        fit = {number: group for number, group in groups.items() if names.issuperset(group)
               and len(set(group)) == len(group) and _alike([inputs[name] for name in group], size)}
        kept = _of_one_group(fit)
        if kept == names:
            break
        names = kept
    lies = {inputs[name].path: Owned(e // (len(group) // size), inputs[group[e % (len(group) // size)]].path)
            for group in fit.values() for e, name in enumerate(group)}
    strategies = dict(chosen)
    for number, group in fit.items():
        at = len(function.equations[number].operands) - len(group)
        operands = chosen[number].operands[:at] + tuple(lies[inputs[name].path] for name in group)
        strategies[number] = replace(chosen[number], operands=operands)
    return strategies, lies


def _tensors(equation: Equation) -> tuple[str, ...]:
    """Names of the experts' tensors that an op over the rows of all experts reads."""
    return tuple(v.name for v in equation.operands[GROUPED[equation.op] + 1:])


def _read_elsewhere(function: Function, groups: Mapping[int, tuple[str, ...]]) -> set[str]:
    """What other equations read as well, or outputs are."""
    return {v.name for number, equation in enumerate(function.equations)
            if number not in groups and equation.op not in REQUESTS
            for v in equation.operands} | {o.var.name for o in function.outputs}


def _alike(items: list[Input], size: int) -> bool:
    """Whether the parameters that share a slot have one type, one distribution and one rule of decay."""
    each = len(items) // size
    return all((item.var.type, item.init, item.decay) ==
               (items[e % each].var.type, items[e % each].init, items[e % each].decay) for e, item in enumerate(items))


def _of_one_group(groups: Mapping[int, tuple[str, ...]]) -> set[str]:
    """The names that occur in one group, however often."""
    of: dict[str, set[tuple[str, ...]]] = {}
    for group in groups.values():
        for name in group:
            of.setdefault(name, set()).add(group)
    return {name for name, found in of.items() if len(found) == 1}
