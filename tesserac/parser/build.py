"""Makes syntax nodes from reductions, and refuses what the grammar alone cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tesserac.diagnostics import Label, Span
from tesserac.parser import syntax as s
from tesserac.parser.check import check_import
from tesserac.parser.expressions import ExpressionBuilder
from tesserac.parser.report import Report
from tesserac.parser.tokens import AUGMENTED, Token

__all__ = ["Builder"]

_MAX_ELIF = 50


class Builder(ExpressionBuilder):
    """The actions of tessera.lark: a method per rule or alias, called with children and the first and last token."""

    def __init__(self, file: str, report: Report, inline: Callable[[str, int, int], s.Expr | None]) -> None:
        super().__init__(file, report, inline)
        self._methods: dict[str, Callable[[list[Any], Token, Token], Any]] = {}

    def act(self, name: str, children: list[Any], first: Token | None, last: Token | None) -> Any:
        """Run one action."""
        method = self._methods.get(name)
        if method is None:
            method = self._methods[name] = getattr(self, f"do_{name}")
        if first is None or last is None:
            first = last = Token("", "", 1, 1, 1, 1)
        return method(children, first, last)

    # ----------------------------------------------------------------------------------------------- blocks

    def do_file(self, c: list[Any], first: Token, last: Token) -> tuple[s.Stmt, ...]:
        """All statements of the unit."""
        return _flat(c)

    def do_stmt(self, c: list[Any], first: Token, last: Token) -> list[s.Stmt]:
        """One line or one compound statement, as a list."""
        return c[0] if isinstance(c[0], list) else [c[0]]

    def do_simple_line(self, c: list[Any], first: Token, last: Token) -> list[s.Stmt]:
        """Statements between semicolons."""
        out: list[s.Stmt] = []
        for item in c[:-1]:
            out.extend(item if isinstance(item, list) else [item])
        return out

    def do_suite(self, c: list[Any], first: Token, last: Token) -> tuple[s.Stmt, ...]:
        """The body of a compound statement."""
        return _flat([x for x in c if isinstance(x, list)])

    def do_if_stmt(self, c: list[Any], first: Token, last: Token) -> s.If:
        """``if``/``elif``/``else``, nested from the end."""
        test, body, *clauses, orelse = c
        tail: tuple[s.Stmt, ...] = orelse or ()
        if len(clauses) > _MAX_ELIF:
            span = clauses[_MAX_ELIF][2].span(self.file)
            self.report.error("T0141", f"more than {_MAX_ELIF} `elif` branches", span, help=("use a dict or a list",))
        for elif_test, elif_body, token in reversed(clauses[:_MAX_ELIF]):
            tail = (s.If(elif_test, elif_body, tail, self._until(token, tail or elif_body)),)
        return s.If(test, body, tail, self._until(first, tail or body))

    def do_elif_clause(self, c: list[Any], first: Token, last: Token) -> tuple[s.Expr, tuple[s.Stmt, ...], Token]:
        """Test, body and keyword of an ``elif``."""
        return c[0], c[1], first

    def do_else_clause(self, c: list[Any], first: Token, last: Token) -> tuple[s.Stmt, ...]:
        """The body of an ``else``."""
        body: tuple[s.Stmt, ...] = c[0]
        return body

    def do_for_stmt(self, c: list[Any], first: Token, last: Token) -> s.For:
        """``for target in iter``."""
        self.check_target(c[0])
        return s.For(c[0], c[1], c[2], self._until(first, c[2]))

    def do_with_stmt(self, c: list[Any], first: Token, last: Token) -> s.With:
        """``with`` contexts."""
        return s.With(tuple(c[:-1]), c[-1], self._until(first, c[-1]))

    def do_with_item(self, c: list[Any], first: Token, last: Token) -> tuple[s.Expr, s.Expr | None]:
        """One context and its target."""
        if c[1] is not None:
            self.check_target(c[1])
        return c[0], c[1]

    def do_decorated(self, c: list[Any], first: Token, last: Token) -> s.FunctionDef:
        """A function with its decorators."""
        f: s.FunctionDef = c[-1]
        return s.FunctionDef(f.name, f.params, f.body, tuple(c[:-1]), f.returns, f.docstring, f.span)

    def do_decorator(self, c: list[Any], first: Token, last: Token) -> s.Expr:
        """The expression behind ``@``."""
        value: s.Expr = c[0]
        return value

    def do_funcdef(self, c: list[Any], first: Token, last: Token) -> s.FunctionDef:
        """``def``; a leading string of the body becomes the docstring."""
        name, params, returns, body = c
        docstring = None
        span = self._until(first, body)
        if body and isinstance(body[0], s.ExprStmt) and isinstance(body[0].value, s.String):
            docstring, body = body[0].value.value, body[1:]
        return s.FunctionDef(name.text, params or (), body, (), returns, docstring, span)

    # ------------------------------------------------------------------------------------------- statements

    def do_expr_stmt(self, c: list[Any], first: Token, last: Token) -> s.ExprStmt:
        """An expression alone."""
        return s.ExprStmt(c[0], self.span(first, last))

    def do_assign(self, c: list[Any], first: Token, last: Token) -> s.Assign:
        """``a = b = value``."""
        for target in c[:-1]:
            self.check_target(target)
        return s.Assign(tuple(c[:-1]), c[-1], None, self.span(first, last))

    def do_annotated(self, c: list[Any], first: Token, last: Token) -> s.Stmt:
        """``target: annotation = value``."""
        target, annotation, value = c
        span = self.span(first, last)
        if not isinstance(target, s.Name):
            self.report.error(
                "T0142", "only a single name can be annotated", target.span, help=("write `name: type = value`",)
            )
        if value is None:
            self.report.error(
                "T0116",
                "an annotation without a value declares nothing",
                span,
                help=("give it a value, or annotate the function's parameter", "shapes can also be given by --shape"),
            )
            return s.Pass(span)
        return s.Assign((target,), value, annotation, span)

    def do_augmented(self, c: list[Any], first: Token, last: Token) -> s.AugAssign:
        """``target op= value``."""
        target, operator, value = c
        if isinstance(target, s.TupleExpr | s.ListExpr):
            message = f"`{operator.text}` needs one target, not several"
            self.report.error("T0142", message, target.span, help=("update the names one by one",))
        else:
            self.check_target(target)
        return s.AugAssign(target, AUGMENTED[operator.text], value, self.span(first, last))

    def do_return_stmt(self, c: list[Any], first: Token, last: Token) -> s.Return:
        """``return``."""
        return s.Return(c[0], self.span(first, last))

    def do_assert_stmt(self, c: list[Any], first: Token, last: Token) -> s.Assert:
        """``assert``; a tuple as the test would always hold, so it is refused."""
        if isinstance(c[0], s.TupleExpr) and c[0].items:
            self.report.error(
                "T0117",
                "this assertion is always true: its test is a tuple",
                c[0].span,
                help=("remove the parentheses",),
            )
        return s.Assert(c[0], c[1], self.span(first, last))

    def do_pass_stmt(self, c: list[Any], first: Token, last: Token) -> s.Pass:
        """``pass``."""
        return s.Pass(self.span(first, last))

    # ---------------------------------------------------------------------------------------------- imports

    def do_import_names(self, c: list[Any], first: Token, last: Token) -> list[s.Stmt]:
        """``import a, b as c``: one node each."""
        whole = self.span(first, last)
        nodes = [s.Import(module, (), asname, whole if len(c) == 1 else span) for module, asname, span in c]
        for node in nodes:
            check_import(node, self.report)
        return [*nodes]

    def do_dotted_as(self, c: list[Any], first: Token, last: Token) -> tuple[str, str | None, Span]:
        """A module and its local name."""
        return c[0], c[1].text if c[1] else None, self.span(first, last)

    def do_dotted(self, c: list[Any], first: Token, last: Token) -> str:
        """A module path."""
        return ".".join(token.text for token in c)

    def do_import_from(self, c: list[Any], first: Token, last: Token) -> s.Import | s.Pass:
        """``from module import names``; ``from __future__`` has no effect here, and leaves none."""
        if c[0] == "__future__":
            return s.Pass(self.span(first, last))
        node = s.Import(c[0], tuple(c[1:]), None, self.span(first, last))
        check_import(node, self.report)
        return node

    def do_import_as(self, c: list[Any], first: Token, last: Token) -> tuple[str, str | None]:
        """An imported name and its local name."""
        return c[0].text, c[1].text if c[1] else None

    # ------------------------------------------------------------------------------------------- parameters

    def do_params(self, c: list[Any], first: Token, last: Token) -> tuple[s.Param, ...]:
        """The parameters of a function: keyword-only behind a ``*``, names unique, defaults last."""
        out: list[s.Param] = []
        star: Token | None = None
        for item in c:
            if isinstance(item, Token):
                if star:
                    self.report.error(
                        "T0144", "a second `*` in a parameter list", item.span(self.file), help=("remove it",)
                    )
                star = item
                continue
            param = s.Param(item.name, item.annotation, item.default, star is not None, item.span)
            self._check_param(param, out)
            out.append(param)
        if star is c[-1] and star is not None:
            help_text = "remove it, or name the keyword-only parameters behind it"
            self.report.error("T0144", "`*` with no parameter behind it", star.span(self.file), help=(help_text,))
        return tuple(out)

    do_lambda_params = do_params

    def _check_param(self, param: s.Param, before: list[s.Param]) -> None:
        same = next((p for p in before if p.name == param.name), None)
        if same:
            labels = (Label(same.span, "first here"),)
            message = f"parameter `{param.name}` occurs twice"
            self.report.error("T0143", message, param.span, labels=labels, help=("rename one of them",))
        default = next((p for p in before if p.default is not None and not p.kw_only), None)
        if default and param.default is None and not param.kw_only:
            labels = (Label(default.span, "has a default"),)
            message = f"parameter `{param.name}` without a default follows one that has a default"
            help_text = "move it to the front, or give it a default"
            self.report.error("T0144", message, param.span, labels=labels, help=(help_text,))

    def do_star_marker(self, c: list[Any], first: Token, last: Token) -> Token:
        """The bare ``*``."""
        return first

    def do_param(self, c: list[Any], first: Token, last: Token) -> s.Param:
        """``name: annotation = default``."""
        return s.Param(c[0].text, c[1], c[2], False, self.span(first, last))

    def do_lambda_param(self, c: list[Any], first: Token, last: Token) -> s.Param:
        """``name = default``."""
        return s.Param(c[0].text, None, c[1], False, self.span(first, last))

    def _until(self, first: Token, body: tuple[s.Stmt, ...]) -> Span:
        """From a keyword to the end of the last statement of a body."""
        if not body:
            return first.span(self.file)
        end = body[-1].span
        return Span(self.file, first.line, first.column, end.end_line, end.end_column)


def _flat(groups: list[list[s.Stmt]]) -> tuple[s.Stmt, ...]:
    return tuple(stmt for group in groups for stmt in group)
