"""Transposition of linear equations: from cotangents of their results to cotangents of what they are linear in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tesserac.diagnostics import InternalError
from tesserac.ir.builder import Builder
from tesserac.ir.program import Var
from tesserac.ops.base import spec_of
from tesserac.passes.linearize import Linear


class Cotangents:
    """Cotangents by the name of the value they belong to; further contributions are added to the first."""

    def __init__(self, b: Builder, seeds: Iterable[tuple[str, Var]] = ()) -> None:
        self._builder = b
        self._sums: dict[str, Var] = dict(seeds)
        self._parts: dict[str, list[tuple[Var, str]]] = {}
        self._partial: dict[str, list[Var]] = {}

    def get(self, name: str) -> Var | None:
        """The sum so far; None stands for zero."""
        return self._sums.get(name)

    def add(self, name: str, cotangent: Var, origin: str = "") -> None:
        """Adds a contribution that came through the value called ``origin``."""
        self._parts.setdefault(name, []).append((cotangent, origin))
        known = self._sums.get(name)
        if known is None:
            self._sums[name] = cotangent
            return
        self._sums[name] = self._builder.op("add", known, cotangent)
        self._partial.setdefault(name, []).append(self._sums[name])

    def readable_names(self, known: Mapping[str, str] | None = None) -> dict[str, str]:
        """Proposed names: the cotangent of h is d_h, a contribution to it through q is d_h_from_q.

        ``known``: what values will be called that have a name proposed already.
        """
        names: dict[str, str] = {}
        called = known or {}
        for key, parts in self._parts.items():
            name = called.get(key, key)
            names.setdefault(self._sums[key].name, f"d_{name}")
            for var in self._partial.get(key, ()):
                names.setdefault(var.name, f"d_{name}_part")
            for var, origin in parts:
                names.setdefault(var.name, f"d_{name}_from_{called.get(origin, origin)}")
        return names


def transpose(b: Builder, linear: Linear, cotangents: Sequence[Var | None]) -> tuple[Var | None, ...]:
    """Cotangents of the inputs of a linear piece, from those of its outputs; their equations are added.

    An input that stands at several positions gets its whole cotangent at the first and None at the others.
    """
    sums = Cotangents(b)
    for output, ct in zip(linear.outputs, cotangents, strict=True):
        if output is not None and ct is not None:
            sums.add(output.name, ct)
    tangents = {v.name for v in linear.inputs if v is not None}
    for equation in linear.equations:
        tangents.update(v.name for v in equation.results)
    for equation in reversed(linear.equations):
        given = [sums.get(v.name) for v in equation.results]
        if all(ct is None for ct in given):
            continue
        rule = spec_of(equation.op).transpose
        if rule is None:
            raise InternalError(f"a jvp rule emitted {equation.op} on a tangent, but it has no transpose rule")
        flags = [v.name in tangents for v in equation.operands]
        results = rule(b, equation, given, flags)
        for operand, flag, ct in zip(equation.operands, flags, results, strict=True):
            if flag and ct is not None:
                sums.add(operand.name, ct)
    found: list[Var | None] = []
    seen: set[str] = set()
    for tangent in linear.inputs:
        fresh = tangent is not None and tangent.name not in seen
        found.append(sums.get(tangent.name) if tangent is not None and fresh else None)
        if tangent is not None:
            seen.add(tangent.name)
    return tuple(found)
