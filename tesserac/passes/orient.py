"""Orient contractions: every product reads its right operand along the columns of the result.

The microkernel wants B's unit stride on the last letter of the result and A's on a summed or a row letter. Where
an operand is stored otherwise (W in dX = dY W^T), a ``relayout`` is made; for weights it falls outside the tiles and
costs one transpose a step. This is all the packing there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tesserac.codegen.views import VIEW_OPS, View, apply, dense
from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Function, Input, Var
from tesserac.ops.base import spec_of


@dataclass(frozen=True)
class Orient:
    """The pass; it has no options."""

    name: str = "orient"
    reason: str = "one layout per operand of a product, chosen from how the product reads it"

    def run(self, function: Function) -> Function:
        """Inserts relayouts and rewrites the letters of the contractions that use them."""
        return _Orienter(function).run()


def stored_view(var: Var, producer: dict[Var, Equation]) -> View | None:
    """How ``var`` lies in the memory of the value it is a view of (None: only a copy can give it strides)."""
    equation = producer.get(var)
    if equation is None or equation.op not in VIEW_OPS:
        return dense(var.type.sizes)
    inner = stored_view(equation.operands[0], producer)
    return None if inner is None else apply(equation, inner)


class _Orienter:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.producer = {v: e for e in function.equations for v in e.results}
        self.builder = Builder()
        self.done: dict[tuple[Var, tuple[int, ...]], Var] = {}

    def run(self) -> Function:
        self.builder.reserve(v.name for v in self.function.variables())
        for equation in self.function.equations:
            self._rewrite(equation)
        inputs: tuple[Input, ...] = self.function.inputs
        return Function(self.function.name, inputs, tuple(self.builder.equations), self.function.outputs)

    def _rewrite(self, equation: Equation) -> None:
        with self.builder.at(equation.span):
            if spec_of(equation.op).kind == "contract":
                self.builder.append(self._contract(equation))
            elif equation.op == "take" and equation.operands[0].type.rank != 2:
                self._take_rows(equation)
            elif equation.op == "scatter_add" and equation.result.type.rank != 2:
                self._scatter_rows(equation)
            elif equation.op == "reduce_prod":
                self._one_axis_at_a_time(equation)
            else:
                self.builder.append(equation)

    def _reshaped(self, var: Var, shape: tuple[int, ...]) -> Var:
        return self.builder.op("reshape", var, shape=shape, named=var.name)

    def _bind(self, equation: Equation, value: Var) -> None:
        """Gives ``value``, in the result's shape, the result's name."""
        shape = equation.result.type.sizes
        self.builder.append(Equation("reshape", (value,), equation.results, (("shape", shape),), equation.span))

    def _take_rows(self, equation: Equation) -> None:
        """Tables of any rank are read as rows."""
        table, numbers = equation.operands
        rows = table.type.sizes[0]
        table = self._reshaped(table, (rows, table.type.size // rows))
        self._bind(equation, self.builder.op("take", table, numbers, named=equation.result.name))

    def _scatter_rows(self, equation: Equation) -> None:
        numbers, updates = equation.operands
        rows = equation.result.type.sizes[0]
        updates = self._reshaped(updates, (*numbers.type.sizes, equation.result.type.size // rows))
        self._bind(equation, self.builder.op("scatter_add", numbers, updates, named=equation.result.name, rows=rows))

    def _one_axis_at_a_time(self, equation: Equation) -> None:
        axes = equation.attr("axes")
        assert isinstance(axes, tuple)
        value = equation.operands[0]
        for axis in sorted((int(a) for a in axes if isinstance(a, int)), reverse=True)[:-1]:
            value = self.builder.op("reduce_prod", value, axes=(axis,), named=equation.result.name)
        last = min(int(a) for a in axes if isinstance(a, int))
        self.builder.append(Equation("reduce_prod", (value,), equation.results, (("axes", (last,)),), equation.span))

    def _contract(self, equation: Equation) -> Equation:
        spec = str(equation.attr("spec"))
        left, rest = spec.split(",")
        right, out = rest.split("->")
        operands, letters = list(equation.operands), [left, right]
        if out and out[-1] in left and out[-1] not in right:
            operands.reverse()
            letters.reverse()
        summed = [c for c in letters[0] if c in letters[1] and c not in out]
        if out and out[-1] in letters[1]:
            summed = self._as_stored(operands[0], letters[0], summed)
            operands[1], letters[1] = self._with_last(operands[1], letters[1], {out[-1]}, equation, summed)
        rows = {c for c in letters[0] if c in out and c not in letters[1]}
        operands[0], letters[0] = self._with_last(operands[0], letters[0], set(summed) | rows, equation)
        attrs = (("spec", f"{letters[0]},{letters[1]}->{out}"),)
        return Equation(equation.op, tuple(operands), equation.results, attrs, equation.span)

    def _as_stored(self, var: Var, letters: str, some: list[str]) -> list[str]:
        """Some of an operand's letters, that of the largest stride first."""
        view = stored_view(var, self.producer)
        return some if view is None else sorted(some, key=lambda c: -view.strides[letters.index(c)])

    def _with_last(self, var: Var, letters: str, wanted: set[str], equation: Equation,
                   summed: Sequence[str] = ()) -> tuple[Var, str]:
        """The operand with its unit stride on one of the wanted letters.

        A copy has the ``summed`` letters in their order, which is the other operand's: a loop runs over them as one.
        """
        view = stored_view(var, self.producer)
        sizes = var.type.sizes
        if not wanted or all(sizes[letters.index(c)] == 1 for c in wanted):
            return var, letters
        if view is not None and any(
            view.strides[letters.index(c)] == 1 and sizes[letters.index(c)] > 1 for c in wanted
        ):
            return var, letters
        last = max((c for c in wanted), key=lambda c: (sizes[letters.index(c)], letters.index(c)))
        others = iter(summed)
        order = [next(others) if c in summed else c for c in letters if c != last] + [last]
        perm = tuple(letters.index(c) for c in order)
        if (var, perm) not in self.done:
            with self.builder.at(equation.span):
                self.done[var, perm] = self.builder.op("relayout", var, perm=perm, named=f"{var.name}_t")
        return self.done[var, perm], "".join(order)
