"""Numbers and columns for a reader."""

from __future__ import annotations


def quantity(value: float, unit: str) -> str:
    """``12.6 MFLOP``: three digits and a decimal prefix."""
    for scale, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}"
