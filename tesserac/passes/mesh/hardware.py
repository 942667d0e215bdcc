"""Machines that plans are made for: rates of one device, and of the links between devices, from a JSON file.

Every axis of a mesh has the link of its groups: if the devices of any group do not lie in one node, the network
decides. Which node a device lies in follows from its number, so the same axes cost something else where the grid of
devices is another (Shardy's cost model had to learn this).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tesserac.diagnostics import Diagnostics
from tesserac.foreign import parse_json
from tesserac.ir.mesh import Mesh
from tesserac.ir.types import DType

FOLDER = Path(__file__).resolve().parents[2] / "hardware"
DEFAULT = "cpu-local"
_RATES = ("memory", "bandwidth", "launch", "overlap", "bucket")
_KEYS = {"name", "about", "devices_per_node", "flops", "links", *_RATES}


@dataclass(frozen=True, slots=True)
class Link:
    """``latency``: seconds of a collective before bytes count; ``bandwidth``: bytes per second of one device."""

    latency: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Hardware:
    """One kind of machine.

    memory     bytes of a device
    bandwidth  bytes per second of its memory
    flops      operations per second in products, by element type
    launch     seconds that an equation takes however small it is
    overlap    share of a gradient reduction that hides behind the backward pass, 0 to 1
    bucket     bytes of gradients that are reduced together
    """

    name: str
    about: str
    devices_per_node: int
    memory: float
    bandwidth: float
    flops: Mapping[str, float]
    launch: float
    node: Link
    network: Link
    overlap: float
    bucket: float

    def rate(self, dtype: DType) -> float:
        """Operations per second in products of this type; complex ones count operations on reals."""
        real = dtype.real if dtype.is_complex else dtype
        return self.flops.get(str(real), self.flops["f32"])

    def spans_nodes(self, mesh: Mesh, axis: str) -> bool:
        """Whether some group of the axis has devices in different nodes."""
        per_node = self.devices_per_node
        return any(len({device // per_node for device in group}) > 1 for group in mesh.groups(axis))

    def link(self, mesh: Mesh, axis: str) -> Link:
        """The link that collectives along an axis go over."""
        return self.network if self.spans_nodes(mesh, axis) else self.node


def usual(target: str, architectures: Sequence[str] = ()) -> Hardware:
    """The machine that programs of a target are planned for unless another is named; ``architectures``: sm_80, ..."""
    if target == "cpu":
        return load(DEFAULT)
    oldest = min((int(name[3:].rstrip("af")) for name in architectures), default=90)
    return load("h100-ib400" if oldest >= 90 else "a100-ib200")


def names() -> list[str]:
    """The machines that tesserac knows."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


@cache
def load(name: str) -> Hardware:
    """A machine by name, or the JSON file at that path; CompileError T0707 where there is none or it says nonsense."""
    path = FOLDER / f"{name}.json"
    if name not in names():
        path = Path(name)
    found = Diagnostics()
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except OSError:
        found.error("T0707", f"--hw {name} is neither a machine that tesserac knows nor a file that can be read", None,
                    help=[f"known machines: {', '.join(names())}"])
        data = None
    except ValueError as error:
        found.error("T0707", f"{path}: not JSON: {error}", None)
        data = None
    hardware = _checked(data, str(path), found) if data is not None else None
    found.raise_if_errors()
    assert hardware is not None
    return hardware


def _checked(data: object, path: str, found: Diagnostics) -> Hardware | None:
    """The machine, or None after saying which fields are wrong."""
    example = [f"tesserac's own files have all fields: {FOLDER / (DEFAULT + '.json')}"]
    if not isinstance(data, dict) or set(data) != _KEYS:
        odd = sorted(set(data) ^ _KEYS) if isinstance(data, dict) else sorted(_KEYS)
        found.error("T0707", f"{path}: these fields are missing or unknown: {', '.join(map(str, odd))}", None,
                    help=example)
        return None
    links, flops, per_node = data["links"], data["flops"], data["devices_per_node"]
    good = isinstance(flops, dict) and "f32" in flops and all(_positive(v) for v in flops.values())
    good = good and isinstance(per_node, int) and not isinstance(per_node, bool) and per_node > 0
    good = good and isinstance(links, dict) and set(links) == {"node", "network"}
    good = good and all(isinstance(link, dict) and set(link) == {"latency", "bandwidth"} and
                        _positive(link["bandwidth"]) and _number(link["latency"]) for link in links.values())
    good = good and all(_number(data[key]) for key in _RATES) and _positive(data["bandwidth"])
    good = good and _positive(data["memory"]) and _positive(data["bucket"]) and data["overlap"] <= 1
    if not good:
        found.error("T0707", f"{path}: rates are positive numbers, `overlap` lies between 0 and 1, `devices_per_node` "
                    "is an integer, `flops` has at least f32", None, help=example)
        return None
    return Hardware(str(data["name"]), str(data["about"]), per_node, data["memory"], data["bandwidth"], dict(flops),
                    data["launch"], Link(**links["node"]), Link(**links["network"]), data["overlap"], data["bucket"])


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _positive(value: object) -> bool:
    return _number(value) and value != 0
