"""Meshes: what a text says, where ranks stand, who talks to whom."""

from __future__ import annotations

import pytest

from tesserac.ir.mesh import Mesh, parse_mesh
from tesserac.ir.program import Entry, Program
from tesserac.ir.text import parse_program, print_program

CHAPTER = Mesh(("tp", "dp"), (2, 4), tuple(range(8)))


def test_groups_are_the_rows_and_columns_of_the_grid() -> None:
    assert CHAPTER.groups("tp") == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert CHAPTER.groups("dp") == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert [CHAPTER.coordinates(r) for r in (0, 3, 4, 7)] == [(0, 0), (0, 3), (1, 0), (1, 3)]
    assert Mesh(("a", "b"), (2, 2), (7, 5, 3, 1)).groups("a") == ((7, 3), (5, 1))


def test_axes_of_size_one_go() -> None:
    mesh = parse_mesh("dp=2,tp=1,sp=2")
    assert isinstance(mesh, Mesh)
    assert mesh.squeezed() == Mesh(("dp", "sp"), (2, 2), (0, 1, 2, 3))
    assert mesh.squeezed().sizes == {"dp": 2, "sp": 2}


@pytest.mark.parametrize(("text", "why"), [
    ("", "'' is no name"), ("tp", "axis tp has no size"), ("tp=", "axis tp has no size"), ("tp=0", "has no devices"),
    ("tp=-2", "'-2' is no size"), ("tp=2,tp=2", "tp is there twice"), ("2=tp", "'2' is no name"),
    ("tp=2,,dp=2", "'' is no name"), ("a=999999,b=99", "more than 1,048,576 devices"),
])
def test_what_is_no_mesh(text: str, why: str) -> None:
    assert why in str(parse_mesh(text))


def test_text_round_trips() -> None:
    for mesh in (CHAPTER, Mesh(("dp",), (2,), (5, 3))):
        program = Program("m.py", (Entry("m", None, None, mesh=mesh),))
        assert parse_program(print_program(program)) == program
