"""Partition: from a program over whole tensors to the program that every rank runs.

It works on the forward program, before reverse mode: every equation gets its local form, and every value the versions
that its consumers need, each made once by the conversion table. Gradients are asked for as before; reverse mode
transposes the conversions like any other linear op, so what the backward pass sends is not written down a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tesserac.diagnostics import InternalError, Span
from tesserac.ir.builder import Builder
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Equation, Function, Input, Output, Var
from tesserac.ops.base import Cuts, spec_of
from tesserac.passes.linearize import expanded
from tesserac.passes.mesh.conversions import Step, convert, version_tree
from tesserac.passes.mesh.expansion import early_stops, inner_strategies
from tesserac.passes.mesh.experts import MODES, Mixtures
from tesserac.passes.mesh.local import emit_local, local_attrs
from tesserac.passes.mesh.placements import (
    REPLICATED,
    Placement,
    Placements,
    local_placements,
    local_type,
    placed,
    slot_of,
)
from tesserac.passes.mesh.refusals import illegal, uneven
from tesserac.passes.mesh.strategy import REQUESTS, Strategy, after, strategies
from tesserac.passes.simplify import without_unused


@dataclass(frozen=True, slots=True)
class AxisAssignment:
    """What was decided for one mesh axis: a strategy per equation, placements of inputs by path and outputs by name.

    Inputs and outputs that are not named are R. A gradient lies as its parameter does.
    """

    strategies: tuple[Strategy, ...]
    inputs: Mapping[str, Placement] = field(default_factory=dict)
    outputs: Mapping[str, Placement] = field(default_factory=dict)


Assignment = Mapping[str, AxisAssignment]
"""Decisions by axis name."""


@dataclass(frozen=True, slots=True)
class Sharded:
    """The program of one rank: ``function`` has local shapes and collectives, and asks for gradients as the whole did.

    ``inputs``, ``outputs``: placements by path and name. ``placements``: those of the values of ``function`` by name.
    ``whole`` is the function that was partitioned. A parameter that one rank of an axis holds has its ``slot``'s input
    and gradient here.
    """

    mesh: Mesh
    function: Function
    inputs: Mapping[str, Placements]
    outputs: Mapping[str, Placements]
    placements: Mapping[str, Placements]
    whole: Function


def partition(function: Function, mesh: Mesh, assignment: Assignment) -> Sharded:
    """One rank's program of a function whose derivatives are expanded (``expand_derivatives``) but for final gradients.

    Axes of size 1 change nothing. A strategy that an equation cannot have is CompileError T0703 (T0717, T0718 where it
    takes terms of a sum for values). An input that does not come apart evenly is T0704.
    """
    mesh = mesh.squeezed()
    if not mesh.axes:
        inputs, outputs = ({i.path: () for i in function.inputs}, {o.name: () for o in function.outputs})
        return Sharded(mesh, function, inputs, outputs, {v.name: () for v in function.variables()}, function)
    return _Partition(function, mesh, assignment).run()


@dataclass(slots=True)
class _Value:
    """A value of the whole program: how it was made, its versions here, and what still has to be made of it."""

    var: Var
    produced: Placements
    span: Span
    versions: dict[Placements, Var]
    tree: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class _Placed:
    """An equation with its strategy on every axis."""

    equation: Equation
    chosen: tuple[Strategy, ...]

    def needs(self, position: int) -> Placements:
        """Placements of one operand as it is consumed."""
        type_ = self.equation.operands[position].type
        return tuple(placed(type_, s.operands[position]) for s in self.chosen)


class _Partition:
    def __init__(self, function: Function, mesh: Mesh, assignment: Assignment) -> None:
        self._function = function
        self._mesh = mesh
        self._named = tuple(mesh.sizes.items())
        self._sizes = mesh.shape
        self._axes = [assignment[name] for name in mesh.axes]
        self._builder = Builder()
        self._mixtures = Mixtures(self._builder)
        self._values: dict[str, _Value] = {}
        self._needed: dict[str, list[Placements]] = {}
        self._outputs: dict[str, Placements] = {}
        self._slots: list[Input] = []  # parameters of which another one's input takes the place
        for name, axis in zip(mesh.axes, self._axes, strict=True):
            if len(axis.strategies) != len(function.equations):
                raise InternalError(f"axis {name} has {len(axis.strategies)} strategies for "
                                    f"{len(function.equations)} equations")

    def run(self) -> Sharded:
        body = self._flattened()
        self._collect_needs(body)
        inputs = {item.path: self._placements(item) for item in self._function.inputs}
        for item in self._function.inputs:
            self._input(item, inputs)
        self._share_inputs(inputs)
        for here in body:
            with self._builder.at(here.equation.span):
                self._emit(here)
        outputs = tuple(self._output(o) for o in self._function.outputs if not self._elsewhere(o))
        local = without_unused(self._builder.finish(self._function.name, outputs))
        there = {v.name for v in local.variables()}
        placements = {var.name: lies for value in self._values.values() for lies, var in value.versions.items()
                      if var.name in there}
        return Sharded(self._mesh, local, inputs, self._outputs, placements, self._function)

    # -------------------------------------------------------------------------------------- strategies

    def _flattened(self) -> list[_Placed]:
        """Every equation with its strategies; composites that one of them takes apart are written out."""
        b = Builder()
        b.reserve(v.name for v in self._function.variables())
        found: list[_Placed] = []
        for i, equation in enumerate(self._function.equations):
            if spec_of(equation.op).kind == "transform" and equation.op not in (*REQUESTS, "custom_grad"):
                raise InternalError(f"{equation.op} is still there; expand_derivatives comes first")
            chosen, forms = self._resolved(equation, [axis.strategies[i] for axis in self._axes])
            if not any(s.parts for s in chosen):
                found.append(_Placed(equation, chosen))
                continue
            with b.at(equation.span, prefix=f"{equation.results[0].name}_"):
                block, results = expanded(b, equation)
                block = early_stops(block)
            block = _renamed(block, dict(zip((v.name for v in results), equation.results, strict=True)))
            columns = [inner_strategies(form, s, size)
                       for form, s, size in zip(forms, chosen, self._sizes, strict=True)]
            found.extend(_Placed(part, row) for part, row in zip(block, zip(*columns, strict=True), strict=True))
        return self._with_placeholders(found)

    def _resolved(self, equation: Equation, wanted: Sequence[Strategy]) -> tuple[tuple[Strategy, ...], list[Equation]]:
        """The strategies by name among those that are legal after the axes before, and the equation each finds."""
        chosen: list[Strategy] = []
        forms: list[Equation] = []
        current = equation
        for strategy, (axis, size) in zip(wanted, self._named, strict=True):
            if strategy.name in MODES:
                found: Strategy | None = strategy
            else:
                found = next((s for s in strategies(current, size) if s.name == strategy.name), None)
            if found is None:
                raise illegal(equation, strategy, axis, size, strategies(current, size))
            chosen.append(found)
            forms.append(current)
            current = after(current, found, size)
        return tuple(chosen), forms

    def _with_placeholders(self, body: list[_Placed]) -> list[_Placed]:
        """Placeholders of cotangents made as their ``custom_grad`` needs them, where the rule's equations start."""
        wanted = {item.equation.operands[1].name: item for item in body if item.equation.op == "custom_grad"}
        found = []
        for item in body:
            user = next((wanted[v.name] for v in item.equation.results if v.name in wanted), None)
            if user is not None:
                chosen, current = [], item.equation
                for strategy, size in zip(user.chosen, self._sizes, strict=True):
                    made = next(s for s in strategies(current, size) if s.results == (strategy.operands[1],))
                    chosen.append(made)
                    current = after(current, made, size)
                item = _Placed(item.equation, tuple(chosen))
            found.append(item)
        return found

    # -------------------------------------------------------------------------------------- versions

    def _collect_needs(self, body: Sequence[_Placed]) -> None:
        for item in body:
            if item.equation.op in REQUESTS:
                self._needed.setdefault(item.equation.operands[0].name, []).append(self._replicated)
                continue
            for position, var in enumerate(item.equation.operands):
                self._needed.setdefault(var.name, []).append(item.needs(position))
        gradients = {v.name for item in body if item.equation.op in REQUESTS for v in item.equation.results}
        for output in self._function.outputs:
            if output.var.name not in gradients:
                self._outputs[output.name] = tuple(axis.outputs.get(output.name, REPLICATED) for axis in self._axes)
                self._needed.setdefault(output.var.name, []).append(self._outputs[output.name])

    @property
    def _replicated(self) -> Placements:
        return tuple(REPLICATED for _ in self._sizes)

    def _define(self, var: Var, produced: Placements, local: Var, span: Span) -> None:
        tree = version_tree(var.type, self._sizes, produced, self._needed.get(var.name, ()))
        self._values[var.name] = _Value(var, produced, span, {produced: local}, tree)

    def _version(self, var: Var, wanted: Placements) -> Var:
        """This rank's part of a value under these placements, converted at its first use."""
        value = self._values[var.name]
        if wanted not in value.versions:
            step = next(s for s in value.tree if s.after == wanted)
            source = self._version(var, step.before)
            axis, size = self._named[step.axis]
            b = self._builder
            with b.at(value.span if step.source.kind == "P" else b.span):
                value.versions[wanted] = convert(b, source, axis, size, step.source, step.target, f"{var.name}.{axis}")
        return value.versions[wanted]

    # -------------------------------------------------------------------------------------- emission

    def _placements(self, item: Input) -> Placements:
        return tuple(axis.inputs.get(item.path, REPLICATED) for axis in self._axes)

    def _input(self, item: Input, inputs: Mapping[str, Placements]) -> None:
        lies = inputs[item.path]
        slot = slot_of(item.path, lies)
        if slot != item.path:
            if local_placements(lies) != local_placements(inputs[slot]):
                raise InternalError(f"{item.path} and {slot} lie differently, and share an input")
            self._slots.append(item)
            return
        try:
            type_ = local_type(item.var.type, lies, self._sizes)
        except ValueError as error:
            raise uneven(item, str(error)) from None
        local = self._builder.add_input(replace(item, var=Var(item.var.name, type_)))
        self._define(item.var, lies, local, item.span)

    def _share_inputs(self, inputs: Mapping[str, Placements]) -> None:
        """Parameters of other ranks are, here, the one in their slot."""
        here = {item.path: item.var.name for item in self._function.inputs}
        for item in self._slots:
            lies = inputs[item.path]
            held = self._values[here[slot_of(item.path, lies)]]
            self._define(item.var, lies, held.versions[held.produced], item.span)

    def _elsewhere(self, output: Output) -> bool:
        """Whether an output is the gradient of a parameter in another one's slot; records how it lies."""
        if output.name.removeprefix("grad:") not in {item.path for item in self._slots}:
            return False
        self._outputs[output.name] = self._values[output.var.name].produced
        return True

    def _emit(self, item: _Placed) -> None:
        equation = item.equation
        if equation.op in REQUESTS:
            self._request(equation)
            return
        operands = [self._version(v, item.needs(i)) for i, v in enumerate(equation.operands)]
        made = [tuple(placed(v.type, s.results[k]) for s in item.chosen) for k, v in enumerate(equation.results)]
        types = [local_type(v.type, p, self._sizes) for v, p in zip(equation.results, made, strict=True)]
        b = self._builder
        mark = len(b.equations)
        with b.at(equation.span, prefix=f"{equation.results[0].name}_"):
            results = self._local(item, operands, [t.sizes for t in types])
        named = {r.name: Var(b.fresh(v.name), r.type) for r, v in zip(results, equation.results, strict=True)}
        b.equations[mark:] = _renamed(b.equations[mark:], named)
        for var, local, type_, lies in zip(equation.results, results, types, made, strict=True):
            if local.type != type_ and not any(p.is_own and p.dim < 0 for p in lies):
                raise InternalError(f"{equation.op}: a rank's {var} is {local.type}, not {type_}")
            self._define(var, lies, named[local.name], equation.span)

    def _local(self, item: _Placed, operands: Sequence[Var], shapes: Sequence[tuple[int, ...]]) -> tuple[Var, ...]:
        modes = {s.name: axis for s, axis in zip(item.chosen, self._named, strict=True) if s.name in MODES}
        cuts = self._cuts(item)
        if not modes:
            return emit_local(self._builder, item.equation, operands, shapes, cuts)
        attrs = local_attrs(item.equation, [v.type.sizes for v in operands], shapes, cuts)
        rows = shapes[0][0]
        owned = any(p.kind == "O" for s in item.chosen for p in s.operands)
        return self._mixtures.emit(item.equation, operands, rows, modes, attrs, owned)

    def _cuts(self, item: _Placed) -> Cuts:
        found: dict[str, tuple[tuple[str, int], ...]] = {}
        for axis, strategy in zip(self._named, item.chosen, strict=True):
            if strategy.letter is not None:
                found[strategy.letter] = (*found.get(strategy.letter, ()), axis)
        return found

    def _request(self, equation: Equation) -> None:
        """Gradients of values as they were made: what their versions add to them comes through the conversions."""
        loss, *wrt = equation.operands
        values = [self._values[v.name] for v in wrt]
        made = [v.versions[v.produced] for v in values]
        found: dict[Var, Var] = {}  # one for all parameters of a slot
        for var, m in zip(equation.results, made, strict=True):
            if m not in found:
                found[m] = Var(self._builder.fresh(var.name), m.type)
        operands = (self._version(loss, self._replicated), *found)
        self._builder.append(Equation("backward", operands, tuple(found.values()), (), equation.span))
        for var, value, m in zip(equation.results, values, made, strict=True):
            self._define(var, tuple(p.dual for p in value.produced), found[m], equation.span)

    def _output(self, output: Output) -> Output:
        value = self._values[output.var.name]
        lies = self._outputs.setdefault(output.name, value.produced)
        with self._builder.at(value.span):
            return Output(output.name, self._version(output.var, lies))


def _renamed(block: Sequence[Equation], named: Mapping[str, Var]) -> tuple[Equation, ...]:
    """The equations with some of the values that they make under other names."""
    return tuple(replace(e, operands=tuple(named.get(v.name, v) for v in e.operands),
                         results=tuple(named.get(v.name, v) for v in e.results)) for e in block)
