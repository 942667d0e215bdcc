"""Programs: typed equations in single-assignment form.

Everything is immutable and compared by content; spans take no part in comparison, so a program
that went through its text form equals the one that was printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field

from tesserac.diagnostics import Span
from tesserac.immutable import dataclass
from tesserac.ir.mesh import Mesh, Pinned
from tesserac.ir.types import DType, TensorType

Attr = int | float | bool | str | None | DType | tuple["Attr", ...]
"""What an equation's attributes may hold."""


@dataclass(frozen=True, slots=True)
class Var:
    """A value of a function: its name is unique within the function."""

    name: str
    type: TensorType

    def __hash__(self) -> int:
        return hash(self.name)  # names tell variables apart; hashing types as well cost passes much of their time

    def called(self, name: str) -> Var:
        """The value under a name: this very object under its own."""
        return self if name == self.name else Var(name, self.type)

    def __str__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True, slots=True)
class Equation:
    """``results = op operands {attrs}``. Attributes are sorted by name."""

    op: str
    operands: tuple[Var, ...]
    results: tuple[Var, ...]
    attrs: tuple[tuple[str, Attr], ...] = ()
    span: Span = field(default=Span.point("<none>", 1, 1), compare=False)

    def __hash__(self) -> int:
        return hash(self.results[0].name)  # what it defines tells it apart from the others of its function

    def over(self, operands: tuple[Var, ...], results: tuple[Var, ...] | None = None) -> Equation:
        """The same op with the same attributes on other operands, with other results if they are given.

        Where that changes nothing it is this very object, so that what is known of it need not be found out again.
        """
        results = self.results if results is None else results
        if operands == self.operands and results == self.results:
            return self
        return Equation(self.op, operands, results, self.attrs, self.span)

    @property
    def result(self) -> Var:
        """The only result."""
        (var,) = self.results
        return var

    @property
    def attributes(self) -> dict[str, Attr]:
        """Attributes by name."""
        return dict(self.attrs)

    def attr(self, name: str) -> Attr:
        """One attribute; KeyError if the equation has none of that name."""
        return dict(self.attrs)[name]


@dataclass(frozen=True, slots=True)
class Initializer:
    """First values of a parameter: zeros, ones, constant(a), uniform(a=low, b=high) or normal(a=mean, b=std)."""

    kind: str
    a: float = 0.0
    b: float = 0.0


@dataclass(frozen=True, slots=True)
class Input:
    """A function input: a trainable parameter (``init`` given) or data of the caller.

    ``path`` is the user-facing name (``transformer.Wq``, a batch key); ``index_bound`` is the number of
    valid values of an integer input used as class ids or row numbers (0: unchecked), and
    ``ignore_index`` a further value that is allowed.
    """

    var: Var
    path: str
    init: Initializer | None = None
    decay: bool = True
    index_bound: int = 0
    ignore_index: int | None = None
    span: Span = field(default=Span.point("<none>", 1, 1), compare=False)

    @property
    def is_parameter(self) -> bool:
        """Whether the optimizer owns it."""
        return self.init is not None


@dataclass(frozen=True, slots=True)
class Output:
    """A function output under its user-facing name; gradients are called ``grad:PATH``."""

    name: str
    var: Var


@dataclass(frozen=True, slots=True)
class Function:
    """Inputs, equations in order of evaluation, outputs."""

    name: str
    inputs: tuple[Input, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Output, ...]

    @property
    def parameters(self) -> tuple[Input, ...]:
        """The trainable inputs in declaration order."""
        return tuple(i for i in self.inputs if i.is_parameter)

    @property
    def data(self) -> tuple[Input, ...]:
        """The inputs that are not trainable."""
        return tuple(i for i in self.inputs if not i.is_parameter)

    def variables(self) -> Iterator[Var]:
        """Every variable in order of definition."""
        for item in self.inputs:
            yield item.var
        for equation in self.equations:
            yield from equation.results


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """What ``optim.*`` in the source fixed: kind is sgd, adam or adamw; settings by runtime flag name."""

    kind: str
    settings: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One executable: a train function (loss first, then metrics, then gradients) and/or a forward function.

    ``validate``: loss and metrics as they are when nothing is dropped out, without gradients; None where that is the
    train function's own loss.
    ``mixed``: matrix products read bf16 (see tesserac.passes.mixed).
    ``mesh``: the devices it is for, all axes longer than 1; None for one device. ``pins``: where the source wants
    values to lie on it.
    """

    label: str
    train: Function | None
    infer: Function | None
    optimizer: OptimizerSpec | None = None
    mixed: bool = False
    validate: Function | None = None
    mesh: Mesh | None = None
    pins: tuple[Pinned, ...] = field(default=(), compare=False)

    def roles(self) -> Iterator[tuple[str, Function]]:
        """The functions there are, by what they are for: train, infer, validate."""
        for role, function in (("train", self.train), ("infer", self.infer), ("validate", self.validate)):
            if function is not None:
                yield role, function


@dataclass(frozen=True, slots=True)
class Program:
    """All entries of a compilation unit."""

    file: str
    entries: tuple[Entry, ...]

    def functions(self) -> Iterator[Function]:
        """Every function of every entry."""
        for entry in self.entries:
            for _, function in entry.roles():
                yield function


def sorted_attrs(attrs: Mapping[str, Attr]) -> tuple[tuple[str, Attr], ...]:
    """Attributes in the order an equation stores them."""
    return tuple(sorted(attrs.items()))
