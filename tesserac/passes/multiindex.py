"""Multi-indices: how often a value is differentiated along each of finitely many directions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import factorial, prod

Index = tuple[int, ...]
"""One count per direction."""


def unit(direction: int, count: int) -> Index:
    """Once along one of ``count`` directions."""
    return tuple(int(i == direction) for i in range(count))


def plus(a: Index, b: Index) -> Index:
    """Both derivatives, one after the other."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


def minus(a: Index, b: Index) -> Index:
    """What is left of ``a`` after ``b``, which must lie below it."""
    return tuple(x - y for x, y in zip(a, b, strict=True))


def within(a: Index, b: Index) -> bool:
    """Whether ``a`` lies below ``b`` in every direction."""
    return all(x <= y for x, y in zip(a, b, strict=True))


def below(a: Index) -> Iterator[Index]:
    """Every index that lies below ``a``, zero and ``a`` included, by order and then by the first directions."""
    return iter(graded(product(*(range(n + 1) for n in a))))


def spread(a: Index, numbers: Sequence[int], count: int) -> Index:
    """An index over some of ``count`` directions, whose numbers are given, as one over all of them."""
    found = [0] * count
    for n, number in zip(a, numbers, strict=True):
        found[number] += n
    return tuple(found)


def graded(indices: Iterable[Index]) -> list[Index]:
    """By total order; within an order the earlier directions come first."""
    return sorted(indices, key=lambda a: (sum(a), tuple(-n for n in a)))


def closure(indices: Iterable[Index]) -> set[Index]:
    """Everything below any of the indices."""
    found: set[Index] = set()
    for a in indices:
        if a not in found:
            found.update(product(*(range(n + 1) for n in a)))
    return found


def factorials(a: Index) -> int:
    """a! = the product of the factorials of the counts: derivative = a! times normalised coefficient."""
    return prod(factorial(n) for n in a)
