"""Writes docs/errors.md from the catalogue of diagnostics: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

from tesserac.diagnostics_catalogue import CATALOGUE, Explanation

PAGE = Path(__file__).resolve().parent / "errors.md"

_HEAD = """# Errors

Every message of the compiler and of the programs it emits carries one of these codes. `tesserac explain CODE` prints
the entry in a terminal. This page is generated from the catalogue by `make docs`.
"""

_FAMILIES = {
    "T01": "Syntax",
    "T02": "Names and compile-time values",
    "T03": "Modules, entries and parameters",
    "T04": "Shapes and dtypes",
    "T05": "Operators",
    "T06": "Derivatives",
    "T07": "Meshes",
    "T08": "Code generation and toolchain",
    "T09": "Data, weights and the emitted program",
}


def entry(explanation: Explanation) -> str:
    """One code: its title, cause, example and fix. A fence longer than any in the example keeps it verbatim."""
    parts = [f"### {explanation.code}: {explanation.title}", explanation.cause]
    if explanation.example:
        fence = "```"
        while fence in explanation.example:
            fence += "`"
        parts.append(f"{fence}text\n{explanation.example.rstrip()}\n{fence}")
    parts.append(explanation.fix)
    return "\n\n".join(parts) + "\n"


def page() -> str:
    """The whole page, codes in order, one section per family."""
    parts = [_HEAD]
    for prefix, title in _FAMILIES.items():
        codes = [CATALOGUE[code] for code in sorted(CATALOGUE) if code.startswith(prefix)]
        if codes:
            parts.append(f"## {title}\n")
            parts += map(entry, codes)
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE.name}: {len(CATALOGUE)} codes\n")
    PAGE.write_text(page(), encoding="utf-8")
