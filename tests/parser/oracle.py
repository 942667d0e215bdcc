"""Python's own parser as an oracle: its tree, in the shape of ours."""

from __future__ import annotations

import ast
import dataclasses
from typing import Any

from tesserac.diagnostics import Span
from tesserac.parser import syntax as s

_BINARY = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.MatMult: "@",
    ast.Pow: "**", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip
_UNARY = {ast.USub: "-", ast.UAdd: "+", ast.Invert: "~", ast.Not: "not"}
_COMPARE = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.In: "in",
    ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not",
}  # fmt: skip


def plain(node: Any, spans: bool = True) -> Any:
    """A tree as nested tuples for comparison.

    Spans are left out where the two parsers define them differently: parameters, comprehension clauses, generator
    expressions (Python gives a lone argument its call's parentheses) and all inside f-strings.
    """
    if isinstance(node, tuple):
        return tuple(plain(item, spans) for item in node)
    if not dataclasses.is_dataclass(node) or isinstance(node, Span):
        return (type(node).__name__, repr(node))
    inside = spans and not isinstance(node, s.FString)
    keep = spans and not isinstance(node, s.Param | s.CompFor)
    keep = keep and not (isinstance(node, s.Comprehension) and node.kind == "tuple")
    values = [plain(getattr(node, f.name), inside) for f in dataclasses.fields(node) if f.name != "span"]
    return (
        type(node).__name__,
        *values,
        str(node.span) + f"-{node.span.end_line}:{node.span.end_column}" if keep else "",
    )


class Oracle:
    """Converts Python's tree of ``text``."""

    def __init__(self, text: str, file: str) -> None:
        self.lines = [line.encode() for line in text.split("\n")]
        self.file = file

    def span(self, node: Any) -> Span:
        """Byte offsets to columns."""
        start = len(self.lines[node.lineno - 1][: node.col_offset].decode()) + 1
        end = len(self.lines[node.end_lineno - 1][: node.end_col_offset].decode()) + 1
        return Span(self.file, node.lineno, start, node.end_lineno, end)

    def many(self, nodes: Any) -> tuple[Any, ...]:
        """Each of a list."""
        return tuple(self.node(node) for node in nodes)

    def node(self, node: Any) -> Any:
        """One node, or None."""
        if node is None:
            return None
        if isinstance(node, ast.stmt):
            return self.statement(node, self.span(node))
        return self.expression(node, self.span(node))

    def statement(self, n: ast.stmt, at: Span) -> Any:
        """One statement."""
        match n:
            case ast.Import(names=[alias]):
                return s.Import(alias.name, (), alias.asname, at)
            case ast.ImportFrom():
                return s.Import(n.module or "", tuple((a.name, a.asname) for a in n.names), None, at)
            case ast.Assign():
                return s.Assign(self.many(n.targets), self.node(n.value), None, at)
            case ast.AnnAssign():
                return s.Assign((self.node(n.target),), self.node(n.value), self.node(n.annotation), at)
            case ast.AugAssign():
                return s.AugAssign(self.node(n.target), _BINARY[type(n.op)], self.node(n.value), at)
            case ast.Expr():
                return s.ExprStmt(self.node(n.value), at)
            case ast.Return():
                return s.Return(self.node(n.value), at)
            case ast.If():
                return s.If(self.node(n.test), self.many(n.body), self.many(n.orelse), at)
            case ast.For():
                return s.For(self.node(n.target), self.node(n.iter), self.many(n.body), at)
            case ast.With():
                items = tuple((self.node(i.context_expr), self.node(i.optional_vars)) for i in n.items)
                return s.With(items, self.many(n.body), at)
            case ast.Assert():
                return s.Assert(self.node(n.test), self.node(n.msg), at)
            case ast.Pass():
                return s.Pass(at)
            case ast.FunctionDef():
                docstring = ast.get_docstring(n, clean=False)
                body = self.many(n.body)[docstring is not None :]
                decorators = self.many(n.decorator_list)
                return s.FunctionDef(n.name, self.params(n.args), body, decorators, self.node(n.returns), docstring, at)
        raise AssertionError(type(n))

    def params(self, a: ast.arguments) -> tuple[s.Param, ...]:
        """Parameters; their spans are not compared."""
        here = Span.point(self.file, 1, 1)
        missing: list[Any] = [None] * (len(a.args) - len(a.defaults))
        out = [
            s.Param(p.arg, self.node(p.annotation), self.node(d), False, here)
            for p, d in zip(a.args, missing + a.defaults, strict=True)
        ]
        for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=True):
            out.append(s.Param(p.arg, self.node(p.annotation), self.node(d), True, here))
        return tuple(out)

    def clauses(self, generators: list[ast.comprehension]) -> tuple[s.CompFor, ...]:
        """Comprehension clauses; their spans are not compared."""
        here = Span.point(self.file, 1, 1)
        return tuple(s.CompFor(self.node(g.target), self.node(g.iter), self.many(g.ifs), here) for g in generators)

    def constant(self, value: Any, at: Span) -> Any:
        """A literal."""
        match value:
            case bool():
                return s.Bool(value, at)
            case None:
                return s.NoneLit(at)
            case str():
                return s.String(value, at)
            case int() | float() | complex():
                return s.Number(value, at)
        assert value is ...
        return s.Ellipsis(at)

    def expression(self, n: Any, at: Span) -> Any:
        """One expression."""
        match n:
            case ast.Name():
                return s.Name(n.id, at)
            case ast.Constant():
                return self.constant(n.value, at)
            case ast.JoinedStr():
                parts = (v.value if isinstance(v, ast.Constant) else self.node(v.value) for v in n.values)
                return s.FString(tuple(parts), at)
            case ast.Tuple():
                return s.TupleExpr(self.many(n.elts), at)
            case ast.List():
                return s.ListExpr(self.many(n.elts), at)
            case ast.Dict():
                return s.DictExpr(tuple(zip(self.many(n.keys), self.many(n.values), strict=True)), at)
            case ast.Attribute():
                return s.Attribute(self.node(n.value), n.attr, at)
            case ast.Subscript():
                return s.Subscript(self.node(n.value), self.node(n.slice), at)
            case ast.Slice():
                return s.Slice(self.node(n.lower), self.node(n.upper), self.node(n.step), at)
            case ast.Call():
                keywords = tuple(s.Keyword(k.arg, self.node(k.value), self.span(k)) for k in n.keywords)
                return s.Call(self.node(n.func), self.many(n.args), keywords, at)
            case ast.UnaryOp():
                return s.Unary(_UNARY[type(n.op)], self.node(n.operand), at)
            case ast.BinOp():
                return s.Binary(_BINARY[type(n.op)], self.node(n.left), self.node(n.right), at)
            case ast.Compare():
                ops = tuple(_COMPARE[type(op)] for op in n.ops)
                return s.Compare(self.node(n.left), ops, self.many(n.comparators), at)
            case ast.BoolOp():
                return s.BoolOp("and" if isinstance(n.op, ast.And) else "or", self.many(n.values), at)
            case ast.IfExp():
                return s.Conditional(self.node(n.test), self.node(n.body), self.node(n.orelse), at)
            case ast.Lambda():
                return s.Lambda(self.params(n.args), self.node(n.body), at)
            case ast.ListComp() | ast.GeneratorExp():
                kind = "list" if isinstance(n, ast.ListComp) else "tuple"
                return s.Comprehension(kind, self.node(n.elt), None, self.clauses(n.generators), at)
            case ast.DictComp():
                return s.Comprehension("dict", self.node(n.key), self.node(n.value), self.clauses(n.generators), at)
        raise AssertionError(type(n))
