"""Mixtures of experts on a mesh: every rank sorts the rows of its own tokens.

``route`` numbers the slots of all tokens, so the factor rule says that tokens stay together. But nothing outside a
mixture reads the sorted rows: from ``route`` to ``combine`` a rank can sort its own tokens' slots instead and compute
the same. ``tokens``: the experts' tensors are on all ranks, no row travels. ``experts``: each rank has E/n experts,
and rows travel between ``dispatch`` and ``combine``. What lies so has a placement of its own, T (sorted rows of this
rank's tokens) or E (rows of this rank's experts), from which no conversion leads anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tesserac.ir.builder import Builder
from tesserac.ir.program import Attr, Equation, Function, Var
from tesserac.ops.base import spec_of
from tesserac.passes.mesh.placements import VARYING, Placement, Shard, placed
from tesserac.passes.mesh.strategy import Strategy

TOKENS, EXPERTS = "tokens", "experts"
MODES = (TOKENS, EXPERTS)
GROUPED = {"grouped_contract": 1, "grouped_rows": 0}
"""Ops over the rows of all experts, and where their offsets stand among the operands."""


def mixture_strategies(function: Function, size: int, mode: str) -> dict[int, Strategy]:
    """Strategies, by number of equation, that run all mixtures of a function so on an axis of ``size`` ranks.

    They belong together. A mixture that cannot run so (sizes that do not divide, experts of different structure, rows
    that something else reads) is left out. Types are those that the axes before left.
    """
    found: dict[int, Strategy] = {}
    for number, equation in enumerate(function.equations):
        if equation.op == "route":
            region = _Region(function, number, size, mode)
            found.update(region.strategies if region.complete() else {})
    return found


class _Region:
    def __init__(self, function: Function, at: int, size: int, mode: str) -> None:
        route = function.equations[at]
        self._equations = function.equations
        self._outputs = {o.var.name for o in function.outputs}
        self._form = "E" if mode == EXPERTS else "T"
        self._mode = mode
        self._order, self._offsets, self._inverse = route.results
        experts = route.attr("experts")
        assert isinstance(experts, int)
        self._experts = tuple(range(experts))
        self._even = route.operands[0].type.sizes[0] % size == 0 and (mode == TOKENS or experts % size == 0)
        self._own: dict[str, Placement] = {self._order.name: Placement("T", 0), self._inverse.name: Placement("T", 0),
                                           self._offsets.name: Placement(self._form)}
        self.strategies: dict[int, Strategy] = {}
        self._take(at, (Shard(0),))

    def complete(self) -> bool:
        """Whether the mixture is closed: follows it, and looks at who reads what lies in its own way."""
        if not self._even:
            return False
        for number, equation in enumerate(self._equations):
            if number not in self.strategies and any(v.name in self._own for v in equation.operands):
                lies = self._operands(equation)
                if lies is None:
                    return False
                self._take(number, lies)
        return not self._outputs & self._own.keys() and all(
            number in self.strategies or not any(v.name in self._own for v in equation.operands)
            for number, equation in enumerate(self._equations))

    def _rows(self) -> Placement:
        return Placement(self._form, 0)

    def _take(self, number: int, operands: tuple[Placement, ...]) -> None:
        equation = self._equations[number]
        if equation.op == "route":
            results: tuple[Placement, ...] = tuple(self._own[v.name] for v in equation.results)
        elif equation.op == "combine":
            results = (Shard(0),)
        else:
            results = tuple(self._rows() for _ in equation.results)
            self._own.update((v.name, self._rows()) for v in equation.results)
        self.strategies[number] = Strategy(self._mode, operands, results)

    def _operands(self, equation: Equation) -> tuple[Placement, ...] | None:
        """How the operands lie for an equation that reads something of the mixture's own; None if it cannot."""
        own = [self._own.get(v.name) for v in equation.operands]
        if equation.op in ("dispatch", "combine"):
            first = Shard(0) if equation.op == "dispatch" else self._rows()
            routed = equation.operands[1:3] == (self._order, self._inverse)
            fits = own[0] == (None if equation.op == "dispatch" else first)
            gates = (Shard(0),) * (len(own) - 3)
            return (first, Placement("T", 0), Placement("T", 0), *gates) if routed and fits else None
        if equation.op in GROUPED:
            at = GROUPED[equation.op]
            if equation.operands[at] != self._offsets or equation.attr("experts") != self._experts:
                return None
            return tuple(p if p is not None else placed(v.type, VARYING)
                         for p, v in zip(own, equation.operands, strict=True))
        return self._row_by_row(equation, own)

    def _row_by_row(self, equation: Equation, own: Sequence[Placement | None]) -> tuple[Placement, ...] | None:
        rule = spec_of(equation.op).factors
        if rule is None or any(p is not None and p != self._rows() for p in own):
            return None
        factors = rule([v.type for v in equation.operands], [v.type for v in equation.results], equation.attributes)
        letters = {row[0] for row, p in zip(factors.operands, own, strict=True) if p is not None}
        letter = letters.pop() if len(letters) == 1 else None
        if letter is None or factors.kind(letter) != "pass" or any(row[:1] != (letter,) for row in factors.results):
            return None
        lies = []
        for var, row, p in zip(equation.operands, factors.operands, own, strict=True):
            if p is None and letter in row and not self._repeated(var):
                return None
            lies.append(self._rows() if letter in row else placed(var.type, VARYING))
        return tuple(lies)

    def _repeated(self, var: Var) -> bool:
        """Takes in what repeats one row over all: then a rank repeats it over its own."""
        for number, equation in enumerate(self._equations):
            if equation.results == (var,) and equation.op in ("full", "broadcast"):
                axes = equation.attributes.get("axes", ())
                if isinstance(axes, tuple) and 0 not in axes:
                    self._take(number, tuple(placed(v.type, VARYING) for v in equation.operands))
                    return True
        return False


# ------------------------------------------------------------------------------------------------ one rank's equations


@dataclass(frozen=True, slots=True)
class _Exchange:
    axis: str
    size: int
    offsets: Var


class Mixtures:
    """Adds one rank's equations of mixtures; remembers who sends how many rows where, by the name of the order."""

    def __init__(self, b: Builder) -> None:
        self._b = b
        self._exchanges: dict[str, _Exchange] = {}

    def emit(self, equation: Equation, operands: Sequence[Var], rows: int, modes: Mapping[str, tuple[str, int]],
             attrs: dict[str, Attr], owned: bool = False) -> tuple[Var, ...]:
        """The results here. ``modes``: the axis and its size by mode; ``rows``: how many the first result has here.

        ``owned``: of the operands that are experts' tensors, those of this rank's experts come first (``owned.py``).
        """
        b = self._b
        if equation.op == "route":
            return self._route(equation, operands, modes.get(EXPERTS), attrs)
        if EXPERTS not in modes:
            if "rows" in attrs:
                attrs["rows"] = rows
            return b.ops(equation.op, operands, attrs)
        axis, size = modes[EXPERTS]
        where: dict[str, Attr] = {"axis": axis, "size": size}
        if equation.op == "dispatch":
            offsets = self._exchanges[equation.operands[1].name].offsets
            sorted_rows = b.ops("dispatch", operands, attrs, "sorted")
            return b.ops("exchange_rows", (*sorted_rows, offsets), {**where, "rows": rows})
        if equation.op == "combine":
            exchange = self._exchanges[equation.operands[1].name]
            count = operands[1].type.shape[0]
            returned = b.ops("exchange_rows", (operands[0], exchange.offsets), {**where, "rows": count, "back": True})
            return b.ops("combine", (*returned, *operands[1:]), attrs)
        if equation.op in GROUPED:
            at = GROUPED[equation.op] + 1
            own = operands[at:][: (len(operands) - at) // size] if owned else b.ops("own_experts", operands[at:], where,
                                                                                    "own")
            attrs["experts"] = tuple(range(len(own)))
            if "rows" in attrs:
                attrs["rows"] = rows
            return b.ops(equation.op, (*operands[:at], *own), attrs)
        return b.ops(equation.op, operands, attrs)

    def _route(self, equation: Equation, operands: Sequence[Var], over: tuple[str, int] | None,
               attrs: dict[str, Attr]) -> tuple[Var, ...]:
        b = self._b
        order, offsets, inverse = b.ops("route", operands, attrs)
        if over is None:
            return order, offsets, inverse
        axis, size = over
        row = b.op("reshape", offsets, shape=(1, *offsets.type.sizes))
        everyone = b.op("all_gather", row, axis=axis, size=size, dim=0, named="offsets")
        self._exchanges[equation.results[0].name] = _Exchange(axis, size, everyone)
        return order, b.op("expert_offsets", everyone, axis=axis, size=size, named="received"), inverse
