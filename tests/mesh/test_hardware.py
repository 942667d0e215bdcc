"""Machines: what their files must say, and which link an axis has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tesserac.diagnostics import CompileError
from tesserac.ir.mesh import Mesh, parse_mesh
from tesserac.ir.types import DType
from tesserac.passes.mesh.cost import bucketed_seconds, collective_seconds, wire_bytes
from tesserac.passes.mesh.hardware import FOLDER, Link, load, names


def test_the_machines_that_come_along_can_be_read() -> None:
    assert {"cpu-local", "h100-ib400", "a100-ib200"} <= set(names())
    for name in names():
        hardware = load(name)
        assert hardware.name == name
        assert hardware.network.bandwidth < hardware.node.bandwidth
        assert hardware.rate(DType.F32) > 0
        assert hardware.rate(DType.C64) == hardware.rate(DType.F32)


def test_the_grid_of_devices_decides_the_link() -> None:
    hardware = load("h100-ib400")
    mesh = parse_mesh("dp=2,tp=8")
    assert mesh is not None
    assert hardware.link(mesh, "tp") == hardware.node
    assert hardware.link(mesh, "dp") == hardware.network
    transposed = Mesh(("tp", "dp"), (8, 2), tuple(range(16)))
    assert hardware.spans_nodes(transposed, "tp")
    assert not hardware.spans_nodes(transposed, "dp")


@pytest.mark.parametrize(("change", "message"), [
    ({"bandwidth": 0}, "rates are positive"),
    ({"overlap": 2}, "between 0 and 1"),
    ({"links": {"node": {"latency": 0, "bandwidth": 1}}}, "rates are positive"),
    ({"flops": {"f64": 1.0}}, "at least f32"),
    ({"devices_per_node": 0}, "is an integer"),
    ({"colour": "red"}, "missing or unknown: colour"),
    ({"memory": None}, "rates are positive"),
])
def test_a_file_that_says_nonsense(tmp_path: Path, change: dict[str, object], message: str) -> None:
    data = json.loads((FOLDER / "cpu-local.json").read_text()) | change
    path = tmp_path / "own.json"
    path.write_text(json.dumps(data))
    with pytest.raises(CompileError, match=message) as caught:
        load(str(path))
    assert caught.value.diagnostics[0].code == "T0707"


def test_no_such_machine(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="neither a machine that tesserac knows") as caught:
        load(str(tmp_path / "none.json"))
    assert "h100-ib400" in caught.value.diagnostics[0].help[0]
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(CompileError, match="not JSON"):
        load(str(tmp_path / "broken.json"))


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_wire_bytes_are_those_of_a_ring(ranks: int) -> None:
    """Counted by walking the rings: every step, each rank passes on one of its pieces."""
    whole = 24 * ranks * ranks
    piece = whole // ranks
    scatter = sum(piece for _ in range(ranks - 1))
    assert wire_bytes("reduce_scatter", whole, ranks) == pytest.approx(scatter)
    assert wire_bytes("all_gather", whole, ranks) == pytest.approx(scatter)
    assert wire_bytes("all_reduce", whole, ranks) == pytest.approx(2 * scatter)
    assert wire_bytes("all_to_all", whole, ranks) == pytest.approx(sum(piece // ranks for _ in range(ranks - 1)))


def test_a_gradient_costs_no_more_than_an_all_reduce_of_its_own() -> None:
    hardware, link = load("h100-ib400"), Link(1e-5, 1e11)
    for size in (1e3, 1e6, 1e9):
        assert bucketed_seconds(size, 4, link, hardware) < collective_seconds("all_reduce", size, 4, link)
