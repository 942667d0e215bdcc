"""Products on tensor cores with their epilogue: a struct that runtime/cuda/product_mma.cuh calls for every result.

cuBLASLt is the faster product, but knows few epilogues and one axis of a batch. What it cannot take along costs another
launch and the product's way to memory and back, which grows with the results alone; what our own kernel takes longer
grows with the terms, too. So products of few terms take our kernel. The limits are estimates: 800 and 400 TFLOP/s for
the two, 4 TB/s of memory (an H200; on an A100 the limit would lie higher).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tesserac.codegen.cpu.expressions import address
from tesserac.codegen.cuda.expressions import CUDA_TYPE
from tesserac.codegen.cuda.layout import count, is_pointwise
from tesserac.codegen.cuda.passes import LOOP_NAMES, row_indices
from tesserac.codegen.cuda.pointwise import PointwiseRenderer, fits_vectors
from tesserac.codegen.cuda.products import Split, keeps_product
from tesserac.codegen.cuda.steps import Emitted, pointer_type
from tesserac.codegen.jinja import render_template
from tesserac.codegen.names import CppNames
from tesserac.codegen.records import ContractKernel, Matrix, RowKernel
from tesserac.codegen.stage_values import PIECE
from tesserac.ir.types import DType

TERMS_PER_BYTE = 128
"""Terms up to which a byte of memory traffic per result takes longer than what cuBLASLt would save."""

PAIR = 2
"""Neighbouring results of one thread."""

_MEMBERS = "Element shape left_along right_along aligned maps left right write item product both column"
MEMBERS = tuple(_MEMBERS.split())
"""Names in the struct, and of what `write` takes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a contraction is cut: some outer axes (``items``) number the products of the batch, others are rows."""

    items: tuple[int, ...]
    folded: tuple[int, ...]
    m: int
    lda: int
    ldb: int


TILES = (64, 128)
"""Rows and columns of a block: SmallCut and LargeCut of runtime/cuda/product_mma.cuh, whose sums have one order."""

OCCUPYING = 128
"""Large tiles that occupy a GPU: what has fewer is cut into small ones."""


def takes_tensor_cores(kernel: ContractKernel, parts: Split) -> bool:
    """Whether the kernel of runtime/cuda/product_mma.cuh is the better one, given what cuBLASLt would leave over."""
    if any(kernel.slots[matrix.slot].dtype is not DType.BF16 for matrix in (kernel.a, kernel.b)):
        return False
    if max(kernel.m * count(kernel.outer), kernel.n, kernel.k) >= 1 << 31 or not is_pointwise(_as_rows(kernel)):
        return False
    if parts.product.loops:
        return True
    bytes_saved = 0 if parts.pointwise is None else 4 if keeps_product(kernel) else 8
    return kernel.k <= TERMS_PER_BYTE * bytes_saved


def usual_tile(kernel: ContractKernel) -> int:
    """Rows and columns of a block."""
    shape = _shape(kernel)
    return TILES[has_large_tiles(shape.m, kernel.n, count(_outer(kernel, shape.items)))]


def has_large_tiles(rows: int, columns: int, batch: int) -> bool:
    """Whether results are enough for large tiles: as has_large_tiles of runtime/cuda/product_mma.cuh decides it."""
    return -(-rows // TILES[1]) * -(-columns // TILES[1]) * batch >= OCCUPYING


def emit_on_tensor_cores(
    kernel: ContractKernel, name: str, names: CppNames, real: str, aligned: bool, schedule: Mapping[str, int]
) -> Emitted:
    """The struct and its launch. ``aligned``: buffers begin at multiples of 16 bytes."""
    shape = _shape(kernel)
    scope = CppNames(parent=names, reserved=MEMBERS)
    slot_names = [scope.fresh(slot.name) for slot in kernel.slots]
    epilogue = EpilogueRenderer(kernel, shape, slot_names, scope, real, aligned)
    values = epilogue.render()
    random = any(node.kind == "random" for node in kernel.nodes)
    members = [f"{pointer_type(slot)} {n};" for slot, n in zip(kernel.slots, slot_names, strict=True)]
    sides = (("left", kernel.a), ("right", kernel.b))
    text = render_template(
        "cuda/tensor_cores.cu.j2",
        name=name,
        element=CUDA_TYPE[kernel.slots[kernel.a.slot].dtype],
        members=members + (["const RandomKey* key;"] if random else []),
        shape=shape,
        batch=count(_outer(kernel, shape.items)),
        k=kernel,
        left_along=not kernel.a.transposed,
        aligned=aligned and _lines_aligned(kernel, shape),
        operands={side: _operand(matrix, kernel, shape, slot_names, scope) for side, matrix in sides},
        parameters=_parameters(values),
        **values,
    )
    pointers = ", ".join([f"{{{i}}}" for i in range(len(kernel.slots))] + (["key"] if random else []))
    cut = {64: "Small", 128: "Large"}[schedule["tile"]]
    call = "product_mma" if schedule["tile"] == usual_tile(kernel) else f"launch_product<mma::{cut}Cut>"
    step = f"mma::{call}(stream, {name}{{{{{pointers}}}}});"
    return Emitted(text, [step], takes_key=random, headers=("product_mma",))


def _operand(
    matrix: Matrix, kernel: ContractKernel, shape: Shape, slot_names: Sequence[str], names: CppNames
) -> tuple[list[str], str]:
    """Where an operand of product ``item`` lies: declarations and the pointer."""
    variables = [names.fresh(LOOP_NAMES[i]) for i in range(len(shape.items))]
    value = address(slot_names[matrix.slot], [matrix.outer[i] for i in shape.items], variables)
    words = set(re.findall(r"\w+", value))
    lines = row_indices(_outer(kernel, shape.items), variables, "int64_t", "item")
    return [line for line in lines if line.split()[2] in words], value


def _parameters(values: Mapping[str, Any]) -> str:
    """Those of `write`; what the epilogue does not ask for has no name."""
    lines = [line for part in ("position", "rows", "loads", "body", "stores") for line in values[part]]
    words = set(re.findall(r"\w+", "\n".join(lines)))
    names, kind = ("item", "row", "c" if values["vectors"] else "column"), values["index"]
    return ", ".join(f"{kind} {name}" if name in words or name == names[-1] else kind for name in names)


def _as_rows(kernel: ContractKernel) -> RowKernel:
    """The epilogue as a kernel over all results."""
    return RowKernel(kernel.slots, (*kernel.outer, kernel.m, kernel.n), kernel.nodes, kernel.stores)


def _outer(kernel: ContractKernel, axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(kernel.outer[i] for i in axes)


def _shape(kernel: ContractKernel) -> Shape:
    """Outer axes along which the right operand stays and the left one's rows go on are rows of one product."""
    axes, m = [i for i, n in enumerate(kernel.outer) if n > 1], kernel.m
    next_row = 1 if kernel.a.transposed else kernel.a.stride
    folded: list[int] = []
    while axes and kernel.b.outer[axes[-1]] == 0 and kernel.a.outer[axes[-1]] == m * next_row:
        folded.insert(0, axes.pop())
        m *= kernel.outer[folded[0]]
    lda = max(kernel.a.stride, m if kernel.a.transposed else kernel.k)
    return Shape(tuple(axes), tuple(folded), m, lda, max(kernel.b.stride, kernel.n))


def _lines_aligned(kernel: ContractKernel, shape: Shape) -> bool:
    distances = (shape.lda, shape.ldb, *kernel.a.outer, *kernel.b.outer)
    return all(distance % PIECE == 0 for distance in distances)


class EpilogueRenderer(PointwiseRenderer):
    """The epilogue of one thread's two neighbouring results."""

    def __init__(
        self, kernel: ContractKernel, shape: Shape, slot_names: list[str], names: CppNames, real: str, aligned: bool
    ) -> None:
        self.shape, self.outer = shape, kernel.outer
        whole = _as_rows(kernel)
        super().__init__(whole, slot_names, names, real, aligned and fits_vectors(whole, PAIR), PAIR)

    def start(self) -> dict[int, str]:
        """The product is at hand."""
        return {0: "product[u]"}

    def _declare_position(self) -> list[str]:
        items = [self.indices[i] for i in self.shape.items]
        rows = [self.indices[i] for i in (*self.shape.folded, len(self.outer))]
        fixed = [i for i in range(len(self.outer)) if i not in (*self.shape.items, *self.shape.folded)]
        lines = [f"const {self.index} {self.indices[i]} = 0;" for i in fixed]
        lines += row_indices(tuple(self.outer[i] for i in self.shape.items), items, self.index, "item")
        sizes = (*(self.outer[i] for i in self.shape.folded), self.rows[-1])
        lines += row_indices(sizes, rows, self.index, "row")
        return lines
