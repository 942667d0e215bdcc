"""Why derivatives by coordinate are computed the way they are: the head of ``inspect --stage ad``."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tesserac.ir.program import Function
from tesserac.passes.combinations import combinations
from tesserac.passes.decision import WORTH, Decision, collapsed_where_cheaper, decisions
from tesserac.passes.multiindex import Index, graded
from tesserac.passes.schemes import forward_over_reverse, lower_scheme
from tesserac.passes.spaces import independent
from tesserac.passes.varying import Direction
from tesserac.passes.work import Counted


def derivative_lines(function: Function) -> list[str]:
    """What a function asks for by coordinate, the ways to compute it, their work, and the one that is taken."""
    lines: list[str] = []
    for group in independent(function):
        lines.append(f"derivatives by {', '.join(_label(d) for d in group)} in {function.name}")
        collapsed = decisions(collapsed_where_cheaper(function), group)
        for decision in decisions(function, group):
            if decision.counter is None or not decision.counter.works:
                lines.append("  nothing to choose: no matrix product is differentiated; Taylor coefficients")
                continue
            for root, indices in decision.asked.items():
                lines.append(f"  of {root}: {_indices(group, indices)}")
            other = next((d for d in collapsed if d.channels and set(d.asked) & set(decision.asked)), None)
            lines.extend(f"  {line}" for line in _alternatives(function, decision, other))
    return lines


def _alternatives(function: Function, decision: Decision, found: Decision | None) -> Iterable[str]:
    counter, unit = decision.counter, decision.unit
    assert counter is not None
    assert unit is not None
    taylor, chosen = decision.taylor, decision.chosen
    taken = "shared covector" if chosen.reverse else "Taylor"
    nested, lower = forward_over_reverse(counter, decision.asked), lower_scheme(counter, decision.asked)
    back = sum(map(len, nested.reverse.values()))
    counted_only: list[Counted] = [nested.counted]
    rows: list[tuple[str, float, str]] = [("Taylor", taylor.counted.rows, f"{_count(taylor.kept, 'channel')} forward")]
    if found is not None:
        taken = "collapsed Taylor"
        rows.append((taken, found.work.rows, f"{_count(found.chosen.kept, 'channel')}, {found.channels} combined"))
    else:
        count, tops = combinations(function, unit, decision.asked)
        if count < tops:
            what = "combination" if count == 1 else "combinations"
            counted_only.append(counter.collapsed(lower.counted, count))
            rows.append(("collapsed Taylor", counted_only[-1].rows,
                         f"{_count(lower.kept, 'channel')}, {count} {what} of the {tops} highest; counted only"))
    rows.append(("forward over reverse", nested.counted.rows,
                 f"{_count(nested.kept, 'channel')}, {back} reverse; counted only"))
    if chosen.reverse:
        reverse = ", ".join(f"{root} {_indices(decision.directions, rows)}" for root, rows in chosen.reverse.items())
        rows.append(("shared covector", chosen.counted.rows,
                     f"channels {_indices(decision.directions, chosen.kept)}; reverse rows of {reverse}"))
    gradient = "gradient included" if any(w.forward > 1 for w in counter.works) else "no gradient is taken"
    yield f"rows per point through {counter.widest()}, {gradient}:"
    for name, number, text in rows:
        yield f"  {name:<21}{number:>5g}   {text}{'  <- taken' if name == taken else ''}"
    work = (found or decision).work.flops
    yield _REASONS[taken]
    if any(other.flops <= WORTH * work for other in counted_only):
        yield "what is counted only would be less work, but there is no program for it"


_REASONS = {
    "Taylor": "plain Taylor mode: nothing else that can be emitted saves 2% of the work of the products",
    "collapsed Taylor": "each combination of highest derivatives is one channel, for all columns at once",
    "shared covector": "all the highest derivatives of a value share its reverse rows",
}


def _count(indices: Collection[Index], what: str) -> str:
    return f"{len(indices)} {what}" if len(indices) == 1 else f"{len(indices)} {what}s"


def _indices(directions: tuple[Direction, ...], indices: Iterable[Index]) -> str:
    """1 x y xx xy: by order; 1 is the value itself."""
    letters = [_label(d) for d in directions]
    return " ".join("".join(name * n for name, n in zip(letters, a, strict=True)) or "1" for a in graded(indices))


def _label(direction: Direction) -> str:
    columns = direction.coordinate.type.shape[-1] if direction.coordinate.type.rank > 1 else 1
    return direction.coordinate.name if columns == 1 else f"{direction.coordinate.name}[{direction.component}]"
