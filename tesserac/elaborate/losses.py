"""Which module a ``@graph.loss`` belongs to, and what its parameters are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tesserac.diagnostics import Label
from tesserac.elaborate.decorators import dotted, label_of
from tesserac.elaborate.plan import UnitPlan
from tesserac.elaborate.provenance import listed
from tesserac.elaborate.report import Report
from tesserac.elaborate.session import Session
from tesserac.elaborate.values import Function, Slot, Value
from tesserac.ir.program import Var
from tesserac.parser import syntax


def attached_module(plan: UnitPlan, loss: syntax.FunctionDef, report: Report) -> syntax.FunctionDef | None:
    """By ``module=``; else by returned names; else by returned names and inputs; else by the number of outputs."""
    named = named_module(loss)
    if named:
        for module in plan.modules:
            if named in (module.name, label_of(module)):
                return module
        report.error(
            "T0310",
            f"@graph.loss names the module `{named}`, which does not exist",
            loss.span,
            notes=[f"modules: {', '.join(m.name for m in plan.modules) or 'none'}"],
        )
        return None
    wanted = [p.name for p in loss.params]
    exact = [m for m in plan.modules if sorted(_outputs(m)) == sorted(wanted)]
    fitting = exact or [m for m in plan.modules if _covers(m, wanted)]
    earlier = [m for m in plan.modules if m.span.line < loss.span.line and len(_outputs(m)) == len(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting and earlier:
        return earlier[-1]
    text = ", ".join(wanted)
    report.error(
        "T0310",
        f"{len(fitting)} modules return what the loss `{loss.name}` takes ({text})"
        if fitting
        else f"no module returns what the loss `{loss.name}` takes ({text})",
        loss.span,
        labels=[
            Label(m.span, f"`{m.name}` returns {', '.join(_outputs(m)) or 'nothing'}") for m in fitting or plan.modules
        ],
        help=['name it: @graph.loss(module="..."); parameters that it does not return are then inputs of the loss'],
    )
    return None


def named_module(loss: syntax.FunctionDef) -> str:
    """The module that the decorator names; empty if it names none."""
    named = ""
    for decorator in loss.decorators:
        if dotted(decorator) == "graph.loss" and isinstance(decorator, syntax.Call):
            for value in (*decorator.args, *(k.value for k in decorator.keywords)):
                named = (
                    value.value
                    if isinstance(value, syntax.String)
                    else value.id
                    if isinstance(value, syntax.Name)
                    else named
                )
    return named


def loss_arguments(
    session: Session, loss: Function, module: Function, values: Sequence[Value], outputs: Sequence[tuple[str, Var]],
    inputs: Mapping[str, Var | Slot],
) -> dict[str, Value]:
    """What the parameters of a loss are bound to.

    By name: outputs of the module, its inputs (for source terms), and with ``module=`` data inputs of the loss's own
    (observations, points of a boundary). Where no name is an output's, the first ones by position.
    """
    known: dict[str, Value] = {**inputs, **dict(outputs)}
    names = [name for name, _ in outputs]
    required = [p.name for p in loss.params if p.default is None]
    by_name = any(n in names for n in required) and (bool(loss.attach) or all(n in known for n in required))
    found: dict[str, Value] = {p.name: known[p.name] for p in loss.params if p.name in known} if by_name else {}
    if not by_name:
        if len(required) < len(values) or (len(required) > len(values) and not loss.attach):
            raise session.report.fail(
                "T0310",
                f"the loss `{loss.name}` takes {listed(required)}, and `{module.name}` returns {listed(names)}",
                loss.span,
                labels=[Label(module.span, f"`{module.name}`")],
                help=["name the parameters of the loss as the outputs of the module"],
            )
        found = dict(zip(required, values, strict=False))
        _note_positions(session, loss, module, list(found), names)
    for param in loss.params:
        if param.name not in found and param.default is None:
            found[param.name] = session.slot(
                param.name, param.span, aliases=(f"{loss.name}.{param.name}", f"{session.label}.{param.name}")
            )
    return found


def _note_positions(
    session: Session, loss: Function, module: Function, params: Sequence[str], names: Sequence[str]
) -> None:
    if len(names) != len(params) or names == [module.label]:
        return
    pairs = ", ".join(f"`{a}` is `{b}`" for a, b in zip(params, names, strict=True))
    session.report.note(
        "T0315",
        f"the loss `{loss.name}` takes the outputs of `{module.name}` in their order: {pairs}",
        loss.span,
        help=["parameters with the names of the outputs are bound by name"],
    )


def _covers(module: syntax.FunctionDef, wanted: Sequence[str]) -> bool:
    """Whether a module returns or takes all that a loss wants, and returns some of it."""
    returned = set(_outputs(module))
    return bool(returned & set(wanted)) and set(wanted) <= returned | {p.name for p in module.params}


def _outputs(module: syntax.FunctionDef) -> list[str]:
    """Names of what a module returns; ``?`` for an expression."""
    returns = [s for s in module.body if isinstance(s, syntax.Return)]
    if not returns or returns[-1].value is None:
        return []
    value = returns[-1].value
    items = value.items if isinstance(value, syntax.TupleExpr) else (value,)
    return [i.id if isinstance(i, syntax.Name) else "?" for i in items]
