"""Explanations of T02xx: names, scopes and compile-time evaluation."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = ()
