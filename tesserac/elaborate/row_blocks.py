"""Running a function on a block of rows whose number is not known, and proving that it treats every row alone.

An expert is any callable that maps rows to rows. It is elaborated once on a block ``[rows, features]`` whose first
axis is a symbol of its own; what it emits is kept apart, so that the equations of several experts can be merged
(`tesserac.elaborate.merge`). An equation *has rows* when it depends on the block or when its result has that axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tesserac.diagnostics import Label, Span
from tesserac.elaborate.report import Failed
from tesserac.elaborate.session import Session
from tesserac.elaborate.values import Value, describe
from tesserac.ir.program import Attr, Equation, Var
from tesserac.ir.types import Dim, TensorType
from tesserac.ops.base import spec_of

_FIRST_PRIME = 10007
"""Sizes that stand in for unknown ones start here: larger than what sources count by hand, and distinct."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What one function did with a block: ``equations`` have rows and are needed for ``result``, in order."""

    name: str
    span: Span
    block: Var
    equations: tuple[Equation, ...]
    result: Var


class Tracer:
    """Traces functions on one block of ``features`` columns, described to the user as ``like``."""

    def __init__(self, session: Session, like: Var, features: Dim) -> None:
        self.session = session
        self.rows = session.solver.symbol("rows")
        self.block = Var(session.builder.fresh("rows"), TensorType(like.type.dtype, (self.rows, features)))
        definition = session.definitions.get(like.name)
        if definition is not None:
            session.definitions[self.block.name] = definition
        session.display[self.block.name] = session.name_of(like)
        self._samples: dict[str, int] = {}

    def trace(self, name: str, span: Span, run: Callable[[Var], Value]) -> Trace:
        """The trace of ``run``; equations without rows stay in the program, the others are taken out of it."""
        session = self.session
        mark, calls = len(session.builder.equations), len(session.calls)
        try:
            value = run(self.block)
        finally:
            emitted = session.builder.equations[mark:]
            del session.builder.equations[mark:]
            del session.calls[calls:]
        if not isinstance(value, Var):
            raise session.report.fail(
                "T0506",
                f"{name} must yield one tensor, not {describe(value)}",
                session.span,
                labels=[Label(span, "it is made here")] if span != session.span else (),
            )
        with_rows = self._with_rows(name, emitted)
        names = {v.name for e in with_rows for v in e.results}
        session.builder.equations.extend(e for e in emitted if e.results[0].name not in names)
        self._check_result(name, span, value)
        return Trace(name, span, self.block, tuple(_needed(with_rows, value)), value)

    def row_axis(self, var: Var) -> int | None:
        """The axis of the rows; None for a value without them."""
        return next((i for i, d in enumerate(var.type.shape) if self.session.solver.resolve(d) == self.rows), None)

    # ---------------------------------------------------------------------------------------------- checks

    def _with_rows(self, name: str, emitted: Sequence[Equation]) -> list[Equation]:
        self._check_free(name)
        known = {self.block.name}
        found = []
        for equation in emitted:
            reads = [v for v in equation.operands if v.name in known]
            if not reads and all(self._count(v) == 0 for v in equation.results):
                continue
            if not self._keeps_rows(equation, reads):
                raise self._coupled(name, equation)
            known.update(v.name for v in equation.results)
            found.append(equation)
        return found

    def _count(self, var: Var) -> int:
        """How many axes have to do with the number of rows."""
        return sum(self.rows in self.session.solver.unknowns(d) for d in var.type.shape)

    def _keeps_rows(self, equation: Equation, reads: Sequence[Var]) -> bool:
        """Whether every row of the results depends on the same row of the operands alone."""
        if any(self._count(v) != 1 or self.row_axis(v) is None for v in equation.results):
            return False
        rule = spec_of(equation.op).factors
        if rule is None:
            return False
        operands, results = ([self._sampled(v) for v in side] for side in (equation.operands, equation.results))
        attrs = {k: self._sampled_attr(v) for k, v in equation.attrs}
        factors = rule(operands, results, attrs)
        names = {v.name for v in reads}
        pairs = [(v, f) for v, f in zip(equation.operands, factors.operands, strict=True) if v.name in names]
        pairs += zip(equation.results, factors.results, strict=True)
        letters = set()
        for var, axes in pairs:
            axis = self.row_axis(var)
            assert axis is not None
            letters.add(axes[axis])
        # A counter along the rows would number them, and so would tell a row where it stands.
        return len(letters) == 1 and all(c is not None and factors.kind(c) == "pass" for c in letters)

    def _sampled(self, var: Var) -> TensorType:
        return var.type.with_shape(tuple(map(self._size, var.type.shape)))

    def _sampled_attr(self, value: Attr) -> Attr:
        if isinstance(value, tuple):
            return tuple(self._size(v) if isinstance(v, str) else v for v in value)
        return value

    def _size(self, dim: Dim) -> int:
        """A size, or a number that stands for it: distinct primes, so that only equal dimensions are equal."""
        solver = self.session.solver
        found = solver.resolve(dim)
        if isinstance(found, int):
            return found
        parts = solver.parts(found)
        if parts is not None:
            kind, operands = parts
            total = 1 if kind == "product" else 0
            for size in map(self._size, operands):
                total = total * size if kind == "product" else total + size
            return total
        if found not in self._samples:
            self._samples[found] = _next_prime(max(self._samples.values(), default=_FIRST_PRIME))
        return self._samples[found]

    # ---------------------------------------------------------------------------------------------- messages

    def _check_free(self, name: str) -> None:
        session = self.session
        found = session.solver.resolve(self.rows)
        if found == self.rows:
            return
        anchor = session.solver.anchor(self.rows)
        labels = [Label(anchor.span, anchor.text)] if anchor and anchor.span and anchor.span != session.span else ()
        what = f"fixes their number to {found}" if isinstance(found, int) else f"makes their number equal to `{found}`"
        raise session.report.fail(
            "T0507",
            f"{name} must treat every row alone, but it {what}",
            session.span,
            labels=labels,
            notes=["an expert gets the rows of the tokens that chose it, in any number"],
            help=["leave the first dimension of its argument open, and combine it with no tensor that has its own"],
        )

    def _coupled(self, name: str, equation: Equation) -> Failed:
        session = self.session
        if spec_of(equation.op).kind == "transform":
            return session.report.fail(
                "T0501",
                f"{name} takes a derivative, which is not supported yet inside an expert",
                equation.span,
            )
        return session.report.fail(
            "T0507",
            f"{name} must treat every row alone, but `{equation.op}` combines rows or moves their axis",
            equation.span,
            labels=[Label(session.span, "the rows of all tokens that chose it pass through it here")]
            if session.span != equation.span
            else (),
            notes=["an expert gets the rows of the tokens that chose it, in any number and order"],
            help=["a mixture inside an expert weighs all of its own: op.recursive_mixture(experts, depth=1)"]
            if equation.op in ("route", "limit")
            else ["combine the features of a token only; what looks at several tokens belongs outside the experts"],
        )

    def _check_result(self, name: str, span: Span, value: Var) -> None:
        if self.row_axis(value) is None:
            raise self.session.report.fail(
                "T0506",
                f"{name} must yield a row for every row it gets, not {self.session.type_text(value.type)}",
                self.session.span,
                labels=[Label(span, "it is made here")] if span != self.session.span else (),
            )


def _needed(equations: Iterable[Equation], result: Var) -> list[Equation]:
    """The equations that the result depends on."""
    names, kept = {result.name}, []
    for equation in reversed(list(equations)):
        if any(v.name in names for v in equation.results):
            names.update(v.name for v in equation.operands)
            kept.append(equation)
    return kept[::-1]


def _next_prime(after: int) -> int:
    number = after + 2
    while any(number % d == 0 for d in range(3, int(number**0.5) + 1, 2)):
        number += 2
    return number
