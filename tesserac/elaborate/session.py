"""The state of elaborating one entry: inputs, equations, dimensions, and how equations are added."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tesserac.diagnostics import Label, Span
from tesserac.elaborate.columns import Columns
from tesserac.elaborate.options import BF16, FP64, OPEN, Options
from tesserac.elaborate.provenance import Instance
from tesserac.elaborate.report import Failed, Report
from tesserac.elaborate.scopes import Frame, Scope
from tesserac.elaborate.solver import Contradiction, Solver
from tesserac.elaborate.values import Function, Gradients, Optimizer, Slot
from tesserac.ir.builder import Builder
from tesserac.ir.dims import ComplexRefused, ShapeError
from tesserac.ir.mesh import Mesh, Pinned, parse_mesh
from tesserac.ir.program import Attr, Equation, Var
from tesserac.ir.types import Dim, DType, TensorType


class Restart(Exception):
    """An input's dtype must be known from the start: elaborate again with it."""

    def __init__(self, path: str, dtype: DType) -> None:
        super().__init__(path)
        self.path = path
        self.dtype = dtype


@dataclass(slots=True, eq=False)
class ModuleState:
    """What a module owns: a place for its layers, and its trainable trailing parameters."""

    scope: Scope
    slots: dict[str, Slot] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class ModuleCall:
    """A module run directly by an entry, with its outputs by name (they become the outputs of ``infer``)."""

    module: str
    outputs: list[tuple[str, Var]]


class Session:
    """Everything that elaborating one entry reads and writes."""

    def __init__(
        self,
        label: str,
        options: Options,
        report: Report,
        shapes: Mapping[str, tuple[tuple[Dim, ...], str]],
        dtypes: Mapping[str, DType],
    ) -> None:
        self.label = label
        self.options = options
        self.report = report
        self.solver = Solver()
        self.builder = Builder(self.solver)
        self.float = DType.F64 if options.precision in FP64 else DType.F32
        self.mixed = options.precision in BF16
        self.span = Span.point("<options>", 1, 1)
        self.stem: str | None = None
        self.slots: list[Slot] = []
        self.definitions: dict[str, Equation | Slot] = {}
        self.display: dict[str, str] = {}
        self.modules: dict[Function, ModuleState] = {}
        self.root = Scope(None, "")
        self.calls: list[ModuleCall] = []
        self.predictions: list[Var] = []
        self.dropped: dict[str, Var] = {}
        self.gradients: Gradients | None = None
        self.optimizer: Optimizer | None = None
        self.meshes: list[Mesh] = []
        self.pins: list[tuple[Var | Slot, Pinned]] = []
        given = parse_mesh(options.mesh) if options.mesh not in (None, "none") else None
        self.given_mesh = given if isinstance(given, Mesh) else None
        self.defaults: list[tuple[str, Dim]] = []
        self.used_flags: set[str] = set()
        self.dim_names: set[str] = set()
        self.deferred: dict[str, Callable[[], float]] = {}
        self.unscaled: set[str] = set()
        self.bidirectional: list[Span] = []
        self.random_ops = 0
        self.rescaled: dict[int, tuple[int, Span]] = {}
        self.running: Instance | None = None
        self.instances: list[Instance] = []
        self.origins: dict[str, Instance] = {}
        self.vanished: dict[str, Var] = {}
        self.columns = Columns(self)
        self.outer: str = ""
        self._shapes = shapes
        self._flagged: dict[str, Slot] = {}
        self._dtypes = dtypes
        self.forced = frozenset(dtypes)
        for name, size in options.dims:
            self.solver.fix(self.solver.symbol(name), size, None, f"--dim {name}={size}")

    @property
    def mesh(self) -> Mesh | None:
        """The devices to compile for, without axes of size 1: ``--mesh``, else the source's; None for one device."""
        found = self.given_mesh
        if self.options.mesh is None and self.meshes:
            found = self.meshes[0]
        return found.squeezed() if found is not None and len(found.devices) > 1 else None

    # ---------------------------------------------------------------------------------------------- inputs

    def slot(
        self, name: str, span: Span, *, scope: Scope | None = None, owner: str = "", aliases: Sequence[str] = ()
    ) -> Slot:
        """Declares an input; a ``--shape`` for its name or one of ``aliases`` applies."""
        slot = Slot(name, span, scope=scope, owner=owner, sequence=len(self.slots))
        self.slots.append(slot)
        for key in (slot.path, *aliases):
            if key in self._shapes:
                dims, text = self._shapes[key]
                self.used_flags.add(key)
                first = self._flagged.setdefault(key, slot)
                if first.path != slot.path:
                    self.report.error(
                        "T0411",
                        f"--shape {key}=... could mean `{first.path}` or `{slot.path}`",
                        span,
                        labels=[Label(first.span, f"`{first.path}`")] if first.span != span else (),
                        help=[f"write --shape {first.path}=... or --shape {slot.path}=..."],
                    )
                slot.shape, slot.shape_text = self.named_dims(slot, dims), text
                break
        if slot.path in self._dtypes:
            slot.dtype = self._dtypes[slot.path]
        return slot

    def flag_shape(self, path: str) -> tuple[tuple[Dim, ...], str] | None:
        """What ``--shape`` says of a name."""
        found = self._shapes.get(path)
        if found is not None:
            self.used_flags.add(path)
        return found

    def named_dims(self, slot: Slot, dims: Sequence[Dim]) -> tuple[Dim, ...]:
        """Dimensions of a shape text, with a new symbol for each one left open."""
        self.dim_names.update(d for d in dims if isinstance(d, str))
        return tuple(self.open_dim(slot, axis) if dim == OPEN else dim for axis, dim in enumerate(dims))

    def open_dim(self, slot: Slot, axis: int) -> str:
        """A new symbol for an axis of an input."""
        symbol = self.solver.symbol(f"{slot.path}.{axis}")
        slot.symbols[axis] = symbol
        return symbol

    def materialise(self, slot: Slot, shape: Sequence[Dim] | None = None, dtype: DType | None = None) -> Var:
        """The variable of an input; ``shape`` and ``dtype`` serve where nothing was declared."""
        if slot.var is not None:
            return slot.var
        if slot.shape is None:
            if shape is None:
                shape, like = self.columns.assume(slot)
                dtype = dtype or like
            if shape is None:
                raise self.unknown_shape(slot)
            slot.shape = tuple(shape)
        if slot.dtype is None:
            slot.dtype = dtype or self.float
        if not slot.owner and slot.scope is not None:
            slot.owner = self.outer or self.label
        stem = slot.name if slot.scope is None else slot.path.partition(".")[2]
        slot.var = Var(self.builder.fresh(stem), TensorType(slot.dtype, slot.shape))
        self.definitions[slot.var.name] = slot
        return slot.var

    def unknown_shape(self, slot: Slot) -> Failed:
        """Records that nothing settles an input's shape."""
        what = "parameter" if slot.is_parameter else "input"
        return self.report.fail(
            "T0401",
            f"the shape of {what} `{slot.path}` is not known here",
            self.span,
            labels=[Label(slot.span, f"`{slot.name}` is declared here")] if slot.span != self.span else (),
            help=[
                f"give it on the command line: --shape {slot.path}=8x64x32 (names and `_` may stand for sizes)",
                f"or annotate it: {slot.name}: Tensor[8, 64, 32]",
            ],
        )

    # ---------------------------------------------------------------------------------------------- equations

    def emit(self, op: str, *operands: Var, **attrs: Attr) -> Var:
        """Adds an equation with one result; a broken shape rule is reported at the current span."""
        return self.emit_all(op, operands, attrs)[0]

    def emit_all(self, op: str, operands: Sequence[Var], attrs: Mapping[str, Attr]) -> tuple[Var, ...]:
        """Adds an equation with any number of results."""
        self.solver.span = self.span
        with self.builder.at(self.span, self.stem):
            try:
                results = self.builder.ops(op, operands, attrs)
            except ShapeError as error:
                raise self.shape_failure(error, operands) from None
        equation = self.builder.equations[-1]
        for result in results:
            self.definitions[result.name] = equation
            if self.running is not None:
                self.origins[result.name] = self.running
        return results

    def unify(
        self,
        a: Dim,
        b: Dim,
        what: str,
        operands: Sequence[Var] = (),
        notes: Sequence[str] = (),
        labels: Sequence[Label] = (),
    ) -> Dim:
        """Requires two dimensions to be equal, outside an equation."""
        self.solver.span = self.span
        try:
            return self.solver.equal(a, b, what, tuple(range(len(operands))))
        except ShapeError as error:
            raise self.shape_failure(error, operands, notes, labels) from None

    def divide(self, a: Dim, b: Dim, what: str, operands: Sequence[Var] = ()) -> Dim:
        """a / b, which must be exact."""
        self.solver.span = self.span
        try:
            return self.solver.quotient(a, b, what, tuple(range(len(operands))))
        except ShapeError as error:
            raise self.shape_failure(error, operands) from None

    def known(self, dim: Dim, what: str) -> int:
        """The size of a dimension that must be known now."""
        try:
            size = self.solver.size(dim)
        except ShapeError as error:
            raise self.shape_failure(error, ()) from None
        if size is None:
            raise self.report.fail(
                "T0402",
                f"{what} needs the size of {self.dim_text(dim)}, which is not known yet",
                self.span,
                help=[self.flag_for(dim)],
            )
        return size

    def dim_text(self, dim: Dim) -> str:
        """How a dimension is called in a message."""
        for slot in self.slots:
            for axis, symbol in slot.symbols.items():
                if symbol == dim or self.solver.root(symbol) == self.solver.root(dim):
                    return f"dimension {axis} of `{slot.path}`"
        return f"dimension `{dim}`"

    def flag_for(self, dim: Dim) -> str:
        """The option that would settle a dimension."""
        dim = next(iter(self.solver.unknowns(dim)), dim)
        for slot in self.slots:
            for axis, symbol in slot.symbols.items():
                if self.solver.root(symbol) == self.solver.root(dim) and slot.shape is not None:
                    text = "x".join("SIZE" if i == axis else "_" for i in range(len(slot.shape)))
                    return f"give it on the command line: --shape {slot.path}={text}, with a number for SIZE"
        return f"give it on the command line: --dim {dim}=SIZE, with a number for SIZE"

    def shape_failure(
        self, error: ShapeError, operands: Sequence[Var], more: Sequence[str] = (), places: Sequence[Label] = ()
    ) -> Failed:
        """Reports a broken shape rule with the places that forced either side."""
        labels = [p for p in places if p.span != self.span] + self._rescaled_here(error)
        notes: list[str] = list(more)
        for anchor in error.anchors if isinstance(error, Contradiction) else ():
            if anchor.span is None:
                notes.append(f"{anchor.size} comes from {anchor.text}")
            elif anchor.span != self.span:
                labels.append(Label(anchor.span, anchor.text))
        for var in dict.fromkeys([operands[i] for i in error.operands if i < len(operands)] or operands):
            definition = self.definitions.get(var.name)
            if definition is None:
                continue
            text = f"`{self.name_of(var)}` is {self.type_text(var.type)}"
            if isinstance(definition, Slot) and definition.shape_text:
                notes.append(f"{text}, from {definition.shape_text}")
            if definition.span == self.span:
                notes.append(text)
            else:
                labels.append(Label(definition.span, text))
        merged: dict[Span, list[str]] = {}
        for label in labels:
            merged.setdefault(label.span, []).append(label.text)
        labels = [Label(span, "; ".join(dict.fromkeys(texts))) for span, texts in merged.items()]
        code = "T0403" if error.operands or isinstance(error, Contradiction) else "T0404"
        if isinstance(error, ComplexRefused):
            code = "T0414"
        return self.report.fail(
            code,
            error.message,
            self.span,
            labels=labels,
            notes=list(dict.fromkeys(notes)),
            help=[error.help] if error.help else (),
        )

    def _rescaled_here(self, error: ShapeError) -> list[Label]:
        """Literals that --set-literal replaced by a size the message names."""
        sizes = set(map(int, re.findall(r"\b\d+\b", error.message)))
        return [
            Label(span, f"{old} is {new} by --set-literal {old}={new}")
            for new, (old, span) in self.rescaled.items()
            if new in sizes and span != self.span
        ]

    # ---------------------------------------------------------------------------------------------- texts

    def name_of(self, var: Var) -> str:
        """The user's name for a tensor."""
        definition = self.definitions.get(var.name)
        if isinstance(definition, Slot):
            return definition.path
        return self.display.get(var.name, var.name)

    def type_text(self, type_: TensorType) -> str:
        """A type with what is known of its dimensions by now."""
        return str(type_.with_shape(tuple(self.solver.resolve(d) for d in type_.shape)))

    def frame(self) -> Frame:
        """The frame of the unit's top level."""
        return Frame(None, self.root, "")
