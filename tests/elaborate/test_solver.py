"""Shape unification: it finds what follows, notices every contradiction and invents nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesserac.diagnostics import Span
from tesserac.elaborate.options import parse_shape
from tesserac.elaborate.solver import Contradiction, Solver


def test_sizes_travel_along_equalities_in_any_order() -> None:
    solver = Solver()
    solver.equal("a", "b", "first")
    solver.equal("c", "d", "second")
    solver.equal("b", "c", "third")
    assert solver.size("d") is None
    solver.equal(7, "d", "fourth")
    assert [solver.size(s) for s in "abcd"] == [7, 7, 7, 7]


def test_a_contradiction_names_both_reasons() -> None:
    solver = Solver()
    solver.span = Span.point("m.py", 3, 1)
    solver.equal("a", 4, "rows")
    solver.span = Span.point("m.py", 9, 1)
    solver.equal("b", 5, "columns")
    solver.span = Span.point("m.py", 12, 1)
    with pytest.raises(Contradiction) as caught:
        solver.equal("a", "b", "the operands")
    assert caught.value.message == "the operands: 4 and 5 differ"
    assert [(a.size, a.span.line) for a in caught.value.anchors if a.span is not None] == [(4, 3), (5, 9)]


def test_products_are_solved_for_either_side() -> None:
    solver = Solver()
    total = solver.product(("heads", 4, "width"))
    assert solver.product((4, "width", "heads")) == total
    solver.equal(total, 96, "reshape")
    solver.equal("heads", 3, "heads")
    assert solver.size("width") == 8
    half = solver.quotient("n", 2, "split")
    solver.equal(half, 5, "half")
    assert solver.size("n") == 10


def test_a_product_that_does_not_divide_is_a_contradiction() -> None:
    solver = Solver()
    solver.equal(solver.product(("a", 4)), 10, "reshape")
    with pytest.raises(Contradiction, match="10 is not divisible by 4"):
        solver.size("a")
    with pytest.raises(Contradiction, match="10 is not divisible by 4"):
        solver.quotient(10, 4, "heads")


def test_unknowns_are_the_basic_symbols() -> None:
    solver = Solver()
    assert solver.unknowns(solver.product(("a", 3))) == ["a"]
    assert solver.unknowns(solver.quotient("b", 3, "heads")) == ["b"]
    solver.equal("a", 2, "size")
    assert solver.unknowns(solver.sum(("a", "c"))) == ["c"]


SYMBOLS = "abcdef"
CONSTRAINTS = st.lists(
    st.tuples(
        st.sampled_from(["equal", "product", "sum", "quotient"]),
        st.sampled_from(SYMBOLS),
        st.sampled_from(SYMBOLS),
        st.sampled_from(SYMBOLS),
    ),
    max_size=12,
)


@pytest.mark.property
@given(st.lists(st.integers(1, 6), min_size=6, max_size=6), CONSTRAINTS, st.sets(st.sampled_from(SYMBOLS)))
def test_true_constraints_never_contradict_and_sizes_are_right(
    values: list[int], constraints: list[tuple[str, str, str, str]], given_symbols: set[str]
) -> None:
    truth = dict(zip(SYMBOLS, values, strict=True))
    solver = Solver()
    for kind, x, y, z in constraints:
        if kind == "equal" and truth[x] == truth[y]:
            solver.equal(x, y, "equal")
        elif kind == "product" and truth[x] * truth[y] == truth[z]:
            solver.equal(solver.product((x, y)), z, "product")
        elif kind == "sum" and truth[x] + truth[y] == truth[z]:
            solver.equal(z, solver.sum((x, y)), "sum")
        elif kind == "quotient" and truth[x] == truth[y] * truth[z]:
            solver.equal(solver.quotient(x, truth[y], "quotient"), z, "quotient")
    for symbol in sorted(given_symbols):
        solver.fix(symbol, truth[symbol], None, "a flag")
    solver.propagate()
    for symbol in SYMBOLS:
        size = solver.size(symbol)
        assert size is None or size == truth[symbol]
        assert size is not None or symbol not in given_symbols


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("4x64x32", (4, 64, 32)),
        ("B,S,D", ("B", "S", "D")),
        ("_x50304", ("_", 50304)),
        ("Bxt,4", ("Bxt", 4)),
        ("[8, 2]", (8, 2)),
        ("scalar", ()),
        ("7", (7,)),
        ("4×3", (4, 3)),
        ("4xx3", None),
        ("0x3", None),
        ("-1", None),
        ("a b", None),
        ("9" * 30, None),
    ],
)
def test_shape_texts(text: str, shape: tuple[int | str, ...] | None) -> None:
    assert parse_shape(text) == shape
