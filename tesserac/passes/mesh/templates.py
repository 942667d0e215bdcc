"""Plans that people know by name, as roles: what the same search may do when it is held to one of them.

Their costs stand beside the plan's in every report, and the plan is never dearer than one that its own roles allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tesserac.ir.mesh import Mesh
from tesserac.passes.mesh.roles import Role, role_of

NAMES = ("dp", "megatron", "megatron-sp", "fsdp")


@dataclass(frozen=True, slots=True)
class Template:
    """A name, roles of all axes, and whether the plan's own roles allow everything that these do."""

    name: str
    about: str
    roles: Mapping[str, Role]
    reachable: bool = True


_IDLE = replace(role_of("free"), name="idle", allow=frozenset(), cut_weights=False)
_FEATURES = frozenset({"feature", "expert"})


def templates(mesh: Mesh, roles: Mapping[str, Role]) -> tuple[Template, ...]:
    """Those that this mesh has the axes for.

    dp: batches alone, all other axes idle. megatron: tensor axes cut weights, and activations between products are
    whole (Shoeybi et al. 2019). megatron-sp: between products sequences are cut (Korthikanti et al. 2022). fsdp: data
    axes hold parameters in parts (Rajbhandari et al. 2020, stage 3).
    """
    data = [axis for axis in mesh.axes if roles[axis].name == "data"]
    tensor = [axis for axis in mesh.axes if roles[axis].name == "tensor"]
    found = []
    if data:
        idle = {axis: roles[axis] if axis in data else _IDLE for axis in mesh.axes}
        found.append(Template("dp", "batches are cut, weights are everywhere; other axes idle", idle,
                              reachable=len(data) == len(mesh.axes)))
    if tensor:
        plain = {axis: replace(role, allow=role.allow - {"sequence"}, between="whole") if axis in tensor else role
                 for axis, role in roles.items()}  # the role called megatron, with what the user changed
        found.append(Template("megatron", "weights by columns, then rows; activations between products whole", plain))
        cut = {axis: replace(role, between="cut" if axis in tensor else "") for axis, role in roles.items()}
        found.append(Template("megatron-sp", "the same, with sequences cut between products", cut))
    if data:
        stored = {axis: replace(role, cut_weights=True, stores_weights=True, must_cut_weights=True)
                  if axis in data else role for axis, role in roles.items()}
        found.append(Template("fsdp", "batches are cut, weights lie in parts and are gathered for use", stored,
                              reachable=False))
    return tuple(found)
