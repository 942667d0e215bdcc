"""What the program of one rank sends: every collective of its forward and backward pass, counted where it stands.

The counts of a report are taken from the partitioned program after reverse mode and simplification, never from a
formula; formulas are what they are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tesserac.diagnostics import Span
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.base import flops_of, spec_of
from tesserac.ops.mesh import COLLECTIVES, collective_kind
from tesserac.passes.mesh.cost import VIEW, collective_seconds, wire_bytes
from tesserac.passes.mesh.hardware import Hardware
from tesserac.passes.mesh.program import share_bytes

KINDS = {"all_reduce": "AR", "all_gather": "AG", "reduce_scatter": "RS", "all_to_all": "A2A", "exchange_rows": "A2A"}
"""What ops that talk to other ranks do, and short names for it."""
PHASES = ("forward", "backward", "gradient", "update")


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective of a step.

    number   its place in the program's order, which all ranks share
    phase    forward, backward, gradient (the reduction of a parameter's) or update (parameters updated in shares)
    bytes    of the whole tensor on this axis; ``wire``: that one rank sends
    exposed  seconds that the step waits for it, of ``seconds`` that it takes; ``begun``: it is sent while the program
             goes on, and awaited at the end
    value    the name of what it makes
    tensors  how many it takes at once: more than one where gradients share a bucket
    """

    number: int
    axis: str
    kind: str
    phase: str
    bytes: int
    wire: float
    seconds: float
    exposed: float
    value: str
    span: Span
    tensors: int = 1
    begun: bool = False

    @property
    def short(self) -> str:
        """AR, AG, RS or A2A."""
        return KINDS[self.kind]


def collectives(local: Function, joint: Function, mesh: Mesh, hardware: Hardware) -> tuple[Collective, ...]:
    """The collectives of a joint program in program order. ``local``: the same program before reverse mode."""
    forward = {v.name for e in local.equations for v in e.results}
    gradients = _feeding_gradients(joint)
    ends = {e.operands[0]: e for e in joint.equations if e.op == "all_reduce_end"}
    found: list[Collective] = []
    timeline = _Timeline(hardware.overlap)
    for equation in joint.equations:
        if equation.op not in COLLECTIVES:
            if equation.op == "all_reduce_end":
                timeline.end(equation.operands[0])
            else:
                timeline.compute(_equation_seconds(equation, hardware))
            continue
        made = ends.get(equation.result, equation) if equation.op == "all_reduce_begin" else equation
        result, kind = made.results[0], collective_kind(equation)
        phase = "forward" if result.name in forward else "gradient" if result.name in gradients else "backward"
        axis, ranks = str(equation.attr("axis")), _integer(equation, "size")
        whole = _whole_bytes(equation, ranks)
        moves = "all_to_all" if kind == "exchange_rows" else kind
        seconds = collective_seconds(moves, whole, ranks, hardware.link(mesh, axis))
        begun = made is not equation
        timeline.exchange(len(found), seconds, equation.result if begun else None)
        found.append(Collective(len(found), axis, kind, phase, whole, wire_bytes(moves, whole, ranks), seconds, seconds,
                                result.name, equation.span, len(made.results), begun))
    for equation in joint.equations:
        if equation.op == "reduce_shares":
            axis, ranks, whole = str(equation.attr("axis")), _integer(equation, "size"), _whole_bytes(equation, 0)
            seconds = collective_seconds("all_gather", whole, ranks, hardware.link(mesh, axis))
            timeline.exchange(len(found), seconds, None)
            found.append(Collective(len(found), axis, "all_gather", "update", whole,
                                    wire_bytes("all_gather", whole, ranks), seconds, seconds, equation.results[0].name,
                                    equation.span, len(equation.results)))
    return tuple(replace(c, exposed=timeline.exposed[c.number]) for c in found)


class _Timeline:
    """When things happen in a step, in predicted seconds: exchanges one after another, computing beside those begun."""

    def __init__(self, overlap: float) -> None:
        self.exposed: dict[int, float] = {}
        self._overlap, self._clock, self._free = overlap, 0.0, 0.0
        self._begun: dict[Var, tuple[int, float, float]] = {}

    def compute(self, seconds: float) -> None:
        """The program computes."""
        self._clock += seconds

    def exchange(self, number: int, seconds: float, bucket: Var | None) -> None:
        """An exchange, which the program awaits at once unless it begins a bucket."""
        self._free = max(self._free, self._clock) + seconds
        if bucket is not None:
            self._begun[bucket] = (number, seconds, self._free)
            return
        self.exposed[number], self._clock = seconds, self._free

    def end(self, bucket: Var) -> None:
        """The program needs a bucket. Of an exchange, what the machine cannot do beside computing is exposed, too."""
        number, seconds, done = self._begun.pop(bucket)
        waited = max(0.0, done - self._clock)
        self._clock += waited
        self.exposed[number] = min(seconds, max(waited, seconds * (1 - self._overlap)))


def _integer(equation: Equation, name: str) -> int:
    value = equation.attr(name)
    assert isinstance(value, int)
    return value


def _whole_bytes(equation: Equation, ranks: int) -> int:
    """Bytes of the tensor along the collective's axis: what is reduced or scattered, or what a gather makes."""
    if equation.op == "all_gather":
        return sum(v.type.bytes for v in equation.results)
    if equation.op == "exchange_rows":  # room is made for more rows than travel
        return min(equation.operands[0].type.bytes, equation.results[0].type.bytes) * ranks
    if equation.op == "reduce_shares":
        return share_bytes(equation) * _integer(equation, "size")
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


# ------------------------------------------------------------------------------------------------ time and memory


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one rank: parameters, gradients, two moments of Adam, data, and the largest sum of values alive."""

    parameters: int
    gradients: int
    moments: int
    data: int
    values: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.moments + self.data + self.values


def memory_of(joint: Function) -> Memory:
    """Memory of one rank. Values count from the equation that makes them to their last reader, as if none fused.

    Of the moments of parameters that ranks update in shares, a rank has its share.
    """
    gradients = {o.var.name for o in joint.outputs if o.name.startswith("grad:")}
    parameters = sum(i.var.type.bytes for i in joint.parameters)
    trained = sum(o.var.type.bytes for o in joint.outputs if o.name.startswith("grad:"))
    last: dict[str, int] = {}
    for at, equation in enumerate(joint.equations):
        last.update((v.name, at) for v in equation.operands)
    last.update((o.var.name, len(joint.equations)) for o in joint.outputs)
    dying: dict[int, int] = {}
    alive = peak = 0
    for at, equation in enumerate(joint.equations):
        if spec_of(equation.op).kind != "view":
            for var in equation.results:
                if var.name not in gradients:
                    alive += var.type.bytes
                    end = last.get(var.name, at)
                    dying[end] = dying.get(end, 0) + var.type.bytes
        peak = max(peak, alive)
        alive -= dying.pop(at, 0)
    shares = [(share_bytes(e), sum(v.type.bytes for v in e.results)) for e in joint.equations
              if e.op == "reduce_shares"]
    moments = trained + sum(share - whole for share, whole in shares)
    return Memory(parameters, trained, 2 * moments, sum(i.var.type.bytes for i in joint.data), peak)


def compute_seconds(joint: Function, hardware: Hardware) -> float:
    """Predicted time of one rank's equations, as if none fused."""
    return sum(_equation_seconds(e, hardware) for e in joint.equations if e.op not in COLLECTIVES)


def _equation_seconds(equation: Equation, hardware: Hardware) -> float:
    """Operations or bytes, whichever takes longer, and a launch."""
    view = spec_of(equation.op).kind == "view"
    moved = sum(v.type.bytes for v in (*equation.operands, *equation.results)) * (VIEW if view else 1.0)
    rate = hardware.rate(equation.results[0].type.dtype)
    return max(flops_of(equation) / rate, moved / hardware.bandwidth) + (0.0 if view else hardware.launch)


def summed(items: Sequence[Collective]) -> Mapping[tuple[str, str, str], tuple[int, int, float, float, float]]:
    """(count, bytes, wire bytes, seconds, exposed seconds) by axis, phase and kind."""
    found: dict[tuple[str, str, str], tuple[int, int, float, float, float]] = {}
    for item in items:
        key = (item.axis, item.phase, item.kind)
        count, size, wire, seconds, exposed = found.get(key, (0, 0, 0.0, 0.0, 0.0))
        found[key] = (count + 1, size + item.bytes, wire + item.wire, seconds + item.seconds, exposed + item.exposed)
    return found
