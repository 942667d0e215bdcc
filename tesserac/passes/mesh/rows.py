"""Rows of a batch divided by axes of a mesh: where the data and the predictions of a forward function lie."""

from __future__ import annotations

from collections.abc import Collection

from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Function
from tesserac.passes.batched import batched_outputs
from tesserac.passes.mesh.placements import REPLICATED, Placements, Shard
from tesserac.passes.placement import batch_size


def rows_over(function: Function, mesh: Mesh, axes: Collection[str]) -> tuple[dict[str, Placements], ...]:
    """Inputs and outputs of a forward function whose rows ``axes`` divide, as long as a batch comes apart evenly."""
    left = batch = batch_size(function)
    lies = []
    for axis, size in mesh.sizes.items():
        cut = left is not None and axis in axes and left % size == 0
        lies.append(Shard(0) if cut else REPLICATED)
        left = left // size if left is not None and cut else left
    cut_inputs = [i.path for i in function.data if i.var.type.rank and i.var.type.sizes[0] == batch]
    return dict.fromkeys(cut_inputs, tuple(lies)), dict.fromkeys(sorted(batched_outputs(function, batch)), tuple(lies))
