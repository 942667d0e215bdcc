"""How each kind of root enters a region: as a node whose value is stored, reduced or scattered."""

from __future__ import annotations

from tesserac.codegen.records import Node, Store
from tesserac.codegen.region import Incompatible, Region
from tesserac.codegen.views import VIEW_OPS, reshaped
from tesserac.ir.program import Equation, Var
from tesserac.ops.base import spec_of

REDUCTIONS = {"reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min"}


def add(region: Region, equation: Equation) -> None:
    """Adds the equation's nodes (and stores where they are known at once) or raises Incompatible."""
    if equation.op in REDUCTIONS:
        _reduce(region, equation)
    elif equation.op == "scatter_add":
        _scatter(region, equation)
    elif (
        equation.op == "reshape"
        and region.domain == (equation.operands[0].type.sizes or (1,)) != equation.result.type.sizes
    ):
        _copy_reshape(region, equation)
    elif equation.op in VIEW_OPS:
        extent = region.extent_of(equation.result.type.sizes)
        _keep(region, equation.result, region.node(equation.operands[0], extent, (equation,)), extent)
    elif spec_of(equation.op).kind in ("elementwise", "source", "random", "gather"):
        _pointwise(region, equation)
    else:
        raise Incompatible(equation.op)


def _pointwise(region: Region, equation: Equation) -> None:
    extent = region.extent_of(equation.result.type.sizes)
    if extent == "row" and equation.op != "take" and not _reads_member(region, equation):
        raise Incompatible("a row value of another region")
    var = equation.result
    if equation.operands and spec_of(equation.op).kind == "elementwise":
        region.nodes.append(region.op(equation, extent))
        node = len(region.nodes) - 1
    else:
        node = region.computed(equation, extent)  # a take, constant, iota or random value
    _keep(region, var, node, extent)


def _reads_member(region: Region, equation: Equation) -> bool:
    """Whether an equation reads a value of the region, itself or through inlined values."""
    pending, seen = list(equation.operands), set[str]()
    while pending:
        base, _ = region.values.through_views(pending.pop(), ())
        if base in region.members:
            return True
        if base.name not in seen and not region.values.is_leaf(base):
            pending.extend(region.values.producer[base].operands)
        seen.add(base.name)
    return False


def _keep(region: Region, var: Var, node: int, extent: str) -> None:
    region.members[var] = (extent, node)


def _copy_reshape(region: Region, equation: Equation) -> None:
    """A reshape no strides express: walk the operand, write its elements in order."""
    source = equation.operands[0]
    extent = region.extent_of(source.type.sizes)
    node = region.node(source, extent)
    var = equation.result
    view = reshaped(region.values.storage(var), source.type.sizes)
    if extent != "full" or view is None:
        raise Incompatible("reshape copies need dense rows")
    slot = region.slot(region.values.root(var), view.offset, written=True)
    region.stores.append(Store(node, slot, region.over_domain(view, "full")))
    region.sealed.add(var)


def _reduce(region: Region, equation: Equation) -> None:
    operand, var = equation.operands[0], equation.result
    if not region.row_values or (operand.type.sizes or (1,)) != region.domain:
        raise Incompatible("a reduction over another domain")
    axes = equation.attr("axes")
    assert isinstance(axes, tuple)
    last = len(region.domain) - 1
    node = region.node(operand, "full")
    mode = REDUCTIONS[equation.op]
    across = region.values.is_partial(var)
    if last in axes:
        region.nodes.append(Node("reduce", "row", var.type.dtype, op=mode, args=(node,), name=var.name))
        node = len(region.nodes) - 1
    if axes == (last,):
        region.members[var] = ("row", node)
        return
    region.sealed.add(var)
    view = region.values.storage(var)
    kept = iter(view.normalized().strides)
    strides = tuple(0 if axis in axes else next(kept) for axis in range(len(region.domain)))
    slot = region.slot(region.values.root(var), view.offset, written=True)
    row = view.strides[-2] if len(view.strides) > 1 else 1
    region.stores.append(Store(node, slot, strides, mode, across, row_stride=row, extent=var.type.sizes))


def _scatter(region: Region, equation: Equation) -> None:
    """result[index] += updates, row by row."""
    numbers, updates = equation.operands
    if not region.row_values or updates.type.sizes != region.domain or numbers.type.sizes != region.row_domain:
        raise Incompatible("a scatter over another domain")
    node = region.node(updates, "full")
    index = region.node(numbers, "row")
    var = equation.result
    view = region.values.storage(var)
    if len(view.strides) != 2:
        raise Incompatible("scatter needs a table of rows")
    across = region.values.is_partial(var)
    slot = region.slot(region.values.root(var), view.offset, written=True)
    strides = (*(0 for _ in region.row_domain), view.strides[1])
    region.stores.append(Store(node, slot, strides, "scatter", across, index, view.strides[0], var.type.sizes))
    region.sealed.add(var)
