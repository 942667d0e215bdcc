"""What an emitted program says about its mesh: axes, parts of tensors, and every exchange with a number of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from tesserac.codegen.comments import where
from tesserac.codegen.cpu.tables import Cuts
from tesserac.codegen.names import CppNames, cpp_string
from tesserac.codegen.records import ExchangeKernel, Launch
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Var
from tesserac.passes.mesh.entry import Meshed


class Exchanges:
    """Template values of one entry; nothing at all for a program without a mesh."""

    def __init__(self, meshed: Meshed | None) -> None:
        self.mesh: Mesh | None = meshed.mesh if meshed is not None else None
        self.cuts = Cuts(meshed)
        self.rows: list[str] = []
        self._begun: dict[Var, str] = {}
        self.buckets: list[tuple[str, str]] = []
        self._shares: list[tuple[int, tuple[str, ...], str, int]] = []
        scope = CppNames()
        self.axes = [(axis, scope.of(f"kAxis_{axis}")) for axis in (self.mesh.axes if self.mesh is not None else ())]

    @property
    def names(self) -> str:
        """The axes' names as strings."""
        return ", ".join(cpp_string(axis) for axis, _ in self.axes)

    def arguments(self, launch: Launch, kernel: ExchangeKernel, made: tuple[str, ...] = ()) -> list[str]:
        """What a call passes in front of the buffers; an exchange gets the next number, and its end the same.

        ``made``: paths of the parameters whose gradients it makes.
        """
        first = ["*call.ranks", dict(self.axes)[kernel.axis]]
        if not kernel.talks:
            return first
        if kernel.op == "all_reduce_end":
            return ["*call.ranks", self._begun.pop(launch.arguments[0].var)]
        given = zip(kernel.slots, kernel.grids, strict=False)
        size = sum(slot.dtype.itemsize * _count(shape) for slot, (shape, _) in given if not slot.written)
        axis = [name for name, _ in self.axes].index(kernel.axis)
        source, kind = cpp_string(where(launch)), kernel.op
        begins = kind == "all_reduce_begin"
        if begins:
            kind = "all_reduce"
        elif kind == "reduce_shares":
            element = kernel.slots[0].dtype.itemsize
            share = -(-size // element // kernel.size) * element
            kind, size = "reduce_scatter", share * kernel.size
            self._shares.append((axis, made, source, share))
        self.rows.append(f"{{{cpp_string(kind)}, {axis}, {source}, {size}}}")
        number = str(len(self.rows) - 1)
        if begins:
            self._begun[launch.arguments[-1].var] = number
        return [*first, number]

    def gather_shares(self, table: Sequence[str]) -> None:
        """Gives numbers to the gathers of parameters that ranks update in shares, and fills ``buckets``.

        These are, for each bucket, the list of its parameters by their places in ``table`` and its row.
        """
        for axis, paths, source, share in self._shares:
            self.rows.append(f"{{{cpp_string('all_gather')}, {axis}, {source}, {share}}}")
            listed = ", ".join(str(table.index(path)) for path in paths)
            row = f"{axis}, {len(self.rows) - 1}, kBucket{len(self.buckets)}, {len(paths)}"
            self.buckets.append((listed, row))

    def digest(self, functions: Sequence[Any], kernels: Sequence[Any]) -> str:
        """A hash of the plan: exchanges, parts, stages and kernels."""
        calls = [f["calls"] if "calls" in f else [stage.lines for stage in f["stages"]] for f in functions]
        text = repr((self.rows, self.cuts.rows(), calls, kernels))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
