"""Sharding rules, by cutting: operands are sliced along a factor, the op runs on each slice, results are joined."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest

from tesserac.ir.dims import STATIC
from tesserac.ir.program import Attr
from tesserac.ops.base import Array
from tests.ops.support import Case, cases

PIECES = 2
# Elements of a random tensor depend on their global index: its slices are not tensors of their own.
CASES = [c for c in cases() if c.spec.factors and c.spec.kind != "random"]


def cut(array: Array, letters: tuple[str | None, ...], letter: str, piece: int) -> Array:
    """One piece of an array along the axis that carries the factor; the whole array if none does."""
    for axis, found in enumerate(letters):
        if found == letter:
            return np.split(array, PIECES, axis)[piece]
    return array


def local_attrs(case: Case, factors, letter: str) -> dict[str, Attr]:
    """Attributes that hold sizes, for a piece."""
    attrs = dict(case.attrs)
    if "shape" in attrs:
        attrs["shape"] = tuple(n // PIECES if f == letter else n
                               for n, f in zip(attrs["shape"], factors.results[0], strict=True))
    if "limits" in attrs:
        attrs["limits"] = tuple(n // PIECES if f == letter else n
                                for n, f in zip(attrs["limits"], factors.operands[0], strict=True))
    if letter == "h" and "heads" in attrs:
        attrs["heads"], attrs["kv_heads"] = attrs["heads"] // PIECES, attrs["kv_heads"] // PIECES
    return attrs


def sizes_along(case: Case, factors, letter: str) -> list[int]:
    inferred = case.spec.infer(case.types, case.attrs, STATIC)
    shapes = [*(t.sizes for t in case.types), *(t.sizes for t in inferred)]
    return [n for shape, letters in zip(shapes, (*factors.operands, *factors.results), strict=True)
            for n, f in zip(shape, letters, strict=True) if f == letter]


def checks() -> list[tuple[Case, str]]:
    found = []
    for case in CASES:
        inferred = case.spec.infer(case.types, case.attrs, STATIC)
        factors = case.spec.factors(case.types, inferred, case.attrs)
        letters = sorted({f for row in (*factors.operands, *factors.results) for f in row if f is not None})
        for letter in letters:
            whole = all(n % PIECES == 0 for n in sizes_along(case, factors, letter))
            grouped = letter != "h" or "heads" not in case.attrs or case.attrs["kv_heads"] % PIECES == 0
            if factors.kind(letter) != "blocked" and whole and grouped:
                found.append((case, letter))
    return found


CHECKS = checks()
COMBINE = {"sum": np.add, "max": np.maximum, "min": np.minimum}


@pytest.mark.parametrize(("case", "letter"), CHECKS, ids=[f"{c.id}-{x}" for c, x in CHECKS])
def test_pieces_make_up_the_whole(case: Case, letter: str):
    whole = case.spec.evaluate(case.sample.arrays, case.attrs)
    inferred = case.spec.infer(case.types, case.attrs, STATIC)
    factors = case.spec.factors(case.types, inferred, case.attrs)
    attrs = local_attrs(case, factors, letter)
    operands = list(zip(case.sample.arrays, factors.operands, strict=True))
    pieces = [case.spec.evaluate([cut(a, f, letter, i) for a, f in operands], attrs) for i in range(PIECES)]
    for k, (expected, letters) in enumerate(zip(whole, factors.results, strict=True)):
        parts = [piece[k] for piece in pieces]
        if factors.kind(letter) == "pass":
            assert letter in letters, "a factor that passes must be on every result"
            found = np.concatenate(parts, letters.index(letter))
        else:
            assert letter not in letters
            found = reduce(COMBINE[factors.kind(letter)], parts)
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


def test_rules_fit_their_types():
    for case in cases():
        inferred = case.spec.infer(case.types, case.attrs, STATIC)
        factors = case.spec.factors(case.types, inferred, case.attrs)
        assert [len(row) for row in factors.operands] == [t.rank for t in case.types], case.id
        assert [len(row) for row in factors.results] == [t.rank for t in inferred], case.id
        used = {f for row in (*factors.operands, *factors.results) for f in row}
        assert {letter for letter, _ in factors.kinds} <= used, case.id


def test_most_axes_can_be_cut():
    assert len(CHECKS) > 120
    assert {c.spec.name for c, _ in CHECKS} >= {"contract", "attention", "attention_grad", "reshape", "scatter_add",
                                                 "reduce_max", "layernorm", "slice", "take", "broadcast"}
