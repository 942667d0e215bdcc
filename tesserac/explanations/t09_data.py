"""Explanations of T09xx: data, weights and run-time options."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = ()
