"""From a program and an assignment to what one rank executes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Function, Var
from tesserac.ops.mesh import in_shares
from tesserac.passes.differentiate import differentiate, expand_derivatives
from tesserac.passes.mesh.buckets import BUCKET_BYTES, bucket_gradients
from tesserac.passes.mesh.overlap import overlapped
from tesserac.passes.mesh.partition import Assignment, Sharded, partition
from tesserac.passes.mesh.placements import PARTIAL, slot_of
from tesserac.passes.rename import renamed_equation
from tesserac.passes.simplify import simplify


@dataclass(frozen=True, slots=True)
class RankProgram:
    """What every rank runs: ``function`` holds the gradients, ``sharded`` where inputs and outputs lie."""

    sharded: Sharded
    function: Function


def rank_program(function: Function, mesh: Mesh, assignment: Assignment,
                 bucket_bytes: int = BUCKET_BYTES, shared: str | None = None) -> RankProgram:
    """Partitions, differentiates, fills buckets and sends them early.

    Without an axis larger than 1 the function stays as it is. The strategies of the assignment belong to the equations
    of ``expand_derivatives(function)``. ``shared``: an axis along which ranks update parameters in shares, see
    ``bucket_gradients``.
    """
    if not mesh.squeezed().axes:
        return RankProgram(partition(function, mesh, {}), function)
    sharded = partition(expand_derivatives(function), mesh, assignment)
    local = simplify(without_marks(differentiate(sharded.function)))
    local = overlapped(bucket_gradients(local, bucket_bytes, shared))
    if shared is not None:
        sharded = _with_terms(sharded, local, mesh.squeezed().axes.index(shared))
    return RankProgram(sharded, local)


def _with_terms(sharded: Sharded, local: Function, axis: int) -> Sharded:
    """What lies as terms of a sum along an axis, because ranks have shares of it."""
    made = {v.name for e in local.equations if in_shares(e) and e.op != "all_reduce_begin" for v in e.results}
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
