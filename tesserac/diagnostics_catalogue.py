"""The catalogue of diagnostic codes: every code that a diagnostic may carry, with its explanation."""

from __future__ import annotations

from tesserac.explanations import (
    Explanation,
    t01_syntax,
    t02_names,
    t03_modules,
    t04_shapes,
    t05_ops,
    t06_autodiff,
    t07_mesh,
    t08_codegen,
    t09_data,
)

__all__ = ["CATALOGUE", "Explanation"]

_MODULES = (
    t01_syntax,
    t02_names,
    t03_modules,
    t04_shapes,
    t05_ops,
    t06_autodiff,
    t07_mesh,
    t08_codegen,
    t09_data,
)


def _collect() -> dict[str, Explanation]:
    catalogue: dict[str, Explanation] = {}
    for module in _MODULES:
        for entry in module.EXPLANATIONS:
            if entry.code in catalogue:
                raise ValueError(f"diagnostic code {entry.code} is explained twice")
            catalogue[entry.code] = entry
    return dict(sorted(catalogue.items()))


CATALOGUE: dict[str, Explanation] = _collect()
"""Explanation of every code, sorted by code."""
