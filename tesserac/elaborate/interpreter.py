"""Evaluation of expressions: compile-time values are computed, tensor operations become equations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tesserac.diagnostics import Span
from tesserac.elaborate import compile_time, names
from tesserac.elaborate.compile_time import Refused, is_plain
from tesserac.elaborate.operands import is_number, is_tensor
from tesserac.elaborate.report import Abandoned, Failed, Report
from tesserac.elaborate.scopes import Frame, name_layers, name_unpacked
from tesserac.elaborate.session import Session
from tesserac.elaborate.tensors import arithmetic, comparison, index_tensor, logic, negate
from tesserac.elaborate.values import Batch, Function, Poison, Slot, UnknownDim, Value, describe
from tesserac.ir.program import Var
from tesserac.parser import syntax

MAX_STEPS = 200_000
"""Statements, loop iterations and calls that elaborating one entry may take."""


class Interpreter:
    """Evaluates expressions against a session; one per entry."""

    def __init__(self, session: Session, literals: dict[int, int], sets: dict[str, Value]) -> None:
        self.session = session
        self.report: Report = session.report
        self.top: Frame = session.frame()
        self.sets = sets
        self.hint: tuple[syntax.Expr, str] | None = None
        self.imported: set[str] = set()
        self._literals = literals
        self._steps = 0
        self._rules: dict[type, Callable[..., Value]] = {
            syntax.Name: self._name,
            syntax.Number: self._number,
            syntax.String: lambda n, f: n.value,
            syntax.FString: self._fstring,
            syntax.Bool: lambda n, f: n.value,
            syntax.NoneLit: lambda n, f: None,
            syntax.Ellipsis: lambda n, f: ...,
            syntax.TupleExpr: lambda n, f: tuple(self.eval(i, f) for i in n.items),
            syntax.ListExpr: lambda n, f: [self.eval(i, f) for i in n.items],
            syntax.DictExpr: self._dict,
            syntax.Attribute: self._attribute,
            syntax.Subscript: self._subscript,
            syntax.Call: self._call,
            syntax.Unary: self._unary,
            syntax.Binary: self._binary,
            syntax.Compare: self._compare,
            syntax.BoolOp: self._boolop,
            syntax.Conditional: self._conditional,
            syntax.Lambda: self._lambda,
            syntax.Comprehension: self._comprehension,
            syntax.Slice: self._slice,
        }

    # ---------------------------------------------------------------------------------------------- entry points

    def eval(self, node: syntax.Expr, frame: Frame) -> Value:
        """The value of an expression. Raises Failed after reporting, or on meeting a poisoned value."""
        value = self._rules[type(node)](node, frame)
        if type(value) is Poison:
            raise Failed
        return value

    def tick(self, span: Span) -> None:
        """Counts a unit of work; an endless unrolling is an error instead of a hang."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            self.report.error(
                "T0208",
                f"elaboration takes more than {MAX_STEPS} steps",
                span,
                notes=["loops are unrolled and functions are inlined at compile time"],
                help=["shorten the loop, or hold the repetition in one tensor dimension"],
            )
            raise Abandoned

    @contextmanager
    def at(self, span: Span) -> Iterator[None]:
        """Equations and messages inside belong to ``span``."""
        session = self.session
        saved, session.span = session.span, span
        try:
            yield
        finally:
            session.span = saved

    def refuse(self, reason: Refused | str, span: Span, code: str = "T0204") -> Failed:
        """Reports why a compile-time value cannot be computed."""
        return self.report.fail(code, str(reason), span)

    def truth(self, node: syntax.Expr, frame: Frame) -> bool:
        """A condition, which must be a compile-time fact."""
        value = self.eval(node, frame)
        if is_tensor(value):
            raise self.report.fail(
                "T0205",
                f"the condition must be known at compile time, but it is {describe(value)}",
                node.span,
                help=["choose between tensors elementwise with op.where(condition, a, b)"],
            )
        try:
            return compile_time.truth(value)
        except Refused as reason:
            raise self.refuse(reason, node.span, "T0205") from None

    def bind(self, target: syntax.Expr, value: Value, frame: Frame) -> None:
        """Assigns to a name or unpacks into several."""
        if isinstance(target, syntax.Name):
            if frame is self.top and target.id in self.sets:
                value = self.sets[target.id]
            frame.names[target.id] = value
            if isinstance(value, Var):
                self.session.display.setdefault(value.name, target.id)
            elif not is_number(value) and not isinstance(value, str):
                name_layers(value, target.id, frame.scope)
        elif isinstance(target, syntax.TupleExpr | syntax.ListExpr):
            self._unpack(target.items, value, target.span, frame)
        else:
            raise self.report.fail("T0206", "only names and tuples of names can be assigned", target.span)

    def _unpack(self, targets: Sequence[syntax.Expr], value: Value, span: Span, frame: Frame) -> None:
        if isinstance(value, Poison):
            values: Sequence[Value] = [value] * len(targets)
        else:
            try:
                values = compile_time.items(value)
            except Refused:
                raise self.report.fail(
                    "T0206",
                    f"cannot unpack {describe(value)}",
                    span,
                    help=["op.split(x, n, axis=-1) cuts a tensor into n"] if is_tensor(value) else (),
                ) from None
        if len(values) != len(targets):
            raise self.report.fail("T0206", f"{len(targets)} names for {len(values)} values", span)
        if isinstance(value, tuple):
            name_unpacked(value, [t.id if isinstance(t, syntax.Name) else "" for t in targets])
        for target, item in zip(targets, values, strict=True):
            self.bind(target, item, frame)

    # ---------------------------------------------------------------------------------------------- leaves

    def _name(self, node: syntax.Name, frame: Frame) -> Value:
        try:
            return frame.lookup(node.id)
        except KeyError:
            return names.free_name(self, node)

    def _number(self, node: syntax.Number, frame: Frame) -> Value:
        value = node.value
        if type(value) is not int or value not in self._literals:
            return value
        self.session.rescaled.setdefault(self._literals[value], (value, node.span))
        return self._literals[value]

    def _fstring(self, node: syntax.FString, frame: Frame) -> Value:
        try:
            return "".join(p if isinstance(p, str) else compile_time.text(self.eval(p, frame)) for p in node.parts)
        except Refused as reason:
            raise self.refuse(reason, node.span) from None

    def _dict(self, node: syntax.DictExpr, frame: Frame) -> Value:
        result: dict[Value, Value] = {}
        for key_node, value_node in node.items:
            key = self.eval(key_node, frame)
            self._is_key(key, key_node.span)
            result[key] = self.eval(value_node, frame)
        return result

    def _is_key(self, key: Value, span: Span) -> bool:
        """Whether a value can be a dict key; an error otherwise."""
        parts = key if isinstance(key, tuple) else (key,)
        if all(isinstance(p, str | int | float) for p in parts):
            return True
        raise self.report.fail("T0204", f"a dict key is a string or a number, not {describe(key)}", span)

    def _lambda(self, node: syntax.Lambda, frame: Frame) -> Value:
        return Function("<lambda>", node.params, node.body, frame, node.span)

    def _slice(self, node: syntax.Slice, frame: Frame) -> Value:
        return slice(
            *(None if part is None else self.eval(part, frame) for part in (node.lower, node.upper, node.step))
        )

    # ---------------------------------------------------------------------------------------------- operators

    def _unary(self, node: syntax.Unary, frame: Frame) -> Value:
        if node.op == "not":
            return not self.truth(node.operand, frame)
        value = self.eval(node.operand, frame)
        if is_tensor(value):
            with self.at(node.span):
                return negate(self.session, node.op, value)
        try:
            return compile_time.unary(node.op, value)
        except Refused as reason:
            raise self.refuse(reason, node.span) from None

    def _binary(self, node: syntax.Binary, frame: Frame) -> Value:
        left, right = self.eval(node.left, frame), self.eval(node.right, frame)
        return self.operate(node.op, left, right, node.span)

    def operate(self, op: str, left: Value, right: Value, span: Span) -> Value:
        """``left op right``."""
        for value in (left, right):
            if isinstance(value, UnknownDim):
                with self.at(span):
                    self.session.known(value.dim, f"`{op}`")
        if is_plain(left) and is_plain(right):
            try:
                return compile_time.binary(op, left, right)
            except Refused as reason:
                raise self.refuse(reason, span) from None
        for value, other in ((left, right), (right, left)):
            if not is_tensor(value) and not (is_number(value) and is_tensor(other)):
                raise self.report.fail("T0503", f"`{op}` takes tensors and numbers, not {describe(value)}", span)
        with self.at(span):
            return logic(self.session, op, left, right) if op in "&|^" else arithmetic(self.session, op, left, right)

    def _compare(self, node: syntax.Compare, frame: Frame) -> Value:
        left = self.eval(node.left, frame)
        result: Value = True
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.eval(comparator, frame)
            if (is_tensor(left) or is_tensor(right)) and op not in ("is", "is not"):
                if len(node.ops) > 1:
                    raise self.report.fail(
                        "T0205",
                        "a chained comparison of tensors has no single truth value",
                        node.span,
                        help=["write (a < b) & (b < c)"],
                    )
                with self.at(node.span):
                    return comparison(self.session, op, left, right)
            try:
                result = compile_time.compare(op, left, right)
            except Refused as reason:
                raise self.refuse(reason, node.span) from None
            if not result:
                return False
            left = right
        return result

    def _boolop(self, node: syntax.BoolOp, frame: Frame) -> Value:
        value: Value = None
        for part in node.values:
            value = self.eval(part, frame)
            if is_tensor(value):
                raise self.report.fail(
                    "T0205",
                    f"`{node.op}` needs compile-time operands, not {describe(value)}",
                    part.span,
                    help=[f"tensors combine elementwise: (a) {'&' if node.op == 'and' else '|'} (b)"],
                )
            try:
                if compile_time.truth(value) != (node.op == "and"):
                    return value
            except Refused as reason:
                raise self.refuse(reason, part.span, "T0205") from None
        return value

    def _conditional(self, node: syntax.Conditional, frame: Frame) -> Value:
        return self.eval(node.body if self.truth(node.test, frame) else node.orelse, frame)

    # ---------------------------------------------------------------------------------------------- structure

    def _attribute(self, node: syntax.Attribute, frame: Frame) -> Value:
        value = self.eval(node.value, frame)
        with self.at(node.span):
            return names.attribute(self, value, node)

    def _subscript(self, node: syntax.Subscript, frame: Frame) -> Value:
        value, index = self.eval(node.value, frame), self._index(node.index, frame)
        if isinstance(value, Batch):
            return self.batch_key(value, index, node.span)
        if isinstance(value, Var | Slot):
            with self.at(node.span):
                return index_tensor(self.session, value, index)
        if isinstance(value, list | tuple | dict | str | range):
            return self._element(value, index, node.span)
        raise self.report.fail("T0204", f"cannot index {describe(value)}", node.span)

    def _element(self, value: Any, index: Value, span: Span) -> Value:
        """An element of a compile-time container."""
        try:
            return value[index]
        except (KeyError, IndexError, TypeError, ValueError):
            text = repr(index) if is_plain(index) else describe(index)
            known = f"; it has {', '.join(map(repr, list(value)[:8]))}" if isinstance(value, dict) else ""
            raise self.report.fail("T0204", f"{describe(value)} has no element {text[:60]}{known}", span) from None

    def _index(self, node: syntax.Expr, frame: Frame) -> Value:
        if isinstance(node, syntax.TupleExpr):
            return tuple(self.eval(item, frame) for item in node.items)
        return self.eval(node, frame)

    def batch_key(self, batch: Batch, key: Value, span: Span) -> Slot:
        """The data input of this name, made where it is first named; T0304 for what is no name."""
        if not isinstance(key, str):
            raise self.report.fail(
                "T0304",
                f"a batch is indexed by a string, not {describe(key)}",
                span,
                help=['batch["input"] names one data input'],
            )
        if key not in batch.slots:
            if not key or len(key) > 100 or not all(c.isalnum() or c in "_.-" for c in key):
                raise self.report.fail(
                    "T0304",
                    f"{key[:100]!r} cannot name a batch input",
                    span,
                    notes=["letters, digits, `_`, `.` and `-` are allowed"],
                )
            batch.slots[key] = self.session.slot(key, span, aliases=(f"{self.session.label}.{key}",))
        return batch.slots[key]

    def _call(self, node: syntax.Call, frame: Frame) -> Value:
        from tesserac.elaborate.calls import Arguments, call

        hint = self.hint[1] if self.hint is not None and self.hint[0] is node else None
        self.hint = None
        self.tick(node.span)
        function = self.eval(node.func, frame)
        args = tuple(self.eval(a, frame) for a in node.args)
        keywords: dict[str, Value] = {}
        for keyword in node.keywords:
            if keyword.name in keywords:
                raise self.report.fail("T0504", f"the argument `{keyword.name}` is given twice", keyword.span)
            keywords[keyword.name] = self.eval(keyword.value, frame)
        if hint is not None and any(isinstance(a, syntax.Name) and a.id == hint for a in node.args):
            hint = None
        with self.at(node.span):
            return call(self, function, Arguments(args, keywords, node, frame, hint))

    def _comprehension(self, node: syntax.Comprehension, frame: Frame) -> Value:
        inner = Frame(frame, frame.scope, frame.function, frame.owner, ticks=frame.ticks, depth=frame.depth)
        pairs: list[tuple[Value, Value]] = []

        def run(level: int) -> None:
            if level == len(node.clauses):
                key = self.eval(node.element, inner)
                if node.kind == "dict":
                    self._is_key(key, node.element.span)
                pairs.append((key, None if node.value is None else self.eval(node.value, inner)))
                return
            clause = node.clauses[level]
            try:
                sequence = compile_time.items(self.eval(clause.iter, inner))
            except Refused as reason:
                raise self.refuse(reason, clause.iter.span, "T0205") from None
            for item in sequence:
                self.tick(node.span)
                self.bind(clause.target, item, inner)
                if all(self.truth(c, inner) for c in clause.conditions):
                    run(level + 1)

        run(0)
        if node.kind == "dict":
            return dict(pairs)
        values = [key for key, _ in pairs]
        return values if node.kind == "list" else tuple(values)
