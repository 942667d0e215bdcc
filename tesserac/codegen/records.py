"""Kernel records: what a fused region computes, without a word about the target.

A region's scalar work is a list of nodes in order of evaluation over a *domain* (d0, ..., dn-1). The last axis
runs along the columns. A node is ``full`` (one value per point of the domain), ``row`` (one per row) or
``constant``. Reductions of full nodes over the columns are row nodes. A renderer turns nodes into loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

from tesserac.diagnostics import Span
from tesserac.immutable import dataclass
from tesserac.ir.program import Attr, Var
from tesserac.ir.types import DType


@dataclass(frozen=True, slots=True)
class Slot:
    """A pointer argument of a kernel: ``name`` is the first value bound to it, ``written`` if it is an output."""

    name: str
    dtype: DType
    written: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a region.

    kind: ``constant`` (value), ``load`` (slot, strides over the domain), ``take`` (slot, args[0] = row number,
    strides over the domain, ``row_stride`` of the table), ``iota`` (strides, value = offset), ``random`` (op, strides,
    attrs, row_stride = numbers per tile; args: where a part begins on some axes, ``steps`` in attrs: their strides),
    ``op`` (elementwise op over args), ``reduce`` (op sum/max/min over args[0]), ``sum_of_products`` (the contraction's
    own result), ``transformed`` (a part of a transform's).
    """

    kind: str
    extent: str
    dtype: DType
    op: str = ""
    args: tuple[int, ...] = ()
    slot: int = -1
    strides: tuple[int, ...] = ()
    row_stride: int = 0
    value: float = 0.0
    attrs: tuple[tuple[str, Attr], ...] = ()
    name: str = field(default="", compare=False)

    def __hash__(self) -> int:
        return hash((self.op, self.args, self.slot, self.strides, self.value))  # tells nearly all nodes apart


@dataclass(frozen=True, slots=True)
class Store:
    """A result: node ``node`` goes to ``slot`` at the given strides over the domain.

    mode ``set`` writes once per element; ``sum``/``max``/``min`` combine all points that share an address, starting
    from the identity unless ``across_tiles`` (then from what earlier tiles left); ``scatter`` adds to row ``index``
    (a node). ``extent`` is the shape of the result and ``row_stride`` the distance of its rows.
    """

    node: int
    slot: int
    strides: tuple[int, ...]
    mode: str = "set"
    across_tiles: bool = False
    index: int = -1
    row_stride: int = 0
    extent: tuple[int, ...] = ()


def accesses_of(nodes: Sequence[Node], stores: Sequence[Store]) -> list[Node | Store]:
    """Everything that may touch memory: both have ``slot`` and ``strides`` over the domain."""
    return [*nodes, *stores]


def levels(nodes: Sequence[Node]) -> list[int]:
    """The pass in which each node can first be computed: a reduction's value is there one pass after its operand."""
    result: list[int] = []
    for node in nodes:
        level = max((result[a] for a in node.args), default=0)
        result.append(level + 1 if node.kind == "reduce" else level)
    return result


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a kernel comes from: source spans (first one leads), and the formula of each result in the user's names."""

    spans: tuple[Span, ...] = ()
    formulas: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowKernel:
    """Pointwise and row-reduction region: loops over rows, passes over the columns of a row.

    ``ragged``: the length of the first axis is known at run time; the domain has the most there can be.
    """

    slots: tuple[Slot, ...]
    domain: tuple[int, ...]
    nodes: tuple[Node, ...]
    stores: tuple[Store, ...]
    ragged: bool = False


@dataclass(frozen=True, slots=True)
class Matrix:
    """An operand of a product: pointer slot and leading dimension; ``outer`` strides per outer loop."""

    slot: int
    stride: int
    outer: tuple[int, ...] = ()
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class ContractKernel:
    """C[m,n] = sum_k A[m,k] B[k,n] for every point of ``outer``, with an epilogue over domain (outer..., m, n).

    ``ragged``: which size is known at run time, ``m``, ``k`` or ``outer`` (the first of them); it is the most then.
    """

    slots: tuple[Slot, ...]
    outer: tuple[int, ...]
    m: int
    n: int
    k: int
    a: Matrix
    b: Matrix
    nodes: tuple[Node, ...]
    stores: tuple[Store, ...]
    ragged: str = ""


@dataclass(frozen=True, slots=True)
class AttentionKernel:
    """Softmax attention of ``batch`` elements, forward or backward; ``strides``: (batch, row) of every slot.

    Slots forward: q k v -> o lse; backward: q k v o lse do -> dq dk dv. ``late``: one more slot at the end, a number:
    the queries are part of more, which begins there, and under the causal mask a query i sees keys 0 .. number + i.
    """

    slots: tuple[Slot, ...]
    backward: bool
    batch: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    causal: bool
    scale: float
    strides: tuple[tuple[int, int], ...]
    late: bool = False


@dataclass(frozen=True, slots=True)
class TransposeKernel:
    """Slot 0 (rows x columns, row stride ``source``) to slot 1 (columns x rows, row stride ``target``).

    ``outer`` lists (size, source stride, target stride) of the loops around it.
    """

    slots: tuple[Slot, ...]
    rows: int
    columns: int
    source: int
    target: int
    outer: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class LineKernel:
    """``function`` of the runtime along one axis, for every point of the others.

    ``outer`` lists (size, stride per slot); ``steps`` is the stride per slot along the axis; ``sizes`` are the
    function's numbers (length of the axis, then what the op needs). ``wavelet``: of a wavelet transform, which.
    """

    slots: tuple[Slot, ...]
    function: str
    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    outer: tuple[tuple[int, tuple[int, ...]], ...] = ()
    wavelet: str = ""


@dataclass(frozen=True, slots=True)
class FftKernel:
    """A discrete Fourier transform of length ``n`` along one axis, times ``scale``.

    ``form``: ``complex``, ``real`` (real numbers to all n bins), ``forwards`` (real numbers to bins 0..n/2, those that
    stand for two times ``interior``) or ``backwards``. Nodes are over (outer loops, rows, columns): with ``upright``
    the transform runs down the rows and there are ``count`` columns, else along the columns and there are ``count``
    rows. ``before`` computes what is transformed: ``parts`` are the nodes of the real and, where there is one, the
    imaginary part. The results are the nodes of kind ``transformed`` (op ``re`` or ``im``) among ``nodes``.
    """

    slots: tuple[Slot, ...]
    form: str
    inverse: bool
    n: int
    scale: float
    interior: float
    outer: tuple[int, ...]
    count: int
    upright: bool
    before: tuple[Node, ...]
    parts: tuple[int, ...]
    nodes: tuple[Node, ...]
    stores: tuple[Store, ...]

    @property
    def size_in(self) -> int:
        """Elements of a line that goes in."""
        return self.n // 2 + 1 if self.form == "backwards" else self.n

    @property
    def size_out(self) -> int:
        """Elements of a line that comes out."""
        return self.n // 2 + 1 if self.form == "forwards" else self.n


@dataclass(frozen=True, slots=True)
class FilterKernel:
    """Two transforms of the same lines, ``second`` of what ``first`` makes: a line's spectrum stays in the kernel.

    The slots of both transforms are those of the kernel, without names, and behind them ``between`` more: numbers of a
    line, which ``first`` stores at the strides at which ``second`` loads them.
    """

    slots: tuple[Slot, ...]
    first: FftKernel
    second: FftKernel
    between: int

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Everything that is computed, in order."""
        return (*self.first.before, *self.first.nodes, *self.second.before, *self.second.nodes)

    @property
    def stores(self) -> tuple[Store, ...]:
        """Everything that is stored, the lines between the transforms among it."""
        return (*self.first.stores, *self.second.stores)


@dataclass(frozen=True, slots=True)
class RoutingKernel:
    """``function`` of the runtime on whole arrays; ``sizes`` are the numbers it takes after them."""

    slots: tuple[Slot, ...]
    function: str
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GroupedKernel:
    """An op over the rows of all experts, sorted by expert, where they are not cut into tiles.

    ``function``: ``contract`` (x offsets matrices... -> result), ``outer`` (x y offsets -> matrices...), ``sum``
    (x offsets -> vectors...), ``number`` (offsets -> the expert of every row) or ``table`` (vectors... -> their rows).
    Expert e of ``count`` has the rows offsets[e] to offsets[e + 1] of ``rows``; the tensors are of ``experts``. Rows
    have ``width`` elements that meet the ``columns`` of the result; ``strides`` are the distances of rows per slot.
    ``transposed``: a matrix is stored as columns x width.
    """

    slots: tuple[Slot, ...]
    function: str
    rows: int
    experts: tuple[int, ...]
    count: int
    width: int
    columns: int
    strides: tuple[int, ...]
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class ExchangeKernel:
    """An op of a mesh along its axis ``axis`` of ``size`` ranks: slots are operands, results and, for exchanges, work.

    Of an exchange in two halves, the first ends with the bucket, which is its work, and the second begins with it.
    ``grids``: sizes and strides of operands and results. ``kind`` sum, max or min; ``dims``: axes of the tensor that it
    cuts and joins, or whether rows go back; ``parts``: into how many parts a local op divides that axis. ``lying``: of
    every operand and result of an exchange in place, at which element of the bucket it begins, and whether it is there.
    """

    slots: tuple[Slot, ...]
    op: str
    axis: str
    size: int
    grids: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    kind: str = ""
    dims: tuple[int, ...] = ()
    parts: int = 0
    lying: tuple[tuple[int, bool], ...] = ()

    @property
    def results(self) -> tuple[int, ...]:
        """Numbers of the slots of its results."""
        first = 1 if self.op.endswith("_end") else 0
        return tuple(i for i in range(first, first + len(self.grids)) if self.slots[i].written)

    @property
    def passed(self) -> tuple[int, ...]:
        """Numbers of the slots that a call passes: all but those of tensors that the bucket's own slot stands for."""
        ahead = 1 if self.op == "all_reduce_end" else 0
        if ahead and self.lying and all(there for _, there in self.lying):
            return ()  # nothing has to move
        there = {ahead + i for i, (_, there) in enumerate(self.lying) if there}
        return tuple(i for i in range(len(self.slots)) if i not in there)

    @property
    def talks(self) -> bool:
        """Whether it belongs to an exchange, which has a number and memory to work in."""
        return len(self.slots) > len(self.grids)


Kernel = (
    RowKernel
    | ContractKernel
    | AttentionKernel
    | TransposeKernel
    | LineKernel
    | FftKernel
    | FilterKernel
    | RoutingKernel
    | GroupedKernel
    | ExchangeKernel
)


def is_ragged(kernel: Kernel) -> bool:
    """Whether a size of the kernel is known only at run time."""
    return isinstance(kernel, (RowKernel, ContractKernel)) and bool(kernel.ragged)


@dataclass(frozen=True, slots=True)
class Argument:
    """What a call passes for a slot: a buffer and an offset in elements."""

    var: Var
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Launch:
    """One call of a kernel within a stage; ``flops`` and ``bytes`` of the call."""

    kernel: Kernel
    arguments: tuple[Argument, ...]
    origin: Origin
    flops: float
    bytes: float

    @property
    def passed(self) -> tuple[Argument, ...]:
        """The arguments that a call passes."""
        if not isinstance(self.kernel, ExchangeKernel):
            return self.arguments
        return tuple(self.arguments[i] for i in self.kernel.passed)
