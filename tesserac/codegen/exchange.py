"""Ops of a mesh as kernels: exchanges between ranks, and what depends on a rank's coordinate."""

from __future__ import annotations

from tesserac.codegen.formula import origin_of
from tesserac.codegen.records import Argument, ExchangeKernel, Launch, Slot
from tesserac.codegen.region import buffer_of
from tesserac.codegen.stage_values import StageValues
from tesserac.codegen.views import dense
from tesserac.ir.program import Equation, Var
from tesserac.ir.types import TensorType
from tesserac.ops.mesh import COLLECTIVES, in_shares, parts_of, share_of


def lower_exchange(values: StageValues, equation: Equation) -> Launch:
    """One kernel with operands, results and, for exchanges, memory for the dense arrays that ranks pass on."""
    attrs = equation.attributes
    slots, arguments, grids, lying = [], [], [], []
    bucket, run = _bucket(equation), values.buckets.runs.get(equation.results[0])
    for var in (*equation.operands, *equation.results):
        argument, view = buffer_of(values, var)
        slots.append(Slot(var.name, var.type.dtype, var in equation.results or (var == bucket and in_shares(equation))))
        arguments.append(argument)
        if var != bucket:
            grids.append((view.shape, view.normalized().strides))
            if run is not None:
                first, there = run.tensors[var]
                itself = argument.var == var and view.normalized() == dense(view.shape).normalized()
                lying.append((first, there and itself))
    if equation.op in COLLECTIVES and bucket is None:
        dtype = equation.results[0].type.dtype
        name = f"{equation.results[0].name}_work"
        work = run.memory if run is not None else Var(name, TensorType(dtype, (_room(equation),)))
        slots.append(Slot("work" if run is None else "bucket", dtype, True))
        arguments.append(Argument(work))
    dims = tuple(int(attrs[k]) for k in ("dim", "split", "concat", "back") if k in attrs)  # type: ignore[arg-type]
    parts = parts_of(attrs) if equation.op in ("shard_slice", "shard_embed") else 0
    op = equation.op.replace("all_reduce", "reduce_shares") if in_shares(equation) else equation.op
    kernel = ExchangeKernel(tuple(slots), op, str(attrs["axis"]), int(attrs["size"]),  # type: ignore[arg-type]
                            tuple(grids), str(attrs.get("kind", "")), dims, parts, tuple(lying))
    size = float(sum(v.type.bytes for v in (*equation.operands, *equation.results)))
    return Launch(kernel, tuple(arguments), origin_of(values, [equation]), 0.0, size)


def _bucket(equation: Equation) -> Var | None:
    """The memory of an exchange that goes on beside other kernels: dense, so it needs no grid."""
    if equation.op == "all_reduce_begin":
        return equation.result
    return equation.operands[0] if equation.op == "all_reduce_end" else None


def _room(equation: Equation) -> int:
    """Elements of what goes out and what comes in; an all-reduce does both in one place."""
    given = sum(v.type.size for v in equation.operands)
    if equation.op == "reduce_shares":
        size = int(str(equation.attr("size")))
        return (size + 1) * share_of([v.type for v in equation.operands], size)
    return given if equation.op == "all_reduce" else given + equation.result.type.size
