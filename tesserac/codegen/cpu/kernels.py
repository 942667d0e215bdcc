"""The kernel functions of a project: equal kernels are emitted once and called with different pointers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tesserac.codegen.comments import comment, subject
from tesserac.codegen.cpu.expressions import CPP_TYPE
from tesserac.codegen.cpu.products import (
    ProductRenderer,
    render_attention,
    render_exchange,
    render_line,
    render_routing,
    render_transpose,
)
from tesserac.codegen.cpu.rows import RowRenderer
from tesserac.codegen.cpu.transforms import FilterRenderer, TransformRenderer
from tesserac.codegen.jinja import render_template
from tesserac.codegen.names import CppNames
from tesserac.codegen.records import (
    AttentionKernel,
    ContractKernel,
    ExchangeKernel,
    FftKernel,
    FilterKernel,
    GroupedKernel,
    Kernel,
    Launch,
    LineKernel,
    RoutingKernel,
    RowKernel,
    is_ragged,
)
from tesserac.diagnostics import InternalError

PREFIX = {
    "RowKernel": "rows",
    "ContractKernel": "product",
    "AttentionKernel": "attention",
    "TransposeKernel": "transpose",
    "LineKernel": "along",
    "FftKernel": "fft",
    "FilterKernel": "filter",
    "RoutingKernel": "routing",
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
    "rows",
    "begin",
    "end",
    "distance",
    "Planes",
    "Share",
    "share",
    "line",
    "min",
    "max",
    "route",
    "limit",
    "of_expert",
    "gradient_of",
    "expert_tiles",
    "ExpertTile",
    "Part",
    "together",
    "steps",
    "memory",
    "spectrum",
    "count",
    "share_of_rows",
    "share_of_terms",
    "row_share",
    "offsets",
    "number",
    "ranks",
    "axis",
    "exchange",
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
        name = self.names.fresh(f"{_prefix(kernel)}_{subject(kernel)}")
        epilogue = isinstance(kernel, (ContractKernel, FftKernel, FilterKernel))
        inner = ("i", "v") if epilogue else ()  # row and value
        scope = CppNames(parent=self.names, reserved=(*RUNTIME_NAMES, *inner))
        slot_names = [scope.fresh(slot.name) for slot in kernel.slots]
        stores = kernel.stores if isinstance(kernel, (RowKernel, ContractKernel, FftKernel, FilterKernel)) else ()
        nodes = kernel.nodes if isinstance(kernel, (RowKernel, ContractKernel, FftKernel, FilterKernel)) else ()
        nodes = (*kernel.before, *nodes) if isinstance(kernel, FftKernel) else nodes
        first = any(s.across_tiles for s in stores)
        random = any(n.kind == "random" for n in nodes)
        passed = kernel.passed if isinstance(kernel, ExchangeKernel) else range(len(kernel.slots))
        parameters = [
            f"{'' if s.written else 'const '}{CPP_TYPE[s.dtype]}* {n}"
            for s, n in ((kernel.slots[i], slot_names[i]) for i in passed)
        ]
        if isinstance(kernel, AttentionKernel):
            parameters += [f"{self.real}* work", f"{self.real}* kept"]
        if isinstance(kernel, ExchangeKernel):
            where = [] if kernel.op == "all_reduce_end" else ["int axis"]
            parameters = ["Ranks& ranks", *where, *(["int number"] if kernel.talks else []), *parameters]
        parameters += ["long rows"] if is_ragged(kernel) else []
        parameters += ["bool first"] if first else []
        parameters += ["const RandomKey& key", "long tile"] if random else []
        body = self._body(kernel, slot_names, scope, parallel)
        values = {**body[1], "name": name, "parameters": ", ".join(parameters)}
        text = comment(launch, self.lines) + render_template(body[0], **values)
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
        if isinstance(kernel, FftKernel):
            return "cpu/fft.cpp.j2", TransformRenderer(kernel, slot_names, scope, self.real, parallel).render()
        if isinstance(kernel, FilterKernel):
            return "cpu/filter.cpp.j2", FilterRenderer(kernel, slot_names, scope, self.real, parallel).render()
        if isinstance(kernel, LineKernel):
            return "cpu/line.cpp.j2", render_line(kernel, slot_names, scope, parallel)
        if isinstance(kernel, ExchangeKernel):
            return "cpu/exchange.cpp.j2", render_exchange(kernel, slot_names)
        if isinstance(kernel, RoutingKernel):
            return "cpu/line.cpp.j2", render_routing(kernel, slot_names)
        if isinstance(kernel, GroupedKernel):
            raise InternalError("rows of experts that were not cut into tiles")
        return "cpu/transpose.cpp.j2", render_transpose(kernel, slot_names, scope, parallel)


def _prefix(kernel: Kernel) -> str:
    if isinstance(kernel, AttentionKernel) and kernel.backward:
        return "attention_backward"
    if isinstance(kernel, ExchangeKernel):
        return kernel.op
    return PREFIX[type(kernel).__name__]
