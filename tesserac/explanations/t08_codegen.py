"""Explanations of T08xx: code generation and the toolchain."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = ()
