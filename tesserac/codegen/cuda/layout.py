"""How a row kernel is spread over the GPU, and which of its stores need a second phase."""

from __future__ import annotations

from dataclasses import dataclass

from tesserac.codegen.in_place import in_place_pairs
from tesserac.codegen.records import RowKernel, Store

BLOCK = 256
WARP = 32
SHORT_ROW = 8
WARP_ROW = 512
"""Longest row of one warp; longer ones get a block."""
MAX_COLUMNS = 16
"""Columns of a row that one thread may hold in registers, per value."""
SUM_REGISTERS = 48
"""Registers in which a thread may add up its columns over the rows it sees."""
MAX_BLOCKS = 1 << 20
PARTIAL_BLOCKS = 528
"""Blocks of a kernel that leaves partial sums: four for each of 132 multiprocessors."""


def count(sizes: tuple[int, ...]) -> int:
    """Product of some sizes."""
    result = 1
    for n in sizes:
        result *= n
    return result


def index_type(kernel: RowKernel) -> str:
    """int where every element's position fits, else int64_t."""
    furthest = count(kernel.domain)
    accesses = [*(n.strides for n in kernel.nodes), *(s.strides for s in kernel.stores)]
    for strides in accesses:
        furthest = max(furthest, sum((n - 1) * abs(s) for n, s in zip(kernel.domain, strides, strict=False)) + 1)
    return "int" if furthest < 1 << 30 else "int64_t"


@dataclass(frozen=True, slots=True)
class Phase:
    """A store in two phases. kind:

    ``total``    every block leaves one number; ``columns`` every team leaves a row of sums;
    ``spill``    the values themselves go to the workspace; ``direct`` they are in memory anyway, at
                 ``strides`` of the slot ``source``;
    ``scatter``  values (spilled or direct) and row numbers are in memory, and every row of the table collects its own.
    """

    kind: str
    source: int = -1
    strides: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """``team`` threads share a row, ``blocks`` of ``block`` threads share all of them."""

    team: int
    blocks: int
    phases: tuple[Phase | None, ...]
    columns: int = 1
    block: int = BLOCK

    @property
    def teams(self) -> int:
        """Teams of the whole grid."""
        return self.blocks * (self.block // self.team)


def is_pointwise(kernel: RowKernel) -> bool:
    """Whether every element can be computed by itself."""
    if any(n.kind == "reduce" for n in kernel.nodes):
        return False
    return all(
        s.mode == "set" and (kernel.nodes[s.node].extent == "full" or s.strides[-1] != 0 or kernel.domain[-1] == 1)
        for s in kernel.stores
    )


def layout(kernel: RowKernel, block: int = BLOCK, lost: int = -1) -> Layout:
    """The layout of a row kernel that is not pointwise. Blocks of another size leave teams as they are.

    ``lost``: a slot whose memory the kernel's results take over.
    """
    rows, width = count(kernel.domain[:-1]), kernel.domain[-1]
    sums = any(s.mode in ("sum", "max", "min") and s.strides[-1] != 0 for s in kernel.stores)
    team = WARP if width <= WARP_ROW and (width < BLOCK or rows >= 256) else BLOCK
    if width <= SHORT_ROW and not sums:
        team = 1
    columns = -(-width // team)
    walked = sum(s.mode in ("sum", "max", "min") and any(s.strides) for s in kernel.stores)
    phases = tuple(_phase(kernel, s, columns, walked, lost) for s in kernel.stores)
    blocks = -(-rows // (block // team))
    if any(p is not None and p.kind in ("total", "columns") for p in phases):
        usual = -(-rows // (BLOCK // team))
        blocks = min(-(-usual // 4), PARTIAL_BLOCKS) * BLOCK // block  # as many teams: each leaves a part of the sums
    return Layout(team, min(blocks, MAX_BLOCKS), phases, columns, block)


def _phase(kernel: RowKernel, store: Store, columns: int, sums: int, lost: int) -> Phase | None:
    if store.mode == "set":
        return None
    full = kernel.nodes[store.node].extent == "full" or store.strides[-1] != 0
    if store.mode == "scatter":
        source = _in_memory(kernel, store, lost)
        if source is not None and not _one_stride(kernel.domain[:-1], source[1][:-1]):
            source = None
        return Phase("scatter", *source) if source is not None and source[1][-1] == 1 else Phase("scatter")
    if not full and not any(store.strides):
        return Phase("total")
    if (
        full
        and not any(store.strides[:-1])
        and columns * sums <= SUM_REGISTERS
        and columns <= MAX_COLUMNS
        and (store.strides[-1] or kernel.domain[-1] == 1)
    ):
        return Phase("columns")
    found = _in_memory(kernel, store, lost) if full else None
    return Phase("spill") if found is None else Phase("direct", *found)


def _one_stride(sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    return all(strides[i] == strides[i + 1] * sizes[i + 1] for i in range(len(sizes) - 1))


def row_distance(strides: tuple[int, ...]) -> int:
    """Distance of neighbouring rows in memory that ``_one_stride`` accepted."""
    return strides[-2] if len(strides) > 1 else 0


def _in_memory(kernel: RowKernel, store: Store, lost: int) -> tuple[int, tuple[int, ...]] | None:
    """Slot and strides at which the second phase can read the stored value, if it lies in memory as it is."""
    node = kernel.nodes[store.node]
    if node.extent != "full":
        return None
    for other in kernel.stores:
        if other.mode == "set" and other.node == store.node and kernel.slots[other.slot].dtype is node.dtype:
            return other.slot, other.strides
    overwritten = {lost, *(read for read, _ in in_place_pairs(kernel))}
    if node.kind == "load" and node.slot not in overwritten and kernel.slots[node.slot].dtype is node.dtype:
        return node.slot, node.strides
    return None
