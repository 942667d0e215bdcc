"""Frames of names, and the tree that gives parameters their paths.

How a parameter is called
-------------------------
``MODULE.PLACE.PARAMETER``, for example ``gpt.blocks.0.qkv.weight``:

* MODULE is the outermost module that was running when the parameter was first used (the step's label when a step uses
  it outside any module). A module's own trailing parameters have no PLACE: ``transformer.Wq``.
* PLACE is where the source keeps the layer: the variable it was assigned to, then the list index or dict key
  (``blocks.0``, ``experts.3``). Unpacking a tuple (``norm1, qkv = layers``) replaces the index by the variable. A layer
  that is applied at once is called after the variable that takes its result, or else after its op. Inside a plain
  function the function's name comes first (``encode.mlp``), unless what the function returned was itself assigned.
* The same place reached several times is numbered in order of evaluation: ``mlp.0``, ``mlp.1``.

Layers that a module's body creates are created once: running the module again walks the same places in the same order
and finds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tesserac.elaborate.values import Layer, Value


class Scope:
    """A place in the tree of parameter names."""

    __slots__ = ("_labels", "_next", "children", "label", "layer", "named", "ordinal", "parent")

    def __init__(self, parent: Scope | None, label: str) -> None:
        self.parent = parent
        self.label = label
        self.named = False
        self.ordinal = 0
        self.layer: Layer | None = None
        self.children: dict[tuple[str, int], Scope] = {}
        self._labels: Counter[str] = Counter()
        self._next: Counter[str] = Counter()
        self._enter(label)

    def child(self, label: str, tick: int) -> Scope:
        """The place that the ``tick``-th evaluation of ``label`` reaches; the same one in every run of the module."""
        key = label, tick
        found = self.children.get(key)
        if found is None:
            found = self.children[key] = Scope(self, label)
        return found

    def rename(self, label: str) -> None:
        """Gives the place the name the source keeps it under."""
        if self.parent is None or self.label == label:
            self.named = True
            return
        self.parent._labels[self.label] -= 1
        self.named = True
        self._enter(label)

    def _enter(self, label: str) -> None:
        self.label = label
        if self.parent is not None:
            self.ordinal = self.parent._next[label]
            self.parent._next[label] += 1
            self.parent._labels[label] += 1

    def path(self) -> str:
        """Labels from the root, numbered where a label occurs several times."""
        parts: list[str] = []
        scope: Scope | None = self
        while scope is not None:
            if scope.label:
                shared = scope.parent is not None and scope.parent._labels[scope.label] > 1
                parts.append(f"{scope.label}.{scope.ordinal}" if shared else scope.label)
            scope = scope.parent
        return ".".join(reversed(parts))


@dataclass(slots=True, eq=False)
class Frame:
    """Names of one running function. ``owner`` is the innermost running module, ``outer`` the outermost."""

    parent: Frame | None
    scope: Scope
    function: str
    owner: str = ""
    names: dict[str, Value] = field(default_factory=dict)
    ticks: Counter[str] = field(default_factory=Counter)
    depth: int = 0
    returned: list[Value] = field(default_factory=list)

    def lookup(self, name: str) -> Value | None:
        """The value bound to a name here or in an enclosing frame; KeyError when there is none."""
        frame: Frame | None = self
        while frame is not None:
            if name in frame.names:
                return frame.names[name]
            frame = frame.parent
        raise KeyError(name)

    def place(self, label: str) -> Scope:
        """The next place called ``label`` in this frame."""
        tick = self.ticks[label]
        self.ticks[label] += 1
        return self.scope.child(label, tick)


def name_layers(value: Value, name: str, scope: Scope) -> None:
    """Names the layers inside ``value``, which the source just assigned to ``name`` in ``scope``."""
    from tesserac.elaborate.values import Function

    if isinstance(value, Layer):
        place = value.scope
        if place.parent is scope:
            if not place.named:
                place.rename(name)
        else:
            _name_helper(place, name, scope)
    elif isinstance(value, Function):
        if value.frame.scope is not scope:
            _name_helper(value.frame.scope, name, scope, inclusive=True)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            name_layers(item, f"{name}.{index}", scope)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str | int):
                name_layers(item, f"{name}.{key}", scope)


def _name_helper(place: Scope, name: str, scope: Scope, inclusive: bool = False) -> None:
    """Names the call of a plain function, made in ``scope``, that created ``place`` and returned it."""
    helper: Scope | None = place if inclusive else place.parent
    while helper is not None and helper.parent is not scope:
        helper = helper.parent
    if helper is None or helper.named:
        return
    stem, _, last = name.rpartition(".")
    # A container of several layers of one call is named, not each of its elements.
    helper.rename(stem if stem and last == place.label else name)


def name_unpacked(values: Sequence[Value], names: Sequence[str]) -> None:
    """Replaces tuple indices by the variables that unpacking gave the layers (``blocks.0.1`` to ``blocks.0.qkv``).

    Only where the layers were kept in this very tuple: a pair that ``zip`` made has its layers from elsewhere.
    """
    stems = {stem for index, item in enumerate(values) for stem in _stems(item, index)}
    stem = stems.pop() if len(stems) == 1 else None
    for item, name in zip(values, names, strict=True) if stem else ():
        if name and isinstance(item, Layer):
            item.scope.rename(f"{stem}.{name}")


def _stems(value: Value, index: int) -> Iterator[str | None]:
    """What the labels of the layers in element ``index`` of a tuple say the tuple is called; None for no tuple."""
    if isinstance(value, Layer):
        stem, _, last = value.scope.label.rpartition(".")
        yield stem if stem and last == str(index) else None
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            for inner in _stems(item, place):
                stem, _, last = (inner or "").rpartition(".")
                yield stem if stem and last == str(index) else None
