"""Routing, and products and sums over the rows of experts: calls of the runtime with the sizes of the record."""

from __future__ import annotations

from tesserac.codegen.cuda.expressions import CUDA_TYPE
from tesserac.codegen.cuda.steps import Emitted, Workspace
from tesserac.codegen.cuda.tensor_cores import TILES, has_large_tiles
from tesserac.codegen.jinja import render_template
from tesserac.codegen.records import GroupedKernel, RoutingKernel
from tesserac.codegen.stage_values import PIECE
from tesserac.diagnostics import InternalError
from tesserac.ir.types import DType

ROUTE_CHUNK = 256
"""Slots that one warp sorts: kRouteChunk of runtime/cuda/route.cuh."""


def emit_routing(kernel: RoutingKernel) -> Emitted:
    """A counting sort of the slots, with memory for the counts."""
    slots, experts = kernel.sizes[:2]
    workspace = Workspace()
    place = workspace.add("counts", -(-slots // ROUTE_CHUNK) * (experts + 1) * 4)
    read = [f"{{{i}}}" for i, slot in enumerate(kernel.slots) if not slot.written]
    written = [f"{{{i}}}" for i, slot in enumerate(kernel.slots) if slot.written]
    if kernel.function == "limit":
        read.append(written.pop(0))
    sizes = [str(n) for n in kernel.sizes]
    arguments = ["stream", *read, *sizes, *written, f"at<int>(workspace, {place})"]
    text = "// as runtime/cuda/route.cuh does it\n"
    return Emitted(text, [f"{kernel.function}({', '.join(arguments)});"], workspace.size)


def emit_grouped(kernel: GroupedKernel, name: str, aligned: bool) -> Emitted:
    """A table of sizes, and a call with the tensors of all experts by number.

    ``aligned``: buffers begin at multiples of 16 bytes.
    """
    if kernel.function == "number":
        call = f"grouped_number(stream, {{0}}, {kernel.count}, {kernel.rows}, {{1}});"
        return Emitted("// as runtime/cuda/grouped.cuh does it\n", [call])
    first = {"contract": 2, "outer": 3, "sum": 2, "table": 0}[kernel.function]
    of_experts = range(first, first + len(kernel.experts))
    next_y = {"outer": kernel.strides[1], "sum": 0}.get(kernel.function, kernel.strides[-1])
    what = {"contract": "x and in the result", "outer": "x and y", "sum": "x", "table": "x (none) and the result"}
    text = render_template(
        "cuda/grouped.cu.j2", name=name, k=kernel, next_x=kernel.strides[0], next_y=next_y, what=what[kernel.function]
    )
    kinds = {kernel.slots[i].dtype for i in of_experts}
    brief = kernel.slots[0].dtype is DType.BF16
    if len(kinds) > 1:
        raise InternalError(f"experts' tensors of several types in {name}")
    own = ["{{nullptr, 0}}"] * kernel.count
    for slot, expert in zip(of_experts, kernel.experts, strict=True):
        own[expert] = f"{{{{{{{slot}}}, {kernel.strides[slot]}}}}}"
    kind = CUDA_TYPE[kernel.slots[first].dtype]
    reads = kernel.function in ("contract", "table")
    const = "const " if reads else ""
    experts = f"Experts<{const}{kind}, {kernel.count}>{{{{{{{{{', '.join(own)}}}}}}}}}"
    operands = [f"{{{i}}}" for i in range(first)]
    result = [f"{{{len(kernel.slots) - 1}}}"] if reads else []
    arguments = ["stream", name, *operands, experts, *result]
    function, headers = f"grouped_{kernel.function}", tuple[str, ...]()
    if brief and kernel.function in ("contract", "outer"):
        function, headers = f"mma::{function}<{_on_tensor_cores(kernel, of_experts, aligned)}>", ("grouped_mma",)
    return Emitted(text, [f"{function}({', '.join(arguments)});"], headers=headers)


def _on_tensor_cores(kernel: GroupedKernel, of_experts: range, aligned: bool) -> str:
    """Template arguments: large tiles or small ones, how matrices are stored, whether rows begin at 16 bytes."""
    contracts = kernel.function == "contract"
    read = [kernel.strides[i] for i in ((0, *of_experts) if contracts else (0, 1))]
    if contracts:
        large = kernel.rows >= TILES[1] * 2 * kernel.count and kernel.columns >= TILES[1]
    else:
        large = has_large_tiles(kernel.width, kernel.columns, len(kernel.experts))
    flags = [large, *([kernel.transposed] if contracts else []), aligned and all(n % PIECE == 0 for n in read)]
    return ", ".join("true" if flag else "false" for flag in flags)
