"""Shape unification: a union-find over dimension symbols that remembers which source line forced what.

A symbol is a string; the solver implements :class:`tesserac.ir.dims.Dims`, so the shape rules of the OpSpecs drive it.
Every class of equal symbols keeps an *anchor*, the size it was given and the place that gave it, which is how a
contradiction can show both places. Products, sums and quotients of symbols become derived symbols whose defining
equations are propagated in both directions whenever a size becomes known.
"""

from __future__ import annotations

from dataclasses import dataclass

from tesserac.diagnostics import Span
from tesserac.ir.dims import ShapeError
from tesserac.ir.types import Dim


@dataclass(frozen=True, slots=True)
class Anchor:
    """A size and the reason for it."""

    size: int
    span: Span | None
    text: str


@dataclass(frozen=True, slots=True)
class Relation:
    """``result = product | sum of operands``."""

    kind: str
    operands: tuple[Dim, ...]
    result: str
    span: Span


class Contradiction(ShapeError):
    """Two sizes for one dimension; ``anchors`` say what forced each."""

    def __init__(self, message: str, operands: tuple[int, ...], anchors: tuple[Anchor | None, ...]) -> None:
        super().__init__(message, operands)
        self.anchors = tuple(a for a in anchors if a is not None)


class Solver:
    """Dims over symbols. ``span`` is the place to which new constraints are attributed."""

    def __init__(self) -> None:
        self.span = Span.point("<options>", 1, 1)
        self._parent: dict[str, str] = {}
        self._anchors: dict[str, Anchor] = {}
        self._relations: dict[str, Relation] = {}
        self._open: list[Relation] = []
        self._fresh: dict[str, int] = {}

    def symbol(self, name: str) -> str:
        """A new symbol called ``name`` (``name'``, ``name''``... when taken)."""
        count = self._fresh.get(name, 0)
        self._fresh[name] = count + 1
        return name + "'" * count

    def resolve(self, dim: Dim) -> Dim:
        """The size, or the representative symbol of the class while it has none."""
        if isinstance(dim, int):
            return dim
        root = self._find(dim)
        anchor = self._anchors.get(root)
        return root if anchor is None else anchor.size

    def root(self, dim: Dim) -> Dim:
        """The representative of a symbol's class, whether or not it has a size."""
        return self._find(dim) if isinstance(dim, str) else dim

    def unknowns(self, dim: Dim) -> list[str]:
        """The basic symbols without a size that a dimension is made of."""
        found = self.resolve(dim)
        if isinstance(found, int):
            return []
        relation = self._relations.get(found)
        if relation is None:
            return [found]
        if relation.result != found:
            return self.unknowns(relation.result)
        inner = [s for d in relation.operands if d != found for s in self.unknowns(d)]
        return inner or [found]

    def parts(self, dim: Dim) -> tuple[str, tuple[Dim, ...]] | None:
        """How a derived dimension is made: product or sum, and of what; None for any other."""
        relation = self._relations.get(dim) if isinstance(dim, str) else None
        return (relation.kind, relation.operands) if relation is not None and relation.result == dim else None

    def size(self, dim: Dim) -> int | None:
        """The size if it is known by now."""
        found = self.resolve(dim)
        if isinstance(found, str) and self._open:
            self.propagate()
            found = self.resolve(dim)
        return found if isinstance(found, int) else None

    def anchor(self, dim: Dim) -> Anchor | None:
        """Why the dimension has its size; None for literals and unknowns."""
        return self._anchors.get(self._find(dim)) if isinstance(dim, str) else None

    def fix(self, name: str, size: int, span: Span | None, text: str) -> None:
        """Gives a symbol its size from outside (a flag, a default)."""
        root = self._find(name)
        known = self._anchors.get(root)
        if known is None:
            self._anchors[root] = Anchor(size, span, text)
        elif known.size != size:
            raise Contradiction(f"{name} is {size} and {known.size}", (), (Anchor(size, span, text), known))

    # ------------------------------------------------------------------------------------------------ Dims

    def equal(self, a: Dim, b: Dim, what: str, operands: tuple[int, ...] = ()) -> Dim:
        """See Dims; unifies the two."""
        if a == b:
            return a
        left, right = self.resolve(a), self.resolve(b)
        if isinstance(left, int) and isinstance(right, int):
            if left != right:
                raise Contradiction(f"{what}: {left} and {right} differ", operands, (self.anchor(a), self.anchor(b)))
            return left
        if isinstance(left, int):
            left, right, a, b = right, left, b, a
        assert isinstance(left, str)
        if isinstance(right, int):
            known = self.anchor(b)
            self._anchors[left] = known if known is not None else Anchor(right, self.span, f"{right} here: {what}")
            return right
        if left != right:
            # A symbol the user named is the better representative.
            if self._rank(left) < self._rank(right):
                left, right = right, left
            self._parent[left] = right
        return right

    def is_one(self, a: Dim) -> bool:
        """See Dims."""
        return self.resolve(a) == 1

    def sum(self, dims: tuple[Dim, ...]) -> Dim:
        """See Dims."""
        return self._combine("sum", dims)

    def product(self, dims: tuple[Dim, ...]) -> Dim:
        """See Dims."""
        return self._combine("product", dims)

    def quotient(self, a: Dim, b: Dim, what: str, operands: tuple[int, ...] = ()) -> Dim:
        """See Dims; a symbolic quotient q is defined by q * b = a and checked when the sizes are known."""
        total, part = self.resolve(a), self.resolve(b)
        if part == 1:
            return total
        if isinstance(total, int) and isinstance(part, int):
            if part == 0 or total % part:
                raise Contradiction(f"{what}: {total} is not divisible by {part}", operands, (self.anchor(a),))
            return total // part
        if total == part:
            return 1
        name = f"{total}/{part}"
        if name not in self._relations:
            result = total if isinstance(total, str) else self.symbol(f"{part}*{name}")
            relation = Relation("product", (name, part), result, self.span)
            self._relations[name] = relation
            self._open.append(relation)
            if isinstance(total, int):
                self.equal(result, total, what, operands)
        return name

    # ------------------------------------------------------------------------------------------------ relations

    def _combine(self, kind: str, dims: tuple[Dim, ...]) -> Dim:
        number, symbols = (1, []) if kind == "product" else (0, [])
        for dim in map(self.resolve, dims):
            if isinstance(dim, str):
                symbols.append(dim)
            else:
                number = number * dim if kind == "product" else number + dim
        if not symbols or (number == 0 and kind == "product"):
            return number
        neutral = 1 if kind == "product" else 0
        symbols.sort()
        if len(symbols) == 1 and number == neutral:
            return symbols[0]
        terms: tuple[Dim, ...] = (*symbols, number) if number != neutral else tuple(symbols)
        name = "(" + ("*" if kind == "product" else "+").join(map(str, terms)) + ")"
        if name not in self._relations:
            self._relations[name] = Relation(kind, terms, name, self.span)
            self._open.append(self._relations[name])
        return name

    def propagate(self) -> None:
        """Solves every relation with one unknown left, until nothing changes; raises Contradiction."""
        changed = True
        while changed:
            changed = False
            for relation in list(self._open):
                if self._step(relation):
                    self._open.remove(relation)
                    changed = True

    def _step(self, relation: Relation) -> bool:
        number = 1 if relation.kind == "product" else 0
        unknown: list[str] = []
        for dim in map(self.resolve, relation.operands):
            if isinstance(dim, str):
                unknown.append(dim)
            else:
                number = number * dim if relation.kind == "product" else number + dim
        result = self.resolve(relation.result)
        if len(unknown) > 1 or (unknown and isinstance(result, str)):
            return False
        saved, self.span = self.span, relation.span
        try:
            if not unknown:
                self.equal(relation.result, number, f"{relation.kind} of dimensions")
            elif isinstance(result, int):
                self._solve(relation, unknown[0], number, result)
        finally:
            self.span = saved
        return True

    def _solve(self, relation: Relation, unknown: str, number: int, result: int) -> None:
        if relation.kind == "sum":
            value = result - number
        else:
            value, rest = divmod(result, number) if number else (0, 1)
            if rest:
                raise Contradiction(
                    f"{result} is not divisible by {number}",
                    (),
                    (Anchor(result, relation.span, "needed here"), self.anchor(relation.result)),
                )
        self.equal(unknown, value, f"{relation.kind} of dimensions")

    # ------------------------------------------------------------------------------------------------ internals

    def _find(self, name: str) -> str:
        parent = self._parent
        root = name
        while root in parent:
            root = parent[root]
        while name != root:
            parent[name], name = root, parent[name]
        return root

    def _rank(self, name: str) -> int:
        return (2 if name.isidentifier() else 1) if name not in self._relations else 0
