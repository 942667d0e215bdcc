"""What the command line may tell elaboration, and how its texts are read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tesserac.ir.types import Dim


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of one elaboration; every text is as the user typed it.

    sets          ``--set NAME=value``: replaces a top-level constant
    set_literals  ``--set-literal 4096=64``: rescales an integer literal through the whole unit
    shapes        ``--shape input=4x64x32``: shape of a batch key, module input or parameter
    dims          ``--dim B=8``: size of a named dimension
    mesh          ``--mesh none`` or ``--mesh tp=2,dp=2``: replaces the mesh of the source
    entry         ``--entry LABEL``: elaborate this entry alone
    loss          ``--loss mse:Y,target``: makes a forward entry trainable
    precision     fp32, fp64 or bf16 (mixed: matrix products read bf16, all else is fp32)
    model_toml    text of the sidecar file: tables ``[shapes]`` and ``[dims]``, which flags override
    """

    sets: tuple[tuple[str, str], ...] = ()
    set_literals: tuple[tuple[int, int], ...] = ()
    shapes: tuple[tuple[str, str], ...] = ()
    dims: tuple[tuple[str, int], ...] = ()
    mesh: str | None = None
    entry: str | None = None
    loss: str | None = None
    precision: str = "fp32"
    model_toml: str | None = None


FP32 = ("fp32", "f32", "float32", "")
FP64 = ("fp64", "f64", "float64")
BF16 = ("bf16", "bfloat16", "mixed")
"""Spellings of ``--precision``."""

OPEN = "_"
"""A dimension that a shape text leaves to inference."""

_SEPARATOR = re.compile(r"[x,×]")
_DIM = re.compile(r"[^\W\d]\w*")


def parse_shape(text: str) -> tuple[Dim, ...] | None:
    """``4x64x32``, ``B,S,D``, ``_x50304``; ``scalar`` or nothing is rank 0. None when the text is not a shape."""
    stripped = text.strip().removeprefix("[").removesuffix("]").removeprefix("(").removesuffix(")")
    if stripped in ("", "scalar"):
        return ()
    # A name may contain an x (`Bxt`), so names are separated by commas alone once a comma is there.
    parts = stripped.split(",") if "," in stripped else _SEPARATOR.split(stripped)
    dims: list[Dim] = []
    for part in (p.strip() for p in parts):
        if part.isascii() and part.isdigit() and len(part) <= 15 and int(part) > 0:
            dims.append(int(part))
        elif _DIM.fullmatch(part):
            dims.append(part)
        else:
            return None
    return tuple(dims)
