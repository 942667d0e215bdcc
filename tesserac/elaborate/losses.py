"""Which module a ``@graph.loss`` belongs to."""

from __future__ import annotations

from tesserac.diagnostics import Label
from tesserac.elaborate.decorators import dotted, label_of
from tesserac.elaborate.plan import UnitPlan
from tesserac.elaborate.report import Report
from tesserac.parser import syntax


def attached_module(plan: UnitPlan, loss: syntax.FunctionDef, report: Report) -> syntax.FunctionDef | None:
    """By ``module=``, else by returned names, else the nearest earlier module with as many outputs."""
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
    matching = [m for m in plan.modules if _outputs(m) == wanted]
    if len(matching) == 1:
        return matching[0]
    earlier = [m for m in plan.modules if m.span.line < loss.span.line and len(_outputs(m)) == len(wanted)]
    if not matching and earlier:
        return earlier[-1]
    report.error(
        "T0310",
        f"no single module returns what the loss `{loss.name}` takes ({', '.join(wanted)})",
        loss.span,
        labels=[Label(m.span, f"`{m.name}` returns {', '.join(_outputs(m)) or 'nothing'}") for m in plan.modules],
        help=['name it: @graph.loss(module="...")'],
    )
    return None


def _outputs(module: syntax.FunctionDef) -> list[str]:
    """Names of what a module returns; ``?`` for an expression."""
    returns = [s for s in module.body if isinstance(s, syntax.Return)]
    if not returns or returns[-1].value is None:
        return []
    value = returns[-1].value
    items = value.items if isinstance(value, syntax.TupleExpr) else (value,)
    return [i.id if isinstance(i, syntax.Name) else "?" for i in items]
