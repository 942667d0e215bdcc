"""What the program of one rank sends: every collective of its forward and backward pass, counted where it stands.

The counts of a report are taken from the partitioned program after reverse mode and simplification, never from a
formula; formulas are what they are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tesserac.diagnostics import Span
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.base import flops_of, spec_of
from tesserac.ops.mesh import COLLECTIVES, in_shares
from tesserac.passes.mesh.cost import VIEW, collective_seconds, wire_bytes
from tesserac.passes.mesh.exchanges import Exchange, exchanges, share_bytes
from tesserac.passes.mesh.hardware import Hardware

KINDS = {"all_reduce": "AR", "all_gather": "AG", "reduce_scatter": "RS", "all_to_all": "A2A", "exchange_rows": "A2A"}
"""What ops that talk to other ranks do, and short names for it."""


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective of a step, as ``Exchange`` has it, and what it costs.

    wire     bytes that one rank sends, of ``bytes`` of the whole tensor
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
    sent = exchanges(local, joint)
    at = {e.equation.results[0]: e for e in sent if e.phase != "update"}
    times = {e.number: collective_seconds(_moves(e), e.bytes, e.ranks, hardware.link(mesh, e.axis)) for e in sent}
    timeline = _Timeline(hardware.overlap)
    for equation in joint.equations:
        if equation.op == "all_reduce_end":
            timeline.end(equation.operands[0])
        elif equation.op in COLLECTIVES:
            found = at[equation.results[0]]
            timeline.exchange(found.number, times[found.number], equation.result if found.begun else None)
        else:
            timeline.compute(_equation_seconds(equation, hardware))
    for update in (e for e in sent if e.phase == "update"):
        timeline.exchange(update.number, times[update.number], None)
    return tuple(
        Collective(e.number, e.axis, e.kind, e.phase, e.bytes, wire_bytes(_moves(e), e.bytes, e.ranks),
                   times[e.number], timeline.exposed[e.number], e.made.results[0].name, e.equation.span,
                   len(e.made.results), e.begun) for e in sent)


def _moves(exchange: Exchange) -> str:
    """The kind of collective that takes as long: rows go between all ranks as parts of a tensor do."""
    return "all_to_all" if exchange.kind == "exchange_rows" else exchange.kind


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
    shares = [(share_bytes(e), sum(v.type.bytes for v in e.operands)) for e in joint.equations
              if e.op in COLLECTIVES and in_shares(e)]
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
