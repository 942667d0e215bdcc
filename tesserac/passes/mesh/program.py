"""From a program and an assignment to what one rank executes, and the list of its collectives."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tesserac.diagnostics import Span
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.mesh import COLLECTIVES, collective_kind, share_of
from tesserac.passes.differentiate import differentiate, expand_derivatives
from tesserac.passes.mesh.buckets import BUCKET_BYTES, bucket_gradients
from tesserac.passes.mesh.overlap import overlapped
from tesserac.passes.mesh.partition import Assignment, Sharded, partition
from tesserac.passes.mesh.placements import PARTIAL, slot_of
from tesserac.passes.rename import renamed_equation
from tesserac.passes.simplify import simplify


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective of a rank's program; ``id`` is its place in program order, the same on every rank.

    ``kind``: what it does. ``phase``: forward, backward, gradient (buckets of parameters' gradients) or update
    (parameters that ranks updated in shares). ``sent`` and ``received``: bytes on one rank. ``name``: of the first
    result. ``span``: the source.
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
                 bucket_bytes: int = BUCKET_BYTES, shared: str | None = None) -> RankProgram:
    """Partitions, differentiates, fills buckets and sends them early.

    Without an axis larger than 1 the function stays as it is. The strategies of the assignment belong to the equations
    of ``expand_derivatives(function)``. ``shared``: an axis along which ranks update parameters in shares, see
    ``bucket_gradients``.
    """
    if not mesh.squeezed().axes:
        return RankProgram(partition(function, mesh, {}), function, ())
    sharded = partition(expand_derivatives(function), mesh, assignment)
    local = simplify(without_marks(differentiate(sharded.function)))
    local = overlapped(bucket_gradients(local, bucket_bytes, shared))
    if shared is not None:
        sharded = _with_terms(sharded, local, mesh.squeezed().axes.index(shared))
    return RankProgram(sharded, local, collectives_of(local, sharded))


def _with_terms(sharded: Sharded, local: Function, axis: int) -> Sharded:
    """What lies as terms of a sum along an axis, because ranks have shares of it."""
    made = {v.name for e in local.equations if e.op == "reduce_shares" for v in e.results}
    shared = {o.name for o in local.outputs if o.var.name in made}
    outputs = {}
    for name, lies in sharded.outputs.items():
        path = name.removeprefix("grad:")
        here = f"grad:{slot_of(path, sharded.inputs.get(path, ()))}" in shared
        outputs[name] = (*lies[:axis], PARTIAL, *lies[axis + 1:]) if here else lies
    return replace(sharded, outputs=outputs, placements={n: p for n, p in sharded.placements.items() if n not in made})


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
        reduces = equation.op in ("all_reduce", "all_reduce_begin", "all_reduce_end", "reduce_shares")
        if reduces and equation.results[0].name in gradients:
            gradients.update(v.name for v in equation.operands)
    forward = {v.name for v in sharded.function.variables()}
    found: list[Collective] = []
    for equation in local.equations:
        if equation.op not in COLLECTIVES:
            continue
        names = {v.name for v in equation.results}
        phase = "forward" if names & forward else "gradient" if names & gradients else "backward"
        axis, size = str(equation.attr("axis")), int(str(equation.attr("size")))
        sent, received = (sum(v.type.bytes for v in some) for some in (equation.operands, equation.results))
        kind = collective_kind(equation)
        if equation.op == "reduce_shares":
            received = share_bytes(equation)
            sent = received * size
        found.append(Collective(len(found), axis, size, kind, phase, sent, received, equation.results[0].name,
                                equation.span))
    for equation in (e for e in local.equations if e.op == "reduce_shares"):
        size, share = int(str(equation.attr("size"))), share_bytes(equation)
        found.append(Collective(len(found), str(equation.attr("axis")), size, "all_gather", "update", share,
                                share * size, equation.results[0].name, equation.span))
    return tuple(found)


def share_bytes(equation: Equation) -> int:
    """Bytes of one rank's share of what ``reduce_shares`` sums."""
    types = [v.type for v in equation.operands]
    return share_of(types, int(str(equation.attr("size")))) * types[0].dtype.itemsize
