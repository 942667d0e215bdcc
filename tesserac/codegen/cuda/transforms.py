"""Fourier transforms: how a length is taken apart, and what is read and written as a struct that the kernel calls."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tesserac.codegen.cuda.expressions import Expressions, at, literal
from tesserac.codegen.cuda.layout import index_type
from tesserac.codegen.cuda.passes import LOOP_NAMES, row_indices
from tesserac.codegen.cuda.steps import CUFFT_HEADER, Emitted, Workspace, pointer_type
from tesserac.codegen.jinja import render_template
from tesserac.codegen.names import CppNames
from tesserac.codegen.records import FftKernel, Node, RowKernel
from tesserac.codegen.sharing import declare_shared
from tesserac.diagnostics import InternalError

LARGEST_PRIME = 31
"""Lengths with larger prime factors go through Bluestein's convolution."""

SHARED_BYTES = 96 << 10
"""Shared memory that a block may have on every GPU from sm_80 on (sm_86: 99 kB); longer lines lie in device memory."""

USUAL_BYTES = 48 << 10
"""Shared memory with which several blocks fit a multiprocessor: more lines per block only below that."""

UPRIGHT_LINES, UPRIGHT_BYTES = 8, 96 << 10
"""Lines that are neighbours in memory, so that a block reads whole sectors of 32 bytes, if two such blocks fit."""

POINTS = 2048
"""Numbers that a block of 256 threads transforms at once, so that each has a butterfly or more."""

BLOCKS_OUTSIDE = 64
"""kFftBlocksOutside of runtime/cuda/fft.cuh."""


def prime_factors(n: int) -> list[int]:
    """Ascending."""
    found, p = [], 2
    while p * p <= n:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1
    return [*found, n] if n > 1 else found


def radices(n: int) -> list[int]:
    """The passes of a transform: eights and what is left of two, then odd primes."""
    primes = prime_factors(n)
    twos, odd = primes.count(2), [p for p in primes if p > 2]
    rest = {0: [], 1: [2], 2: [4]}[twos % 3]
    return [8] * (twos // 3) + rest + odd


@dataclass(frozen=True)
class FftSizes:
    """FftPlan of runtime/cuda/fft.cuh: numbers of the passes, their radices, lines of a block, where they lie."""

    passes: int
    factors: tuple[int, ...]
    lines: int
    outside: bool
    bytes: int


def _as_computed(kernel: FftKernel) -> FftKernel:
    """All bins of real numbers are computed as of complex ones."""
    return replace(kernel, form="complex") if kernel.form == "real" else kernel


def fft_lines(kernel: FftKernel, itemsize: int) -> tuple[int, tuple[int, ...]]:
    """How many lines a block takes, and how many it may: half as many and twice, where shared memory has room."""
    usual = fft_sizes(_as_computed(kernel), itemsize)
    most = min(math.prod((*kernel.outer, kernel.count)), SHARED_BYTES // (usual.bytes // usual.lines))
    other = () if usual.outside else (usual.lines // 2, 2 * usual.lines)
    return usual.lines, tuple(sorted((usual.lines, *(n for n in other if 1 <= n <= most))))


def fft_sizes(kernel: FftKernel, itemsize: int, lines: int = 0) -> FftSizes:
    """How the kernel's lines are transformed, ``lines`` of them by a block (0: as many as is usual)."""
    halved = kernel.form != "complex" and kernel.n % 2 == 0
    length = kernel.n // 2 if halved else kernel.n
    passes = length
    if length > 1 and prime_factors(length)[-1] > LARGEST_PRIME:
        passes = 1 << (2 * length - 2).bit_length()
    line = 2 * (max(passes, length + 1) | 1) * 2 * itemsize
    if not lines:
        count = math.prod((*kernel.outer, kernel.count))
        lines = max(1, min(POINTS // passes, count, USUAL_BYTES // line))
        if kernel.upright:  # neighbouring lines are what a warp reads at once
            lines = max(lines, min(UPRIGHT_LINES, count, UPRIGHT_BYTES // line))
    return FftSizes(passes, tuple(radices(passes)), lines, line > SHARED_BYTES, lines * line)


class TransformEmitter:
    """Text and launch of one transform."""

    def __init__(self, kernel: FftKernel, name: str, names: CppNames, real: str, schedule: Mapping[str, int]) -> None:
        kernel = _as_computed(kernel)
        self.kernel, self.name, self.real, self.lines = kernel, name, real, schedule.get("lines", 0)
        if any(store.mode != "set" or store.across_tiles for store in kernel.stores):
            raise InternalError("a transform that adds up its results")
        self.scope = CppNames(parent=names, reserved=("read", "write", "line", "k", "i", "c", "v"))
        self.slot_names = [self.scope.fresh(slot.name) for slot in kernel.slots]
        self.loops = [self.scope.fresh(LOOP_NAMES[n + 1]) for n in range(len(kernel.outer))]
        domain = (*kernel.outer, kernel.count, max(kernel.size_in, kernel.size_out))
        if kernel.upright:
            domain = (*domain[:-2], domain[-1], domain[-2])
        self.index = index_type(RowKernel(kernel.slots, domain, (*kernel.before, *kernel.nodes), kernel.stores))

    def emit(self) -> Emitted:
        """A struct with what the transform reads and writes, its plan, and the launch."""
        k = self.kernel
        sizes = fft_sizes(k, 8 if self.real == "double" else 4, self.lines)
        random = any(n.kind == "random" for n in (*k.before, *k.nodes))
        members = [f"{pointer_type(s)} {n};" for s, n in zip(k.slots, self.slot_names, strict=True)]
        before, after = self._before(), self._after()
        text = render_template(
            "cuda/fft.cu.j2",
            name=self.name,
            real=self.real,
            members=members + (["const RandomKey* key;"] if random else []),
            reads=self.real if k.form in ("forwards", "real") else f"Complex<{self.real}>",
            takes=f"Complex<{self.real}>" if k.form != "backwards" else self.real,
            before=self._position(before) + before,
            after=self._position(after) + after,
            index=self.index,
            k=k,
            sizes=sizes,
        )
        workspace = Workspace()
        outside = "nullptr"
        if sizes.outside:
            outside = f"at<char>(workspace, {workspace.add('lines', BLOCKS_OUTSIDE * sizes.bytes)})"
        pointers = [f"{{{i}}}" for i in range(len(k.slots))] + (["key"] if random else [])
        count = math.prod((*k.outer, k.count))
        interior = literal(k.interior, self.real)
        memory = f"{self.name}{{{{{', '.join(pointers)}}}}}"
        function = "fft_by_library" if sizes.outside else "fft"
        call = f"{function}<{self.name}_plan>(context, {count}, {memory}, {interior}, {outside});"
        headers = (CUFFT_HEADER,) if sizes.outside else ()
        return Emitted(text, [call], workspace.size, random, headers=headers)

    def _text(self, nodes: Sequence[Node]) -> tuple[Expressions, CppNames]:
        scope = CppNames(parent=self.scope)
        slots, indices = self.kernel.slots, [*self.loops, "i"]
        return Expressions(nodes, slots, self.slot_names, scope, indices, self.real, index=self.index), scope

    def _position(self, lines: list[str]) -> list[str]:
        """The indices that some lines need, from the line and the position in it."""
        k = self.kernel
        across, along = ("c", "i") if k.upright else ("i", "c")
        declared = row_indices((*k.outer, k.count), [*self.loops, across], f"{self.index}", f"{self.index}(line)")
        declared.append(f"const {self.index} {along} = k;")
        words = set(re.findall(r"\w+", "\n".join(lines)))
        return [line for line in declared if line.split()[2] in words]

    def _before(self) -> list[str]:
        """The lines that compute what is transformed."""
        k = self.kernel
        text, scope = self._text(k.before)
        uses = dict(text.uses())
        for part in k.parts:
            uses[part] = uses.get(part, 0) + 1
        known: dict[int, str] = {}
        lines = declare_shared(text, scope, uses, known)
        values = [text.full(part, known)[0] for part in k.parts]
        if k.form in ("forwards", "real"):
            return [*lines, f"return {values[0]};"]
        return [*lines, f"return {{{', '.join(values)}}};"]

    def _after(self) -> list[str]:
        """The lines that scale the results and do what follows them."""
        k = self.kernel
        text, scope = self._text(k.nodes)
        uses = dict(text.uses())
        for store in k.stores:
            uses[store.node] = uses.get(store.node, 0) + 1
        lines: list[str] = []
        known: dict[int, str] = {}
        for number, node in enumerate(k.nodes):
            if node.kind != "transformed":
                continue
            known[number] = "v" if k.form == "backwards" else f"v.{node.op}"
            if k.scale != 1.0 and uses.get(number, 0):
                scaled = f"{known[number]} * {literal(k.scale, self.real)}"
                known[number], line = text.declare_vector(number, scaled, scope)
                lines.append(line)
        more = declare_shared(text, scope, uses, known)
        for store in k.stores:
            target = at(self.slot_names[store.slot], store.strides, [*self.loops, "i", "c"])
            more.append(f"{target} = {text.full(store.node, known)[0]};")
        return [*lines, *more]
