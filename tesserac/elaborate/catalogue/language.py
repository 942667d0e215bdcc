"""The namespaces graph, dist, optim, numerics: gradients, meshes, optimizers, policies."""

from __future__ import annotations

from collections.abc import Iterator

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import SURFACES, surface
from tesserac.elaborate.catalogue.support import number
from tesserac.elaborate.operands import tensor
from tesserac.elaborate.session import Session
from tesserac.elaborate.values import Function, Gradients, Layer, Optimizer, Slot, Value, describe
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Equation, Var


@surface(
    "backward(loss, wrt=None)",
    "Gradients of a scalar loss for every parameter it depends on, or for those in wrt",
    family="graph",
    space="graph",
)
def backward(site: Site, loss: Value, wrt: Value) -> Value:
    """Gradients keyed by parameter path, in source order."""
    session = site.session
    scalar = tensor(session, loss, "the loss of graph.backward")
    if scalar.type.rank:
        raise site.fail(
            "T0307",
            f"graph.backward needs a scalar loss, not {session.type_text(scalar.type)}",
            help=("reduce it first: op.mean(...) or a loss such as op.mse",),
        )
    if not scalar.type.dtype.is_float:
        raise site.fail(
            "T0307",
            f"graph.backward needs a real floating-point loss, not {scalar.type.dtype}",
            help=("a complex number has no size to make smaller: op.mean(op.abs(x) ** 2), or op.real(loss)",)
            if scalar.type.dtype.is_complex
            else (),
        )
    if session.gradients is not None:
        raise site.fail(
            "T0307", "graph.backward is called twice in one step", help=("add the losses and call it once",)
        )
    return differentiate(session, scalar, None if wrt is None else list(_wanted(site, wrt)))


def differentiate(session: Session, loss: Var, wanted: list[Slot] | None) -> Gradients:
    """Adds the ``backward`` equation."""
    reached = [s for s in parameters_behind(session, loss) if s.var is not None and s.var.type.dtype.is_differentiable]
    if wanted is not None:
        for slot in wanted:
            if slot not in reached:
                raise session.report.fail("T0308", f"the loss does not depend on `{slot.path}`", session.span)
        reached = [s for s in reached if s in wanted]
    if not reached:
        raise session.report.fail(
            "T0308",
            "the loss depends on no trainable parameter",
            session.span,
            help=["parameters are those of layers, and those of a @graph.module that its call leaves unbound"],
        )
    operands = [loss, *(s.var for s in reached if s.var is not None)]
    saved, session.stem = session.stem, "grad"
    results = session.emit_all("backward", operands, {})
    session.stem = saved
    session.gradients = Gradients(loss, tuple(zip(reached, results, strict=True)))
    return session.gradients


def parameters_behind(session: Session, var: Var) -> list[Slot]:
    """Trainable inputs that a value depends on, in source order."""
    found: set[Slot] = set()
    seen: set[str] = set()
    stack = [var]
    while stack:
        current = stack.pop()
        if current.name in seen:
            continue
        seen.add(current.name)
        definition = session.definitions.get(current.name)
        if isinstance(definition, Equation):
            stack.extend(definition.operands)
        elif definition is not None and definition.is_parameter:
            found.add(definition)
    return sorted(found, key=lambda s: s.sequence)


def _wanted(site: Site, wrt: Value) -> Iterator[Slot]:
    if isinstance(wrt, Slot) and wrt.is_parameter:
        yield wrt
    elif isinstance(wrt, Layer):
        yield from wrt.slots.values()
    elif isinstance(wrt, list | tuple):
        for item in wrt:
            yield from _wanted(site, item)
    elif isinstance(wrt, dict):
        yield from _wanted(site, list(wrt.values()))
    else:
        raise site.fail("T0308", f"wrt takes parameters and layers, not {describe(wrt)}")


@surface(
    "checkpoint(f)",
    "f unchanged: results and gradients are the same; intermediates may be recomputed",
    family="graph",
    space="graph",
)
def checkpoint(site: Site, f: Value) -> Value:
    """Marks a function whose intermediates need not be kept; so far a hint that nothing acts on, which a note says."""
    if isinstance(f, Function | Layer):
        site.session.report.note(
            "T0314",
            "graph.checkpoint does not change the program yet: nothing is recomputed",
            site.session.span,
            notes=["only the intermediates of the tile in flight are kept, so memory does not grow with the batch"],
        )
        return f
    raise site.fail("T0503", f"graph.checkpoint takes a function or a layer, not {describe(f)}")


# ------------------------------------------------------------------------------------------------ optimizers


def _optimizer(name: str, kind: str, settings: tuple[tuple[str, str], ...], signature: str, doc: str) -> None:
    @surface(signature, doc, family="optim", space="optim")
    def build(site: Site, params: Value, *values: Value) -> Value:
        del params  # an optimizer always owns all parameters that have gradients
        found: list[tuple[str, float]] = []
        for (argument, flag), value in zip(settings, values, strict=True):
            if value is None:
                continue
            if argument == "betas":
                if not isinstance(value, list | tuple) or len(value) != 2:
                    raise site.fail("T0504", f"betas must be a pair of numbers, not {describe(value)}")
                found += [("beta1", number(site, value[0], "beta1")), ("beta2", number(site, value[1], "beta2"))]
            else:
                found.append((flag, number(site, value, argument)))
        for flag, setting in found:
            if setting < 0:
                raise site.fail("T0504", f"{flag} must not be negative")
        return Optimizer(kind, tuple(found))


_optimizer(
    "SGD",
    "sgd",
    (("lr", "lr"), ("momentum", "momentum"), ("weight_decay", "weight_decay")),
    "SGD(params=None, lr=None, momentum=None, weight_decay=None)",
    "Gradient descent, with momentum",
)
_optimizer(
    "Adam",
    "adam",
    (("lr", "lr"), ("betas", ""), ("eps", "eps"), ("weight_decay", "weight_decay")),
    "Adam(params=None, lr=None, betas=None, eps=None, weight_decay=None)",
    "Adam (Kingma and Ba 2015)",
)
_optimizer(
    "AdamW",
    "adamw",
    (("lr", "lr"), ("betas", ""), ("eps", "eps"), ("weight_decay", "weight_decay")),
    "AdamW(params=None, lr=None, betas=None, eps=None, weight_decay=None)",
    "Adam with decoupled weight decay (Loshchilov and Hutter 2019)",
)


@surface("apply(optimizer, grads)", "One optimizer step with these gradients", family="optim", space="optimizer")
def apply(site: Site, optimizer: Value, grads: Value) -> Value:
    """Fixes the optimizer of the entry; the update itself belongs to the built program."""
    session = site.session
    if isinstance(grads, tuple) and grads and isinstance(grads[0], Gradients):
        grads = grads[0]
    if not isinstance(grads, Gradients):
        raise site.fail("T0503", f"an optimizer applies the result of graph.backward, not {describe(grads)}")
    assert isinstance(optimizer, Optimizer)
    if session.optimizer not in (None, optimizer):
        raise site.fail("T0307", "a step applies one optimizer, and this is a second one")
    session.optimizer = optimizer
    return grads


# ------------------------------------------------------------------------------------------------ meshes


@surface(
    "Mesh(axes, devices=None, shape=None)", "Devices as a grid with named axes, row-major", family="dist", space="dist"
)
def mesh(site: Site, axes: Value, devices: Value, shape: Value) -> Value:
    """A device mesh; one at the top level serves the whole unit."""
    if isinstance(axes, dict):
        shape, axes = list(axes.values()), list(axes)
    if (
        not isinstance(axes, list | tuple)
        or not axes
        or not all(isinstance(a, str) and a.isidentifier() for a in axes)
        or len(set(axes)) != len(axes)
    ):
        raise site.fail(
            "T0702",
            "axes must be a list of different names",
            help=('dist.Mesh(axes=["tp", "dp"], devices=[[0, 1], [2, 3]])',),
        )
    names = tuple(str(a) for a in axes)
    sizes, ids = _grid(site, devices)
    if isinstance(shape, dict):
        shape = [shape.get(a) for a in names]
    if shape is not None:
        given = list(shape) if isinstance(shape, list | tuple) else [shape]
        numbers = [s for s in given if isinstance(s, int) and s > 0]
        if len(numbers) != len(names) or len(given) != len(names):
            raise site.fail("T0702", "shape must give one size per axis")
        sizes = tuple(numbers)
    total = 1
    for size in sizes:
        total *= size
    if len(sizes) != len(names):
        raise site.fail(
            "T0702",
            f"devices are nested {len(sizes)} deep, and {len(names)} axes are named",
            help=("nest devices as deep as there are axes, or give shape=(...)",),
        )
    if not ids:
        ids = tuple(range(total))
    if total != len(ids) or len(set(ids)) != len(ids):
        raise site.fail("T0702", f"the mesh has {total} places for {len(set(ids))} different devices")
    found = Mesh(names, sizes, ids, site.session.span)
    site.session.meshes.append(found)
    return found


def _grid(site: Site, devices: Value) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and row-major ids of nested device lists."""
    if devices is None:
        return (), ()
    if isinstance(devices, range):
        devices = list(devices)
    if isinstance(devices, int) and not isinstance(devices, bool) and devices >= 0:
        return (), (devices,)
    if not isinstance(devices, list | tuple) or not 0 < len(devices) <= 65536:
        raise site.fail("T0702", f"devices must be nested lists of device numbers, not {describe(devices)}")
    rows = [_grid(site, row) for row in devices]
    if len({row[0] for row in rows}) != 1:
        raise site.fail("T0702", "the rows of devices differ in length")
    return (len(rows), *rows[0][0]), tuple(i for row in rows for i in row[1])


@surface("ShardSpec(partition=None, mesh_axes=None, replicate=False)",
         "A layout for dist.shard: dimension partition[i] is cut along mesh axis mesh_axes[i]", family="dist",
         space="dist")
def shard_spec(site: Site, partition: Value, mesh_axes: Value, replicate: Value) -> Value:
    """A dictionary of dimensions (integers, row for the first, col for the last) and axes."""
    if partition is None or replicate is True:
        return {}
    dims = list(partition) if isinstance(partition, list | tuple) else [partition]
    axes = list(mesh_axes) if isinstance(mesh_axes, list | tuple) else [mesh_axes]
    if len(dims) != len(axes) or not all(d in ("row", "col") or isinstance(d, int) for d in dims):
        raise site.fail("T0504", "ShardSpec takes as many dimensions (numbers, 'row' for the first, 'col' for the last)"
                        " as mesh axes", help=('ShardSpec(partition=(0, 2), mesh_axes=("dp", "tp"))',))
    return {{"row": 0, "col": -1}.get(str(d), d): axis for d, axis in zip(dims, axes, strict=True)}


SURFACES["tessera.ShardSpec"] = SURFACES["dist.ShardSpec"]


@surface("shard(x, spec=None)", "x, pinned: P('dp', None, 'tp') or a ShardSpec says which mesh axis cuts which axis",
         family="dist", space="dist")
def shard(site: Site, x: Value, spec: Value) -> Value:
    """The value itself; a plan for a mesh keeps it as the layout says. On one device every layout is the same."""
    found = tensor(site.session, x, "the operand of dist.shard")
    if spec is not None:
        _pin(site, found, spec)
    return found


@surface("replicate(x)", "x, held whole by every device", family="dist", space="dist")
def replicate(site: Site, x: Value) -> Value:
    """The value itself, which plans then keep whole on every rank."""
    found = tensor(site.session, x, "the operand of dist.replicate")
    _pin(site, found, ())
    return found


def _pin(site: Site, x: Var, spec: Value) -> None:
    """Remembers a layout: a tuple of axes per dimension (P), or a dictionary of them by dimension (ShardSpec)."""
    session, rank = site.session, x.type.rank
    by_dim: dict[object, Value] = dict(enumerate(spec)) if isinstance(spec, tuple | list) else {}
    if isinstance(spec, dict):
        by_dim = {d + rank if isinstance(d, int) and d < 0 else d: axis for d, axis in spec.items()}
    elif not isinstance(spec, tuple | list):
        raise site.fail("T0504", f"dist.shard takes P(...) or ShardSpec(...), not {describe(spec)}")
    known = {a for mesh in (*session.meshes, session.given_mesh) if mesh is not None for a in mesh.axes}
    dims: list[tuple[str, ...]] = [("-",)] * rank
    for dim, value in by_dim.items():
        if value is None:
            continue
        axes = tuple(value) if isinstance(value, tuple | list) else (value,)
        if not isinstance(dim, int) or not 0 <= dim < rank:
            raise site.fail("T0706", f"dist.shard: this tensor has {rank} dimensions, and dimension {dim} is pinned")
        unknown = [a for a in axes if a != "?" and a not in known]
        if unknown and known:
            raise site.fail("T0706", f"dist.shard: there is no mesh axis {unknown[0]!r}",
                            help=(f"the axes are {', '.join(sorted(known))}",))
        dims[dim] = tuple(str(a) for a in axes)
    if session.mesh is not None:
        there = {*session.mesh.axes, "?", "-"}
        kept = tuple(tuple(a for a in dim if a in there) or ("-",) for dim in dims)
        session.pins.append((x, kept, session.span))


# ------------------------------------------------------------------------------------------------ numerics


def _policy(name: str) -> None:
    @surface(
        f"{name}(policy)",
        "Numerical policy: fp32 and deterministic are what tesserac does; mixed: matrix products read bf16",
        family="numerics",
        space="numerics",
    )
    def build(site: Site, policy: Value) -> Value:
        if policy in ("fp32", "deterministic", "promote"):
            return policy
        if policy == "mixed":
            site.session.mixed = True
            return policy
        if isinstance(policy, str) and policy in ("fp8", "fast", "strict", "downcast", "kahan_sum"):
            raise site.fail("T0501", f"numerics.{name}({policy!r}) is not supported yet")
        raise site.fail("T0504", f"numerics.{name} takes a policy name such as 'fp32', not {describe(policy)}")


_policy("policy")
_policy("profile")


@surface("sym(names)", "Dimension names for annotations: B, N = ts.sym('B N')", family="dist", space="tessera")
def sym(site: Site, names: Value) -> Value:
    """A name, or a tuple of names."""
    found = tuple(names.split()) if isinstance(names, str) else ()
    if not found or not all(n.isidentifier() for n in found):
        raise site.fail("T0504", f"ts.sym takes names in one string, not {describe(names)}")
    return found[0] if len(found) == 1 else found
