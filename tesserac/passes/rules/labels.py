"""What rewritten values are called: names the user wrote survive wherever a value stands for another."""

from __future__ import annotations

from collections.abc import Iterable

from tesserac.ops.base import all_specs


class Labels:
    """The name that each value will have in the end, by the name it has during rewriting.

    ``inputs`` keep their names; ``taken`` are all names that no new value may have.
    """

    def __init__(self, inputs: Iterable[str], taken: Iterable[str]) -> None:
        self._of = {name: name for name in inputs}
        self._inputs = frozenset(self._of)
        self._taken = set(taken)
        self._generated = frozenset(spec.name for spec in all_specs())
        self._unlabelled: set[str] = set()
        self._counters: dict[str, int] = {}

    def of(self, name: str) -> str:
        """The final name of a value."""
        return self._of.get(name, name)

    def keep(self, name: str) -> None:
        """A value of the function as it came: it has its name already."""
        self._of[name] = name

    def fresh(self, op: str, beside: str | None) -> str:
        """A name for a new value: after the one being computed (``beside``) if the user named that, else the op's."""
        stem = op
        if op != "full" and beside is not None:
            label = self._of.get(beside, op)
            candidate = label.rpartition(".")[0] if label.rpartition(".")[2].isdigit() else label
            stem = op if not candidate or candidate in self._generated else candidate
        count = self._counters.get(stem, 0)
        name = stem if count == 0 else f"{stem}.{count}"
        while name in self._taken:
            count += 1
            name = f"{stem}.{count}"
        self._counters[stem] = count + 1
        self._taken.add(name)
        self._of[name] = name
        self._unlabelled.add(name)
        return name

    def hand_over(self, source: str, target: str) -> None:
        """Lets ``target`` be called as ``source`` was where that is the better name."""
        if target in self._inputs or source in self._inputs:
            return
        old, new = self._of[source], self._of[target]
        rank = self._rank(old)
        better = rank < self._rank(new)
        if target in self._unlabelled:
            self._unlabelled.discard(target)
            better = better or rank < (2, 0)
        if better:
            self._of[source], self._of[target] = new, old

    def _rank(self, label: str) -> tuple[int, int]:
        """Smaller is better: names the user wrote, then numbered ones, then names after ops."""
        stem, dot, number = label.rpartition(".")
        numbered = bool(dot) and number.isdigit()
        if (stem if numbered else label) in self._generated:
            return (2, 0)
        return (1, 0) if numbered else (0, 0)
