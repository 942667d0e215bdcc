"""Grouping: one attempt to put a stage's equations into kernels, with a fixed set of values kept in memory.

A root joins the latest region that makes one of its leaves when it fits there (a row region over the same rows, or the
epilogue of a product), else a later region that reads the same memory, else a new one; so groups are always in an
order that can be executed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tesserac.codegen import roots
from tesserac.codegen.contract import check_operands
from tesserac.codegen.records import Node
from tesserac.codegen.region import Incompatible, NeedsCopy, Region
from tesserac.codegen.singles import check_rows, check_stored
from tesserac.codegen.stage_values import StageValues, stands_alone
from tesserac.codegen.transform import prologue, root_transform
from tesserac.codegen.views import VIEW_OPS
from tesserac.ir.program import Equation, Var
from tesserac.ops.base import spec_of

MAX_NODES = 400
"""Values of a region beyond which no further root joins: a kernel that fits a few screens and a register allocator."""


@dataclass
class Group:
    """One kernel to be: a ``rows`` region, a ``contract`` or ``transform`` with its epilogue, or a ``single`` op.

    ``before`` is the prologue of a transform: the region of what it reads, and the nodes of its operands.
    """

    kind: str
    region: Region | None
    lead: Equation
    before: tuple[Region, tuple[int, ...]] | None = None

    @property
    def roots(self) -> list[Equation]:
        """The equations whose results leave registers here, in order."""
        return self.region.roots if self.region is not None else [self.lead]


Needs = tuple[int, int]
"""Leaves that an equation reads, as the set bits of a number, and the last group that makes one of them (-1: none)."""


@dataclass
class Fused:
    """A stage's groups in order of execution."""

    values: StageValues
    groups: list[Group] = field(default_factory=list)
    group_of: dict[Var, int] = field(default_factory=dict)


def group(values: StageValues) -> Fused:
    """The groups of a stage; raises NeedsCopy for a value that has to be kept before another attempt."""
    return _Grouping(values).run()


class _Grouping:
    """One attempt at grouping with a fixed set of kept values."""

    def __init__(self, values: StageValues) -> None:
        self.values = values
        self.fused = Fused(values)
        self._bits: dict[Var, int] = {}
        self._needs: dict[Var, Needs] = {}

    def run(self) -> Fused:
        for equation in self.values.stage.equations:
            if self._is_root(equation):
                self._assign(equation)
            elif equation.op not in VIEW_OPS:
                needs = self._needs_of(equation)
                self._needs.update((var, needs) for var in equation.results)
        return self.fused

    def _is_root(self, equation: Equation) -> bool:
        kind = spec_of(equation.op).kind
        if equation.op in VIEW_OPS or kind in ("elementwise", "source", "gather", "random"):
            return any(v in self.values.kept for v in equation.results)
        return True

    def _assign(self, equation: Equation) -> None:
        kind = spec_of(equation.op).kind
        if kind == "contract":
            check_operands(self.values, equation)
            region = Region(self.values, equation.result.type.sizes or (1,), row_values=False)
            index = self._new(Group("contract", region, equation))
            root_product(region, equation)
            self.fused.group_of[equation.result] = index
            return
        if kind == "spectral":
            before = prologue(self.values, equation)
            region = Region(self.values, equation.results[0].type.sizes, row_values=False)
            root_transform(region, equation)
            self._record(self._new(Group("transform", region, equation, before)), equation)
            return
        if stands_alone(equation):
            if kind in ("fused", "grouped"):
                check_rows(self.values, equation)
            check_stored(self.values, equation)
            index = self._new(Group("single", None, equation))
            for var in equation.results:
                self.fused.group_of[var] = index
            return
        for index in self._candidates(*self._needs_of(equation)):
            if self._join(index, equation):
                return
        region = self._own_region(equation)
        self._record(self._new(Group("rows", region, equation)), equation)

    def _own_region(self, equation: Equation) -> Region:
        """A region for this equation alone; a reshape may have to walk its operand instead of its result."""
        domains = [natural_domain(equation)]
        if equation.op == "reshape":
            domains.append(equation.operands[0].type.sizes or (1,))
        for number, domain in enumerate(domains):
            region = Region(self.values, domain)
            try:
                add_root(region, equation)
                return region
            except NeedsCopy as need:
                if need.var != equation.result or number == len(domains) - 1:
                    raise
            except Incompatible as error:
                if number == len(domains) - 1:
                    raise NeedsCopy(_first_uncopied(self.values, equation)) from error
        raise AssertionError

    def _new(self, group: Group) -> int:
        self.fused.groups.append(group)
        return len(self.fused.groups) - 1

    def _record(self, index: int, equation: Equation) -> None:
        for var in equation.results:
            self.fused.group_of[var] = index

    def _candidates(self, leaves: int, latest: int) -> list[int]:
        groups = self.fused.groups
        order = [latest] if latest >= 0 else []
        made = groups[latest].region if latest >= 0 else None
        touched = made is not None and bool(made.bound or made.members)
        for index in range(latest + 1, len(groups)):
            region = groups[index].region
            if (
                groups[index].kind == "rows"
                and region is not None
                and (not touched or any(leaves & self._bits.get(v, 0) for v, _ in region.bound))
            ):
                order.append(index)
        return order

    def _join(self, index: int, equation: Equation) -> bool:
        region = self.fused.groups[index].region
        if region is None or len(region.nodes) >= MAX_NODES:
            return False
        mark = region.mark()
        try:
            add_root(region, equation)
        except Incompatible:
            region.rollback(mark)
            return False
        self._record(index, equation)
        return True

    def _needs_of(self, equation: Equation) -> Needs:
        """The leaves that an equation reads, itself or through inlined values, which come earlier in the stage."""
        leaves, latest = 0, -1
        for var in equation.operands:
            base, _ = self.values.through_views(var, ())
            if self.values.is_leaf(base):
                bit, made = self._bits.setdefault(base, 1 << len(self._bits)), self.fused.group_of.get(base, -1)
            else:
                bit, made = self._needs[base]
            leaves, latest = leaves | bit, max(latest, made)
        return leaves, latest


def _first_uncopied(values: StageValues, equation: Equation) -> Var:
    """An inlined operand to keep so that an equation that fits no region can be computed after all."""
    for var in equation.operands:
        base, _ = values.through_views(var, ())
        if not values.is_leaf(base):
            return base
        if var not in values.kept and var not in values.imports and values.producer[var].op in VIEW_OPS:
            return var
    raise AssertionError(f"{equation.op} fits no region and has nothing left to keep")


def natural_domain(equation: Equation) -> tuple[int, ...]:
    """The loop nest of an equation on its own."""
    if spec_of(equation.op).kind == "reduce":
        return equation.operands[0].type.sizes or (1,)
    if equation.op == "scatter_add":
        return equation.operands[1].type.sizes
    if equation.op == "take" and equation.operands[0].type.rank == 1:
        return (*equation.result.type.sizes, 1)  # one element per row
    return equation.result.type.sizes or (1,)


def root_product(region: Region, equation: Equation) -> None:
    """The accumulator of a product is the first node of its epilogue."""
    region.nodes.append(Node("sum_of_products", "full", equation.result.type.dtype, name=equation.result.name))
    region.members[equation.result] = ("full", 0)
    region.roots.append(equation)


def add_root(region: Region, equation: Equation) -> None:
    """Computes a root inside a region, or raises Incompatible."""
    roots.add(region, equation)
    region.roots.append(equation)
