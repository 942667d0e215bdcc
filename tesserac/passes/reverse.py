"""The reverse sweep: cotangents of all values between some inputs and some results.

Equations are visited from the last one back. Each is linearised at its operands and the linear piece is transposed at
once, so that the primal values its derivative needs are computed next to their use; an op with a vjp rule is turned
around as one unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tesserac.diagnostics import InternalError
from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Var
from tesserac.ops.base import spec_of
from tesserac.passes.linearize import expanded, linearize, no_rule
from tesserac.passes.transpose import Cotangents, transpose


def forward_active(equations: Sequence[Equation], start: set[str]) -> set[str]:
    """Names of the values that carry a tangent when those in ``start`` do."""
    active = set(start)
    for equation in equations:
        if equation.op != "stop_gradient" and any(v.name in active for v in equation.operands):
            active.update(v.name for v in equation.results if v.type.dtype.is_differentiable)
    return active


def pull_back(b: Builder, equations: Sequence[Equation], sums: Cotangents, active: set[str],
              paths: Mapping[str, str]) -> None:
    """Adds to ``sums`` the cotangents of all active values, from those of the results already in it."""
    for equation in reversed(equations):
        given = [sums.get(v.name) for v in equation.results]
        flags = [v.name in active for v in equation.operands]
        if not any(flags) or all(ct is None for ct in given):
            continue
        with b.at(equation.span, prefix=f"{equation.results[0].name}_"):
            found = _equation_back(b, equation, given, flags, paths)
            for operand, flag, ct in zip(equation.operands, flags, found, strict=True):
                if flag and ct is not None:
                    sums.add(operand.name, ct, equation.results[0].name)


def _equation_back(b: Builder, equation: Equation, given: Sequence[Var | None], flags: Sequence[bool],
                   paths: Mapping[str, str]) -> tuple[Var | None, ...]:
    """Cotangents of one equation's operands."""
    spec = spec_of(equation.op)
    if spec.vjp is not None:
        closed = spec.vjp(b, equation, given)
        if closed is not None:
            return closed
    if spec.jvp is not None:
        return transpose(b, linearize(b, equation, flags), given)
    if spec.expand is None:
        raise no_rule(equation, next((paths[v.name] for v in equation.operands if v.name in paths), None))
    return _expansion_back(b, equation, given, flags, paths)


def _expansion_back(b: Builder, equation: Equation, given: Sequence[Var | None], flags: Sequence[bool],
                    paths: Mapping[str, str]) -> tuple[Var | None, ...]:
    block, results = expanded(b, equation)
    seeds = Cotangents(b)
    for var, ct in zip(results, given, strict=True):
        if ct is not None:
            seeds.add(var.name, ct)
    start = {v.name for v, flag in zip(equation.operands, flags, strict=True) if flag}
    if any(v.name in start for v in results):
        raise InternalError(f"the expansion of {equation.op} returns one of its operands")
    pull_back(b, block, seeds, forward_active(block, start), paths)
    found: list[Var | None] = []
    for var, flag in zip(equation.operands, flags, strict=True):
        found.append(seeds.get(var.name) if flag and var.name in start else None)
        start.discard(var.name)
    return tuple(found)
