"""What stands above a kernel: source lines, formulas, sizes, work and traffic."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tesserac.codegen.names import comment_text
from tesserac.codegen.records import (
    AttentionKernel,
    ContractKernel,
    ExchangeKernel,
    FftKernel,
    FilterKernel,
    GroupedKernel,
    Kernel,
    Launch,
    LineKernel,
    RoutingKernel,
    RowKernel,
)

if TYPE_CHECKING:
    from tesserac.passes.stages import Experts

MAX_LINES = 6
MAX_FORMULAS = 8


def comment(launch: Launch, lines: Mapping[str, list[str]]) -> str:
    """The comment of a launch's kernel, one ``//`` line each."""
    result: list[str] = []
    seen: dict[tuple[str, int], None] = {(s.file, s.line): None for s in launch.origin.spans}
    for file, line in list(seen)[:MAX_LINES]:
        source = lines.get(file, [])
        text = source[line - 1].strip() if 0 < line <= len(source) else ""
        result.append(f"// {comment_text(short_name(file))}:{line}  {comment_text(text)}".rstrip())
    formulas = launch.origin.formulas
    result += [f"//   {comment_text(formula)}" for formula in formulas[:MAX_FORMULAS]]
    if len(formulas) > MAX_FORMULAS:
        result.append(f"//   and {len(formulas) - MAX_FORMULAS} more")
    result.append(
        f"// {sizes(launch.kernel)}, {quantity(launch.flops, 'FLOP')}, {quantity(launch.bytes, 'B')} read and written"
    )
    return "\n".join(result) + "\n"


def short_name(file: str) -> str:
    """The file name without its folders (an emitted tree does not depend on where it was made)."""
    return file.replace("\\", "/").rsplit("/", 1)[-1]


def where(launch: Launch) -> str:
    """``gpt.py:21`` of the leading source line, or nothing."""
    spans = launch.origin.spans
    return f"{short_name(spans[0].file)}:{spans[0].line}" if spans else ""


def subject(kernel: Kernel) -> str:
    """The result that names the kernel, without the layer's number: one kernel serves every layer."""
    if isinstance(kernel, (RowKernel, ContractKernel, FftKernel, FilterKernel)):
        name = kernel.slots[kernel.stores[-1].slot].name
    elif isinstance(kernel, RoutingKernel):
        name = kernel.slots[-1].name
    else:
        name = next(slot.name for slot in kernel.slots if slot.written)
    return re.sub(r"[._]\d+(?=[._]|$)", "", name) or name


def sizes(kernel: Kernel) -> str:
    """Sizes in the order a reader expects them."""
    if isinstance(kernel, RowKernel):
        first = f"at most {kernel.domain[0]}" if kernel.ragged else str(kernel.domain[0])
        return "over " + " x ".join((first, *map(str, kernel.domain[1:])))
    if isinstance(kernel, ContractKernel):
        outer = "".join(f"{n} x " for n in kernel.outer)
        size = {"m": f"; at most {kernel.m} rows", "k": f"; sums of at most {kernel.k} rows"}.get(kernel.ragged, "")
        m, k = ("rows" if kernel.ragged == name else getattr(kernel, name) for name in ("m", "k"))
        return f"{outer}({m} x {k}) ({k} x {kernel.n}){size}"
    if isinstance(kernel, RoutingKernel):
        return f"{kernel.sizes[0]} slots, {kernel.sizes[1]} experts"
    if isinstance(kernel, ExchangeKernel):
        shapes = [" x ".join(map(str, shape)) or "scalar" for shape, _ in kernel.grids]
        written = len(kernel.results)
        given = max(written, len(shapes) - written) if kernel.op.startswith("all_reduce") else 1
        what = "scalar" if not shapes else shapes[0] if given == 1 else f"{given} tensors"
        return f"{what} over {kernel.size} ranks of {kernel.axis}"
    if isinstance(kernel, AttentionKernel):
        return (
            f"{kernel.batch} x {kernel.heads} heads x {kernel.queries} queries x {kernel.keys} keys x {kernel.head_dim}"
        )
    if isinstance(kernel, FftKernel):
        lines = math.prod((*kernel.outer, kernel.count))
        return f"{lines} lines of {kernel.n} {'complex' if kernel.form == 'complex' else 'real'} numbers"
    if isinstance(kernel, FilterKernel):
        lines = math.prod((*kernel.first.outer, kernel.first.count))
        return f"{lines} lines of {kernel.first.n} numbers, transformed twice"
    if isinstance(kernel, LineKernel):
        return "".join(f"{n} x " for n, _ in kernel.outer) + str(kernel.sizes[0])
    if isinstance(kernel, GroupedKernel):
        whose = f"{kernel.count} experts"
        if kernel.function in ("number", "table"):
            return f"{kernel.rows} rows" + (f" of {kernel.columns}, {whose}" if kernel.function == "table" else "")
        if len(kernel.experts) < kernel.count:
            whose = f"experts {', '.join(map(str, kernel.experts))} of {kernel.count}"
        if kernel.function == "sum":
            return f"{kernel.rows} x {kernel.columns}, by {whose}"
        width = str(kernel.width)
        left, right = (width, "rows") if kernel.function == "outer" else ("rows", width)
        return f"({left} x {right}) ({right} x {kernel.columns}), {kernel.rows} rows of {whose}"
    return f"{kernel.rows} x {kernel.columns}"


def quantity(value: float, unit: str) -> str:
    """``12.6 MFLOP``: three digits and a decimal prefix."""
    for scale, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}"


def experts_text(experts: Experts) -> str:
    """Whose rows the tiles of a stage are: ``one of 16 experts``, or the rows that no expert has."""
    if experts.ids == (experts.count,):
        return "no expert"
    if len(experts.ids) == experts.count:
        return f"one of {experts.count} experts"
    return f"one of the experts {', '.join(map(str, experts.ids))}"
