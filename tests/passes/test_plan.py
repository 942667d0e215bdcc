"""The memory plan: buffers alive at the same time share no byte, unless one is written in place of the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesserac.ir.program import Var
from tesserac.ir.types import DType, TensorType
from tesserac.passes.plan import ALIGNMENT, _Interval, pack


def interval(number: int, lines: int, first: int, length: int) -> _Interval:
    return _Interval(Var(f"v{number}", TensorType(DType.F32, (1,))), lines * ALIGNMENT, first, first + length)


def may_share(a: _Interval, b: _Interval) -> bool:
    """Whether the last kernel that reads one is the first that writes the other, and does so element by element."""
    handed_on = (a.last == b.first and b.var in a.merge) or (b.last == a.first and a.var in b.merge)
    return handed_on and a.offset == b.offset and a.size == b.size


@st.composite
def lifetimes(draw: st.DrawFn) -> list[_Interval]:
    rows = draw(
        st.lists(st.tuples(st.sampled_from((2, 2, 3, 4, 5)), st.integers(0, 5), st.integers(0, 3)), max_size=24)
    )
    items = [interval(n, *row) for n, row in enumerate(rows)]
    for item in items:
        item.merge.update(b.var for b in items if b.first == item.last and b is not item and b.size == item.size)
    return items


@pytest.mark.property
@given(lifetimes(), st.integers(0, 2))
def test_living_buffers_are_apart(items: list[_Interval], lines: int) -> None:
    start = lines * ALIGNMENT
    end = pack(items, start)
    assert end == max([start, *(i.offset + i.size for i in items)])
    for n, a in enumerate(items):
        assert a.offset >= start
        for b in items[:n]:
            together = a.first <= b.last and b.first <= a.last
            apart = a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
            assert apart or not together or may_share(a, b), (a, b)


def test_written_in_place_at_the_same_address_only() -> None:
    """Failed once: `x` and the sum written over it lay 448 bytes apart, and rows were lost before they were read."""
    before, after = interval(0, 5, 0, 1), interval(1, 4, 2, 2)
    x, total = interval(2, 2, 1, 1), interval(3, 2, 2, 2)
    x.merge.add(total.var)
    pack([before, after, x, total])
    assert x.offset == before.size
    assert total.offset == x.offset
