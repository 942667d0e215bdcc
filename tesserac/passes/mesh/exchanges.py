"""The collectives of one rank's program, counted where they stand: on which axis, of what, in which part of a step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tesserac.ir.program import Equation, Function
from tesserac.ops.attributes import integer
from tesserac.ops.base import spec_of
from tesserac.ops.mesh import COLLECTIVES, collective_kind, in_shares, share_of


@dataclass(frozen=True, slots=True)
class Exchange:
    """One collective of a step.

    number    its place in the program's order, which all ranks share
    ranks     how many take part along the axis
    phase     forward, backward, gradient (the reduction of a parameter's) or update (parameters updated in shares)
    bytes     of the whole tensor on this axis
    equation  what begins it; ``made``: what has its results, another one where the program goes on meanwhile
    """

    number: int
    axis: str
    ranks: int
    kind: str
    phase: str
    bytes: int
    equation: Equation
    made: Equation

    @property
    def begun(self) -> bool:
        """The program goes on while it is under way."""
        return self.made is not self.equation


def exchanges(local: Function, joint: Function) -> tuple[Exchange, ...]:
    """The collectives of a joint program in its order, then the gathers of what ranks updated in shares.

    ``local``: the same program before reverse mode; what makes a value of it is forward.
    """
    forward = {v.name for e in local.equations for v in e.results}
    gradients = _feeding_gradients(joint)
    ends = {e.operands[0]: e for e in joint.equations if e.op == "all_reduce_end"}
    found: list[Exchange] = []

    def note(equation: Equation, made: Equation, kind: str, phase: str) -> None:
        ranks = integer(equation.attributes, "size")
        found.append(Exchange(len(found), str(equation.attr("axis")), ranks, kind, phase,
                              _whole_bytes(equation, ranks), equation, made))

    for equation in (e for e in joint.equations if e.op in COLLECTIVES):
        made = ends.get(equation.result, equation) if equation.op == "all_reduce_begin" else equation
        name = made.results[0].name
        phase = "forward" if name in forward else "gradient" if name in gradients else "backward"
        note(equation, made, collective_kind(equation), phase)
    for equation in (e for e in joint.equations if e.op in COLLECTIVES and in_shares(e)):
        whole = replace(equation, results=ends.get(equation.results[0], equation).results)
        note(whole, whole, "all_gather", "update")
    return tuple(found)


def share_bytes(equation: Equation) -> int:
    """Bytes of one rank's share of what ``reduce_shares`` sums."""
    types = [v.type for v in equation.operands]
    return share_of(types, integer(equation.attributes, "size")) * types[0].dtype.itemsize


def _whole_bytes(equation: Equation, ranks: int) -> int:
    """Bytes of the tensor along the collective's axis: what is reduced or scattered, or what a gather makes."""
    if equation.op == "all_gather":
        return sum(v.type.bytes for v in equation.results)
    if equation.op == "exchange_rows":  # room is made for more rows than travel
        return min(equation.operands[0].type.bytes, equation.results[0].type.bytes) * ranks
    if in_shares(equation):
        return share_bytes(equation) * ranks
    mine = sum(v.type.bytes for v in equation.operands)
    return mine * ranks if equation.op == "all_to_all" else mine


def _feeding_gradients(joint: Function) -> set[str]:
    """Names of values that are a gradient, or become one by views and further collectives alone."""
    found = {o.var.name for o in joint.outputs if o.name.startswith("grad:")}
    movers = (*COLLECTIVES, "relayout")
    for equation in reversed(joint.equations):
        moves = equation.op in movers or spec_of(equation.op).kind in ("view", "rank")
        if moves and any(v.name in found for v in equation.results):
            found.update(v.name for v in equation.operands)
    return found
