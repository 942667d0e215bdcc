"""Names that the source does not bind: namespaces, element types, Python's functions; attributes; imports; contexts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tesserac.elaborate import compile_time
from tesserac.elaborate.annotations import DTYPES, FP8
from tesserac.elaborate.catalogue import PENDING, SURFACES, TENSOR_METHODS
from tesserac.elaborate.operands import tensor
from tesserac.elaborate.scopes import Frame
from tesserac.elaborate.values import (
    POISON,
    Builtin,
    Function,
    Layer,
    Namespace,
    Optimizer,
    Slot,
    TypeForm,
    UnknownDim,
    Unsupported,
    Value,
    describe,
)
from tesserac.ir.program import Var
from tesserac.parser import syntax

if TYPE_CHECKING:
    from tesserac.elaborate.interpreter import Interpreter

NAMESPACES = ("op", "dist", "graph", "optim", "autodiff", "schedule", "numerics")
"""What ``from tessera import ...`` offers."""

_MEMBERS = {"module", "training_step", "loss"}


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """A help line with the closest known name, if one is close."""
    from difflib import get_close_matches

    close = get_close_matches(name, sorted(set(known)), 1, 0.7)
    return [f"did you mean `{close[0]}`?"] if close else []


def _common(name: str) -> Value:
    """What has one meaning with an import, without one and as a member of tessera; None for other names."""
    if name in ("Tensor", "tensor"):
        return TypeForm()
    return Builtin("dist.P", SURFACES["dist.P"]) if name == "P" else DTYPES.get(name)


def free_name(it: Interpreter, node: syntax.Name) -> Value:
    """A name that no assignment binds."""
    name = node.id
    if name in NAMESPACES or name == "tessera":
        if name not in it.imported and it.report.once(f"import {name}"):
            it.report.note(
                "T0203",
                f"`{name}` is used without an import and is taken to be "
                f"{'tessera' if name == 'tessera' else f'tessera.{name}'}",
                node.span,
                help=[f"from tessera import {name}" if name != "tessera" else "import tessera"],
            )
            it.imported.add(name)
        return Namespace(name)
    if name in compile_time.FUNCTIONS:
        return Builtin(name, compile_time.FUNCTIONS[name])
    if (found := _common(name)) is not None:
        return found
    if name in FP8:
        raise it.report.fail("T0409", f"{name} is not supported on this target", node.span, help=["use bf16 or fp16"])
    if name == "batch":
        raise it.report.fail(
            "T0212",
            "`batch` exists only in a training step's parameters and at the top level",
            node.span,
            help=["pass what the function needs as an argument"],
        )
    if name == "print":
        raise it.report.fail(
            "T0212",
            "`print` has no meaning: the source is compiled, never run",
            node.span,
            help=["tesserac inspect FILE shows values; metrics returned by a step are printed while it trains"],
        )
    known = {*NAMESPACES, *compile_time.FUNCTIONS, *it.top.names}
    raise it.report.fail("T0212", f"the name `{name}` is not defined", node.span, help=nearest(name, known))


# ------------------------------------------------------------------------------------------------ attributes


def attribute(it: Interpreter, value: Value, node: syntax.Attribute) -> Value:
    """``value.attr``."""
    name = node.attr
    if isinstance(value, Namespace):
        return member(it, value.name, name, node)
    if isinstance(value, Var | Slot):
        return _tensor_attribute(it, value, name, node)
    if isinstance(value, Layer):
        key = {"gain": "weight", "W": "weight", "b": "bias"}.get(name, name)
        slot = value.slots.get(name) or value.slots.get(key)
        if slot is not None:
            return slot
        raise it.report.fail(
            "T0202",
            f"a layer made by op.{value.op} has no parameter `{name}`",
            node.span,
            notes=[f"it has {', '.join(value.slots) or 'none'}"],
        )
    if isinstance(value, Optimizer) and name in ("apply", "step"):
        return Builtin(f"optimizer.{name}", SURFACES["optimizer.apply"].bound(value))
    if isinstance(value, Builtin) and (value.name, name) == ("dist.ShardSpec", "replicate"):
        return Builtin("dist.Replicate", SURFACES["dist.Replicate"])
    if isinstance(value, Function) and name in ("inspect", "export", "parameters"):
        raise it.report.fail(
            "T0501",
            f"{value.name}.{name}() is not supported yet",
            node.span,
            help=["tesserac inspect FILE shows the program at every stage"],
        )
    method = compile_time.method(value, name)
    if method is not None:
        return Builtin(name, method)
    raise it.report.fail(
        "T0202",
        f"{describe(value)} has no attribute `{name}`",
        node.span,
        help=[f'a batch is indexed: batch["{name}"]'] if type(value).__name__ == "Batch" else (),
    )


def member(it: Interpreter, space: str, name: str, node: syntax.Attribute) -> Value:
    """``space.name`` of one of the language's namespaces."""
    if space == "tessera":
        if name in NAMESPACES:
            return Namespace(name)
        if (found := _common(name)) is not None:
            return found
        full = "dist.Mesh" if name == "mesh" else f"tessera.{name}"
    elif (space, name) == ("dist", "collective"):  # dist.collective.reduce_scatter
        return Namespace(space)
    else:
        full = f"{space}.{name}"
    if full in SURFACES:
        return Builtin(full, SURFACES[full])
    if full in PENDING:
        return Unsupported(full, PENDING[full])
    if space == "schedule":
        it.report.note(
            "T0319",
            f"{full} is a hint without effect: tiles, fusion and layouts are the compiler's choice",
            node.span,
            notes=["`tesserac inspect --stage fuse` shows what it chose"],
        )
        return Builtin(full, lambda *args, **keywords: None)
    if space == "graph" and name in _MEMBERS:
        raise it.report.fail("T0303", f"graph.{name} is used as a decorator: @graph.{name}", node.span)
    known = [key.partition(".")[2] for key in (*SURFACES, *PENDING) if key.startswith(f"{space}.")]
    if space == "op":
        raise it.report.fail(
            "T0502",
            f"there is no op `op.{name}`",
            node.span,
            help=nearest(name, known),
            notes=["`tesserac ops` lists every op"],
        )
    raise it.report.fail("T0202", f"`{space}` has no member `{name}`", node.span, help=nearest(name, known))


def _tensor_attribute(it: Interpreter, value: Var | Slot, name: str, node: syntax.Attribute) -> Value:
    session = it.session
    if name in ("shape", "ndim"):
        shape = value.type.shape if isinstance(value, Var) else value.shape
        if shape is None:
            assert isinstance(value, Slot)
            shape = session.materialise(value).type.shape
        if name == "ndim":
            return len(shape)
        return tuple(s if (s := session.solver.size(d)) is not None else UnknownDim(d) for d in shape)
    if name == "dtype":
        return tensor(session, value).type.dtype
    if name in ("T", "mT"):
        x = tensor(session, value)
        if x.type.rank < 2:
            return x
        order = (*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2)
        return session.emit("transpose", x, perm=order)
    if name in TENSOR_METHODS:
        surface = SURFACES[f"op.{TENSOR_METHODS[name]}"]
        return Builtin(f"{name} of a tensor", surface.bound(value))
    raise it.report.fail(
        "T0202",
        f"a tensor has no attribute `{name}`",
        node.span,
        help=[f"op.{name}(x)"] if name in ("real", "imag") else nearest(name, (*TENSOR_METHODS, "T", "shape", "dtype")),
    )


# ------------------------------------------------------------------------------------------------ imports, contexts


def import_names(it: Interpreter, node: syntax.Import, frame: Frame) -> None:
    """``from tessera import op``, ``import tessera as ts``; anything else is an error."""
    if node.module.partition(".")[0] != "tessera":
        raise it.report.fail(
            "T0210",
            f"`{node.module}` cannot be imported: the source is compiled, never run",
            node.span,
            notes=["only tessera's own names exist at compile time; nothing of Python's packages is loaded"],
            help=["from tessera import op, graph, dist, optim"],
        )
    if not node.names:
        frame.names[node.asname or "tessera"] = Namespace("tessera")
        it.imported.add("tessera")
        return
    inner = node.module.partition(".")[2]
    for name, alias in node.names:
        if inner:
            holder = syntax.Name(inner, node.span)
            value = member(it, inner, name, syntax.Attribute(holder, name, node.span)) if inner in NAMESPACES else None
        elif name in NAMESPACES:
            value = Namespace(name)
        else:
            value = _common(name)
        if value is None:
            it.report.error(
                "T0210",
                f"tessera has no name `{inner + '.' if inner else ''}{name}`",
                node.span,
                help=nearest(name, (*NAMESPACES, "Tensor", *DTYPES)),
            )
            frame.names[alias or name] = POISON
            continue
        it.imported.add(name)
        frame.names[alias or name] = value


def enter_context(it: Interpreter, node: syntax.Expr, frame: Frame) -> None:
    """``with numerics.policy("fp32"):``; contexts that would change results are refused until they are implemented."""
    if isinstance(node, syntax.Call) and isinstance(node.func, syntax.Name) and node.func.id in ("policy", "numerics"):
        node = syntax.Call(
            syntax.Attribute(syntax.Name("numerics", node.span), "policy", node.span),
            node.args,
            node.keywords,
            node.span,
        )
    mixed = it.session.mixed
    value = it.eval(node, frame)
    if value == "mixed" and not mixed:
        raise it.report.fail(
            "T0501",
            "mixed precision for a part of a program is not supported yet",
            node.span,
            help=["for the whole program: numerics.policy('mixed') as a statement of its own, or --precision bf16"],
        )
    if value is not None and not isinstance(value, str):
        raise it.report.fail(
            "T0206", f"`with` takes numerics.policy(...) or a schedule, not {describe(value)}", node.span
        )
