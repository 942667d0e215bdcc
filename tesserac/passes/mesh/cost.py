"""What collectives and equations cost: latency plus bytes over a link; operations or bytes of memory on a device.

Ring algorithms (Thakur, Rabenseifner, Gropp, IJHPCA 19, 2005): per rank an all-reduce of B bytes sends 2 (n-1)/n B, a
gather or scatter whose whole has B bytes (n-1)/n B, an exchange (all-to-all) of a tensor of B bytes (n-1)/n B/n.
"""

from __future__ import annotations

from tesserac.ir.program import Equation
from tesserac.ops.base import flops_of, spec_of
from tesserac.passes.mesh.hardware import Hardware, Link

VIEW = 0.01
"""Share of its bytes that a view moves: as a rule its consumers read through it, but a smaller one is better."""


def wire_bytes(kind: str, whole: float, ranks: int) -> float:
    """Bytes that one rank sends. ``whole``: bytes of the tensor before it is cut, or after it is gathered."""
    share = (ranks - 1) / ranks * whole
    if kind == "all_reduce":
        return 2 * share
    return share / ranks if kind == "all_to_all" else share


def collective_seconds(kind: str, whole: float, ranks: int, link: Link) -> float:
    """Predicted time of one collective; an all-reduce is a scatter and a gather, each with its latency."""
    rounds = 2 if kind == "all_reduce" else 1
    return rounds * link.latency + wire_bytes(kind, whole, ranks) / link.bandwidth


def bucketed_seconds(whole: float, ranks: int, link: Link, hardware: Hardware) -> float:
    """Exposed time of reducing a gradient: buckets share the latency, and part of it hides behind the backward pass."""
    latency = 2 * link.latency * min(1.0, whole / hardware.bucket)
    return latency + wire_bytes("all_reduce", whole, ranks) / link.bandwidth * (1 - hardware.overlap)


def equation_work(equation: Equation) -> tuple[float, float]:
    """Operations of an uncut equation, and the share of its operands' and results' bytes that it moves."""
    return flops_of(equation), VIEW if spec_of(equation.op).kind == "view" else 1.0


def passes(equation: Equation, backward: bool) -> int:
    """How often an equation's work is done: once forward, and twice more for two operands' cotangents."""
    if not backward:
        return 1
    return 3 if len(equation.operands) > 1 else 2
