"""From a program and an assignment to what one rank executes, and the list of its collectives."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tesserac.diagnostics import Span
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Function, Var
from tesserac.ops.mesh import COLLECTIVES, collective_kind
from tesserac.passes.differentiate import differentiate, expand_derivatives
from tesserac.passes.mesh.buckets import BUCKET_BYTES, bucket_gradients
from tesserac.passes.mesh.overlap import overlapped
from tesserac.passes.mesh.partition import Assignment, Sharded, partition
from tesserac.passes.rename import renamed_equation
from tesserac.passes.simplify import simplify


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective of a rank's program; ``id`` is its place in program order, the same on every rank.

    ``kind``: the op. ``phase``: forward, backward or gradient (buckets of parameters' gradients). ``sent`` and
    ``received``: bytes of the operands and results on one rank. ``name``: of the first result. ``span``: the source.
    """

    id: int
    axis: str
    size: int
    kind: str
    phase: str
    sent: int
    received: int
    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class RankProgram:
    """What every rank runs: ``function`` holds the gradients, ``sharded`` where inputs and outputs lie."""

    sharded: Sharded
    function: Function
    collectives: tuple[Collective, ...]


def rank_program(function: Function, mesh: Mesh, assignment: Assignment,
                 bucket_bytes: int = BUCKET_BYTES) -> RankProgram:
    """Partitions, differentiates, fills buckets and sends them early.

    Without an axis larger than 1 the function stays as it is. The strategies of the assignment belong to the equations
    of ``expand_derivatives(function)``.
    """
    if not mesh.squeezed().axes:
        return RankProgram(partition(function, mesh, {}), function, ())
    sharded = partition(expand_derivatives(function), mesh, assignment)
    local = overlapped(bucket_gradients(simplify(without_marks(differentiate(sharded.function))), bucket_bytes))
    return RankProgram(sharded, local, collectives_of(local, sharded))


def without_marks(function: Function) -> Function:
    """The function without the equations that say how cotangents lie (``vary``, ``unvary``), once there are none."""
    values: dict[str, Var] = {}
    equations = []
    for asked in function.equations:
        equation = renamed_equation(asked, values)
        if equation.op in ("vary", "unvary"):
            values[equation.result.name] = equation.operands[0]
        else:
            equations.append(equation)
    outputs = tuple(replace(o, var=values.get(o.var.name, o.var)) for o in function.outputs)
    return replace(function, equations=tuple(equations), outputs=outputs)


def collectives_of(local: Function, sharded: Sharded) -> tuple[Collective, ...]:
    """The collectives of a rank's program in order. Forward are those that compute a value of the forward program."""
    gradients = {o.var.name for o in local.outputs if o.name.startswith("grad:")}
    for equation in reversed(local.equations):
        reduces = equation.op in ("all_reduce", "all_reduce_begin", "all_reduce_end")
        if reduces and equation.results[0].name in gradients:
            gradients.update(v.name for v in equation.operands)
    forward = {v.name for v in sharded.function.variables()}
    found: list[Collective] = []
    for equation in local.equations:
        if equation.op not in COLLECTIVES:
            continue
        names = {v.name for v in equation.results}
        phase = "forward" if names & forward else "gradient" if names & gradients else "backward"
        attrs = equation.attributes
        kind = collective_kind(equation)
        found.append(Collective(len(found), str(attrs["axis"]), int(str(attrs["size"])), kind, phase,
                                sum(v.type.bytes for v in equation.operands),
                                sum(v.type.bytes for v in equation.results), equation.results[0].name, equation.span))
    return tuple(found)
