"""A function under rewriting: a value graph with users, value numbering and a worklist.

Every operation costs time in proportion to the uses it touches, so a pass over a function is linear in
its size. Equal equations (same op, operands and attributes; commutative operands in either order) exist
once: asking for a second one returns the first. Values that nobody uses are dropped as they appear.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from tesserac.diagnostics import InternalError, Span
from tesserac.ir.dims import STATIC
from tesserac.ir.program import Attr, Equation, Function, Output, Var, sorted_attrs
from tesserac.ir.types import DType, TensorType
from tesserac.ops.base import REQUIRED, spec_of
from tesserac.passes.rules.labels import Labels
from tesserac.passes.rules.sameness import Key, key_of, key_of_op

_FEW = 4


class Rewriter:
    """Holds the equations of one function while rules replace them."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._definitions: dict[str, Equation] = {}
        self._users: dict[str, dict[str, None]] = {}
        self._order: dict[str, tuple[int, int]] = {}
        self._by_key: dict[Key, str] = {}
        self._inputs = frozenset(item.var.name for item in function.inputs)
        self._labels = Labels(self._inputs, (var.name for var in function.variables()))
        self._forwarded: dict[str, Var] = {}
        self._outputs = [output.var for output in function.outputs]
        self._output_slots: dict[str, list[int]] = {}
        for slot, var in enumerate(self._outputs):
            self._output_slots.setdefault(var.name, []).append(slot)
        self._queue: deque[str] = deque()
        self._queued: set[str] = set()
        self._current: Equation | None = None
        self._load(function)

    # ---- questions -------------------------------------------------------------------------------------------

    def definition(self, var: Var) -> Equation | None:
        """The equation that defines a value; None for an input of the function."""
        return self._definitions.get(var.name)

    def defined_by(self, var: Var, op: str) -> Equation | None:
        """The equation that defines a value if it is one of ``op``."""
        equation = self._definitions.get(var.name)
        return equation if equation is not None and equation.op == op else None

    def ops_above(self, equation: Equation) -> frozenset[str]:
        """The ops that make the operands of an equation."""
        made = [self._definitions.get(var.name) for var in equation.operands]
        return frozenset([above.op for above in made if above is not None])

    def constant_of(self, var: Var) -> int | float | bool | None:
        """The number that fills a value, if it is a ``full`` of one."""
        equation = self.defined_by(var, "full")
        value = equation.attr("value") if equation is not None else None
        return value if isinstance(value, int | float) else None

    def current(self, var: Var) -> Var:
        """What stands for a value now, after it may have been replaced."""
        while var.name in self._forwarded:
            var = self._forwarded[var.name]
        return var

    def uses(self, var: Var) -> int:
        """How many equations and outputs read a value (an equation that reads it twice counts once)."""
        return len(self._users.get(var.name, ())) + len(self._output_slots.get(var.name, ()))

    def users(self, var: Var) -> list[Equation]:
        """The equations that read a value, in the order in which they began to."""
        return [self._definitions[name] for name in self._users.get(var.name, ())]

    def is_output(self, var: Var) -> bool:
        """Whether the function returns this value."""
        return var.name in self._output_slots

    # ---- building --------------------------------------------------------------------------------------------

    def op(self, name: str, *operands: Var, **attrs: Attr) -> Var:
        """The value of an op with one result, an existing one where there is one."""
        spec = spec_of(name)
        given = {key: attrs.pop(key, default) for key, default in spec.attrs}
        if attrs or REQUIRED in given.values() or (spec.arity is not None and len(operands) != spec.arity):
            raise InternalError(f"wrong operands or attributes for {name}: {len(operands)} operands, {given}, {attrs}")
        stored = sorted_attrs(given)
        key = key_of_op(name, operands, stored)
        found = self._by_key.get(key)
        if found is not None:
            return self._definitions[found].result
        types = spec.infer([var.type for var in operands], given, STATIC)
        if len(types) != 1:
            raise InternalError(f"{name} has {len(types)} results")
        single = self._current is not None and len(self._current.results) == 1
        beside = self._current.result.name if self._current is not None and single else None
        result = Var(self._labels.fresh(name, beside), types[0])
        span, position = Span.point("<none>", 1, 1), 0
        if self._current is not None:
            span, position = self._current.span, self._order[self._current.results[0].name][0]
        equation = Equation(name, operands, (result,), stored, span)
        self._order[result.name] = (position, len(self._order))
        self._by_key[key] = result.name
        self._add(equation)
        self._enqueue(result.name)
        return result

    def constant(self, value: float | int | bool, like: TensorType) -> Var:
        """A value of ``like``'s type filled with a number, stored in the Python type of its dtype."""
        return self.op("full", value=number(value, like.dtype), shape=like.shape, dtype=like.dtype)

    # ---- rewriting -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Puts every equation on the worklist."""
        self._enqueue_all(self._definitions)

    def next(self) -> Equation | None:
        """The next equation to look at, or None when all have been; unused ones are dropped on the way."""
        while self._queue:
            name = self._queue.popleft()
            self._queued.discard(name)
            equation = self._definitions.get(name)
            if equation is None or self._drop_if_unused(equation):
                continue
            self._current = equation
            return equation
        return None

    def work_at(self, equation: Equation) -> None:
        """Lets the values that are built from now on take the place and the span of this equation."""
        self._current = equation

    def replace(self, old: Var, new: Var) -> None:
        """Makes every reader of ``old`` read ``new``, and drops what that leaves unused."""
        definition = self._definitions.get(new.name)
        if definition is not None and old in definition.operands:
            raise InternalError(f"{old} cannot be replaced by a value that reads it")
        pending = [(old, new)]
        replaced: list[Var] = []  # dropped last: a merge that is still due may want what only they keep
        while pending:
            source, target = pending.pop()
            target = self.current(target)
            if source.name in self._forwarded or source.name == target.name:
                continue
            if source.type != target.type:
                raise InternalError(f"{source}: {source.type} cannot be replaced by {target}: {target.type}")
            self._forwarded[source.name] = target
            self._labels.hand_over(source.name, target.name)
            self._move_outputs(source, target)
            for user in list(self._users.get(source.name, ())):
                pending.extend(self._rename_operand(self._definitions[user], source, target))
            replaced.append(source)
        for var in replaced:
            equation = self._definitions.get(var.name)
            if equation is not None:
                self._drop_if_unused(equation)

    def finish(self) -> Function:
        """The function as it now is: original order where possible, operands before their users."""
        rename = {name: var.called(self._labels.of(name)) for name, var in self._variables()}
        ordered = sorted(self._definitions.values(), key=lambda e: self._order[e.results[0].name])
        equations: list[Equation] = []
        done: set[str] = set(self._inputs)
        for root in ordered:
            for equation in self._after_operands(root, done):
                operands = tuple(rename[var.name] for var in equation.operands)
                results = tuple(rename[var.name] for var in equation.results)
                equations.append(equation.over(operands, results))
        outputs = tuple(Output(output.name, rename[var.name])
                        for output, var in zip(self._function.outputs, self._outputs, strict=True))
        return replace(self._function, equations=tuple(equations), outputs=outputs)

    # ---- inside ----------------------------------------------------------------------------------------------

    def _load(self, function: Function) -> None:
        live = {output.var.name for output in function.outputs}
        for equation in reversed(function.equations):
            if any(var.name in live for var in equation.results):
                live.update(var.name for var in equation.operands)
        merged: dict[str, Var] = {}
        for position, equation in enumerate(function.equations):
            if not any(var.name in live for var in equation.results):
                continue
            if any(var.name in merged for var in equation.operands):
                equation = equation.over(tuple(merged.get(v.name, v) for v in equation.operands))
            for var in equation.results:
                self._order[var.name] = (position, len(self._order))
                self._labels.keep(var.name)
            first = self._by_key.setdefault(key_of(equation), equation.results[0].name)
            if first == equation.results[0].name:
                self._add(equation)
                continue
            for var, kept in zip(equation.results, self._definitions[first].results, strict=True):
                merged[var.name] = kept
                self._labels.hand_over(var.name, kept.name)
                self._move_outputs(var, kept)

    def _move_outputs(self, source: Var, target: Var) -> None:
        for slot in self._output_slots.pop(source.name, ()):
            self._outputs[slot] = target
            self._output_slots.setdefault(target.name, []).append(slot)

    def _add(self, equation: Equation) -> None:
        name = equation.results[0].name
        for var in equation.results:
            self._definitions[var.name] = equation
        for var in equation.operands:
            self._users.setdefault(var.name, {})[name] = None

    def _rename_operand(self, equation: Equation, source: Var, target: Var) -> list[tuple[Var, Var]]:
        """Rewrites one reader; returns the merges that this makes due."""
        name = equation.results[0].name
        key = key_of(equation)
        if self._by_key.get(key) == name:
            del self._by_key[key]
        changed = equation.over(tuple(target if var.name == source.name else var for var in equation.operands))
        del self._users[source.name][name]
        self._add(changed)
        self._enqueue(name)
        if self.uses(changed.results[0]) <= _FEW:  # patterns reach two equations up; the next sweep sees the rest
            self._enqueue_all(self._users.get(name, ()))
        twin = self._by_key.setdefault(key_of(changed), name)
        if twin == name:
            return []
        return list(zip(changed.results, self._definitions[twin].results, strict=True))

    def _drop_if_unused(self, equation: Equation) -> bool:
        if any(self.uses(var) for var in equation.results):
            return False
        pending = [equation]
        while pending:
            dead = pending.pop()
            name = dead.results[0].name
            if name not in self._definitions:
                continue
            key = key_of(dead)
            if self._by_key.get(key) == name:
                del self._by_key[key]
            for var in dead.results:
                del self._definitions[var.name]
            for var in dict.fromkeys(dead.operands):
                self._users[var.name].pop(name, None)
                above = self._definitions.get(var.name)
                if above is not None and not any(self.uses(v) for v in above.results):
                    pending.append(above)
                elif len(self._users[var.name]) == 1:  # rules may ask for a value with a single reader
                    self._enqueue_all(self._users[var.name])
        return True

    def _enqueue(self, name: str) -> None:
        if name not in self._queued:
            self._queued.add(name)
            self._queue.append(name)

    def _enqueue_all(self, names: Iterable[str]) -> None:
        for name in names:
            self._enqueue(name)

    def _variables(self) -> Iterable[tuple[str, Var]]:
        for item in self._function.inputs:
            yield item.var.name, item.var
        for equation in self._definitions.values():
            for var in equation.results:
                yield var.name, var

    def _after_operands(self, root: Equation, done: set[str]) -> Iterable[Equation]:
        stack: list[tuple[Equation, int]] = [(root, 0)]
        while stack:
            equation, position = stack.pop()
            if equation.results[0].name in done:
                continue
            while position < len(equation.operands) and equation.operands[position].name in done:
                position += 1
            if position < len(equation.operands):
                stack.append((equation, position))
                stack.append((self._definitions[equation.operands[position].name], 0))
                continue
            done.update(var.name for var in equation.results)
            yield equation


def number(value: float | int | bool, dtype: DType) -> float | int | bool:
    """A number in the Python type that ``full`` stores for a dtype."""
    if dtype is DType.BOOL:
        return bool(value)
    return int(value) if dtype.is_integer else float(value)
