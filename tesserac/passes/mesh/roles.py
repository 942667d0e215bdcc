"""What an axis of the mesh may cut, by its name, and which axes of tensors are batch, sequence or experts.

A plain search for the least cost would turn every axis into data parallelism wherever the batch divides. The names that
people give axes say what they are for, so they restrict the choices: ``dp`` cuts batches, ``tp`` everything else,
``ep`` experts and batches, ``sp`` and ``cp`` sequences; any other name leaves the choice free.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from tesserac.ir.program import Attr, Function, Var
from tesserac.ir.types import TensorType
from tesserac.ops.base import spec_of

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
KINDS = ("batch", "sequence", "expert", "feature")
"""What an axis of a tensor may be; feature is all that is none of the others."""


@dataclass(frozen=True, slots=True)
class Role:
    """What one mesh axis may do.

    allow        kinds of tensor axes that it may cut
    collectives  those that it may use
    cut_weights  whether parameters may lie in parts
    stores_weights  whether they may lie in parts along any axis, gathered before use (FSDP, ZeRO-3)
    must_cut_weights  whether every parameter lies in parts that can
    between      what happens between products: "cut" makes norms share their work where they can (sequence
                 parallelism), "whole" keeps everything that norms read whole (without it), "" leaves it to the costs
    must_cut     which equations have to be cut where they can be: "all", "products" or "none". Who names an axis wants
                 it used; left to the costs, small programs would rather compute everything everywhere
    products     kinds of tensor axes along which products are cut if all attention can be: tensor parallelism cuts
                 weights, and sequences only between products
    order        axes of a smaller number are planned first
    """

    name: str
    allow: frozenset[str]
    collectives: frozenset[str] = frozenset(COLLECTIVES)
    cut_weights: bool = True
    stores_weights: bool = False
    must_cut_weights: bool = False
    between: str = ""
    must_cut: str = "none"
    products: frozenset[str] = frozenset(KINDS)
    order: int = 0

    def at_will(self) -> Role:
        """The same where nothing has to be cut: for functions whose parameters lie somewhere already."""
        return replace(self, must_cut="none", must_cut_weights=False, between="", products=frozenset())


_EVERYTHING = frozenset(KINDS)
_NAMED: dict[str, Role] = {
    "data": Role("data", frozenset({"batch"}), cut_weights=False, must_cut="all", order=0),
    "expert": Role("expert", frozenset({"batch", "expert"}), must_cut="products", order=1),
    "tensor": Role("tensor", _EVERYTHING - {"batch"}, frozenset(COLLECTIVES) - {"all_to_all"}, must_cut="products",
                   products=frozenset({"feature", "expert"}), order=2),
    "megatron": Role("tensor", _EVERYTHING - {"batch", "sequence"}, frozenset(COLLECTIVES) - {"all_to_all"},
                     must_cut="products", products=frozenset({"feature", "expert"}), between="whole", order=2),
    "sequence": Role("sequence", frozenset({"sequence"}), cut_weights=False, must_cut="all", order=3),
    "free": Role("free", _EVERYTHING, order=4),
}
_SPELLINGS = {"dp": "data", "data": "data", "ddp": "data", "fsdp": "data", "batch": "data",
              "ep": "expert", "expert": "expert", "experts": "expert",
              "tp": "tensor", "tensor": "tensor", "mp": "tensor", "model": "tensor",
              "sp": "sequence", "cp": "sequence", "seq": "sequence", "context": "sequence"}


def role_of(axis: str) -> Role:
    """The role that goes with an axis' name; a number or a suffix does not matter (``dp_out``, ``tp2``)."""
    stem = axis.lower().split("_")[0].rstrip("0123456789")
    return _NAMED[_SPELLINGS.get(stem, "free")]


def named_role(name: str) -> Role | None:
    """A role by its own name."""
    return _NAMED.get(name)


def role_names() -> list[str]:
    """All roles."""
    return list(_NAMED)


class Kinds:
    """What every axis of every value of a function is, found by following the factor rules through it.

    Axes that carry the same letter in an equation are the same thing. The leading axes of data are batches; what
    attention calls queries and keys is a sequence, or without attention the second axis of data that has one more.
    """

    def __init__(self, function: Function) -> None:
        self._first: dict[str, int] = {}
        count = 0
        for var in function.variables():
            self._first[var.name] = count
            count += var.type.rank
        self._parent = list(range(count))
        for equation in function.equations:
            values = (*equation.operands, *equation.results)
            starts = [self._first[v.name] for v in values]
            for (value, axis), *others in _together(equation.op, len(equation.operands),
                                                    tuple([v.type for v in values]), equation.attrs):
                root = self._root(starts[value] + axis)
                for value, axis in others:
                    self._parent[self._root(starts[value] + axis)] = root
        self._labels: dict[int, set[str]] = {}
        self._known: dict[str, tuple[str, ...]] = {}
        self._name(function)

    def _root(self, place: int) -> int:
        parent = self._parent
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    def _label(self, var: Var, axis: int, label: str) -> None:
        if axis < var.type.rank:
            self._labels.setdefault(self._root(self._first[var.name] + axis), set()).add(label)

    def _name(self, function: Function) -> None:
        for item in function.data:
            self._label(item.var, 0, "batch")
        attended = False
        for equation in function.equations:
            if equation.op == "attention":
                attended = True
                self._label(equation.operands[0], 1, "sequence")
                self._label(equation.operands[1], 1, "sequence")
        for item in function.data:
            if not attended and item.var.type.rank > (1 if not item.var.type.dtype.is_differentiable else 2):
                self._label(item.var, 1, "sequence")

    def of(self, var: Var) -> tuple[str, ...]:
        """batch, sequence, expert or feature: every axis of a value."""
        if var.name not in self._known:
            start = self._first[var.name]
            self._known[var.name] = tuple([self._of_place(start + axis) for axis in range(var.type.rank)])
        return self._known[var.name]

    def _of_place(self, place: int) -> str:
        labels = self._labels.get(self._root(place), ())
        return next((kind for kind in KINDS if kind in labels), "feature")


@lru_cache(maxsize=20_000)
def _together(op: str, operands: int, types: tuple[TensorType, ...],
              attrs: tuple[tuple[str, Attr], ...]) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For every letter of an equation's factor rule where it stands: numbers of values, operands first, and of axes."""
    rule = spec_of(op).factors
    if rule is None:
        return ()
    factors = rule(types[:operands], types[operands:], dict(attrs))
    found: dict[str, list[tuple[int, int]]] = {}
    for value, letters in enumerate((*factors.operands, *factors.results)):
        for axis, letter in enumerate(letters):
            if letter is not None:
                found.setdefault(letter, []).append((value, axis))
    return tuple(tuple(places) for places in found.values())
