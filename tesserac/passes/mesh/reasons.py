"""Why a plan is what it is: what the next best choice of its products would cost, and what forced it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tesserac.passes.mesh.graph import is_product
from tesserac.passes.mesh.nodes import Choice
from tesserac.passes.mesh.planning import Planned

WORK = 3000
"""Nodes that are solved again in all: each reason solves an axis once more."""
MOST = 6
EVERYWHERE = frozenset({"R", "R*"})
"""Strategies by which every rank computes everything."""


def reasons(planned: Planned) -> list[str]:
    """Sentences, the most telling products first."""
    return [*_next_best(planned)]


def _next_best(planned: Planned) -> Iterator[str]:
    """Equal products of equal layers are one class: the class is held to anything but its choice."""
    found, searcher = planned.found, planned.searcher
    classes: dict[tuple[str, str, str], list[int]] = {}
    for axis in planned.mesh.axes:
        for i, node in enumerate(found.nodes):
            if is_product(node) and node.equation is not None:
                kind = f"{node.equation.op} {node.equation.operands[-1].type} at {node.equation.span}"
                classes.setdefault((axis, kind, found.plan[axis][i].name), []).append(i)
    free = {key: _free(searcher.domains.of(key[0], found.plan)[members[0]]) for key, members in classes.items()}
    if classes and not any(free.values()):
        yield "roles leave every product one choice"
    classes = {key: members for key, members in classes.items() if free[key]}
    flops = {key: sum(searcher.problem.flops(i) for i in members) for key, members in classes.items()}
    order = sorted(classes, key=lambda key: (-flops[key], key))
    for axis, _, name in order[: max(1, min(MOST, WORK // len(found.nodes)))]:
        members = classes[axis, _, name]
        node = found.nodes[members[0]]
        assert node.equation is not None
        times = f" (and {len(members) - 1} like it)" if len(members) > 1 else ""
        what = f"{node.equation.span.file}:{node.equation.span.line} {node.key}{times}, {axis}: {_named(name)}"
        names = EVERYWHERE if name in EVERYWHERE else {name}
        other = searcher.without(found, axis, frozenset(members), names)
        if other is None:
            yield f"{what}, the only choice that its role leaves"
            continue
        choice, cost = other
        more = (cost.nanoseconds - found.cost.nanoseconds) / 1e3
        if cost.impossible:
            yield f"{what}; anything else needs a collective that the role may not use"
        else:
            yield f"{what}; next best {_named(choice)}, {more:+.1f} us"


def _free(choices: Sequence[Choice]) -> bool:
    """Whether there is a choice, all ways of computing everything everywhere counting as one."""
    return len({"R" if choice.name in EVERYWHERE else choice.name for choice in choices}) > 1


def _named(name: str) -> str:
    if name.startswith("lin"):
        return "on terms of a sum"
    return "on every rank" if name in EVERYWHERE else f"by {name}"
