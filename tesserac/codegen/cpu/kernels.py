"""The kernel functions of a project: equal kernels are emitted once and called with different pointers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tesserac.codegen.cpu.expressions import CPP_TYPE
from tesserac.codegen.cpu.products import ProductRenderer, render_attention, render_line, render_transpose
from tesserac.codegen.cpu.rows import RowRenderer
from tesserac.codegen.jinja import render_template
from tesserac.codegen.names import CppNames, comment_text
from tesserac.codegen.records import AttentionKernel, ContractKernel, Kernel, Launch, LineKernel, RowKernel
from tesserac.diagnostics import Span

PREFIX = {
    "RowKernel": "rows",
    "ContractKernel": "product",
    "AttentionKernel": "attention",
    "TransposeKernel": "transpose",
    "LineKernel": "along",
}
RUNTIME_NAMES = (
    "Vec",
    "Shape",
    "Store",
    "Accumulate",
    "Attention",
    "gemm",
    "columns",
    "broadcast",
    "select",
    "load",
    "store",
    "transpose",
    "at",
    "Call",
    "Parameters",
    "w",
    "g",
    "call",
    "shared",
    "scratch",
    "tile",
    "first",
    "key",
    "work",
    "kept",
    "c",
    "b",
    "S",
    "A",
    "tsr",
    "worker",
    "hsum",
    "hmax",
    "hmin",
    "iota",
    "fma",
    "bits",
    "any",
    "kInfinity",
    "padded",
    "own",
    "tiles",
    "begin",
    "end",
    "distance",
    "min",
    "max",
)


@dataclass
class KernelFunction:
    """One emitted function: its name, text, and what a call passes besides the buffers."""

    name: str
    text: str
    kernel: Kernel
    takes_first: bool
    takes_key: bool
    launch: Launch
    calls: int = 0


@dataclass
class KernelCatalogue:
    """Emits kernels on first use; ``lines`` are the source lines by file, for the comments."""

    real: str
    names: CppNames
    lines: Mapping[str, list[str]]
    functions: list[KernelFunction] = field(default_factory=list)
    _known: dict[tuple[Kernel, bool], KernelFunction] = field(default_factory=dict)

    def function(self, launch: Launch, parallel: bool) -> KernelFunction:
        """The function that carries out a launch."""
        blank = tuple(replace(slot, name="") for slot in launch.kernel.slots)
        key = replace(launch.kernel, slots=blank), parallel
        if key not in self._known:
            self._known[key] = self._emit(launch, parallel)
            self.functions.append(self._known[key])
        return self._known[key]

    def _emit(self, launch: Launch, parallel: bool) -> KernelFunction:
        kernel = launch.kernel
        name = self.names.fresh(f"{_prefix(kernel)}_{_subject(kernel)}")
        inner = ("i", "v") if isinstance(kernel, ContractKernel) else ()  # row and value in the epilogue
        scope = CppNames(parent=self.names, reserved=(*RUNTIME_NAMES, *inner))
        slot_names = [scope.fresh(slot.name) for slot in kernel.slots]
        first = isinstance(kernel, (RowKernel, ContractKernel)) and any(s.across_tiles for s in kernel.stores)
        random = isinstance(kernel, (RowKernel, ContractKernel)) and any(n.kind == "random" for n in kernel.nodes)
        parameters = [
            f"{'' if s.written else 'const '}{CPP_TYPE[s.dtype]}* {n}"
            for s, n in zip(kernel.slots, slot_names, strict=True)
        ]
        if isinstance(kernel, AttentionKernel):
            parameters += [f"{self.real}* work", f"{self.real}* kept"]
        parameters += ["bool first"] if first else []
        parameters += ["const RandomKey& key", "long tile"] if random else []
        body = self._body(kernel, slot_names, scope, parallel)
        values = {**body[1], "name": name, "parameters": ", ".join(parameters)}
        text = self._comment(launch) + render_template(body[0], **values)
        return KernelFunction(name, text, kernel, first, random, launch)

    def _body(
        self, kernel: Kernel, slot_names: list[str], scope: CppNames, parallel: bool
    ) -> tuple[str, dict[str, object]]:
        if isinstance(kernel, RowKernel):
            return "cpu/rows.cpp.j2", RowRenderer(kernel, slot_names, scope, self.real, parallel).render()
        if isinstance(kernel, ContractKernel):
            return "cpu/product.cpp.j2", ProductRenderer(kernel, slot_names, scope, self.real, parallel).render()
        if isinstance(kernel, AttentionKernel):
            return "cpu/attention.cpp.j2", render_attention(kernel, slot_names, self.real)
        if isinstance(kernel, LineKernel):
            return "cpu/line.cpp.j2", render_line(kernel, slot_names, scope, parallel)
        return "cpu/transpose.cpp.j2", render_transpose(kernel, slot_names, scope, parallel)

    def _comment(self, launch: Launch) -> str:
        result = []
        for span in _lines_of(launch.origin.spans):
            source = self.lines.get(span.file, [])
            text = source[span.line - 1].strip() if 0 < span.line <= len(source) else ""
            result.append(f"// {comment_text(short_name(span.file))}:{span.line}  {comment_text(text)}".rstrip())
        for formula in launch.origin.formulas[:8]:
            result.append(f"//   {comment_text(formula)}")
        if len(launch.origin.formulas) > 8:
            result.append(f"//   and {len(launch.origin.formulas) - 8} more")
        work, traffic = _quantity(launch.flops, "FLOP"), _quantity(launch.bytes, "B")
        result.append(f"// {_sizes(launch.kernel)}, {work}, {traffic} read and written")
        return "\n".join(result) + "\n"


def short_name(file: str) -> str:
    """The file name without its folders (an emitted tree does not depend on where it was made)."""
    return file.replace("\\", "/").rsplit("/", 1)[-1]


def _lines_of(spans: tuple[Span, ...]) -> list[Span]:
    seen: dict[tuple[str, int], Span] = {}
    for span in spans:
        seen.setdefault((span.file, span.line), span)
    return list(seen.values())[:6]


def _prefix(kernel: Kernel) -> str:
    if isinstance(kernel, AttentionKernel) and kernel.backward:
        return "attention_backward"
    return PREFIX[type(kernel).__name__]


def _subject(kernel: Kernel) -> str:
    """The result that names the kernel: what its last store writes."""
    if isinstance(kernel, (RowKernel, ContractKernel)):
        name = kernel.slots[kernel.stores[-1].slot].name
    else:
        name = next(slot.name for slot in kernel.slots if slot.written)
    # One kernel serves every layer: `blocks.3.mlp.w2` and `x.5` lend it their names without the numbers.
    return re.sub(r"[._]\d+(?=[._]|$)", "", name) or name


def _sizes(kernel: Kernel) -> str:
    if isinstance(kernel, RowKernel):
        return "over " + " x ".join(map(str, kernel.domain))
    if isinstance(kernel, ContractKernel):
        outer = "".join(f"{n} x " for n in kernel.outer)
        return f"{outer}({kernel.m} x {kernel.k}) ({kernel.k} x {kernel.n})"
    if isinstance(kernel, AttentionKernel):
        return (
            f"{kernel.batch} x {kernel.heads} heads x {kernel.queries} queries x {kernel.keys} keys x {kernel.head_dim}"
        )
    if isinstance(kernel, LineKernel):
        return "".join(f"{n} x " for n, _ in kernel.outer) + str(kernel.sizes[0])
    return f"{kernel.rows} x {kernel.columns}"


def _quantity(value: float, unit: str) -> str:
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}"
