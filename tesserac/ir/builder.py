"""Builder: appends equations to a function under construction, inferring types and keeping names unique."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tesserac.diagnostics import InternalError, Span
from tesserac.ir.dims import STATIC, Dims
from tesserac.ir.program import Attr, Equation, Function, Input, Output, Var, sorted_attrs
from tesserac.ir.types import DType, TensorType
from tesserac.ops.base import REQUIRED, spec_of


def stem_of(name: str) -> str:
    """A name without the number that made it unique: ``h`` of ``h.3``."""
    stem, dot, number = name.rpartition(".")
    return stem if dot and number.isdecimal() else name


class Builder:
    """Collects inputs and equations; ``op`` is the one way to add an equation."""

    def __init__(self, dims: Dims = STATIC) -> None:
        self.inputs: list[Input] = []
        self.equations: list[Equation] = []
        self._dims = dims
        self._names: dict[str, int] = {}
        self._span = Span.point("<none>", 1, 1)
        self._hint: str | None = None
        self._prefix = ""

    @contextmanager
    def at(self, span: Span, hint: str | None = None, prefix: str = "") -> Iterator[None]:
        """Equations added inside carry this span; ``hint`` names values that have no name of their own.

        Without a hint they are called after their op. ``prefix`` goes before a name of their own or of their op.
        """
        saved = self._span, self._hint, self._prefix
        self._span, self._hint, self._prefix = span, hint, prefix
        try:
            yield
        finally:
            self._span, self._hint, self._prefix = saved

    @property
    def span(self) -> Span:
        """The span that the next equation gets."""
        return self._span

    def fresh(self, name: str) -> str:
        """``name``, or ``name.N`` when it is taken."""
        stem = stem_of(name)
        count = self._names.get(stem, 0)
        self._names[stem] = count + 1
        return stem if count == 0 else f"{stem}.{count}"

    def reserve(self, names: Iterable[str]) -> None:
        """Keeps ``fresh`` from giving out these names; for functions that are copied with their names."""
        for name in names:
            stem = stem_of(name)
            count = int(name[len(stem) + 1 :]) + 1 if stem != name else 1
            self._names[stem] = max(self._names.get(stem, 0), count)

    def add_input(self, item: Input) -> Var:
        """Declares an input; its variable gets a unique name."""
        var = Var(self.fresh(item.var.name), item.var.type)
        self.inputs.append(Input(var, item.path, item.init, item.decay, item.index_bound, item.ignore_index, item.span))
        return var

    def op(self, name: str, *operands: Var, named: str | None = None, **attrs: Attr) -> Var:
        """Adds an equation with one result and returns it."""
        results = self.ops(name, operands, attrs, named)
        if len(results) != 1:
            raise InternalError(f"{name} has {len(results)} results")
        return results[0]

    def ops(self, name: str, operands: Sequence[Var], attrs: Mapping[str, Attr] | None = None,
            named: str | None = None) -> tuple[Var, ...]:
        """Adds an equation with any number of results."""
        spec = spec_of(name)
        given = dict(attrs or {})
        full = {key: given.pop(key, default) for key, default in spec.attrs}
        if given or REQUIRED in full.values() or (spec.arity is not None and len(operands) != spec.arity):
            raise InternalError(f"wrong operands or attributes for {name}: {len(operands)} operands, {full}, "
                                f"extra {given}")
        types = spec.infer([v.type for v in operands], full, self._dims)
        stem = self._prefix + named if named else self._hint or self._prefix + name
        results = tuple(Var(self.fresh(stem), t) for t in types)
        self.equations.append(Equation(name, tuple(operands), results, sorted_attrs(full), self._span))
        return results

    def append(self, equation: Equation) -> None:
        """Adds a finished equation whose result names the caller made unique with ``fresh``."""
        self.equations.append(equation)

    def constant(self, value: float, like: TensorType, named: str | None = None) -> Var:
        """A tensor of ``like``'s type filled with a number."""
        return self.op("full", named=named, value=value, shape=like.shape, dtype=like.dtype)

    def scalar(self, value: float, dtype: DType) -> Var:
        """A rank-0 constant."""
        return self.constant(value, TensorType(dtype))

    def finish(self, name: str, outputs: Sequence[Output]) -> Function:
        """The function built so far."""
        return Function(name, tuple(self.inputs), tuple(self.equations), tuple(outputs))
