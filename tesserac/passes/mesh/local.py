"""One rank's form of an equation: local sizes in its attributes, and what it does because it knows its coordinate."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.ir.builder import Builder
from tesserac.ir.program import Attr, Equation, Var, sorted_attrs
from tesserac.ops.base import Cuts, spec_of


def local_attrs(equation: Equation, operands: Sequence[tuple[int, ...]], results: Sequence[tuple[int, ...]],
                cuts: Cuts) -> dict[str, Attr]:
    """Attributes that repeat sizes, for operands and results of these local shapes."""
    attrs = equation.attributes
    if "shape" in attrs:
        attrs["shape"] = results[0]
    if equation.op == "slice":
        limits = attrs["limits"]
        assert isinstance(limits, tuple)
        whole = equation.operands[0].type.sizes
        attrs["limits"] = tuple(new if old != new else limit
                                for limit, old, new in zip(limits, whole, operands[0], strict=True))
    if "heads" in attrs:
        heads, groups = attrs["heads"], attrs["kv_heads"]
        assert isinstance(heads, int)
        assert isinstance(groups, int)
        for _, size in cuts.get("h", ()):
            heads, groups = heads // size, groups // size
        for _, size in cuts.get("r", ()):
            heads, groups = heads // size, 1
        attrs.update(heads=heads, kv_heads=groups)
    return attrs


def emit_local(b: Builder, equation: Equation, operands: Sequence[Var], shapes: Sequence[tuple[int, ...]],
               cuts: Cuts) -> tuple[Var, ...]:
    """Adds one rank's equations for an equation over whole tensors: its operands here, the shapes of its results here.

    ``cuts``: the mesh axes that cut each factor of the equation's rule.
    """
    attrs = local_attrs(equation, [v.type.sizes for v in operands], shapes, cuts)
    rule = spec_of(equation.op).mesh
    if rule is not None:
        return rule.local(b, equation, operands, attrs, cuts)
    return b.ops(equation.op, operands, attrs)


def localized(equation: Equation, operands: Sequence[tuple[int, ...]], results: Sequence[tuple[int, ...]],
              cuts: Cuts) -> Equation:
    """The equation as the next mesh axis finds it: operands and results of these shapes, cut by the axes before it."""
    attrs = local_attrs(equation, operands, results, cuts)
    return Equation(
        equation.op,
        tuple(Var(v.name, v.type.with_shape(s)) for v, s in zip(equation.operands, operands, strict=True)),
        tuple(Var(v.name, v.type.with_shape(s)) for v, s in zip(equation.results, results, strict=True)),
        sorted_attrs(attrs),
        equation.span,
    )
