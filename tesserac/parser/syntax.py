"""The Tessera syntax tree: immutable nodes, each with the source span it came from.

The tree is concrete enough to point at any operand and abstract enough that no pass needs to know about parentheses,
semicolons or line joining. A parenthesised expression has the span of what is inside the parentheses, as in Python's
own tree; a tuple written with parentheses includes them.
"""

from __future__ import annotations

from typing import TypeAlias

from tesserac.diagnostics import Span
from tesserac.immutable import dataclass

# ---------------------------------------------------------------------------------------------------- expressions


@dataclass(frozen=True, slots=True)
class Name:
    """An identifier, NFKC-normalised as Python does."""

    id: str
    span: Span


@dataclass(frozen=True, slots=True)
class Number:
    """An int, float or imaginary literal."""

    value: int | float | complex
    span: Span


@dataclass(frozen=True, slots=True)
class String:
    """A string literal; adjacent literals are already joined."""

    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class FString:
    """An f-string: literal text and the expressions between braces, in order."""

    parts: tuple[Expr | str, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Bool:
    """``True`` or ``False``."""

    value: bool
    span: Span


@dataclass(frozen=True, slots=True)
class NoneLit:
    """``None``."""

    span: Span


@dataclass(frozen=True, slots=True)
class Ellipsis:
    """``...``."""

    span: Span


@dataclass(frozen=True, slots=True)
class TupleExpr:
    """A tuple display, or the targets of a tuple unpacking."""

    items: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class ListExpr:
    """A list display."""

    items: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class DictExpr:
    """A dict display; pairs in source order."""

    items: tuple[tuple[Expr, Expr], ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Attribute:
    """``value.attr``."""

    value: Expr
    attr: str
    span: Span


@dataclass(frozen=True, slots=True)
class Subscript:
    """``value[index]``; several indices are a `TupleExpr`, ranges are `Slice`."""

    value: Expr
    index: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Slice:
    """``lower:upper:step`` inside a subscript."""

    lower: Expr | None
    upper: Expr | None
    step: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Keyword:
    """``name=value`` in a call."""

    name: str
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Call:
    """``func(args, keywords)``."""

    func: Expr
    args: tuple[Expr, ...]
    keywords: tuple[Keyword, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Unary:
    """A prefix operator: ``-``, ``+``, ``~`` or ``not``."""

    op: str
    operand: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Binary:
    """An infix operator: ``+ - * / // % @ ** & | ^ << >>``."""

    op: str
    left: Expr
    right: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Compare:
    """``left op0 c0 op1 c1 ...``; ops are ``== != < <= > >= in``, ``not in``, ``is``, ``is not``."""

    left: Expr
    ops: tuple[str, ...]
    comparators: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class BoolOp:
    """``a and b and c`` or ``a or b or c``; at least two values."""

    op: str
    values: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Conditional:
    """``body if test else orelse``."""

    test: Expr
    body: Expr
    orelse: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a function or lambda."""

    name: str
    annotation: Expr | None
    default: Expr | None
    kw_only: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Lambda:
    """``lambda params: body``."""

    params: tuple[Param, ...]
    body: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class CompFor:
    """One ``for target in iter if condition ...`` of a comprehension."""

    target: Expr
    iter: Expr
    conditions: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Comprehension:
    """A comprehension; ``kind`` is ``list``, ``tuple`` (a generator expression) or ``dict`` (``element: value``)."""

    kind: str
    element: Expr
    value: Expr | None
    clauses: tuple[CompFor, ...]
    span: Span


Expr: TypeAlias = (
    Name
    | Number
    | String
    | FString
    | Bool
    | NoneLit
    | Ellipsis
    | TupleExpr
    | ListExpr
    | DictExpr
    | Attribute
    | Subscript
    | Slice
    | Call
    | Unary
    | Binary
    | Compare
    | BoolOp
    | Conditional
    | Lambda
    | Comprehension
)
"""Any expression node (usable with ``isinstance``)."""

# ----------------------------------------------------------------------------------------------------- statements


@dataclass(frozen=True, slots=True)
class Import:
    """``import module as asname`` (``names`` empty) or ``from module import name as asname, ...``."""

    module: str
    names: tuple[tuple[str, str | None], ...]
    asname: str | None
    span: Span


@dataclass(frozen=True, slots=True)
class Assign:
    """``t0 = t1 = value`` or ``t0: annotation = value``."""

    targets: tuple[Expr, ...]
    value: Expr
    annotation: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class AugAssign:
    """``target op= value``; ``op`` is the binary operator without ``=``."""

    target: Expr
    op: str
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class ExprStmt:
    """An expression on a line of its own."""

    value: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Return:
    """``return value``."""

    value: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class If:
    """``if``; an ``elif`` is an `If` alone in ``orelse``."""

    test: Expr
    body: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class For:
    """``for target in iter``."""

    target: Expr
    iter: Expr
    body: tuple[Stmt, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class FunctionDef:
    """``def``; the docstring is taken out of ``body``, and the span starts at ``def``, not at a decorator."""

    name: str
    params: tuple[Param, ...]
    body: tuple[Stmt, ...]
    decorators: tuple[Expr, ...]
    returns: Expr | None
    docstring: str | None
    span: Span


@dataclass(frozen=True, slots=True)
class With:
    """``with context as target, ...``."""

    items: tuple[tuple[Expr, Expr | None], ...]
    body: tuple[Stmt, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Assert:
    """``assert test, message``."""

    test: Expr
    message: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Pass:
    """``pass``."""

    span: Span


Stmt: TypeAlias = Import | Assign | AugAssign | ExprStmt | Return | If | For | FunctionDef | With | Assert | Pass
"""Any statement node (usable with ``isinstance``)."""

# ----------------------------------------------------------------------------------------------------------- unit


@dataclass(frozen=True, slots=True)
class SourceBlock:
    """One stretch of source text: a whole ``.py`` file, or one fenced block of a ``.md`` file.

    ``first_line`` is the line of ``file`` on which ``text`` starts.
    """

    file: str
    text: str
    first_line: int


@dataclass(frozen=True, slots=True)
class Unit:
    """A compilation unit: the statements of all blocks in order."""

    file: str
    body: tuple[Stmt, ...]
    sources: tuple[SourceBlock, ...]
