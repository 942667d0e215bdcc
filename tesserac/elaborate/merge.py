"""Merging the traces of experts: one set of equations for all experts that do the same with tensors of their own.

Row-wise equations are shared. Where an expert's own tensor meets the rows, products become ``grouped_contract``
and everything that is repeated over the rows becomes ``grouped_rows``; other ops on such tensors run once per expert
and keep its rows. What an expert computes from its parameters alone stays as it is, once per expert.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tesserac.elaborate.contract_rows import Grouping, contract_rows
from tesserac.elaborate.operands import broadcast_to
from tesserac.elaborate.row_blocks import Trace, Tracer
from tesserac.elaborate.session import Session
from tesserac.ir.program import Attr, Equation, Var
from tesserac.ir.types import Dim, TensorType
from tesserac.ops.attributes import dims_of, integers
from tesserac.ops.base import spec_of

_ORDINAL = re.compile(r"\.\d+$")
_NORMS = ("layernorm", "rmsnorm")
_OWN_ROWS = frozenset({"grouped_contract", "grouped_rows", "grouped_keep"})
_KEEP_ZERO = frozenset({"add", "sub", "neg", "reshape", "transpose", "gelu", "gelu_tanh", "relu", "silu", "tanh"})
"""Ops that are zero where all of their operands are."""


def only_multiplied(trace: Trace) -> bool:
    """Whether the rows meet nothing but matrices, so that a product grouped by expert is all that ever reads them."""
    readers = [e for e in trace.equations if trace.block in e.operands]
    made = {v.name for e in trace.equations for v in e.results} | {trace.block.name}
    return trace.result != trace.block and all(
        e.op == "contract"
        and e.operands[0] == trace.block
        and e.operands[1].type.rank == 2
        and e.operands[1].name not in made
        and str(e.attr("spec")) == "mk,kn->mn"
        for e in readers
    )


def alike(session: Session, tracer: Tracer, a: Trace, b: Trace) -> bool:
    """Whether two traces do the same with the rows, so that they differ only in tensors without rows."""
    if len(a.equations) != len(b.equations):
        return False
    pairs = {a.block.name: b.block.name}
    for left, right in zip(a.equations, b.equations, strict=True):
        if left.op != right.op or len(left.operands) != len(right.operands):
            return False
        if _attributes(session, left) != _attributes(session, right):
            return False
        for u, v in zip(left.operands, right.operands, strict=True):
            if pairs.get(u.name) != (v.name if v.name in pairs.values() else None):
                return False
        types = zip((*left.operands, *left.results), (*right.operands, *right.results), strict=True)
        if any(_resolved(session, u.type) != _resolved(session, v.type) for u, v in types):
            return False
        pairs.update((u.name, v.name) for u, v in zip(left.results, right.results, strict=True))
    return pairs.get(a.result.name) == b.result.name


def _resolved(session: Session, t: TensorType) -> TensorType:
    return t.with_shape(tuple(map(session.solver.resolve, t.shape)))


def _attributes(session: Session, equation: Equation) -> dict[str, Attr]:
    """Attributes with resolved dimensions. The stream of random numbers may differ: any stream is as good."""
    random = spec_of(equation.op).kind == "random"
    return {
        k: tuple(session.solver.resolve(v) if isinstance(v, str) else v for v in value)
        if isinstance(value, tuple)
        else value
        for k, value in equation.attrs
        if not (random and k == "stream")
    }


@dataclass
class Merger:
    """Emits the equations of experts with like traces on the rows of all tokens.

    ``offsets`` say where each expert's rows start, ``experts`` the numbers of these, ``rows`` how many there are.
    ``whole`` says that every row belongs to one of them. Otherwise their tensors meet their own rows only, even where
    they share one, and ``zero`` holds the names of results that are zero in all other rows.
    """

    session: Session
    tracer: Tracer
    offsets: Var
    experts: tuple[int, ...]
    rows: Dim
    whole: bool
    values: dict[str, Var] = field(default_factory=dict)
    zero: set[str] = field(default_factory=set)

    def run(self, traces: Sequence[Trace], block: Var) -> Var:
        """The merged result, with the rows along its first axis."""
        self.values[traces[0].block.name] = block
        for group in zip(*(t.equations for t in traces), strict=True):
            mark = len(self.session.builder.equations)
            with self._at(group[0]):
                results = self._equation(group)
            for equation in self.session.builder.equations[mark:]:
                if equation.op in _OWN_ROWS or (
                    equation.op in _KEEP_ZERO and all(v.name in self.zero for v in equation.operands)
                ):
                    self.zero.update(v.name for v in equation.results)
            for old, new in zip(group[0].results, results, strict=True):
                self._adopt(old, new)
        result = self.values[traces[0].result.name]
        axis = self.tracer.row_axis(traces[0].result)
        assert axis is not None
        return self._moved(result, axis, 0)

    # ---------------------------------------------------------------------------------------------- equations

    def _equation(self, group: tuple[Equation, ...]) -> tuple[Var, ...]:
        first = group[0]
        operands = [self._operand(tuple(e.operands[i] for e in group)) for i in range(len(first.operands))]
        own = [i for i, v in enumerate(operands) if v is None]
        if not own:
            return self._emit(first, [v for v in operands if v is not None])
        tensors = [tuple(e.operands[i] for e in group) for i in own]
        if first.op == "broadcast":
            return (self._broadcast(first, tensors[0]),)
        if first.op == "contract" and len(own) == 1:
            place = 1 - own[0]
            x, axis = operands[place], self.tracer.row_axis(first.operands[place])
            assert x is not None
            assert axis is not None
            grouping = Grouping(self.session, self.offsets, self.experts, self.rows)
            return (contract_rows(grouping, str(first.attr("spec")), x, place, axis, tensors[0]),)
        if first.op in _NORMS and operands[0] is not None:
            vectors = [tuple(e.operands[i] for e in group) for i in range(1, len(operands))]
            return (self._norm(first, operands[0], vectors),)
        return self._each(group, operands)

    def _operand(self, variants: tuple[Var, ...]) -> Var | None:
        """The merged value of an operand, or None where every expert has a tensor of its own."""
        if variants[0].name in self.values:
            return self.values[variants[0].name]
        return variants[0] if self._same(variants) else None

    def _same(self, variants: tuple[Var, ...]) -> bool:
        """Whether the experts share a tensor: it is one, or the same constant in each of them."""
        session = self.session
        if self.whole and all(v.name == variants[0].name for v in variants):
            return True
        made = [session.definitions.get(v.name) for v in variants]
        if not all(isinstance(d, Equation) and d.op == "full" for d in made):
            return False
        described = [(_attributes(session, d), session.deferred.get(v.name))
                     for d, v in zip(made, variants, strict=True) if isinstance(d, Equation)]
        return all(d == described[0] for d in described)

    def _emit(self, equation: Equation, operands: Sequence[Var]) -> tuple[Var, ...]:
        """The same equation on all rows."""
        attrs = {k: tuple(map(self._dim, v)) if isinstance(v, tuple) else v for k, v in equation.attrs}
        return self.session.emit_all(equation.op, operands, attrs)

    def _dim(self, value: Attr) -> Attr:
        if isinstance(value, str) and self.session.solver.resolve(value) == self.tracer.rows:
            return self.rows
        return value

    def _shape(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        return tuple(self.rows if self.session.solver.resolve(d) == self.tracer.rows else d for d in shape)

    def _in_rows(self, tensors: Sequence[Var]) -> Var:
        """Every expert's tensor in its rows: [rows, ...]."""
        return self.session.emit("grouped_rows", self.offsets, *tensors, experts=self.experts, rows=self.rows)

    def _broadcast(self, equation: Equation, tensors: Sequence[Var]) -> Var:
        """A tensor repeated over the rows becomes every row's own."""
        axes = integers(equation.attributes, "axes")
        shape = self._shape(dims_of(equation.attributes, "shape"))
        axis = self.tracer.row_axis(equation.result)
        assert axis is not None
        if axis in axes:
            # An axis of size 1 is stretched over the rows: without it, the rows are a new axis.
            place = axes.index(axis)
            kept = tuple(d for i, d in enumerate(tensors[0].type.shape) if i != place)
            tensors = [self.session.emit("reshape", t, shape=kept) for t in tensors]
            axes = tuple(a for a in axes if a != axis)
        spread = tuple(sorted((*axes, axis)))
        value = self._moved(self._in_rows(tensors), 0, spread.index(axis))
        if spread == tuple(range(len(shape))):
            return broadcast_to(self.session, value, shape)
        return self.session.emit("broadcast", value, shape=shape, axes=spread)

    def _norm(self, equation: Equation, x: Var, vectors: Sequence[tuple[Var, ...]]) -> Var:
        """A norm without its vectors, then every row's own gain and bias."""
        session, width = self.session, x.type.shape[-1:]
        plain = [session.emit("full", value=1.0 - i, shape=width, dtype=x.type.dtype) for i in range(len(vectors))]
        value = self._emit(equation, (x, *plain))[0]
        axis = self.tracer.row_axis(equation.result)
        assert axis is not None
        for op, own in zip(("mul", "add"), vectors, strict=False):
            if self._same(own):
                spread = broadcast_to(session, own[0], x.type.shape)
            else:
                spread = self._in_rows(own)
                if x.type.rank > 2:
                    spread = session.emit("broadcast", spread, shape=x.type.shape, axes=(axis, x.type.rank - 1))
            value = session.emit(op, value, spread)
        return value

    def _each(self, group: tuple[Equation, ...], operands: Sequence[Var | None]) -> tuple[Var, ...]:
        """Any other op on tensors of the experts' own: once per expert on all rows, of which its own are kept."""
        totals: list[Var] = []
        for number, equation in zip(self.experts, group, strict=True):
            given = [own if v is None else v for v, own in zip(operands, equation.operands, strict=True)]
            parts = []
            for old, new in zip(equation.results, self._emit(equation, given), strict=True):
                if not new.type.dtype.is_differentiable:
                    raise self.session.report.fail(
                        "T0501",
                        f"`{equation.op}` of a tensor that every expert has of its own is not supported yet where its "
                        f"result is {new.type.dtype}",
                        equation.span,
                    )
                axis = self.tracer.row_axis(old)
                assert axis is not None
                front = self._moved(new, axis, 0)
                kept = self.session.emit("grouped_keep", front, self.offsets, experts=(number,))
                parts.append(self._moved(kept, 0, axis))
            totals = [self.session.emit("add", t, p) for t, p in zip(totals, parts, strict=True)] if totals else parts
        return tuple(totals)

    # ---------------------------------------------------------------------------------------------- values

    def _moved(self, x: Var, source: int, target: int) -> Var:
        """x with one axis moved elsewhere."""
        if source == target:
            return x
        perm = [i for i in range(x.type.rank) if i != source]
        perm.insert(target, source)
        return self.session.emit("transpose", x, perm=tuple(perm))

    def _adopt(self, old: Var, new: Var) -> None:
        """The merged value takes the place of the first expert's, with its name and what is remembered of it."""
        session = self.session
        self.values[old.name] = new
        if old.name in session.display:
            session.display.setdefault(new.name, session.display[old.name])
        if old.name in session.unscaled:
            session.unscaled.add(new.name)
        dropped = session.dropped.get(old.name)
        if dropped is not None:
            session.dropped[new.name] = self.values.get(dropped.name, dropped)

    @contextmanager
    def _at(self, equation: Equation) -> Iterator[None]:
        """Equations inside belong to the source line of this one, and are called after it."""
        session = self.session
        saved = session.span, session.stem
        session.span, session.stem = equation.span, _ORDINAL.sub("", equation.results[0].name)
        try:
            yield
        finally:
            session.span, session.stem = saved
