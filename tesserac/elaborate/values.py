"""What an expression may evaluate to.

Compile-time values are Python's own int, float, complex, str, bool, None, tuple, list, dict and range. Tensors are IR
variables (`tesserac.ir.program.Var`). Everything else is one of the classes below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from tesserac.diagnostics import Span
from tesserac.ir.program import Initializer, Var
from tesserac.ir.types import Dim, DType
from tesserac.parser import syntax

if TYPE_CHECKING:
    from tesserac.elaborate.catalogue.registry import Surface
    from tesserac.elaborate.scopes import Frame, Scope

Value: TypeAlias = object
"""Any value; rules narrow it with isinstance."""

InitRule: TypeAlias = Callable[[tuple[int, ...]], Initializer]
"""First values of a parameter, once its shape is known."""


class Poison:
    """Stands for a value whose computation failed; reading it abandons the statement without another message."""


POISON = Poison()


@dataclass(slots=True, eq=False)
class Slot:
    """A function input: a trainable parameter (``scope`` given) or data. Shape and dtype may be found out later.

    ``var`` exists from the first use on. ``declared_dtype`` says that the source or a flag fixed the dtype,
    ``shape_text`` who fixed the shape, and ``symbols`` names the axes that were left open.
    """

    name: str
    span: Span
    shape: tuple[Dim, ...] | None = None
    dtype: DType | None = None
    declared_dtype: bool = False
    scope: Scope | None = None
    owner: str = ""
    init: InitRule | None = None
    sequence: int = 0
    var: Var | None = None
    shape_text: str = ""
    symbols: dict[int, str] = field(default_factory=dict)

    @property
    def is_parameter(self) -> bool:
        """Whether the optimizer owns it."""
        return self.scope is not None

    @property
    def path(self) -> str:
        """The user-facing name: ``gpt.blocks.0.qkv.weight``, a batch key."""
        if self.scope is None:
            return self.name
        inner = self.scope.path()
        return ".".join(part for part in (self.owner, inner, self.name) if part)

    def __str__(self) -> str:
        return self.path


@dataclass(slots=True, eq=False)
class Layer:
    """A factory's product: parameters of its own and a function that applies them."""

    op: str
    sizes: tuple[Value, ...]
    scope: Scope
    span: Span
    slots: Mapping[str, Slot]
    apply: Callable[..., Value]
    signature: str = "(x)"

    @property
    def stem(self) -> str:
        """What the layer's intermediate values are called: its variable, or its op."""
        parts = [p for p in self.scope.label.split(".") if not p.isdigit()]
        return parts[-1] if self.scope.named and parts else self.op


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A user's ``def`` or lambda with the frame it closes over; ``kind`` is plain, module, step or loss."""

    name: str
    params: tuple[syntax.Param, ...]
    body: tuple[syntax.Stmt, ...] | syntax.Expr
    frame: Frame
    span: Span
    kind: str = "plain"
    label: str = ""
    attach: str = ""
    returns: syntax.Expr | None = None


@dataclass(slots=True, eq=False)
class CustomFunction:
    """A function with a derivative rule of the source's own; ``rule`` follows the definition."""

    function: Value
    rule: Value = None

    @property
    def name(self) -> str:
        """The name of the function."""
        return str(getattr(self.function, "name", "the function"))


@dataclass(frozen=True, slots=True)
class Namespace:
    """``op``, ``graph``... or ``tessera`` itself."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Builtin:
    """A function of a namespace or of Python that the compiler evaluates: an op's `Surface`, or a plain callable."""

    name: str
    function: Callable[..., Value] | Surface


@dataclass(frozen=True, slots=True)
class UnknownDim:
    """A size from ``x.shape`` that unification has not settled yet; it can shape tensors but not be computed with."""

    dim: Dim


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A documented name that a later stage will bring."""

    name: str
    what: str


@dataclass(slots=True, eq=False)
class Batch:
    """The ``batch`` argument of a step: its keys become data inputs."""

    name: str
    slots: dict[str, Slot] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """What ``graph.backward`` returns: gradients by parameter path in source order, and the loss they are of."""

    loss: Var
    items: tuple[tuple[Slot, Var], ...]


@dataclass(frozen=True, slots=True)
class Optimizer:
    """``optim.AdamW(...)``: settings by run-time flag name."""

    kind: str
    settings: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class TypeForm:
    """``Tensor["B", 4, f32]``: an annotation's value; None where it says nothing. ``layout``: behind ``@ shard``."""

    shape: tuple[Dim, ...] | None = None
    dtype: DType | None = None
    layout: Value = None


def describe(value: Value) -> str:
    """What a value is, in an error message."""
    if isinstance(value, Var):
        return f"a tensor of type {value.type}"
    if isinstance(value, Slot):
        return f"the input `{value.path}`"
    if isinstance(value, Layer):
        return f"a layer made by op.{value.op}"
    if isinstance(value, Function | CustomFunction):
        return f"the function `{value.name}`"
    if isinstance(value, Builtin | Unsupported):
        return f"the function `{value.name}`"
    if isinstance(value, Namespace):
        return f"the namespace `{value.name}`"
    if value is None:
        return "None"
    if isinstance(value, UnknownDim):
        return f"the dimension `{value.dim}`, whose size is not known yet"
    if isinstance(value, Gradients):
        return "the gradients of graph.backward"
    if isinstance(value, Batch):
        return "the batch"
    if isinstance(value, int | float | complex | str):
        kind = {bool: "the truth value", int: "the integer", str: "the string"}.get(type(value), "the number")
        text = repr(value)
        return f"{kind} {text if len(text) <= 40 else text[:37] + '...'}"
    if isinstance(value, list | tuple | dict | range):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, DType):
        return f"the element type {value}"
    other = {"Optimizer": "an optimizer", "Mesh": "a mesh", "TypeForm": "a type", "Policy": "a policy of op.router"}
    return other.get(type(value).__name__, "a value")
