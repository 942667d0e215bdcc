"""A planned function as C++: the tile functions, the function that runs the stages, and the text of their calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tesserac.codegen.cpu.expressions import CPP_TYPE
from tesserac.codegen.cpu.kernels import RUNTIME_NAMES, KernelCatalogue, short_name
from tesserac.codegen.cpu.products import render_attention
from tesserac.codegen.cpu.tables import Parameter, data_rows, output_rows
from tesserac.codegen.names import CppNames, comment_text
from tesserac.codegen.records import Argument, AttentionKernel, Launch
from tesserac.diagnostics import InternalError
from tesserac.ir.program import Var
from tesserac.passes.placement import batch_size
from tesserac.passes.plan import Place, Plan, StagePlan, attention_pairs, outer_view, rounded, storage_bytes

KEPT_LIMIT = 8 << 20
"""Bytes of probabilities that the tile in flight may keep from its forward to its backward attention."""


@dataclass
class StageText:
    """Template values of one stage."""

    name: str
    title: str
    pointers: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    tiles: int | None = None
    tile: int = 1
    clears: list[str] = field(default_factory=list)
    sums: list[str] = field(default_factory=list)
    summed_gradients: list[str] = field(default_factory=list)


class FunctionRenderer:
    """Text of one planned function. ``label`` is train or infer."""

    def __init__(self, plan: Plan, parameters: Sequence[Parameter], kernels: KernelCatalogue, label: str) -> None:
        self.plan, self.parameters, self.kernels, self.label = plan, parameters, kernels, label
        self.attentions: list[str] = []
        self.kept: list[str] = []
        self.kernel_rows: dict[str, int] = {}

    def render(self) -> dict[str, Any]:
        """Values for templates/cpu/program.cpp.j2."""
        stages = [self._stage(number, stage) for number, stage in enumerate(self.plan.stages)]
        function = self.plan.staged.function
        flops = sum(
            launch.flops * (stage.fused.values.stage.tiles or 1)
            for stage in self.plan.stages
            for launch in stage.launches
        )
        attentions = list(dict.fromkeys(self.attentions))
        real = self.kernels.real
        work = ", ".join(f"attention_scratch<{real}, {text}>()" for text in attentions)
        batch = self.plan.staged.batch if self.plan.staged.batch > 1 else batch_size(function, least=1)
        return {
            "label": self.label,
            "stages": stages,
            "shared_bytes": self.plan.shared_bytes,
            "flops": flops,
            "scratch_bytes": rounded(self.plan.scratch_bytes),
            "kept": self.kept,
            "batch": batch or 1,
            "name": function.name,
            "work_size": f"(largest({{{work}}}) * sizeof({real}) + 63) / 64 * 64" if work else "0",
            "gradients": any(o.name.startswith("grad:") for o in function.outputs),
            "zeros": self._zero_gradients(),
            "inputs": data_rows(function, batch),
            "outputs": output_rows(function, batch),
        }

    def _zero_gradients(self) -> list[str]:
        """Parameters that the function has no gradient of."""
        have = {p.index for p in self.plan.outer.values() if p.kind == "grad"}
        return [p.member for i, p in enumerate(self.parameters) if i not in have] if have else []

    # -- stages -----------------------------------------------------------------------------------------

    def _stage(self, number: int, stage: StagePlan) -> StageText:
        tiles = stage.fused.values.stage.tiles
        size = stage.fused.values.stage.tile
        text = StageText(f"{self.label}_tile{number if number else ''}", self._title(stage), tiles=tiles, tile=size)
        scope = CppNames(parent=self.kernels.names, reserved=RUNTIME_NAMES)
        names: dict[Var, str] = {}
        pairs = attention_pairs(stage)
        kept = self._kept(stage, pairs)
        body = []
        for index, launch in enumerate(stage.launches):
            arguments = [self._argument(a, stage, names, scope, text, tiles is not None) for a in launch.arguments]
            body.append(self._call(launch, arguments, tiles is not None, kept.get(index, "nullptr")))
        text.calls = body
        if tiles is not None:
            self._reduce(stage, text)
        return text

    def _title(self, stage: StagePlan) -> str:
        item = stage.fused.values.stage
        if item.tiles is None:
            return "once, by all threads"
        return f"{item.tiles} tiles of {item.tile} batch element{'s' if item.tile > 1 else ''}"

    def _kept(self, stage: StagePlan, pairs: dict[int, int]) -> dict[int, str]:
        """Launch -> pointer to its kept probabilities, for the attention pairs that fit."""
        result: dict[int, str] = {}
        total = 0
        if stage.fused.values.stage.tiles is None:
            return result
        for backward, forward in sorted(pairs.items(), key=lambda p: p[1]):
            kernel = stage.launches[forward].kernel
            assert isinstance(kernel, AttentionKernel)
            size = kernel.batch * kernel.heads * kernel.queries * (kernel.keys + 16) * 4
            if total + size > KEPT_LIMIT:
                continue
            total += size
            name = f"kept_{len(self.kept)}"
            self.kept.append(f"{kernel.batch} * attention_kept<{self.kernels.real}, {self._attention(kernel)}>()")
            result[forward] = result[backward] = name
        return result

    def _attention(self, kernel: AttentionKernel) -> str:
        text = f"Attention<{render_attention(kernel, [''] * len(kernel.slots), self.kernels.real)['sizes']}>"
        self.attentions.append(text)
        return text

    def _call(self, launch: Launch, arguments: list[str], tiled: bool, kept: str) -> str:
        function = self.kernels.function(launch, parallel=not tiled)
        if isinstance(launch.kernel, AttentionKernel):
            self._attention(launch.kernel)
            where = (
                kept
                if kept == "nullptr"
                else f"at<{self.kernels.real}>(scratch, k{self.label.capitalize()}{kept.capitalize()})"
            )
            arguments += [f"at<{self.kernels.real}>(scratch, k{self.label.capitalize()}Work)", where]
        arguments += ["first"] if function.takes_first else []
        arguments += ["RandomKey{call.seed, call.step}", "tile" if tiled else "0"] if function.takes_key else []
        number = self.kernels.functions.index(function)
        function.calls += self._times(tiled)
        spans = launch.origin.spans
        where = f"  // {comment_text(short_name(spans[0].file))}:{spans[0].line}" if spans else ""
        return f"TSR_KERNEL({number}, {function.name}({', '.join(arguments)}));{where}"

    def _times(self, tiled: bool) -> int:
        stage = next((s for s in self.plan.staged.stages if s.tiles is not None), None)
        return stage.tiles if tiled and stage is not None and stage.tiles is not None else 1

    def _argument(
        self, argument: Argument, stage: StagePlan, names: dict[Var, str], scope: CppNames, text: StageText, tiled: bool
    ) -> str:
        var = argument.var
        if var not in names:
            names[var] = self._pointer(var, stage, scope, text, tiled)
        return names[var] + (f" + {argument.offset}" if argument.offset else "")

    def _pointer(self, var: Var, stage: StagePlan, scope: CppNames, text: StageText, tiled: bool) -> str:
        """The expression for a buffer's start; declares a local pointer where that reads better."""
        values = stage.fused.values
        kind = CPP_TYPE[var.type.dtype]
        if var in stage.partial:
            return self._declare(scope, text, var, f"at<{kind}>(scratch, {stage.partial[var].offset})", kind)
        if var in stage.places:
            return self._declare(scope, text, var, f"at<{kind}>(scratch, {stage.places[var].offset})", kind)
        outer, axis = var, None
        if var in values.imports:
            outer, axis = values.imports[var].outer, values.imports[var].axis
        elif var in values.exports:
            outer, axis = values.exports[var].outer, values.exports[var].axis
        place = self.plan.outer.get(outer)
        if place is None:
            raise InternalError(f"{outer} has no place in memory")
        base, constant = self._outer(place, kind)
        if tiled and place.kind == "grad" and axis is not None:  # a part of the result, not a term of it
            base = f"reinterpret_cast<Parameters*>(call.grads)->{self.parameters[place.index].member}"
        if axis is not None:
            view = outer_view(self.plan.outer, outer)
            step = view.strides[axis] * (outer.type.sizes[axis] // self.plan.staged.batch) * values.stage.tile
            base = f"{base} + tile * {step}"
        if place.kind == "param" or (place.kind == "grad" and axis is None):
            return base
        return self._declare(scope, text, var, base, f"const {kind}" if constant else kind)

    def _outer(self, place: Place, kind: str) -> tuple[str, bool]:
        if place.kind == "param":
            return f"w.{self.parameters[place.index].member}", True
        if place.kind == "grad":
            return f"g->{self.parameters[place.index].member}", False
        if place.kind == "input":
            return f"static_cast<const {kind}*>(call.inputs[{place.index}])", True
        if place.kind == "output":
            return f"static_cast<{kind}*>(call.outputs[{place.index}])", False
        return f"at<{kind}>(call.shared, {place.offset})", False

    def _declare(self, scope: CppNames, text: StageText, var: Var, value: str, kind: str) -> str:
        name = scope.fresh(var.name)
        text.pointers.append(f"{kind}* const {name} = {value};  // {var.type}")
        return name

    def _reduce(self, stage: StagePlan, text: StageText) -> None:
        """Sums of the tiles' terms that are not gradients, and what idle threads have to clear."""
        values = stage.fused.values
        for export in values.stage.exports:
            if not export.partial:
                continue
            view = values.storage(export.local)
            size = storage_bytes(view, export.local.type.dtype.itemsize)
            place = self.plan.outer[export.outer]
            kind = CPP_TYPE[export.outer.type.dtype]
            count = size // export.outer.type.dtype.itemsize
            if place.kind == "grad":
                text.clears.append(
                    f"fill_rows(g->{self.parameters[place.index].member}, 1, {count}, {count}, {kind}(0));"
                )
                text.summed_gradients.append(f"g->{self.parameters[place.index].member}")
                continue
            offset = stage.partial[export.local].offset
            target, _ = self._outer(place, kind)
            text.clears.append(f"fill_rows(at<{kind}>(scratch, {offset}), 1, {count}, {count}, {kind}(0));")
            distance = f"k{self.label.capitalize()}Scratch / sizeof({kind})"
            text.sums.append(
                f"sum_workers({target}, at<{kind}>(call.scratch, {offset}), {distance}, call.workers, {count});"
                f"  // {comment_text(export.outer.name)}"
            )
        if len(text.summed_gradients) == len(self.parameters) > 1:
            real = self.kernels.real
            text.summed_gradients = ["*g"]
            text.clears = [line for line in text.clears if "(g->" not in line]
            text.clears.append(
                f"fill_rows(reinterpret_cast<{real}*>(g), 1, long(sizeof *g / sizeof({real})), 0, {real}(0));"
            )
