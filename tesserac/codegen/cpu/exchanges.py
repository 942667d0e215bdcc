"""What an emitted program says about its mesh: axes, parts of tensors, and every exchange with a number of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tesserac.codegen.comments import where
from tesserac.codegen.cpu.tables import Cuts, Parameter
from tesserac.codegen.names import CppNames, cpp_string
from tesserac.codegen.records import ExchangeKernel, Launch
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Var

if TYPE_CHECKING:
    from tesserac.passes.mesh.entry import Meshed
from tesserac.passes.plan import Plan, StagePlan


class Exchanges:
    """Template values of one entry; nothing at all for a program without a mesh."""

    def __init__(self, meshed: Meshed | None) -> None:
        self.mesh: Mesh | None = meshed.mesh if meshed is not None else None
        self.cuts = Cuts(meshed)
        self.rows: list[str] = []
        self._begun: dict[Var, tuple[str, int]] = {}
        self.buckets: list[tuple[str, str]] = []
        self._gradients: list[tuple[int, str, tuple[str, ...], str, int]] = []
        scope = CppNames()
        self.axes = [(axis, scope.of(f"kAxis_{axis}")) for axis in (self.mesh.axes if self.mesh is not None else ())]

    @property
    def names(self) -> str:
        """The axes' names as strings."""
        return ", ".join(cpp_string(axis) for axis, _ in self.axes)

    def arguments(self, launch: Launch, kernel: ExchangeKernel, made: tuple[str, ...] = ()) -> list[str]:
        """What a call passes in front of the buffers; an exchange gets the next number, and its end the same.

        ``made``: paths of the parameters whose gradients are all that it makes.
        """
        first = ["*call.ranks", dict(self.axes)[kernel.axis]]
        if not kernel.talks:
            return first
        axis = [name for name, _ in self.axes].index(kernel.axis)
        source, kind, share = cpp_string(where(launch)), kernel.op, 0
        if kind.endswith("_end"):
            number, share = self._begun.pop(launch.arguments[0].var)
            if made:
                self._gradients.append((axis, number, made, source, share))
            return ["*call.ranks", number] if not share else [*first, number]
        given = zip(kernel.slots, kernel.grids, strict=False)
        size = sum(slot.dtype.itemsize * _count(shape) for slot, (shape, _) in given if not slot.written)
        begins = kind.endswith("_begin")
        kind = kind.removesuffix("_begin")
        if kind == "reduce_shares":
            element = kernel.slots[0].dtype.itemsize
            share = -(-size // element // kernel.size) * element
            kind, size = "reduce_scatter", share * kernel.size
        self.rows.append(f"{{{cpp_string(kind)}, {axis}, {source}, {size}}}")
        number = str(len(self.rows) - 1)
        if begins:
            self._begun[launch.arguments[-1].var] = number, share
        elif made:
            self._gradients.append((axis, number, made, source, share))
        return [*first, number]

    def list_buckets(self, table: Sequence[str]) -> None:
        """Fills ``buckets``: of each the parameters by their places in ``table``, and its row.

        Where ranks update parameters in shares, the gather gets a number.
        """
        for axis, number, paths, source, share in self._gradients:
            if share:
                self.rows.append(f"{{{cpp_string('all_gather')}, {axis}, {source}, {share}}}")
            gather = len(self.rows) - 1 if share else -1
            listed = ", ".join(str(table.index(path)) for path in paths)
            self.buckets.append((listed, f"{axis}, {number}, {gather}, kBucket{len(self.buckets)}, {len(paths)}"))

    def digest(self, functions: Sequence[Any], kernels: Sequence[Any]) -> str:
        """A hash of the plan: exchanges, parts, stages and kernels."""
        calls = [f["calls"] if "calls" in f else [stage.lines for stage in f["stages"]] for f in functions]
        text = repr((self.rows, self.cuts.rows(), calls, kernels))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def gradients_made(
    launch: Launch, stage: StagePlan, plan: Plan, parameters: Sequence[Parameter]
) -> tuple[str, ...]:
    """Paths of the parameters whose gradients an exchange makes; none if it makes anything else, or more reads it.

    A gradient of complex numbers is two values.
    """
    assert isinstance(launch.kernel, ExchangeKernel)
    exports, function = stage.fused.values.exports, plan.staged.function
    found = []
    for result in (launch.arguments[number].var for number in launch.kernel.results):
        export = exports.get(result)
        var = export.outer if export is not None else result
        place = plan.outer.get(var)
        read = any(var in e.operands for e in function.equations) or sum(o.var == var for o in function.outputs) > 1
        if place is None or place.kind != "grad" or read:
            return ()
        found.append(parameters[place.index].declared.path)
    return tuple(dict.fromkeys(found))


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
