"""Makes expression nodes from reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tesserac.diagnostics import Label, Span
from tesserac.parser import literals
from tesserac.parser import syntax as s
from tesserac.parser.report import Report
from tesserac.parser.tokens import Token

__all__ = ["ExpressionBuilder"]


class ExpressionBuilder:
    """The actions of the expression rules. ``inline`` parses the text of an f-string's field at a line and column."""

    def __init__(self, file: str, report: Report, inline: Callable[[str, int, int], s.Expr | None]) -> None:
        self.file = file
        self.report = report
        self.inline = inline

    def span(self, first: Token, last: Token) -> Span:
        """From the start of one token to the end of another."""
        return Span(self.file, first.line, first.column, last.end_line, last.end_column)

    def check_target(self, target: s.Expr) -> None:
        """Report a target that cannot be assigned to."""
        if isinstance(target, s.TupleExpr | s.ListExpr):
            for item in target.items:
                self.check_target(item)
        elif not isinstance(target, s.Name):
            hint = "assign to a name, or to several separated by commas"
            if isinstance(target, s.Subscript | s.Attribute):
                hint = "values do not change in place; build a new one, with a new name"
            self.report.error("T0142", f"cannot assign to {_kind(target)}", target.span, help=(hint,))

    def do_expression(self, c: list[Any], first: Token, last: Token) -> s.Expr:
        """An expression on its own."""
        value: s.Expr = c[0]
        return value

    # ------------------------------------------------------------------------------------------------- atoms

    def do_name(self, c: list[Any], first: Token, last: Token) -> s.Name:
        """An identifier."""
        return s.Name(first.text, self.span(first, last))

    def do_number(self, c: list[Any], first: Token, last: Token) -> s.Number:
        """A number."""
        span = self.span(first, last)
        try:
            return s.Number(literals.number(first.text), span)
        except literals.LiteralFault as fault:
            self.report.error("T0111", fault.message, span, help=(fault.advice,))
            return s.Number(0, span)

    def do_string(self, c: list[Token], first: Token, last: Token) -> s.Expr:
        """Adjacent string literals, joined; an f-string if any of them is one."""
        parts: list[s.Expr | str] = []
        formatted = False
        for token in c:
            prefix, body, start = literals.split(token.text)
            if "b" in prefix:
                message = "bytes literals are not supported"
                self.report.error("T0111", message, token.span(self.file), help=("remove the prefix `b`",))
            raw = "r" in prefix
            try:
                if "f" not in prefix:
                    parts.append(literals.decode(body, raw))
                    continue
                formatted = True
                for part in literals.fields(body, raw):
                    parts.append(part if isinstance(part, str) else self._field(part, token, start))
            except literals.LiteralFault as fault:
                line, column = _place(token, start + fault.offset)
                span = Span(self.file, line, column, line, column + fault.length)
                self.report.error("T0111", fault.message, span, help=(fault.advice,))
        span = self.span(first, last)
        if not formatted:
            return s.String("".join(p for p in parts if isinstance(p, str)), span)
        return s.FString(_merge(parts), span)

    def _field(self, field: literals.Field, token: Token, start: int) -> s.Expr | str:
        line, column = _place(token, start + field.offset)
        if "\\" in field.text:
            span = Span(self.file, line, column, line, column + 1)
            message = "a backslash in an f-string's field"
            self.report.error("T0111", message, span, help=("name the text in an assignment before",))
            return ""
        value = self.inline(field.text, line, column)
        return "" if value is None else value

    def do_none(self, c: list[Any], first: Token, last: Token) -> s.NoneLit:
        """``None``."""
        return s.NoneLit(self.span(first, last))

    def do_true(self, c: list[Any], first: Token, last: Token) -> s.Bool:
        """``True``."""
        return s.Bool(True, self.span(first, last))

    def do_false(self, c: list[Any], first: Token, last: Token) -> s.Bool:
        """``False``."""
        return s.Bool(False, self.span(first, last))

    def do_ellipsis(self, c: list[Any], first: Token, last: Token) -> s.Ellipsis:
        """``...``."""
        return s.Ellipsis(self.span(first, last))

    # ---------------------------------------------------------------------------------------------- displays

    def do_parenthesised(self, c: list[Any], first: Token, last: Token) -> s.Expr:
        """Parentheses leave no node."""
        value: s.Expr = c[0]
        return value

    def do_tuple_bare(self, c: list[Any], first: Token, last: Token) -> s.TupleExpr:
        """A tuple without parentheses."""
        return s.TupleExpr(tuple(c), self.span(first, last))

    def do_tuple_display(self, c: list[Any], first: Token, last: Token) -> s.TupleExpr:
        """A tuple in parentheses."""
        return s.TupleExpr(_items(c), self.span(first, last))

    def do_list_display(self, c: list[Any], first: Token, last: Token) -> s.ListExpr:
        """``[...]``."""
        return s.ListExpr(_items(c), self.span(first, last))

    def do_dict_display(self, c: list[Any], first: Token, last: Token) -> s.DictExpr:
        """``{...}``."""
        return s.DictExpr(_items(c), self.span(first, last))

    def do_pair(self, c: list[Any], first: Token, last: Token) -> tuple[s.Expr, s.Expr]:
        """``key: value``."""
        return c[0], c[1]

    def do_set_display(self, c: list[Any], first: Token, last: Token) -> s.ListExpr:
        """A set, which the language lacks."""
        self._no_sets(first, last)
        return s.ListExpr(_items(c), self.span(first, last))

    def do_set_comprehension(self, c: list[Any], first: Token, last: Token) -> s.Comprehension:
        """A set comprehension, which the language lacks."""
        self._no_sets(first, last)
        return self._comprehension("list", c, first, last)

    def _no_sets(self, first: Token, last: Token) -> None:
        help_text = "write a list, [a, b], or a dict, {key: value}"
        self.report.error("T0135", "sets are not supported", self.span(first, last), help=(help_text,))

    def do_list_comprehension(self, c: list[Any], first: Token, last: Token) -> s.Comprehension:
        """``[element for ...]``."""
        return self._comprehension("list", c, first, last)

    def do_generator(self, c: list[Any], first: Token, last: Token) -> s.Comprehension:
        """``(element for ...)``, in parentheses of its own or as a call's argument."""
        return self._comprehension("tuple", c, first, last)

    do_generator_argument = do_generator

    def do_dict_comprehension(self, c: list[Any], first: Token, last: Token) -> s.Comprehension:
        """``{key: value for ...}``."""
        return s.Comprehension("dict", c[0], c[1], tuple(c[2:]), self.span(first, last))

    def _comprehension(self, kind: str, c: list[Any], first: Token, last: Token) -> s.Comprehension:
        return s.Comprehension(kind, c[0], None, tuple(c[1:]), self.span(first, last))

    def do_comp_for(self, c: list[Any], first: Token, last: Token) -> s.CompFor:
        """``for target in iter if condition``."""
        self.check_target(c[0])
        return s.CompFor(c[0], c[1], tuple(c[2:]), self.span(first, last))

    def do_comp_if(self, c: list[Any], first: Token, last: Token) -> s.Expr:
        """A condition of a comprehension."""
        value: s.Expr = c[0]
        return value

    # --------------------------------------------------------------------------------------------- operators

    def do_conditional(self, c: list[Any], first: Token, last: Token) -> s.Conditional:
        """``body if test else orelse``."""
        body, test, orelse = c
        return s.Conditional(test, body, orelse, self.span(first, last))

    def do_lambda_expr(self, c: list[Any], first: Token, last: Token) -> s.Lambda:
        """``lambda params: body``."""
        return s.Lambda(c[0] or (), c[1], self.span(first, last))

    def do_bool_or(self, c: list[Any], first: Token, last: Token) -> s.BoolOp:
        """``a or b or c``."""
        return s.BoolOp("or", tuple(c), self.span(first, last))

    def do_bool_and(self, c: list[Any], first: Token, last: Token) -> s.BoolOp:
        """``a and b and c``."""
        return s.BoolOp("and", tuple(c), self.span(first, last))

    def do_unary(self, c: list[Any], first: Token, last: Token) -> s.Unary:
        """A prefix operator."""
        return s.Unary(c[0].text, c[1], self.span(first, last))

    def do_binary(self, c: list[Any], first: Token, last: Token) -> s.Binary:
        """An infix operator."""
        return s.Binary(c[1].text, c[0], c[2], self.span(first, last))

    def do_compare(self, c: list[Any], first: Token, last: Token) -> s.Compare:
        """A chain of comparisons."""
        return s.Compare(c[0], tuple(c[1::2]), tuple(c[2::2]), self.span(first, last))

    def do_comp_op(self, c: list[Token], first: Token, last: Token) -> str:
        """A comparison operator of one or two words."""
        return " ".join(token.text for token in c)

    # ---------------------------------------------------------------------------------------------- trailers

    def do_attribute(self, c: list[Any], first: Token, last: Token) -> s.Attribute:
        """``value.attr``."""
        return s.Attribute(c[0], c[1].text, self.span(first, last))

    def do_subscript(self, c: list[Any], first: Token, last: Token) -> s.Subscript:
        """``value[index]``."""
        return s.Subscript(c[0], c[1], self.span(first, last))

    def do_slice(self, c: list[Any], first: Token, last: Token) -> s.Slice:
        """``lower:upper:step``."""
        return s.Slice(c[0], c[1], c[2][0] if c[2] else None, self.span(first, last))

    def do_slice_step(self, c: list[Any], first: Token, last: Token) -> list[s.Expr | None]:
        """The step, possibly left out behind its colon."""
        return c

    def do_keyword(self, c: list[Any], first: Token, last: Token) -> s.Keyword:
        """``name=value``."""
        return s.Keyword(c[0].text, c[1], self.span(first, last))

    def do_arguments(self, c: list[Any], first: Token, last: Token) -> list[s.Expr | s.Keyword]:
        """The arguments of a call."""
        return c

    def do_call(self, c: list[Any], first: Token, last: Token) -> s.Call:
        """``func(args, name=value)``."""
        args: list[s.Expr] = []
        keywords: dict[str, s.Keyword] = {}
        for item in c[1] or ():
            if isinstance(item, s.Keyword):
                if item.name in keywords:
                    labels = (Label(keywords[item.name].span, "first here"),)
                    message = f"argument `{item.name}` is given twice"
                    self.report.error("T0143", message, item.span, labels=labels, help=("remove one of them",))
                keywords[item.name] = item
                continue
            if keywords:
                message = "positional argument behind a keyword argument"
                self.report.error("T0144", message, item.span, help=("move it to the front, or pass it by name",))
            args.append(item)
        return s.Call(c[0], tuple(args), tuple(keywords.values()), self.span(first, last))


def _items(c: list[Any]) -> tuple[Any, ...]:
    return tuple(item for item in c if item is not None)


def _merge(parts: list[s.Expr | str]) -> tuple[s.Expr | str, ...]:
    """Join neighbouring texts and drop empty ones."""
    out: list[s.Expr | str] = []
    for part in parts:
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] += part
        elif part != "":
            out.append(part)
    return tuple(out)


def _place(token: Token, offset: int) -> tuple[int, int]:
    """Line and column of an offset into a token's text."""
    breaks = token.text.count("\n", 0, offset)
    if not breaks:
        return token.line, token.column + offset
    return token.line + breaks, offset - token.text.rfind("\n", 0, offset)


def _kind(node: s.Expr) -> str:
    """A node's kind in words, with its article."""
    kinds = {
        s.Call: "the result of a call",
        s.Attribute: "an attribute",
        s.Subscript: "an element",
        s.Number: "a number",
        s.String: "a string",
        s.FString: "a string",
        s.Bool: "a constant",
        s.NoneLit: "a constant",
        s.Ellipsis: "a constant",
        s.Compare: "a comparison",
        s.Conditional: "a conditional expression",
        s.Lambda: "a lambda",
        s.DictExpr: "a dict",
        s.Comprehension: "a comprehension",
    }
    return kinds.get(type(node), "an expression")
