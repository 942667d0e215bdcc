"""A contraction of rows with a tensor that every expert has of its own, as a product of matrices grouped by expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tesserac.elaborate.session import Session
from tesserac.ir.program import Var
from tesserac.ir.types import Dim
from tesserac.ops.contract import parse_spec


@dataclass(frozen=True, slots=True)
class Grouping:
    """Where the rows of each expert start, the numbers of the experts at hand, the dimension of all rows."""

    session: Session
    offsets: Var
    experts: tuple[int, ...]
    rows: Dim


def contract_rows(g: Grouping, spec: str, x: Var, place: int, axis: int, weights: Sequence[Var]) -> Var:
    """The contraction ``spec`` of ``x``, its operand number ``place`` with rows along ``axis``, and experts' tensors.

    The rows' other axes are summed with the tensor, or stay: then every row counts as that many rows. A letter that
    all three have (a product per head, say) leaves no matrix product: the tensors are repeated over the rows.
    """
    first, second, result = parse_spec(spec)
    own, other = (second, first) if place else (first, second)
    row = own[axis]
    inner = [c for c in own if c in other and c not in result]
    stay = [c for c in own if c not in other and c != row]
    columns = [c for c in other if c not in own]
    plain = inner and all(c in result for c in (*stay, *columns)) and not any(c in own and c in result for c in other)
    if not plain:
        return _repeated(g, x, own, other, row, result, weights)
    return _grouped(g, x, own, other, _Letters(row, inner, stay, columns), result, weights)


@dataclass(frozen=True, slots=True)
class _Letters:
    row: str
    inner: list[str]
    stay: list[str]
    columns: list[str]


def _grouped(
    g: Grouping, x: Var, own: str, other: str, at: _Letters, result: str, weights: Sequence[Var]
) -> Var:
    session, product = g.session, g.session.solver.product
    sizes: dict[str, Dim] = dict(zip(own, x.type.shape, strict=True))
    sizes |= {c: d for c, d in zip(other, weights[0].type.shape, strict=True) if c not in sizes}

    def extent(letters: Sequence[str]) -> Dim:
        return product(tuple(sizes[c] for c in letters))

    offsets, rows = g.offsets, g.rows
    if at.stay:
        count = session.known(extent(at.stay), "an expert's product over several axes")
        offsets = session.emit("mul", offsets, session.emit("full", value=count, shape=offsets.type.shape,
                                                            dtype=offsets.type.dtype))
        rows = product((rows, count))
    matrix = _arranged(session, x, own, [at.row, *at.stay, *at.inner], (rows, extent(at.inner)))
    turned = list(other) == [*at.columns, *at.inner] and bool(at.columns)
    order = [*at.columns, *at.inner] if turned else [*at.inner, *at.columns]
    ends = extent(at.inner), extent(at.columns)
    shape = (ends[1], ends[0]) if turned else ends
    matrices = [_arranged(session, w, other, order, shape) for w in weights]
    value = session.emit("grouped_contract", matrix, offsets, *matrices, experts=g.experts, transposed=turned)
    letters = [at.row, *at.stay, *at.columns]
    full = tuple(g.rows if c == at.row else sizes[c] for c in letters)
    if len(full) != 2:
        value = session.emit("reshape", value, shape=full)
    return _ordered(session, value, letters, list(result))


def _arranged(session: Session, x: Var, letters: str, order: Sequence[str], shape: tuple[Dim, ...]) -> Var:
    """x with its axes in this order, as a matrix."""
    moved = _ordered(session, x, list(letters), list(order))
    return moved if len(order) == 2 else session.emit("reshape", moved, shape=shape)


def _ordered(session: Session, x: Var, letters: list[str], order: list[str]) -> Var:
    perm = tuple(letters.index(c) for c in order)
    return x if perm == tuple(range(len(perm))) else session.emit("transpose", x, perm=perm)


def _repeated(
    g: Grouping, x: Var, own: str, other: str, row: str, result: str, weights: Sequence[Var]
) -> Var:
    """Every row with its expert's tensor beside it."""
    beside = g.session.emit("grouped_rows", g.offsets, *weights, experts=g.experts, rows=g.rows)
    return g.session.emit("contract", x, beside, spec=f"{own},{row}{other}->{result}")
