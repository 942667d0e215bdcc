"""``inspect --stage ad``: how products of complex values are computed, and why so."""

from __future__ import annotations

from collections.abc import Iterator

from tesserac.codegen.comments import short_name
from tesserac.ir.program import Function
from tesserac.passes.pipeline import optimize
from tesserac.passes.planar import product_forms


def product_lines(function: Function) -> Iterator[str]:
    """One line for every contraction of complex values: its sizes, real products, the reason and the source line."""
    for equation, form in product_forms(optimize(function, stop_after="simplify2")):
        shapes = " by ".join("x".join(map(str, v.type.sizes)) or "scalar" for v in equation.operands)
        count = f"{form.products} real product" + ("s" if form.products != 1 else "")
        place = f"{short_name(equation.span.file)}:{equation.span.line}"
        yield f"complex product {equation.result} ({shapes}): {count}, {form.reason}  # {place}"
