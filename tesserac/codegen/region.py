"""Regions: equations that share one loop nest, turned into kernel nodes as they join.

An elementwise value that nobody keeps in memory is repeated inside every region that reads it; what a region
loads are *leaves*: inputs, results of other kernels and values chosen to be kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tesserac.codegen.records import Argument, Node, Slot, Store
from tesserac.codegen.stage_values import StageValues
from tesserac.codegen.views import View, apply, dense, dense_strides
from tesserac.ir.program import Attr, Equation, Var, sorted_attrs
from tesserac.ops.attributes import integers
from tesserac.ops.base import spec_of
from tesserac.ops.random import whole_strides

Chain = tuple[Equation, ...]


class Incompatible(Exception):
    """The value cannot be computed in this region."""


class NeedsCopy(Exception):
    """No strides express a view: ``var`` has to be kept in memory of its own."""

    def __init__(self, var: Var) -> None:
        super().__init__(var.name)
        self.var = var


def located(values: StageValues, var: Var) -> tuple[Var, View]:
    """The leaf that holds a value, and where the value lies in it; NeedsCopy where no strides express that."""
    leaf, chain = values.through_views(var, ())
    view = values.stored(leaf, chain)
    if isinstance(view, Var):
        raise NeedsCopy(var)
    return leaf, view


def buffer_of(values: StageValues, var: Var) -> tuple[Argument, View]:
    """What a kernel is given to read or write a value, and where the value lies in that."""
    leaf, view = located(values, var)
    return Argument(values.root(leaf), view.offset), view


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a region had come."""

    nodes: int
    slots: int
    stores: int
    memo: dict[tuple[str, Chain, str], int]
    inlined: dict[Var, None]
    reads: dict[Var, None]


@dataclass
class Region:
    """A loop nest over ``domain`` under construction. ``row_values`` says whether rows may be reduced here."""

    values: StageValues
    domain: tuple[int, ...]
    row_values: bool = True
    nodes: list[Node] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    bound: list[tuple[Var, int]] = field(default_factory=list)
    members: dict[Var, tuple[str, int]] = field(default_factory=dict)
    sealed: set[Var] = field(default_factory=set)
    roots: list[Equation] = field(default_factory=list)
    inlined: dict[Var, None] = field(default_factory=dict)
    reads: dict[Var, None] = field(default_factory=dict)
    stores: list[Store] = field(default_factory=list)
    _memo: dict[tuple[str, Chain, str], int] = field(default_factory=dict)
    _slots: dict[tuple[Var, int, bool], int] = field(default_factory=dict)
    _numbers: dict[Node, int] = field(default_factory=dict)
    _counted: int = 0

    # -- shapes ---------------------------------------------------------------------------------------

    @property
    def row_domain(self) -> tuple[int, ...]:
        """The domain without its columns."""
        return self.domain[:-1]

    def extent_of(self, shape: tuple[int, ...]) -> str:
        """full or row, for a value of this shape; Incompatible otherwise."""
        if shape == self.domain or (shape == () and self.domain == (1,)):
            return "full"
        if shape == self.row_domain and self.row_values:
            return "row"
        raise Incompatible(f"shape {shape} in a region over {self.domain}")

    def over_domain(self, view: View, extent: str) -> tuple[int, ...]:
        """Strides of a view over the domain (0 along the columns for a row value)."""
        strides = view.normalized().strides
        if extent == "row":
            return (*strides, 0)
        return strides or (0,)

    # -- checkpoints: a failed attempt leaves no trace --------------------------------------------------

    def mark(self) -> Mark:
        """State to return to when an equation turns out not to fit."""
        return Mark(
            len(self.nodes), len(self.slots), len(self.stores), dict(self._memo), dict(self.inlined), dict(self.reads)
        )

    def rollback(self, mark: Mark) -> None:
        """Forgets everything since the mark."""
        for number in range(mark.nodes, self._counted):
            if self._numbers.get(self.nodes[number]) == number:
                del self._numbers[self.nodes[number]]
        self._counted = min(self._counted, mark.nodes)
        del self.nodes[mark.nodes :]
        del self.slots[mark.slots :]
        del self.bound[mark.slots :]
        self._slots = {key: number for key, number in self._slots.items() if number < mark.slots}
        del self.stores[mark.stores :]
        self._memo, self.inlined, self.reads = mark.memo, mark.inlined, mark.reads

    # -- nodes ----------------------------------------------------------------------------------------

    def node(self, var: Var, extent: str, chain: Chain = ()) -> int:
        """The node that computes ``var`` seen through ``chain`` (its shape is then the domain, or the row domain)."""
        var, chain = self.values.through_views(var, chain)
        key = var.name, chain, extent
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._make(var, extent, chain)
        return found

    def _make(self, var: Var, extent: str, chain: Chain) -> int:
        if not self.values.is_leaf(var):  # so it is no root, neither of this region nor of another
            self.inlined[var] = None
            return self.computed(self.values.producer[var], extent, chain)
        if var in self.sealed:
            raise Incompatible(f"{var} is complete only after the region")
        if var in self.members:
            return self._member(var, extent, chain)
        return self._load(var, extent, chain)

    def computed(self, equation: Equation, extent: str, chain: Chain = ()) -> int:
        """The node of an equation whose value is computed here, seen through ``chain``."""
        var = equation.result
        if equation.op == "full":
            return self._add(
                Node("constant", "row", var.type.dtype, value=self.values.constant(equation), name=var.name)
            )
        if equation.op == "iota" or spec_of(equation.op).kind == "random":
            return self._indexed(equation, extent, chain)
        if equation.op == "take":
            return self._take(equation, extent, chain)
        return self._add(self.op(equation, extent, chain))

    def op(self, equation: Equation, extent: str, chain: Chain = ()) -> Node:
        """The node of an elementwise equation, not added yet; those of its operands are."""
        args = tuple([self.node(v, extent, chain) for v in equation.operands])
        var, own, nodes = equation.results[0], "row", self.nodes
        for number in args:
            if nodes[number].extent == "full":
                own = "full"
        return Node("op", own, var.type.dtype, op=equation.op, args=args, attrs=equation.attrs, name=var.name)

    def _add(self, node: Node) -> int:
        """The number of the first node equal to this one, which is added if there is none."""
        nodes, numbers = self.nodes, self._numbers
        for number in range(self._counted, len(nodes)):
            numbers.setdefault(nodes[number], number)
        number = numbers.setdefault(node, len(nodes))
        if number == len(nodes):
            nodes.append(node)
        self._counted = len(nodes)
        return number

    def _member(self, var: Var, extent: str, chain: Chain) -> int:
        """A value of this region: reachable only where it was computed, or along its own row."""
        held, node = self.members[var]
        shape = var.type.sizes
        view = self._apply(dense(shape), chain)
        want_shape = self.domain if extent == "full" else self.row_domain
        if held == extent:
            expected = dense(shape).normalized()
            fits = view.shape == shape and view.normalized() == expected
        elif held == "row":
            expected = View(want_shape, (*dense_strides(self.row_domain), 0)).normalized()
            fits = view.shape == want_shape and view.normalized() == expected
        else:
            fits = False
        if not fits:
            raise Incompatible(f"{var} is read out of step with the region that computes it")
        return node

    def _apply(self, view: View, chain: Chain) -> View:
        for equation in chain:
            result = apply(equation, view)
            if result is None:
                raise Incompatible(f"{equation.result} has no strides here")
            view = result
        return view

    def stored(self, var: Var, chain: Chain) -> View:
        """Strides of a leaf seen through a chain of views; NeedsCopy if there are none."""
        found = self.values.stored(var, chain)
        if isinstance(found, Var):
            raise NeedsCopy(found)
        return found

    def slot(self, var: Var, offset: int, written: bool = False) -> int:
        """The pointer argument bound to a buffer at an offset."""
        number = self._slots.setdefault((var, offset, written), len(self.slots))
        if number == len(self.slots):
            self.slots.append(Slot(var.name, var.type.dtype, written))
            self.bound.append((var, offset))
        return number

    def _load(self, var: Var, extent: str, chain: Chain) -> int:
        view = self.stored(var, chain)
        self.reads[var] = None
        strides = self.over_domain(view, extent)
        kind = "full" if strides[-1] else "row"
        slot = self.slot(self.values.root(var), view.offset)
        return self._add(Node("load", kind, var.type.dtype, slot=slot, strides=strides, name=var.name))

    def _indexed(self, equation: Equation, extent: str, chain: Chain) -> int:
        var = equation.result
        shape = var.type.sizes
        if chain and equation.op != "iota":
            raise NeedsCopy(var)
        if equation.op == "iota":
            axis = equation.attr("axis")
            start = View(shape, tuple(1 if i == axis else 0 for i in range(len(shape))))
        elif "whole" in equation.attributes:
            start = View(shape, whole_strides(equation.attributes))
        else:
            start = dense(shape)
        view = start
        for step in chain:
            result = apply(step, view)
            if result is None:
                raise NeedsCopy(step.result)
            view = result
        strides = self.over_domain(view, extent)
        kind = "full" if strides[-1] else "row"
        op, begins, attrs = self._begins(equation)
        return self._add(
            Node(
                "iota" if op == "iota" else "random",
                kind,
                var.type.dtype,
                op=op,
                args=begins,
                strides=strides,
                value=float(view.offset),
                row_stride=shape[0] * start.strides[0] if shape else 1,
                attrs=attrs,
                name=var.name,
            )
        )

    def _begins(self, equation: Equation) -> tuple[str, tuple[int, ...], tuple[tuple[str, Attr], ...]]:
        """Of what op a value is a part, where the part begins on some axes, and attributes with those axes' strides."""
        if "whole" not in equation.attributes:
            return equation.op, (), equation.attrs
        steps, dims = whole_strides(equation.attributes), integers(equation.attributes, "dims")
        attrs: dict[str, Attr] = {"stream": equation.attr("stream"), "steps": tuple(steps[axis] for axis in dims)}
        begins = tuple(self._everywhere(var) for var in equation.operands)
        return equation.op.removesuffix("_part"), begins, sorted_attrs(attrs)

    def _everywhere(self, scalar: Var) -> int:
        """The node of a scalar that every element of the domain reads."""
        rows = Var(scalar.name, scalar.type.with_shape(self.row_domain))
        spread = Equation("broadcast", (scalar,), (rows,), sorted_attrs({"shape": self.row_domain, "axes": ()}))
        return self.node(scalar, "row", (spread,))

    def _take(self, equation: Equation, extent: str, chain: Chain) -> int:
        """Rows of a table by number: an indirect load along the columns."""
        table, numbers = equation.operands
        if table.type.rank == 1:
            return self._take_elements(equation, extent, chain)
        if chain:
            raise NeedsCopy(equation.result)
        if table.type.rank != 2 or extent != "full" or not self.row_values:
            raise Incompatible("take needs a table of rows")
        base, table_chain = self.values.through_views(table, ())
        if not self.values.is_leaf(base):
            raise NeedsCopy(table)
        if base in self.members or base in self.sealed:
            raise Incompatible("a table that is made here is not complete yet")
        view = self.stored(base, table_chain)
        if numbers.type.sizes != self.row_domain:
            raise Incompatible("take over other rows")
        number = self.node(numbers, "row")
        self.reads[base] = None
        strides = (*(0 for _ in self.row_domain), view.strides[1])
        return self._add(
            Node(
                "take",
                "full",
                equation.result.type.dtype,
                args=(number,),
                strides=strides,
                slot=self.slot(self.values.root(base), view.offset),
                row_stride=view.strides[0],
                name=equation.result.name,
            )
        )

    def _take_elements(self, equation: Equation, extent: str, chain: Chain) -> int:
        """Elements of a vector by number, one per row."""
        table, numbers = equation.operands
        base, table_chain = self.values.through_views(table, ())
        if not self.values.is_leaf(base):
            raise NeedsCopy(table)
        if base in self.members or base in self.sealed:
            raise Incompatible("a table that is made here is not complete yet")
        number = self.node(numbers, extent, chain)
        if self.nodes[number].extent != "row":
            raise Incompatible("elements by number along the columns")
        view = self.stored(base, table_chain)
        self.reads[base] = None
        return self._add(
            Node(
                "take",
                "row",
                equation.result.type.dtype,
                args=(number,),
                strides=tuple(0 for _ in self.domain),
                slot=self.slot(self.values.root(base), view.offset),
                row_stride=view.strides[0],
                name=equation.result.name,
            )
        )

    def flops(self) -> float:
        """Elementwise work of one pass over the domain."""
        points = 1.0
        for size in self.domain:
            points *= size
        rows = points / self.domain[-1]
        total = 0.0
        for node in self.nodes:
            if node.kind == "op":
                scalar = spec_of(node.op).scalar
                total += (scalar.flops if scalar else 1.0) * (points if node.extent == "full" else rows)
            elif node.kind == "reduce":
                total += points
        return total
