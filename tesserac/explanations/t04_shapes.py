"""Explanations of T04xx: shapes and dtypes."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = ()
