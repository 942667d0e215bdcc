"""Elaboration of one entry: from its statements to the outputs of its train and infer functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tesserac.diagnostics import Label
from tesserac.elaborate.annotations import annotate
from tesserac.elaborate.calls import Arguments, body, invoke, named_outputs, nested_outputs
from tesserac.elaborate.catalogue import SURFACES
from tesserac.elaborate.finish import Wanted, finish
from tesserac.elaborate.interpreter import Interpreter
from tesserac.elaborate.losses import attached_module, loss_arguments
from tesserac.elaborate.options import Options
from tesserac.elaborate.pending import report_pending
from tesserac.elaborate.plan import EntryPlan, UnitPlan, walk
from tesserac.elaborate.remarks import remark
from tesserac.elaborate.report import Abandoned, Failed, Report
from tesserac.elaborate.results import backward, predicted, returned
from tesserac.elaborate.scopes import Frame, Scope
from tesserac.elaborate.session import ModuleCall, Restart, Session
from tesserac.elaborate.statements import run
from tesserac.elaborate.values import Batch, Function, Poison, Slot, Value, describe
from tesserac.ir.program import Entry, Var
from tesserac.ir.types import Dim, DType
from tesserac.parser import syntax

MAX_RESTARTS = 32
"""Each restart fixes the dtype of one more input."""

_WEIGHT = re.compile(r"[A-Z]\w*|(w|b|weight|bias|gain|gamma|beta|scale)_?\d*(_\w+)?|\w+_(weight|bias|w|b)")
"""Parameter names that stand for weights when no call shows which parameters are data."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every entry of a unit shares."""

    plan: UnitPlan
    options: Options
    report: Report
    shapes: Mapping[str, tuple[tuple[Dim, ...], str]]
    literals: dict[int, int]
    sets: dict[str, Value]
    used_flags: set[str]


def elaborate_entry(context: Context, entry: EntryPlan) -> Entry | None:
    """One entry, elaborated again whenever the dtype of an input turns out late."""
    dtypes: dict[str, DType] = {}
    mark = context.report.mark()
    for _ in range(MAX_RESTARTS):
        session = Session(entry.label, context.options, context.report, context.shapes, dtypes)
        try:
            result = Elaboration(context, entry, session).run()
        except Restart as restart:
            dtypes[restart.path] = restart.dtype
            context.report.rewind(mark)
            continue
        except (Failed, Abandoned):
            result = None
        except RecursionError:
            context.report.error("T0209", "expressions nest too deeply", session.span)
            result = None
        context.used_flags.update(session.used_flags, (f"--dim {name}" for name in session.dim_names))
        return result
    return None


class Elaboration:
    """One attempt at one entry."""

    def __init__(self, context: Context, entry: EntryPlan, session: Session) -> None:
        self.context = context
        self.entry = entry
        self.session = session
        self.it = Interpreter(session, context.literals, context.sets)
        self.report = context.report
        session.columns.names = context.plan.coordinates()

    def run(self) -> Entry | None:
        """The finished entry; None after errors."""
        module = self._module_of_loss() if self.entry.kind == "loss" else None
        top = self.it.top
        if self.entry.kind == "main":
            top.names["batch"] = Batch("batch")
        statements = self.context.plan.slice_for(self.entry, module)
        if report_pending(statements, self.report):
            return None
        run(self.it, statements, top)
        self._check_mesh()
        wanted = {"step": self._step, "loss": lambda: self._loss(module), "module": self._forward, "main": self._main}[
            self.entry.kind
        ]()
        remark(self.session, self.entry.kind, self.entry.label)
        if self.report.has_errors:
            return None
        return finish(self.session, wanted, self.entry.label)

    # ---------------------------------------------------------------------------------------------- kinds of entries

    def _function(self, definition: syntax.FunctionDef | None) -> Function:
        assert definition is not None
        value = self.it.top.names.get(definition.name)
        if not isinstance(value, Function):
            if value is not None and not isinstance(value, Poison):
                self.report.error(
                    "T0303", f"`{definition.name}` is assigned again after its definition", definition.span
                )
            raise Failed
        return value

    def _step(self) -> Wanted:
        function = self._function(self.entry.function)
        frame = Frame(function.frame, Scope(None, ""), function.name, self.session.label, depth=1)
        keyed = _subscripted(function)
        for param in function.params:
            value: Value
            if param.name == "batch" or param.name in keyed or isinstance(param.annotation, syntax.DictExpr):
                value = Batch(param.name)
            elif param.default is not None:
                value = self.it.eval(param.default, function.frame)
            else:
                value = self.session.slot(param.name, param.span, aliases=(f"{self.session.label}.{param.name}",))
            frame.names[param.name] = value
            annotate(self.it, param, value, frame)
        with self.it.at(function.span):
            return returned(self.it, body(self.it, function, frame), function)

    def _run_module(self, definition: syntax.FunctionDef | None) -> tuple[Function, Value, list[tuple[str, Var]]]:
        """Runs a module on data inputs of its own."""
        function = self._function(definition)
        assert definition is not None
        data = self._data_parameters(function, definition)
        slots = {
            p.name: self.session.slot(
                p.name, p.span, aliases=(f"{function.label}.{p.name}", f"{self.session.label}.{p.name}")
            )
            for p in function.params
            if p.name in data
        }
        node = syntax.Call(syntax.Name(function.name, function.span), (), (), function.span)
        with self.it.at(function.span):
            value = invoke(self.it, function, Arguments((), slots, node, self.it.top, None))
            if isinstance(value, Slot):
                value = self.session.materialise(value)
        return function, value, named_outputs(function, value, None)

    def _data_parameters(self, function: Function, definition: syntax.FunctionDef) -> set[str]:
        called = self.context.plan.call_arguments(definition)
        if called is not None:
            return set(called)
        names = [p.name for p in function.params]
        weights: list[str] = []
        while names and len(names) > 1 and _WEIGHT.fullmatch(names[-1]):
            weights.insert(0, names.pop())
        if weights:
            self.report.note(
                "T0309",
                f"nothing calls `{function.name}`, so {', '.join(weights)} "
                f"{'are' if len(weights) > 1 else 'is'} taken to be trainable and {', '.join(names)} to be data",
                function.span,
                help=["a call shows which parameters are data: the ones it binds"],
            )
        return set(names)

    def _forward(self) -> Wanted:
        function, value, _ = self._run_module(self.entry.function)
        with self.it.at(function.span):
            outputs = nested_outputs(self.session, function, value)
        if not outputs:
            raise self.report.fail(
                "T0305", f"the module `{function.name}` returns {describe(value)}, not a tensor", function.span
            )
        odd = [name for name, _ in outputs if not all(c.isalnum() or c in "_.-/" for c in name)]
        if odd:
            raise self.report.fail(
                "T0305",
                f"{odd[0][:100]!r} cannot name an output of the module `{function.name}`",
                function.span,
                notes=["letters, digits, `_`, `.`, `/` and `-` are allowed"],
            )
        return self._with_loss(outputs)

    def _main(self) -> Wanted:
        session = self.session
        names = [n for n in self.context.plan.main_outputs() if n in self.it.top.names]
        found = {n: self.it.top.names[n] for n in names}
        if any(isinstance(v, Poison) for v in found.values()):
            raise Failed
        outputs = [(n, v) for n, v in found.items() if isinstance(v, Var)]
        if session.gradients is not None:
            return Wanted(session.gradients, [], predicted(session, session.gradients.loss) or outputs)
        if not outputs:
            raise self.report.fail(
                "T0305", "the top-level statements that use `batch` leave no tensor to output", self.entry.span
            )
        session.calls = [ModuleCall("main", outputs)]
        return self._with_loss(outputs)

    def _loss(self, module: syntax.FunctionDef | None) -> Wanted:
        if module is None:
            raise Failed
        loss = self._function(self.entry.function)
        mark = len(self.session.instances)
        net, value, outputs = self._run_module(module)
        values: list[Value] = list(value) if isinstance(value, tuple | list) else [value]
        inputs = self.session.instances[mark].inputs
        bound = loss_arguments(self.session, loss, net, values, outputs, inputs)
        node = syntax.Call(syntax.Name(loss.name, loss.span), (), (), loss.span)
        with self.it.at(loss.span):
            result = invoke(self.it, loss, Arguments((), bound, node, self.it.top, None))
        wanted = returned(self.it, result, loss)
        return Wanted(wanted.gradients, wanted.metrics, outputs)

    def _module_of_loss(self) -> syntax.FunctionDef | None:
        """The module that a ``@graph.loss`` belongs to [A19]."""
        assert self.entry.function is not None
        return attached_module(self.context.plan, self.entry.function, self.report)

    def _with_loss(self, outputs: list[tuple[str, Var]]) -> Wanted:
        """Applies ``--loss KIND:OUTPUT,KEY`` where it names one of these outputs."""
        text = self.context.options.loss
        if text is None:
            return Wanted(None, [], outputs)
        kind, _, rest = text.partition(":")
        name, _, key = rest.partition(",")
        surface = SURFACES.get(f"op.{kind}")
        if surface is None or surface.family != "loss" or not name or not key.isidentifier():
            losses = sorted({s.name for s in SURFACES.values() if s.family == "loss"})
            raise self.report.fail(
                "T0311",
                f"--loss {text!r} is not of the form KIND:OUTPUT,KEY",
                None,
                notes=[f"KIND is one of {', '.join(losses)}"],
                help=["for example --loss mse:Y,target or --loss cross_entropy:logits,labels"],
            )
        var = dict(outputs).get(name)
        if var is None:
            raise self.report.fail(
                "T0311",
                f"--loss names the output `{name}`, which `{self.entry.label}` does not have",
                self.entry.span,
                notes=[f"its outputs are {', '.join(n for n, _ in outputs)}"],
            )
        from tesserac.elaborate.calls import Site

        node = syntax.Call(syntax.Name(kind, self.entry.span), (), (), self.entry.span)
        made = self.session.definitions.get(var.name)
        span = made.span if made is not None else self.entry.span
        with self.it.at(span):
            slot = self.session.slot(key, span, aliases=(f"{self.session.label}.{key}",))
            site = Site(self.it, self.session, Arguments((var, slot), {}, node, self.it.top, None))
            values = (var, slot, None, -100) if kind == "cross_entropy" else (var, slot)
            gradients = backward(self.session, surface.build(site, *values))
        return Wanted(gradients, [], outputs)

    # ---------------------------------------------------------------------------------------------- checks

    def _check_mesh(self) -> None:
        if self.context.options.mesh is not None:
            return
        meshes = self.session.meshes
        for mesh in meshes[1:]:
            first = meshes[0]
            if mesh != first and first.span is not None:
                self.report.error(
                    "T0702",
                    f"a unit has one mesh, and this one ({mesh}) is another than the first ({first})",
                    mesh.span,
                    labels=[Label(first.span, "the first mesh")],
                    help=["keep one of them, or choose on the command line: --mesh " + str(mesh)],
                )


def _subscripted(function: Function) -> set[str]:
    """Parameters that the body indexes with a string."""
    return {
        n.value.id
        for n in walk(function.body)
        if isinstance(n, syntax.Subscript) and isinstance(n.value, syntax.Name) and isinstance(n.index, syntax.String)
    }
