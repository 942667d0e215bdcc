"""An entry cut for its mesh: what one rank computes, and of what its tensors are parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tesserac.diagnostics import Diagnostic, InternalError
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Entry, Function
from tesserac.passes.differentiate import expand_derivatives
from tesserac.passes.mesh.experts import EXPERTS, mixture_strategies
from tesserac.passes.mesh.graph import OUTPUT
from tesserac.passes.mesh.hardware import Hardware
from tesserac.passes.mesh.owned import owned_experts
from tesserac.passes.mesh.pins import is_pinned, matched, without_effect
from tesserac.passes.mesh.placements import REPLICATED, Placement, Placements, slot_of
from tesserac.passes.mesh.planning import NOTHING, Planned, Settings, plan, with_pins
from tesserac.passes.mesh.program import RankProgram
from tesserac.passes.mesh.rows import rows_over


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

    ``roles``: their partitions. ``planned``: for which machine, or by which lock file. ``warnings``: what to tell.
    """

    mesh: Mesh
    whole: Entry
    local: Entry
    roles: Mapping[str, RankProgram]
    planned: str = ""
    warnings: tuple[Diagnostic, ...] = ()

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
    """Plans the functions of an entry for a machine, those besides the training step around what that decided."""
    assert entry.mesh is not None
    roles = {role: RankProgram(found.sharded, found.joint) for role, found in plans_of(entry, hardware, settings)}
    functions: dict[str, Function] = {role: program.function for role, program in roles.items()}
    local = replace(entry, train=functions.get("train"), infer=functions.get("infer"),
                    validate=functions.get("validate"))
    return Meshed(entry.mesh, entry, local, roles, _decided(hardware, settings),
                  without_effect(entry))


def plans_of(entry: Entry, hardware: Hardware, settings: Settings = NOTHING) -> Iterator[tuple[str, Planned]]:
    """The plans of an entry's functions, made as they are asked for; the training step's comes first.

    It decides where parameters lie, and where the data of ``validate`` does. A lock file holds the first plan.
    """
    assert entry.mesh is not None
    placed: dict[str, Placements] = {}
    for role, function in entry.roles():
        forward = expand_derivatives(function)
        settled = with_pins(settings, entry.pins, forward)
        if placed:  # a pin that says nothing of what training computes has been refused there
            settled = replace(settled, pins=tuple(matched(settled.pins, forward)))
        if role == "train":
            found = plan(forward, entry.mesh, hardware, replace(settled, whole=needed_whole(entry, settings)))
        else:
            found = _beside(role, forward, entry.mesh, hardware, settled, placed)
        for item in function.inputs:
            placed.setdefault(item.path, found.sharded.inputs[item.path])
        yield role, found


def _beside(role: str, function: Function, mesh: Mesh, hardware: Hardware, settings: Settings,
            placed: Mapping[str, Placements]) -> Planned:
    """The plan of a function besides the training step, if there is one, around what lies somewhere already.

    Data and expert axes divide the rows of what ``infer`` reads and writes, all others leave them whole, but for pins.
    """
    kept = {i.path: placed[i.path] for i in function.inputs if i.path in placed and (i.is_parameter or role != "infer")}
    shared = [axis for axis in mesh.axes if role == "infer" and settings.role(axis).name in ("data", "expert")]
    rows, outputs = rows_over(function, mesh, shared)
    whole = tuple(REPLICATED for _ in mesh.axes)
    fixed: dict[str, tuple[Placement | None, ...]] = {OUTPUT + o.name: outputs.get(o.name, whole)
                                                      for o in function.outputs}
    owned = {path for path, lies in kept.items() if any(place.kind == "O" for place in lies)}
    for item in function.inputs:
        if item.path in kept:  # the experts of a rank are found as training finds them
            fixed[item.var.name] = tuple(None if place.kind == "O" else place for place in kept[item.path])
        elif not item.is_parameter and not is_pinned(settings.pins, item):
            fixed[item.var.name] = rows.get(item.path, whole)
    if placed:
        roles = {**settings.roles, **{axis: settings.role(axis).at_will() for axis in mesh.axes}}
        settings = replace(settings, roles=roles, lock=None)
    found = plan(function, mesh, hardware, replace(settings, fixed=fixed))
    if any(found.sharded.inputs[path] != kept[path] for path in owned):
        raise InternalError(f"{function.name} needs experts' parameters elsewhere than training has them")
    return found


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
