"""An entry cut for its mesh: what one rank computes, and of what its tensors are parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Entry, Function
from tesserac.passes.differentiate import expand_derivatives
from tesserac.passes.mesh.experts import EXPERTS, mixture_strategies
from tesserac.passes.mesh.follow import following, rows_over
from tesserac.passes.mesh.hardware import Hardware
from tesserac.passes.mesh.owned import owned_experts
from tesserac.passes.mesh.placements import Placements, slot_of
from tesserac.passes.mesh.planning import NOTHING, Settings, assignment, plan, with_pins
from tesserac.passes.mesh.program import RankProgram, rank_program


@dataclass(frozen=True, slots=True)
class Cut:
    """Of what a tensor is a part: the whole one's sizes and, for every dimension, the mesh axes that cut it as bits.

    ``owner``: the number of an axis and of the rank there that holds it, where only one does.
    """

    sizes: tuple[int, ...]
    axes: tuple[int, ...]
    owner: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Meshed:
    """``whole``: the entry as the source has it; ``local``: the same with the functions that every rank runs.

    ``roles``: their partitions. ``planned``: for which machine, or by which lock file.
    """

    mesh: Mesh
    whole: Entry
    local: Entry
    roles: Mapping[str, RankProgram]
    planned: str = ""

    def cut(self, path: str, role: str | None = None) -> Cut | None:
        """How an input or output of a function (any that has it, for a parameter) is cut; None where it is whole."""
        for name, program in self.roles.items():
            if role not in (None, name):
                continue
            sharded = program.sharded
            types = {i.path: i.var.type for i in sharded.whole.inputs}
            types |= {o.name: o.var.type for o in sharded.whole.outputs}
            lies = sharded.inputs.get(path) or sharded.outputs.get(path)
            if lies is None or path not in types:
                continue
            sizes = types[path].sizes
            bits, owner = [0] * len(sizes), None
            for number, placement in enumerate(lies):
                if placement.is_cut:
                    bits[placement.dim] |= 1 << number
                if placement.kind == "O":
                    owner = (number, placement.dim)
            return Cut(sizes, tuple(bits), owner) if any(bits) or owner is not None else None
        return None

    def slot(self, path: str) -> str:
        """The path of the parameter of one rank's program that stands for a parameter of the whole one."""
        return next((slot_of(path, program.sharded.inputs[path]) for program in self.roles.values()
                     if path in program.sharded.inputs), path)


def on_mesh(entry: Entry, hardware: Hardware, settings: Settings = NOTHING) -> Meshed:
    """Plans the training step for a machine and lets the other functions follow it. Data and expert axes divide rows.
    """
    assert entry.mesh is not None
    mesh = entry.mesh
    roles: dict[str, RankProgram] = {}
    placed: dict[str, Placements] = {}
    for role, function in entry.roles():
        forward = expand_derivatives(function)
        if role == "train":
            pinned = with_pins(settings, entry.pins, forward)
            roles[role] = _planned(forward, mesh, hardware, replace(pinned, whole=needed_whole(entry, settings)))
            placed = dict(roles[role].sharded.inputs)
            continue
        kept = {item.path for item in function.inputs if item.is_parameter or role == "validate"}
        known = {path: lies for path, lies in placed.items() if path in kept}
        axes = {axis: settings.role(axis) for axis in mesh.axes}
        shared = [axis for axis, does in axes.items() if role == "infer" and does.name in ("data", "expert")]
        rows, outputs = rows_over(function, mesh, shared)
        roles[role] = rank_program(forward, mesh, following(forward, mesh, {**rows, **known}, outputs, axes))
        for item in function.parameters:
            placed.setdefault(item.path, roles[role].sharded.inputs[item.path])
    functions: dict[str, Function] = {role: program.function for role, program in roles.items()}
    local = replace(entry, train=functions.get("train"), infer=functions.get("infer"),
                    validate=functions.get("validate"))
    return Meshed(entry.mesh, entry, local, roles, _decided(hardware, settings))


def _decided(hardware: Hardware, settings: Settings) -> str:
    """Whose rates decided, or which file did: without folders, as what is emitted knows none."""
    return f"for {hardware.name}" if settings.lock is None else f"by {Path(settings.lock[0]).name}"


def needed_whole(entry: Entry, settings: Settings = NOTHING) -> frozenset[str]:
    """Paths of experts' parameters that functions besides the training step use in a way that needs all of them."""
    mesh = entry.mesh
    found: set[str] = set()
    axes = [] if mesh is None else [axis for axis in mesh.axes if settings.role(axis).name == "expert"]
    for role, function in entry.roles():
        if role == "train" or mesh is None:
            continue
        forward = expand_derivatives(function)
        for axis in axes:
            chosen = mixture_strategies(forward, mesh.sizes[axis], EXPERTS)
            held = owned_experts(forward, chosen, mesh.sizes[axis])[1]
            found |= {item.path for item in forward.parameters if item.path not in held}
    return frozenset(found)


def _planned(function: Function, mesh: Mesh, hardware: Hardware, settings: Settings) -> RankProgram:
    """The training step of one rank, as the search plans it."""
    found = plan(function, mesh, hardware, settings)
    assigned = assignment(found.found.nodes, found.found.plan, found.function, mesh)
    return rank_program(found.function, mesh, assigned, settings.bucket, settings.shared(mesh))
