"""Explanations of T02xx: names, scopes and compile-time evaluation."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        "T0201",
        "Foreign import",
        "A source is compiled, never run, so no Python library and no other file can take part in it.",
        "import torch\n",
        "Remove the import. `op`, `graph`, `dist`, `optim`, `autodiff`, `schedule` and `numerics` are all there is; "
        "they are bound even without an import.",
    ),
)
