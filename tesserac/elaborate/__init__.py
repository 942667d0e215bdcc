"""Elaboration: from the syntax tree to typed programs.

Statements are executed at compile time: compile-time values are computed, loops unroll, functions are inlined, and
tensor operations become equations of the IR. Shapes may hold symbols until the end, when unification must have settled
each.
"""

from __future__ import annotations

from tesserac.diagnostics import Diagnostics
from tesserac.elaborate.options import Options
from tesserac.ir.program import Program
from tesserac.parser import syntax

__all__ = ["Options", "elaborate"]


def elaborate(unit: syntax.Unit, options: Options, diagnostics: Diagnostics) -> Program | None:
    """The program of a unit; None when errors were recorded in ``diagnostics``."""
    import tesserac.ops  # noqa: F401  (registers the ops that equations refer to)
    from tesserac.elaborate.driver import elaborate_unit

    return elaborate_unit(unit, options, diagnostics)
