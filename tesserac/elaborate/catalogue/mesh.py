"""The namespace dist: meshes, layouts of tensors on them, and what other systems write as collectives.

A program is about whole tensors on any mesh. So nothing here computes: a layout is a pin that plans keep, and a
collective of a whole tensor is the tensor itself, held as the collective would leave it.
"""

from __future__ import annotations

import math

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import SURFACES, surface
from tesserac.elaborate.catalogue.support import dimensions, element_type, initialiser, integer, make_layer
from tesserac.elaborate.layouts import NAMED_DIMS, Replicated, axes_of, pin, pin_like, pin_terms
from tesserac.elaborate.operands import is_tensor, tensor
from tesserac.elaborate.values import Gradients, Slot, UnknownDim, Value, describe
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Var
from tesserac.ir.types import DType

WHOLE_VALUES = "a program is about whole tensors: the compiler finds the collectives"


@surface("Mesh(axes, devices=None, shape=None)", "Devices as a grid with named axes, row-major", family="dist",
         space="dist", aliases=("MeshSpec",))
def mesh(site: Site, axes: Value, devices: Value, shape: Value) -> Value:
    """A device mesh; one at the top level serves the whole unit."""
    if isinstance(axes, dict):
        shape, axes = list(axes.values()), list(axes)
    if not (isinstance(axes, list | tuple) and axes and all(isinstance(a, str) and a.isidentifier() for a in axes)
            and len(set(axes)) == len(axes)):
        raise site.fail("T0702", "axes must be a list of different names",
                        help=('dist.Mesh(axes=["tp", "dp"], devices=[[0, 1], [2, 3]])',))
    names = tuple(str(a) for a in axes)
    sizes, ids = _grid(site, _numbered(devices))
    if isinstance(shape, dict):
        shape = [shape.get(a) for a in names]
    if shape is not None:
        given = list(shape) if isinstance(shape, list | tuple) else [shape]
        numbers = [s for s in given if isinstance(s, int) and not isinstance(s, bool) and s > 0]
        if len(numbers) != len(names) or len(given) != len(names):
            raise site.fail("T0702", "shape must give one size above 0 per axis")
        sizes = tuple(numbers)
    if len(sizes) != len(names):
        raise site.fail("T0702", f"devices are nested {len(sizes)} deep, and {len(names)} axes are named",
                        help=("nest devices as deep as there are axes, or give shape=(...)",))
    total = math.prod(sizes)
    ids = ids or tuple(range(total))
    if total != len(ids) or len(set(ids)) != len(ids):
        raise site.fail("T0702", f"the mesh has {total} places for {len(set(ids))} different devices")
    found = Mesh(names, sizes, ids, site.session.span)
    site.session.meshes.append(found)
    return found


def _numbered(devices: Value) -> Value:
    """Devices that have names (``"GPU0"``) as numbers, in the order in which they are listed."""
    numbers: dict[str, int] = {}

    def walk(value: Value) -> Value:
        if isinstance(value, list | tuple):
            return [walk(item) for item in value]
        return numbers.setdefault(value, len(numbers)) if isinstance(value, str) else value

    return walk(devices)


def _grid(site: Site, devices: Value) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and row-major ids of nested device lists."""
    if devices is None:
        return (), ()
    if isinstance(devices, range):
        devices = list(devices)
    if isinstance(devices, int) and not isinstance(devices, bool) and devices >= 0:
        return (), (devices,)
    if isinstance(devices, list | tuple) and not devices:
        raise site.fail("T0702", "a mesh has at least one device, and this list has none")
    if not isinstance(devices, list | tuple) or len(devices) > 65536:
        raise site.fail("T0702", f"devices must be nested lists of device numbers, not {describe(devices)}")
    rows = [_grid(site, row) for row in devices]
    if len({row[0] for row in rows}) != 1:
        raise site.fail("T0702", "the rows of devices differ in length")
    return (len(rows), *rows[0][0]), tuple(i for row in rows for i in row[1])


# ------------------------------------------------------------------------------------------------ layouts


@surface("P(*axes)", "A layout: for every dimension the mesh axis that cuts it, None for none, '?' for any",
         family="dist", space="dist")
def partition(site: Site, axes: Value) -> Value:
    """The axes."""
    return axes


@surface("ShardSpec(partition=None, mesh_axes=None, replicate=False, reduce=None, block=None)",
         "A layout for dist.shard: dimension partition[i] is cut along mesh axis mesh_axes[i]", family="dist",
         space="dist")
def shard_spec(site: Site, partition: Value, mesh_axes: Value, replicate: Value, reduce: Value, block: Value) -> Value:
    """A dictionary of axes by dimension: numbers, or row, batch, experts for the first and col, channel, head for the
    last. ``reduce="sum"``: terms of a sum are added on the way there, as they always are.
    """
    if block is not None:
        raise site.fail("T0501", "ShardSpec(block=...): parts of a tensor are contiguous; cyclic layouts are not "
                        "supported yet")
    if reduce not in (None, "sum"):
        raise site.fail("T0504", f"ShardSpec(reduce=...) is 'sum', not {describe(reduce)}")
    if partition is None or replicate is True:
        return Replicated()
    if mesh_axes is None:
        raise site.fail("T0504", "ShardSpec(partition=...) needs mesh_axes: which mesh axis cuts which dimension",
                        help=('ShardSpec(partition=("row",), mesh_axes=("dp",))',))
    dims = list(partition) if isinstance(partition, list | tuple) else [partition]
    axes = list(mesh_axes) if isinstance(mesh_axes, list | tuple) else [mesh_axes]
    known = all(d in NAMED_DIMS or (isinstance(d, int) and not isinstance(d, bool)) for d in dims)
    if len(dims) != len(axes) or not known:
        raise site.fail("T0504", f"ShardSpec takes as many dimensions (numbers, {', '.join(NAMED_DIMS)}) as mesh axes",
                        help=('ShardSpec(partition=(0, 2), mesh_axes=("dp", "tp"))',))
    return {NAMED_DIMS.get(str(d), d): axis for d, axis in zip(dims, axes, strict=True)}


@surface("Replicate(mesh_axes=None)", "A layout: whole along these mesh axes, or along all", family="dist",
         space="dist", aliases=("Replicated", "ReplicateSpec"))
def replicated(site: Site, mesh_axes: Value) -> Value:
    """The layout."""
    return Replicated(None if mesh_axes is None else axes_of(site.session, mesh_axes, "dist.Replicate"))


@surface("Block(axis)", "In a layout: the axis that cuts a dimension into contiguous parts", family="dist",
         space="dist")
def block_of(site: Site, axis: Value) -> Value:
    """The axis: all parts are contiguous."""
    return axes_of(site.session, axis, "dist.Block")


@surface("Cyclic(axis)", "Not supported yet: parts of a tensor are contiguous", family="dist", space="dist")
def cyclic(site: Site, axis: Value) -> Value:
    """Refused."""
    raise site.fail("T0501", "dist.Cyclic: parts of a tensor are contiguous; cyclic layouts are not supported yet",
                    help=('P("dp", None), or dist.Block("dp")',))


SURFACES["tessera.ShardSpec"] = SURFACES["dist.ShardSpec"]


@surface("shard(x, spec=None, *, layout=None, mesh_axes=None)",
         "x, pinned: P('dp', None, 'tp') or a ShardSpec says which mesh axis cuts which axis", family="dist",
         space="dist")
def shard(site: Site, x: Value, spec: Value, layout: Value, mesh_axes: Value) -> Value:
    """The value itself; a plan for a mesh keeps it as the layout says. On one device every layout is the same."""
    found = tensor(site.session, x, "the operand of dist.shard")
    given = [value for value in (spec, layout, mesh_axes) if value is not None]
    if len(given) > 1:
        raise site.fail("T0504", "dist.shard takes one layout")
    if given:
        pin(site.session, found, given[0])
    return found


@surface("replicate(x, mesh_axes=None)", "x, held whole by every device, or along these mesh axes alone",
         family="dist", space="dist")
def replicate(site: Site, x: Value, mesh_axes: Value) -> Value:
    """The value itself, which plans then keep whole."""
    found = tensor(site.session, x, "the operand of dist.replicate")
    pin(site.session, found, replicated(site, mesh_axes))
    return found


@surface("partial(x, mesh_axes)", "x, left by what makes it as terms of a sum along mesh axes", family="dist",
         space="dist")
def partial(site: Site, x: Value, mesh_axes: Value) -> Value:
    """The value itself; what is not linear in it, and every output, reads the sum."""
    found = tensor(site.session, x, "the operand of dist.partial")
    pin_terms(site.session, found, axes_of(site.session, mesh_axes, "dist.partial"))
    return found


# ------------------------------------------------------------------------------------------------ parameters


@surface("tensor(shape, layout=None, mesh=None, dtype=None, *, init=None, name=None)",
         "A trainable parameter with a layout; of a tensor, the tensor with that layout", family="dist", space="dist")
def dist_tensor(site: Site, shape: Value, layout: Value, mesh: Value, dtype: Value, init: Value, name: Value) -> Value:
    """A parameter of its own per evaluated call, created once, as those of layers are."""
    _mesh(site, mesh)
    if is_tensor(shape):
        return shard(site, shape, layout, None, None)
    return _parameter(site, "tensor", shape, dtype, init, layout, name)


@surface("tensor_like(x, layout=None, mesh=None, dtype=None, *, init=None, name=None)",
         "A trainable parameter with the sizes, element type and layout of x, unless others are given", family="dist",
         space="dist")
def tensor_like(site: Site, x: Value, layout: Value, mesh: Value, dtype: Value, init: Value, name: Value) -> Value:
    """A parameter as ``dist.tensor`` makes it. The layout of x is what the source has pinned of it up to there."""
    _mesh(site, mesh)
    found = tensor(site.session, x, "the operand of dist.tensor_like")
    shape = [d if isinstance(d, int) else UnknownDim(d) for d in found.type.shape]
    dtype = found.type.dtype if dtype is None else dtype
    return _parameter(site, "tensor", shape, dtype, init, layout, name, found if layout is None else None)


def _mesh(site: Site, mesh: Value) -> None:
    """Requires the mesh that an operator names to be one; which one it is changes nothing: a unit has one."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise site.fail("T0504", f"mesh must be a dist.Mesh, not {describe(mesh)}")


@surface("param(shape, init=None, *, dtype=None, shard=None, name=None)",
         "A trainable parameter; shard=P(None, 'tp') is its layout on a mesh", family="layers")
def param(site: Site, shape: Value, init: Value, dtype: Value, shard: Value, name: Value) -> Value:
    """A parameter of its own per evaluated call, created once, as those of layers are."""
    return _parameter(site, "param", shape, dtype, init, shard, name)


def _parameter(site: Site, op: str, shape: Value, dtype: Value, init: Value, layout: Value, name: Value,
               like: Var | None = None) -> Slot:
    """Weights of U(-1/sqrt(n), 1/sqrt(n)) for n rows unless ``init`` says otherwise; one dimension: zeros.

    ``like``: a tensor whose layout it takes.
    """
    if not isinstance(shape, int | list | tuple) or any(isinstance(n, float) for n in _items(shape)):
        raise site.fail("T0504", f"the shape of a parameter is a tuple of sizes, not {describe(shape)}",
                        help=("a tensor of given numbers is an input: pass it to the module",))
    dims = dimensions(site, [shape])
    session = site.session
    wanted = session.float if dtype is None else element_type(site, dtype)
    if not wanted.is_differentiable or wanted in (DType.BF16, DType.F16):
        raise site.fail("T0504", f"a parameter is trained in fp32, fp64 or a complex type, not {wanted}",
                        help=("data is an input of the module; --precision bf16 makes products read bf16",))
    fan_in, fan_out = (dims[-2], dims[-1]) if len(dims) > 1 else (1, 1)
    rule = initialiser(site, init, fan_in, fan_out, "uniform" if len(dims) > 1 else "zeros")
    known = len(session.slots)
    slot = make_layer(site, op, dims, {"": (dims, rule)}, lambda x: x, name=name).slots[""]
    if len(session.slots) > known:
        slot.dtype = wanted
        if layout is not None:
            pin(session, slot, layout)
        if like is not None:
            pin_like(session, slot, like)
    return slot


def _items(shape: Value) -> list[Value]:
    return list(shape) if isinstance(shape, list | tuple) else [shape]


# ------------------------------------------------------------------------------------------------ collectives


def _remark(site: Site, what: str) -> None:
    site.session.report.note("T0719", f"{what} changes no value: {WHOLE_VALUES}", site.session.span,
                             help=("`tesserac plan` shows them; dist.shard, dist.replicate, dist.partial pin them",))


def _gathering(name: str, doc: str, *aliases: str) -> None:
    def build(site: Site, x: Value, axis: Value, *how: Value) -> Value:
        """The value itself, whole along the axis. Last of ``how`` is the mesh; the rest is the compiler's choice."""
        _mesh(site, how[-1])
        _remark(site, f"dist.{name}")
        if isinstance(x, Gradients):
            return x
        return replicate(site, x, axis)

    for space in ("op", "dist"):
        surface(f"{name}(x, axis=None, {doc}, mesh=None)", "x itself, whole along a mesh axis: programs are "
                "about whole tensors", family="dist", space=space, aliases=aliases)(build)


_gathering("all_reduce", "op='sum', deterministic=True, algo=None", "allreduce", "hierarchical_all_reduce")
_gathering("all_gather", "dim=0, algo=None")
_gathering("broadcast", "src=0, root=0, algo=None")


def _scattering(name: str, signature: str) -> None:
    def build(site: Site, x: Value, axis: Value, dim: Value, *how: Value) -> Value:
        """The value itself, cut along the axis."""
        _mesh(site, how[-1])
        found = tensor(site.session, x, f"the operand of dist.{name}")
        layout: list[Value] = ["?"] * found.type.rank
        at = integer(site, dim, "dim", least=-8)
        if not -len(layout) <= at < len(layout):
            raise site.fail("T0504", f"this tensor has {len(layout)} dimensions, and there is no dimension {at}")
        layout[at] = axes_of(site.session, axis, f"dist.{name}")
        pin(site.session, found, layout)
        _remark(site, f"dist.{name}")
        return found

    for space in ("op", "dist"):
        surface(signature, "x itself, cut along a mesh axis: programs are about whole tensors", family="dist",
                space=space)(build)


_scattering("reduce_scatter", "reduce_scatter(x, axis, dim=0, op='sum', algo=None, mesh=None)")
_scattering("all_to_all", "all_to_all(x, axis, split=0, concat=0, algo=None, mesh=None)")


@surface("barrier(mesh=None)", "Nothing: a rank waits where it needs what others send", family="dist", space="dist")
def barrier(site: Site, mesh: Value) -> None:
    """A remark."""
    _mesh(site, mesh)
    site.session.report.note("T0719", "dist.barrier changes nothing: a rank waits where it needs what others send, and "
                             "nowhere else", site.session.span, help=("leave it out",))


@surface("deterministic(reduce_tree=None)", "For `with`: sums in a fixed order, as they always are", family="dist",
         space="dist")
def deterministic(site: Site, reduce_tree: Value) -> Value:
    """The policy that every program has."""
    if reduce_tree not in (None, "fixed", "flat", "binary", "ring"):
        raise site.fail("T0504", f"reduce_tree is fixed, flat, binary or ring, not {describe(reduce_tree)}")
    return "deterministic"


@surface("sym(names)", "Dimension names for annotations: B, N = ts.sym('B N')", family="dist", space="tessera")
def sym(site: Site, names: Value) -> Value:
    """A name, or a tuple of names."""
    found = tuple(names.split()) if isinstance(names, str) else ()
    if not found or not all(n.isidentifier() for n in found):
        raise site.fail("T0504", f"ts.sym takes names in one string, not {describe(names)}")
    return found[0] if len(found) == 1 else found
