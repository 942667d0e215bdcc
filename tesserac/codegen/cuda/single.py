"""Products, attention, transpositions and lines: calls of the runtime with the sizes of the record."""

from __future__ import annotations

from tesserac.codegen.cpu.expressions import address
from tesserac.codegen.cuda.expressions import CUDA_TYPE
from tesserac.codegen.cuda.layout import count
from tesserac.codegen.cuda.passes import LOOP_NAMES, row_indices
from tesserac.codegen.cuda.products import Product, Split, product_elements
from tesserac.codegen.cuda.schedule import Schedule
from tesserac.codegen.cuda.steps import Emitted, Workspace
from tesserac.codegen.jinja import render_template
from tesserac.codegen.names import CppNames
from tesserac.codegen.records import AttentionKernel, ContractKernel, LineKernel, RowKernel, Slot, TransposeKernel
from tesserac.ir.types import DType

WAVELET_BLOCK = 128
"""kWaveletThreads of runtime/cuda/wavelet.cuh."""

WAVELET_BLOCKS = 128
"""Blocks of wavelet transforms whose lines lie in device memory."""

SHARED_BYTES = 48 << 10
"""Shared memory that a kernel may declare."""


def _pointers(slots: tuple[Slot, ...], names: list[str]) -> str:
    return ", ".join(
        f"{'' if s.written else 'const '}{CUDA_TYPE[s.dtype]}* __restrict__ {n}"
        for s, n in zip(slots, names, strict=True)
    )


def emit_product(
    kernel: ContractKernel, parts: Split, name: str, real: str
) -> tuple[Emitted, RowKernel | None, Workspace]:
    """The product, the epilogue that is left as a row kernel (its last slot is the product), and their workspace."""
    workspace = Workspace()
    target = f"{{{parts.target}}}"
    if parts.target < 0:
        size = product_elements(kernel) * (8 if real == "double" else 4)
        target = f"at<{real}>(workspace, {workspace.add('product', size)})"
    bias = f"{{{parts.bias}}}" if parts.bias >= 0 else "nullptr"
    text = render_template("cuda/product.cu.j2", name=name, p=parts.product)
    step = _product_call(kernel, name, parts.product, target, bias, real)
    return Emitted(text, [step], workspace.size, raw=target), parts.pointwise, workspace


def _product_call(kernel: ContractKernel, name: str, product: Product, target: str, bias: str, real: str) -> str:
    loops = [("outer" if i == 0 else f"outer{i}", axis) for i, axis in enumerate(product.loops)]
    variables = [v for v, _ in loops]
    a, b, c = (
        address(text, strides, variables)
        for text, strides in (
            (f"{{{kernel.a.slot}}}", [x.a for _, x in loops]),
            (f"{{{kernel.b.slot}}}", [x.b for _, x in loops]),
            (target, [x.c for _, x in loops]),
        )
    )
    around = "".join(f"for (int64_t {v} = 0; {v} < {axis.size}; ++{v}) " for v, axis in loops)
    return f"{around}matmul<{real}>(context, {name}, {a}, {b}, {bias}, {c});"


def emit_attention(kernel: AttentionKernel, name: str, real: str, schedule: Schedule) -> Emitted:
    """Flash attention of the runtime: on tensor cores where operands have 16 bits."""
    brief = kernel.slots[0].dtype is DType.BF16
    types = f"{CUDA_TYPE[DType.BF16]}, {real}" if brief else real
    tensor_cores = "_tensor_cores" if brief else ""
    names = ("q", "k", "v", "o", "lse", "d_o", "dq", "dk", "dv")
    used = [i for i in range(len(kernel.strides)) if i != 4]
    strides = [(names[i], *kernel.strides[i]) for i in used]
    text = render_template("cuda/attention.cu.j2", name=name, k=kernel, strides=strides, warps=schedule.get("warps", 4))
    pointers = ", ".join(f"{{{i}}}" for i in range(len(kernel.strides)))
    begin = f", {{{len(kernel.strides)}}}" if kernel.late else ""
    if not kernel.backward:
        call = f"attention_forward{tensor_cores}<{name}, {types}>"
        step = f"{call}(stream, {pointers}, {real}({kernel.scale!r}){begin});"
        return Emitted(text, [step], headers=("attention_wgmma",) if brief else ())
    workspace = Workspace()
    place = workspace.add("delta", kernel.batch * kernel.heads * kernel.queries * (8 if real == "double" else 4))
    rest = f"{real}({kernel.scale!r}), at<{real}>(workspace, {place}){begin}"
    types += f", {real}" if brief else ""
    step = f"attention_backward{tensor_cores}<{name}, {types}>(stream, {pointers}, {rest});"
    return Emitted(text, [step], workspace.size, headers=("attention_wgmma_backward",) if brief else ())


def emit_transpose(kernel: TransposeKernel, name: str, scope: CppNames, schedule: Schedule) -> Emitted:
    """A transposition in tiles of 32 x 32, one block each."""
    names = [scope.fresh(slot.name) for slot in kernel.slots]
    across, down = -(-kernel.columns // 32), -(-kernel.rows // 32)
    sizes = tuple(n for n, _, _ in kernel.outer)
    variables = [scope.fresh(LOOP_NAMES[i]) for i in range(len(sizes))]
    position = (
        row_indices(sizes, variables, "int64_t", f"(blockIdx.x / {across * down})" if sizes else "0") if sizes else []
    )
    text = render_template(
        "cuda/transpose.cu.j2",
        name=name,
        parameters=_pointers(kernel.slots, names),
        kind=CUDA_TYPE[kernel.slots[1].dtype],
        position=position,
        const_kind=f"const {CUDA_TYPE[kernel.slots[0].dtype]}",
        across=across,
        down=down,
        threads=schedule["rows"],
        rows=kernel.rows,
        columns=kernel.columns,
        lds=kernel.source,
        ldd=kernel.target,
        source=address(names[0], [s for _, s, _ in kernel.outer], variables),
        target=address(names[1], [t for _, _, t in kernel.outer], variables),
    )
    grid, block = across * down * count(sizes), f"dim3(32, {schedule['rows']})"
    return Emitted(text, [f"{name}<<<{grid}, {block}, 0, stream>>>({{0}}, {{1}});"])


def emit_line(kernel: LineKernel, name: str, scope: CppNames, schedule: Schedule) -> Emitted:
    """A function along one axis, one thread per line."""
    names = [scope.fresh(slot.name) for slot in kernel.slots]
    sizes = tuple(n for n, _ in kernel.outer)
    variables = [scope.fresh(LOOP_NAMES[i]) for i in range(len(sizes))]
    arguments: list[str] = []
    for number, pointer in enumerate(names):
        arguments += [
            address(pointer, [strides[number] for _, strides in kernel.outer], variables),
            str(kernel.steps[number]),
        ]
    lines = count(sizes)
    if kernel.wavelet:
        transform = f"{kernel.function.partition('<')[0].removeprefix('line_')}_line<{kernel.wavelet.capitalize()}>"
        position = row_indices(sizes, variables, "int64_t", "row") if sizes else []
        return _emit_wavelet(kernel, name, names, transform, position, arguments)
    text = render_template(
        "cuda/line.cu.j2",
        name=name,
        parameters=_pointers(kernel.slots, names),
        block=schedule["block"],
        lines=lines,
        function=kernel.function,
        position=row_indices(sizes, variables, "int64_t", "row") if sizes else [],
        arguments=arguments + [str(n) for n in kernel.sizes],
    )
    blocks = min(-(-lines // schedule["block"]), 1 << 16)
    pointers = ", ".join(f"{{{i}}}" for i in range(len(names)))
    return Emitted(text, [f"{name}<<<{blocks}, {schedule['block']}, 0, stream>>>({pointers});"])


def _emit_wavelet(
    kernel: LineKernel, name: str, names: list[str], function: str, position: list[str], arguments: list[str]
) -> Emitted:
    """A wavelet transform, one block per line."""
    n, lines = kernel.sizes[0], count(tuple(size for size, _ in kernel.outer))
    real = CUDA_TYPE[kernel.slots[0].dtype]
    size = 2 * n * kernel.slots[0].dtype.itemsize
    outside = size > SHARED_BYTES
    text = render_template(
        "cuda/wavelet.cu.j2",
        name=name,
        parameters=_pointers(kernel.slots, names),
        block=WAVELET_BLOCK,
        lines=lines,
        function=function,
        position=position,
        arguments=arguments + [str(s) for s in kernel.sizes],
        outside=outside,
        real=real,
        n=n,
    )
    workspace = Workspace()
    pointers = [f"{{{i}}}" for i in range(len(names))]
    if outside:
        pointers.append(f"at<{real}>(workspace, {workspace.add('lines', WAVELET_BLOCKS * size)})")
    blocks = min(lines, WAVELET_BLOCKS if outside else 65535)
    return Emitted(text, [f"{name}<<<{blocks}, {WAVELET_BLOCK}, 0, stream>>>({', '.join(pointers)});"], workspace.size)
