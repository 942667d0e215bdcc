"""Rules about whole statements: what may be imported, where `return` may stand, which contexts `with` knows."""

from __future__ import annotations

from tesserac.parser import syntax as s
from tesserac.parser.report import Report

__all__ = ["check_import", "check_unit"]

_CONTEXTS = frozenset(["policy", "numerics", "schedule", "deterministic"])


def check_unit(body: tuple[s.Stmt, ...], report: Report) -> None:
    """Report statements that are well formed but not allowed where they stand."""
    _Checker(report).block(body, False)


def check_import(stmt: s.Import, report: Report) -> None:
    """Report the import of anything but ``tessera``."""
    root = stmt.module.split(".")[0]
    if root != "tessera":
        notes = ("the source is compiled, not run, so no Python library can take part in it",)
        advice = _ADVICE.get(root, "remove the import, and write what you need with `op`, `graph`, `dist` and `optim`")
        report.error("T0201", f"cannot import `{root}`", stmt.span, notes=notes, help=(advice,))


class _Checker:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._contexts = set(_CONTEXTS)

    def block(self, body: tuple[s.Stmt, ...], in_function: bool) -> None:
        """Check statements; ``in_function`` says whether a `return` has something to return from."""
        for stmt in body:
            match stmt:
                case s.FunctionDef():
                    self.block(stmt.body, True)
                case s.If():
                    self.block(stmt.body, in_function)
                    self.block(stmt.orelse, in_function)
                case s.For():
                    self.block(stmt.body, in_function)
                case s.With():
                    self._with(stmt)
                    self.block(stmt.body, in_function)
                case s.Return() if not in_function:
                    help_text = "a top-level result needs no `return`: assign it to a name"
                    self._report.error("T0145", "`return` outside a function", stmt.span, help=(help_text,))
                case s.Import():
                    self._contexts.update(alias or name for name, alias in stmt.names if name in _CONTEXTS)
                case _:
                    pass

    def _with(self, stmt: s.With) -> None:
        for context, _ in stmt.items:
            func = context.func if isinstance(context, s.Call) else context
            names = set()
            while isinstance(func, s.Attribute):
                names.add(func.attr)
                func = func.value
            if isinstance(func, s.Name):
                names.add(func.id)
            if not names & self._contexts:
                self._report.error(
                    "T0123",
                    "`with` is only supported for numerics and schedule contexts",
                    context.span,
                    help=('write `with numerics.policy("mixed"):`, or put the statements without `with`',),
                )


_OPS = "use the `op` functions: `op.exp(x)`, `op.sum(x, axis=0)`, `x @ w`"
_ADVICE = {
    "torch": "use `op` functions on tensors and `@graph.module` for layers; `train` replaces the training loop",
    "jax": "use `op` functions on tensors; `graph.backward(loss)` replaces `jax.grad`",
    "tensorflow": "use `op` functions on tensors and `@graph.module` for layers",
    "numpy": _OPS,
    "scipy": _OPS,
    "math": "use the `op` functions, or write the constant out",
    "os": "give sizes with `--set NAME=value` and files on the built program's command line",
    "sys": "give sizes with `--set NAME=value` and files on the built program's command line",
    "random": "use `op.random_normal` or `op.random_uniform`; seeds are given to the built program",
    "typing": 'annotations need no import: write `x: Tensor["B", "S"]`',
    "dataclasses": "use a dict or plain names for configuration",
}
