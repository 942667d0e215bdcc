"""Which entries a unit has, and which top-level statements each of them needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from tesserac.diagnostics import Span
from tesserac.elaborate.decorators import dotted, kind_of, label_of
from tesserac.elaborate.statements import bound_names
from tesserac.parser import syntax

DERIVATIVES = frozenset({"grad", "div", "laplacian", "biharmonic", "curl", "hessian", "jvp", "hvp"})
"""Ops that take coordinates."""

_SPACES = frozenset({"op", "dist", "graph", "optim", "autodiff", "schedule", "numerics", "tessera", "ts"})


@dataclass(frozen=True, slots=True)
class EntryPlan:
    """One entry: ``kind`` is step, loss, module or main; ``function`` its definition (None for main)."""

    kind: str
    label: str
    span: Span
    function: syntax.FunctionDef | None
    module: syntax.FunctionDef | None = None


_FIELDS: dict[type, tuple[str, ...]] = {}


def _field_names(node: Any) -> tuple[str, ...]:
    kind = type(node)
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(f.name for f in fields(node) if f.name != "span")
    return _FIELDS[kind]


def walk(node: object) -> Iterator[object]:
    """A node and everything below it, in source order."""
    stack = [node]
    while stack:
        current = stack.pop()
        if isinstance(current, tuple):
            stack.extend(reversed(current))
        elif is_dataclass(current):
            yield current
            stack.extend(getattr(current, name) for name in reversed(_field_names(current)))


def used_names(node: object) -> frozenset[str]:
    """Names that occur in a node as values or targets."""
    return frozenset(n.id for n in walk(node) if isinstance(n, syntax.Name))


class UnitPlan:
    """The structure of a unit, from its syntax alone."""

    def __init__(self, unit: syntax.Unit) -> None:
        self.unit = unit
        self.functions = [s for s in unit.body if isinstance(s, syntax.FunctionDef)]
        self._uses = [used_names(s) for s in unit.body]
        self._binds = [frozenset(bound_names((s,))) | _mutated(s) for s in unit.body]
        self.modules = [f for f in self.functions if kind_of(f) == "module"]
        self.losses = [f for f in self.functions if kind_of(f) == "loss"]
        self.steps = [f for f in self.functions if kind_of(f) == "step"]

    def entries(self) -> list[EntryPlan]:
        """Every entry that is compiled by default, in source order."""
        plans = [EntryPlan("step", label_of(f), f.span, f) for f in self.steps]
        plans += [EntryPlan("loss", f.name, f.span, f) for f in self.losses if not self._referenced(f)]
        plans += [EntryPlan("module", label_of(f), f.span, f) for f in self.modules if not self._referenced(f)]
        plans.sort(key=lambda p: (p.span.line, p.span.column))
        tainted = self._tainted()
        if tainted:
            plans.append(EntryPlan("main", "main", self.unit.body[tainted[0]].span, None))
        return plans

    def every_entry(self) -> list[EntryPlan]:
        """Default entries, and the modules that others call (``--entry`` may name them)."""
        plans = self.entries()
        known = {p.label for p in plans}
        return plans + [EntryPlan("module", label_of(f), f.span, f) for f in self.modules if label_of(f) not in known]

    def slice_for(self, plan: EntryPlan, module: syntax.FunctionDef | None) -> tuple[syntax.Stmt, ...]:
        """The top-level statements that an entry needs, in order."""
        needed: set[str] = set()
        chosen: set[int] = set()
        for index in self._tainted() if plan.kind == "main" else ():
            chosen.add(index)
            needed |= self._uses[index] | self._binds[index]
        for function in (plan.function, module):
            if function is not None:
                needed |= used_names(function) | {function.name}
        for index, statement in enumerate(self.unit.body):
            if isinstance(statement, syntax.Import) or _always(statement):
                chosen.add(index)
                needed |= self._uses[index]
        changed = True
        while changed:
            changed = False
            for index in range(len(self.unit.body)):
                if index not in chosen and self._needs(index, needed):
                    chosen.add(index)
                    needed |= self._uses[index] | self._binds[index]
                    changed = True
        return tuple(s for i, s in enumerate(self.unit.body) if i in chosen)

    def main_outputs(self) -> list[str]:
        """Tensors of the top level that nothing else consumes."""
        tainted = self._tainted()
        names = dict.fromkeys(n for i in tainted for n in bound_names((self.unit.body[i],)))
        used = set().union(*(_read_names(self.unit.body[i]) for i in tainted)) if tainted else set()
        return [n for n in names if n not in used] or list(names)

    def call_arguments(self, module: syntax.FunctionDef) -> tuple[str, ...] | None:
        """Parameters that the unit's first call of a module binds; None when nothing calls it."""
        for statement in self.unit.body:
            for node in walk(statement):
                if isinstance(node, syntax.Call) and isinstance(node.func, syntax.Name) and node.func.id == module.name:
                    names = [p.name for p in module.params][: len(node.args)]
                    return (*names, *(k.name for k in node.keywords))
        return None

    def literals(self) -> set[int]:
        """Integer literals of the unit."""
        return {n.value for n in walk(self.unit.body) if isinstance(n, syntax.Number) and type(n.value) is int}

    def coordinates(self) -> frozenset[str]:
        """Names that may be coordinates somewhere in the unit: strings other than keys, and what derivatives are given.

        None where the unit takes no derivatives.
        """
        nodes = list(walk(self.unit.body))
        asking = [n for n in nodes if isinstance(n, syntax.Call) and dotted(n).rpartition(".")[2] in DERIVATIVES]
        given = {n for c in asking for n in used_names((c.args, tuple(k.value for k in c.keywords)))}
        keys = {id(n.index) for n in nodes if isinstance(n, syntax.Subscript)}
        texts = {n.value for n in nodes if isinstance(n, syntax.String) and id(n) not in keys}
        return frozenset(given | texts) if asking else frozenset()

    def constants(self) -> set[str]:
        """Names that the top level assigns."""
        return {
            n
            for s in self.unit.body
            if not isinstance(s, syntax.FunctionDef | syntax.Import)
            for n in bound_names((s,))
        }

    def _needs(self, index: int, needed: set[str]) -> bool:
        statement = self.unit.body[index]
        if self._binds[index] & needed:
            return True
        if isinstance(statement, syntax.FunctionDef):
            return bool(rules_of(statement) & needed)
        return isinstance(statement, syntax.Assert) and bool(self._uses[index] & needed)

    def _referenced(self, function: syntax.FunctionDef) -> bool:
        return any(function.name in _read_names(s) for s in self.unit.body if s is not function)

    def _tainted(self) -> list[int]:
        """Top-level statements that depend on ``batch``."""
        if any("batch" in b for b in self._binds):
            return []
        names, found = {"batch"}, []
        for index, statement in enumerate(self.unit.body):
            if not isinstance(statement, syntax.FunctionDef) and self._uses[index] & names:
                found.append(index)
                names |= self._binds[index]
        return found


def rules_of(function: syntax.FunctionDef) -> set[str]:
    """Names of the functions whose derivative rule a function is (``@f.grad``)."""
    return {d.value.id for d in function.decorators
            if isinstance(d, syntax.Attribute) and d.attr == "grad" and isinstance(d.value, syntax.Name)}


def _read_names(statement: syntax.Stmt) -> frozenset[str]:
    """Names a statement reads (assignment targets do not count)."""
    if isinstance(statement, syntax.Assign):
        return used_names(statement.value)
    return used_names(statement)


def _mutated(statement: syntax.Stmt) -> frozenset[str]:
    """Names whose lists or dicts a statement changes by a method call (``blocks.append(...)``)."""
    found = set()
    for node in walk(statement) if not isinstance(statement, syntax.FunctionDef) else ():
        if isinstance(node, syntax.ExprStmt) and isinstance(node.value, syntax.Call):
            target = node.value.func
            while isinstance(target, syntax.Attribute | syntax.Subscript):
                target = target.value
            if isinstance(target, syntax.Name) and target.id not in _SPACES:
                found.add(target.id)
    return frozenset(found)


def _always(statement: syntax.Stmt) -> bool:
    """Statements that act on the whole unit: a mesh, a numeric policy."""
    if isinstance(statement, syntax.FunctionDef):
        return False
    value = statement.value if isinstance(statement, syntax.Assign | syntax.ExprStmt) else None
    if not isinstance(value, syntax.Call):
        return False
    name = dotted(value)
    space, _, member = name.rpartition(".")
    if space.split(".")[-1] == "dist":  # a misspelt mesh must not go unnoticed
        return member != "tensor"
    return name.endswith(("numerics.policy", "numerics.profile")) or name in ("ts.mesh", "tessera.mesh", "Mesh")
