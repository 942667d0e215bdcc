"""Mixtures of experts where rows are not cut into tiles: all rows of all experts, sorted by expert, are one array.

How many rows an expert has is known at run time, but all experts together have as many as there are slots. So what
stands between the experts' products is elementwise work on arrays of fixed size, which fuses as it does everywhere.
What reads an expert's own vector takes a row of a table of all experts' vectors; only products and sums over the rows
of an expert remain ops on ``offsets``, with kernels that find their rows on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from tesserac.diagnostics import InternalError
from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Function, Var
from tesserac.ir.types import DType
from tesserac.ops.attributes import integers


def whole_experts(function: Function) -> Function:
    """The function with ``dispatch``, ``grouped_rows`` and ``grouped_keep`` in primitives, and flat ``grouped_sum``."""
    if not any(equation.op == "route" for equation in function.equations):
        return function
    return _Rewriting(function).run()


@dataclass
class _Rewriting:
    function: Function
    builder: Builder = field(default_factory=Builder)
    experts: dict[Var, Var] = field(default_factory=dict)
    tables: dict[tuple[Var, tuple[int, ...], tuple[Var, ...]], Var] = field(default_factory=dict)

    def run(self) -> Function:
        """See whole_experts."""
        self.builder.reserve(v.name for v in self.function.variables())
        rules = {
            "dispatch": self._dispatch,
            "grouped_rows": self._rows,
            "grouped_keep": self._keep,
        }
        for equation in self.function.equations:
            with self.builder.at(equation.span):
                if equation.op == "grouped_sum":
                    self._sum(equation)
                elif equation.op in rules:
                    self._bind(equation, rules[equation.op](equation))
                else:
                    self.builder.append(equation)
        return Function(self.function.name, self.function.inputs, tuple(self.builder.equations), self.function.outputs)

    def _bind(self, equation: Equation, value: Var) -> None:
        """Gives the value that was made last the name of the equation's result."""
        last = self.builder.equations.pop()
        if last.result != value:
            raise InternalError(f"{value} is not what was made last")
        self.builder.append(Equation(last.op, last.operands, equation.results, last.attrs, last.span))

    # -- rows and who they belong to --------------------------------------------------------------------

    def _dispatch(self, equation: Equation) -> Var:
        """Rows of x by the tokens of their slots, times the slots' gates."""
        b, (x, order, inverse, *gates) = self.builder, equation.operands
        token, choices = order, inverse.type.sizes[1]
        if choices > 1:
            token = b.op("quotient", order, b.constant(choices, order.type), named="token")
        rows = b.op("take", x, token, named=equation.result.name)
        if not gates:
            return rows
        flat = b.op("reshape", gates[0], shape=(gates[0].type.size,))
        gate = b.op("take", flat, order, named="gate")
        return b.op("mul", rows, b.op("broadcast", gate, shape=rows.type.shape, axes=(0,)))

    def _expert(self, offsets: Var, rows: int) -> Var:
        """The expert of every row; the number of experts, which stands for none, where a row has none."""
        if offsets not in self.experts:
            self.experts[offsets] = self.builder.op("grouped_number", offsets, rows=rows, named="expert")
        return self.experts[offsets]

    def _rows(self, equation: Equation) -> Var:
        """Rows of the table of the experts' tensors; its last row is of no expert."""
        offsets, *tensors = equation.operands
        ids = integers(equation.attributes, "experts")
        key = (offsets, ids, tuple(tensors))
        if key not in self.tables:
            flat = [v if v.type.rank == 1 else self.builder.op("reshape", v, shape=(v.type.size,)) for v in tensors]
            self.tables[key] = self.builder.op(
                "grouped_table", *flat, experts=ids, rows=offsets.type.size, named=f"{tensors[0].name}_of_experts"
            )
        expert = self._expert(offsets, equation.result.type.sizes[0])
        rows = self.builder.op("take", self.tables[key], expert, named=equation.result.name)
        shape = equation.result.type.shape
        return rows if rows.type.shape == shape else self.builder.op("reshape", rows, shape=shape)

    def _keep(self, equation: Equation) -> Var:
        """Selected, never multiplied: what the rows of others hold reaches nothing."""
        b, (x, offsets) = self.builder, equation.operands
        expert = self._expert(offsets, x.type.sizes[0])
        kept: Var | None = None
        for first, end in _runs(integers(equation.attributes, "experts")):
            bounds = (b.constant(float(n), expert.type) for n in (first, end))
            low, high = (b.op(op, expert, bound) for op, bound in zip(("ge", "lt"), bounds, strict=True))
            run = b.op("logical_and", low, high)
            kept = run if kept is None else b.op("logical_or", kept, run)
        assert kept is not None
        where = b.op("broadcast", kept, shape=x.type.shape, axes=(0,))
        assert where.type.dtype is DType.BOOL
        return b.op("select", where, x, b.constant(0.0, x.type))

    def _sum(self, equation: Equation) -> None:
        """As sums of rows of vectors."""
        b, (x, offsets) = self.builder, equation.operands
        if x.type.rank == 2:
            b.append(equation)
            return
        flat = b.op("reshape", x, shape=(x.type.sizes[0], prod(x.type.sizes[1:])))
        sums = b.ops("grouped_sum", (flat, offsets), equation.attributes)
        for total, result in zip(sums, equation.results, strict=True):
            b.append(Equation("reshape", (total,), (result,), (("shape", result.type.sizes),), equation.span))


def _runs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as half-open ranges."""
    runs: list[tuple[int, int]] = []
    for number in ids:
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs
