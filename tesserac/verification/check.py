"""Runs kernels one by one and compares what they write with the evaluator; the table of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tesserac.codegen import comments
from tesserac.codegen.cuda.alone import Alone
from tesserac.ir.program import Var
from tesserac.ir.types import DType
from tesserac.verification.gpu import Gpu
from tesserac.verification.library import Kernels
from tesserac.verification.memory import Layout
from tesserac.verification.reference import SEED, STEP, Array, Expected, program_values

_TOLERANCE = {DType.F64: 1e-11, DType.F32: 2e-5, DType.BF16: 1.6e-2, DType.F16: 2e-3}
"""Largest error, relative to the largest value of the array that is written, by the least precise type of the slots.

Sums of float32 differ by the order of their terms; what goes through 16 bits is rounded once or twice more."""

REPEATS = 20
COPIED = 256 << 20
"""Bytes of the copies that measure what memory can do: more than caches hold."""


@dataclass(frozen=True)
class Rates:
    """What a device can do: bytes per second of a copy, operations per second plain and on tensor cores."""

    copy: float
    plain: float
    tensor: float


@dataclass(frozen=True)
class Row:
    """One kernel: its largest error and what is allowed; ``seconds`` is 0 where time means nothing.

    ``bits`` is a hash of everything it wrote.
    """

    name: str
    place: str
    error: float
    allowed: float
    seconds: float
    flops: float
    bytes: float
    note: str = ""
    tensor: bool = False
    failed: bool = False
    bits: str = ""

    @property
    def good(self) -> bool:
        """Whether the kernel computes what it must."""
        return self.error <= self.allowed and not self.note


def verify(kernels: Sequence[Alone], library: Kernels, timed: bool, chosen: Sequence[int]) -> Iterator[Row]:
    """A row per kernel whose number is ``chosen``, as soon as it has run; none behind one that the device refused."""
    references: dict[str, dict[Var, Array]] = {}
    scratch = max(item.function.emitted.workspace for item in kernels)
    layouts = [Layout(kernels[number], scratch) for number in chosen]
    library.open(max(layout.size for layout in layouts))
    for layout in layouts:
        label, function = layout.item.label, layout.item.plan.staged.function
        if label not in references:
            references[label] = program_values(function)
        row = _row(layout, library, references[label], REPEATS if timed else 0)
        yield row
        if row.failed:
            return


def measured(gpu: Gpu) -> Rates:
    """The rates of a device."""
    return Rates(gpu.copy_rate(COPIED), gpu.peak(tensor_cores=False), gpu.peak(tensor_cores=True))


def _row(layout: Layout, library: Kernels, reference: Mapping[Var, Array], repeats: int) -> Row:
    item, launch = layout.item, layout.item.launch
    read = {var: layout.put(var, reference[var]) for var in layout.read}
    device = library.device
    device.write(layout.key, np.array([SEED, STEP], np.uint64).view(np.uint8))
    for buffer in layout.buffers.values():
        device.write(buffer.offset, buffer.host)
    types = {slot.dtype for slot in launch.kernel.slots if slot.dtype.is_float}
    allowed = max((_TOLERANCE[t] for t in types), default=0.0)
    place = comments.where(launch)
    try:
        for number, other in item.together:
            library.run(number, layout.offsets(other), layout.workspace, layout.key)
    except RuntimeError as failed:
        return Row(
            item.function.name, place, float("inf"), allowed, 0, launch.flops, launch.bytes, str(failed), failed=True
        )
    worst, note, bits = 0.0, "", hashlib.sha256()
    for owner in layout.written:
        device.read(layout.buffers[owner].offset, layout.buffers[owner].host)
        bits.update(layout.buffers[owner].host.tobytes())
        error, missing = _compare(owner, layout, read, reference)
        worst, note = max(worst, error), note or missing
    seconds = 0.0
    if repeats:
        seconds = library.run(item.number, layout.offsets(launch), layout.workspace, layout.key, repeats)
    tensor = bool(types & {DType.BF16, DType.F16})
    row = Row(item.function.name, place, worst, allowed, seconds, launch.flops, launch.bytes, note, tensor)
    return replace(row, bits=bits.hexdigest())


def _compare(
    owner: Var, layout: Layout, read: Mapping[Var, Array], reference: Mapping[Var, Array]
) -> tuple[float, str]:
    """The largest error in a buffer, relative to its largest value; and what is wrong beside numbers."""
    found = layout.results(owner)
    if not found:
        return float("inf"), f"nothing is written to {owner}"
    # Of a concatenation that lies in a larger buffer, the parts are compared that are there as a whole.
    whole = [var for var, (_, touched) in found.items() if touched.all()]
    compared = whole or [var for var in found if var == owner]
    expected = Expected(layout.values, read, reference).of(compared)
    worst = 0.0
    for var in compared:
        array, touched = found[var]
        want = expected[var]
        if var.type.dtype.is_float:
            exact = want.astype(np.float64)
            # What no kernel writes counts as zero: rows that no expert took.
            values = np.where(touched, array, 0).astype(np.float64)
            scale = float(np.max(np.abs(exact), initial=0.0)) or 1.0
            same = (values == exact) | (np.isnan(values) & np.isnan(exact))
            with np.errstate(invalid="ignore"):
                error = np.where(same, 0.0, np.abs(values - exact) / scale)
            worst = max(worst, float(np.max(np.where(np.isnan(error), np.inf, error), initial=0.0)))
        elif not np.array_equal(np.where(touched, array, 0), want):
            worst = float("inf")
    return worst, ""


def table(rows: Sequence[Row], rates: Rates | None) -> str:
    """The rows as text, in the order of the program; times only where they mean something, with the device's rates."""
    heads = ["kernel", "line", "error", "allowed", ""]
    heads += ["time", "GB/s", "TFLOP/s", "of roofline"] if rates else []
    lines = [heads]
    for row in rows:
        cells = [row.name, row.place, f"{row.error:.1e}", f"{row.allowed:.0e}", "ok" if row.good else "WRONG"]
        if rates and row.seconds > 0:
            cells += [f"{row.seconds * 1e6:.1f} us", f"{row.bytes / row.seconds / 1e9:.0f}"]
            cells += [f"{row.flops / row.seconds / 1e12:.2f}", f"{_roofline(row, rates):.0%}"]
        elif rates:
            cells += ["-"] * 4
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    text = [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in text)


def _roofline(row: Row, rates: Rates) -> float:
    """The time that the device's limits leave a kernel, as a share of what it takes."""
    peak = rates.tensor if row.tensor else rates.plain
    least = max(row.bytes / rates.copy if rates.copy else 0.0, row.flops / peak if peak else 0.0)
    return least / row.seconds
