"""Contractions as matrix products: letters become outer loops, rows, columns and depth.

Letters that both operands and the result have are outer loops; of the rest, letters of the result are rows (left
operand) or columns (right operand), summed letters the depth. Neighbouring letters are merged where every access walks
them as one; row and column letters that cannot be merged become outer loops too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tesserac.codegen.records import ContractKernel, Matrix, Node, Slot, Store, accesses_of
from tesserac.codegen.region import NeedsCopy, Region, located
from tesserac.codegen.reorder import reordered
from tesserac.codegen.stage_values import StageValues
from tesserac.codegen.views import View
from tesserac.ir.program import Equation, Var


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand in memory: the leaf it comes from, its view, and the stride of each letter."""

    var: Var
    leaf: Var
    view: View
    strides: dict[str, int]


def letters_of(equation: Equation) -> tuple[str, str, str]:
    """Letters of the operands and of the result."""
    operands, out = str(equation.attr("spec")).split("->")
    left, right = operands.split(",")
    return left, right, out


def operand(values: StageValues, equation: Equation, index: int) -> Operand:
    """How operand ``index`` of a contraction is read; NeedsCopy if strides cannot express it."""
    var = equation.operands[index]
    leaf, view = located(values, var)
    letters = letters_of(equation)[index]
    return Operand(var, leaf, view, dict(zip(letters, view.normalized().strides, strict=True)))


def check_operands(values: StageValues, equation: Equation) -> None:
    """Raises NeedsCopy when an operand has to be copied before the product can read it."""
    _split(equation, operand(values, equation, 0), operand(values, equation, 1), (), values.most)


@dataclass(frozen=True, slots=True)
class _Letters:
    outer: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    depth: tuple[str, ...]
    sizes: dict[str, int]

    def count(self, letters: Sequence[str]) -> int:
        result = 1
        for c in letters:
            result *= self.sizes[c]
        return result


def _split(
    equation: Equation, a: Operand, b: Operand, accesses: Sequence[dict[str, int]], most: int | None
) -> _Letters:
    left, right, out = letters_of(equation)
    sizes = {c: n for text, var in ((left, a.var), (right, b.var)) for c, n in zip(text, var.type.sizes, strict=True)}
    real = [c for c in out if sizes[c] > 1]
    columns = [c for c in real if c in right and c not in left]
    rows = [c for c in real if c in left and c not in right]
    depth = [c for c in left if c in right and c not in out and sizes[c] > 1]
    depth.sort(key=lambda c: -a.strides[c])
    inner_columns = _merged(columns if not real or real[-1] in columns else [], sizes, (b.strides, *accesses), most)
    inner_rows = _merged(rows, sizes, (a.strides, *accesses), most)
    if len(_merged(depth, sizes, (a.strides, b.strides), most)) != len(depth):
        raise NeedsCopy(b.var if len(_merged(depth, sizes, (b.strides,), most)) != len(depth) else a.var)
    outer = [c for c in real if c not in inner_columns and c not in inner_rows]
    found = _Letters(tuple(outer), tuple(inner_rows), tuple(inner_columns), tuple(depth), sizes)
    if inner_columns and b.strides[inner_columns[-1]] != 1:
        raise NeedsCopy(b.var)
    if depth and inner_rows and 1 not in (a.strides[depth[-1]], a.strides[inner_rows[-1]]):
        raise NeedsCopy(a.var)
    for item, inner in ((a, (*inner_rows, *depth)), (b, (*inner_columns, *depth))):
        if any(item.strides[c] == 0 for c in inner):
            raise NeedsCopy(item.var)
    return found


def _merged(
    letters: Sequence[str], sizes: dict[str, int], accesses: Sequence[dict[str, int]], most: int | None
) -> list[str]:
    """The longest suffix of ``letters`` that every access walks with a one stride; a run-time length stands alone."""
    result: list[str] = []
    for c in reversed(letters):
        if result and most in (sizes[c], sizes[result[0]]):
            break
        if result and any(s.get(c, 0) != s.get(result[0], 0) * sizes[result[0]] for s in accesses):
            break
        result.insert(0, c)
    return result


def lower_contract(
    region: Region, equation: Equation, nodes: Sequence[Node], stores: Sequence[Store], values: StageValues
) -> tuple[ContractKernel, tuple[tuple[Var, int], ...]]:
    """The kernel of a product with its epilogue, and the buffers bound to its slots."""
    a, b = operand(values, equation, 0), operand(values, equation, 1)
    out = letters_of(equation)[2]
    accesses = [dict(zip(out, item.strides, strict=False)) for item in accesses_of(nodes, stores) if item.strides]
    parts = _split(equation, a, b, accesses, values.most)
    slots = list(region.slots)
    bound = list(region.bound)
    matrices = []
    for item in (a, b):
        root, offset = values.root(item.leaf), item.view.offset
        slots.append(Slot(item.leaf.name, item.var.type.dtype))
        bound.append((root, offset))
        matrices.append((len(slots) - 1, tuple(item.strides.get(c, 0) for c in parts.outer)))
    m, n, k = (parts.count(g) for g in (parts.rows, parts.columns, parts.depth))
    row_step = a.strides[parts.rows[-1]] if parts.rows else 0
    depth_step = a.strides[parts.depth[-1]] if parts.depth else 1
    transposed = depth_step != 1
    lda = max(depth_step if transposed else row_step, m if transposed else k)
    ldb = max(b.strides[parts.depth[-1]] if parts.depth else n, n)

    def reorder(strides: tuple[int, ...]) -> tuple[int, ...]:
        by_letter = dict(zip(out, strides, strict=False))
        last = [by_letter.get(g[-1], 0) if g else 0 for g in (parts.rows, parts.columns)]
        return (*(by_letter.get(c, 0) for c in parts.outer), *last)

    kernel = ContractKernel(
        tuple(slots),
        tuple(parts.sizes[c] for c in parts.outer),
        m,
        n,
        k,
        Matrix(matrices[0][0], lda, matrices[0][1], transposed),
        Matrix(matrices[1][0], ldb, matrices[1][1]),
        reordered(nodes, reorder),
        tuple(replace(store, strides=reorder(store.strides)) for store in stores),
        _ragged(parts, values.most),
    )
    return kernel, tuple(bound)


def _ragged(parts: _Letters, most: int | None) -> str:
    """Which of the kernel's sizes is known at run time."""
    groups = (("outer", parts.outer), ("m", parts.rows), ("k", parts.depth))
    return next((name for name, letters in groups if any(parts.sizes[c] == most for c in letters)), "")
