"""Einsum letters of ``contract``: reading, writing and renaming specs such as ``bsd,dn->bsn``."""

from __future__ import annotations

import string
from collections.abc import Iterable
from functools import lru_cache

ALPHABET = string.ascii_lowercase + string.ascii_uppercase


@lru_cache(maxsize=4096)
def split_spec(spec: str) -> tuple[str, str, str]:
    """The letters of the left operand, the right operand and the result."""
    operands, _, result = spec.partition("->")
    left, _, right = operands.partition(",")
    return left.strip(), right.strip(), result.strip()


def join_spec(left: Iterable[str], right: Iterable[str], result: Iterable[str]) -> str:
    """The spec text of three lists of letters."""
    return f"{''.join(left)},{''.join(right)}->{''.join(result)}"


@lru_cache(maxsize=4096)
def canonical_spec(spec: str, swapped: bool = False) -> str:
    """The spec with letters renamed in order of appearance (operands exchanged first if ``swapped``)."""
    left, right, result = split_spec(spec)
    if swapped:
        left, right = right, left
    names: dict[str, str] = {}
    for letter in left + right + result:
        names.setdefault(letter, ALPHABET[len(names)])
    return join_spec(*((names[letter] for letter in part) for part in (left, right, result)))
