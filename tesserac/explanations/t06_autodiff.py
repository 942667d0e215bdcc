"""Explanations of T06xx: differentiation."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = ()
