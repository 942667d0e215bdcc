"""A planned function as C++: the tile functions, the function that runs the stages, and the text of their calls."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tesserac.codegen.comments import experts_text, short_name, where
from tesserac.codegen.cpu.early import early_updates
from tesserac.codegen.cpu.exchanges import Exchanges, gradients_made
from tesserac.codegen.cpu.expressions import CPP_TYPE
from tesserac.codegen.cpu.kernels import RUNTIME_NAMES, KernelCatalogue
from tesserac.codegen.cpu.products import render_attention
from tesserac.codegen.cpu.tables import Parameter, data_rows, in_bucket, output_rows
from tesserac.codegen.names import CppNames, comment_text, cpp_string
from tesserac.codegen.records import (
    Argument,
    AttentionKernel,
    ContractKernel,
    ExchangeKernel,
    Launch,
    RowKernel,
    is_ragged,
)
from tesserac.diagnostics import InternalError
from tesserac.ir.program import Function, Var
from tesserac.passes.placement import batch_size
from tesserac.passes.plan import Place, Plan, StagePlan, attention_pairs, outer_view, rounded, storage_bytes

KEPT_LIMIT = 12 << 20
"""Bytes of probabilities that the tile in flight may keep from its forward to its backward attention.

8 heads of 512 x 512 floats: a step of one block took 333 ms of processor time with them kept, 357 without (Zen 4).
"""


def _form(stage: StagePlan) -> str:
    """Stages that are functions of their own are called tiles, or experts."""
    return "experts" if stage.fused.values.stage.experts is not None else "tile"


@dataclass
class StageText:
    """Template values of one stage: ``lines`` are the launches, each after the pointers it is the first to use."""

    name: str
    title: str
    lines: list[str] = field(default_factory=list)
    tiles: int | None = None
    tile: int = 1
    experts: dict[str, Any] | None = None
    early: tuple[tuple[int, ...], ...] = ()
    clears: list[str] = field(default_factory=list)
    sums: list[str] = field(default_factory=list)
    pointers: list[str] = field(default_factory=list)
    sums_gradients: bool = False

    @property
    def own_parameters(self) -> str:
        """The constant that lists, by expert, the rows of the parameters in ``early``."""
        return f"k{self.name.title().replace('_', '')}Parameters"

    def uses(self, name: str) -> bool:
        """Whether the launches refer to a parameter of the tile function."""
        pattern = re.compile(rf"(?<![.>\w]){name}\b")  # not a member of that name
        return any(pattern.search(line.partition("//")[0]) for line in self.lines)

    def take_pointers(self) -> None:
        """Moves the pointers declared since the last call of this method to the lines."""
        if self.pointers and self.lines:
            self.lines.append("")
        self.lines += self.pointers
        self.pointers = []


class FunctionRenderer:
    """Text of one planned function. ``label`` is train or infer, ``declared`` the function as the source has it."""

    def __init__(
        self, plan: Plan, declared: Function, parameters: Sequence[Parameter], kernels: KernelCatalogue, label: str,
        exchanges: Exchanges,
    ) -> None:
        self.exchanges = exchanges
        self.plan, self.declared, self.parameters, self.kernels, self.label = plan, declared, parameters, kernels, label
        self.prefix = f"k{label.capitalize()}"
        self.attentions: dict[str, str] = {}
        self.kept: list[str] = []
        self.early = early_updates(plan, parameters, exchanges.cuts)
        self.early_gradients = {each for updates in self.early.values() for each in updates.exports}

    def render(self) -> dict[str, Any]:
        """Values for templates/cpu/program.cpp.j2."""
        stages = [self._stage(number, stage) for number, stage in enumerate(self.plan.stages)]
        function = self.plan.staged.function
        flops = sum(
            launch.flops * stage.fused.values.stage.calls
            for stage in self.plan.stages
            for launch in stage.launches
        )
        batch = batch_size(function)
        return {
            "label": self.label,
            "prefix": self.prefix,
            "stages": stages,
            "shared_bytes": self.plan.shared_bytes,
            "flops": flops,
            "scratch_bytes": rounded(self.plan.scratch_bytes),
            "attentions": [(alias, text) for text, alias in self.attentions.items()],
            "kept": self.kept,
            "batch": batch or 1,
            "one_batch": batch is not None,
            "name": function.name,
            "gradients": any(o.name.startswith("grad:") for o in function.outputs),
            "one_arena": self.plan.one_arena,
            "updates_early": bool(self.early),
            "all_tiles": self._needs_all_tiles(),
            "zeros": self._zero_gradients(),
            "choices": self._choices(),
            "inputs": data_rows(self.declared, batch, self.exchanges.cuts, self.label),
            "outputs": output_rows(self.declared, batch, self.exchanges.cuts, self.label),
        }

    def _needs_all_tiles(self) -> bool:
        """Whether a stage reads all of what tiles make: then a part of the batch takes all tiles."""
        stages = self.plan.staged.stages
        made = {e.outer for s in stages if s.tiles is not None for e in s.exports}
        return any(item.outer in made and item.axis is None for s in stages for item in s.imports)

    def _choices(self) -> list[str]:
        """Rows of the table of choices."""
        producer = {v: e for e in self.plan.staged.function.equations for v in e.results}
        rows = []
        for var in self.plan.choices:
            sizes, span = var.type.sizes, producer[var].span
            source = cpp_string(f"{short_name(span.file)}:{span.line}")
            rows.append(f"{{{cpp_string(var.name)}, {source}, DType::{var.type.dtype}, "
                        f"{math.prod(sizes[:-1])}, {sizes[-1]}, {self.plan.outer[var].offset}}}")
        return rows

    def _zero_gradients(self) -> list[str]:
        """Parameters that the function has no gradient of."""
        have = {p.index for p in self.plan.outer.values() if p.kind == "grad"}
        return [p.member for i, p in enumerate(self.parameters) if i not in have] if have else []

    # -- stages -----------------------------------------------------------------------------------------

    def _stage(self, number: int, stage: StagePlan) -> StageText:
        tiles = stage.fused.values.stage.tiles
        size = stage.fused.values.stage.tile
        alike = [s for s in self.plan.stages[: number + 1] if _form(s) == _form(stage)]
        suffix = len(alike) if len(alike) > 1 else ""
        text = StageText(f"{self.label}_{_form(stage)}{suffix}", self._title(stage), tiles=tiles, tile=size)
        text.experts = self._experts(stage)
        text.early = self.early[number].rows if number in self.early else ()
        scope = CppNames(parent=self.kernels.names, reserved=RUNTIME_NAMES)
        names: dict[Var, str] = {}
        kept = self._kept(stage)
        started: set[Var] = set()
        if any(isinstance(launch.kernel, AttentionKernel) for launch in stage.launches):
            real = self.kernels.real
            text.pointers.append(f"{real}* const work = at<{real}>(scratch, {self.prefix}Work);  // attention's tiles")
        for index, launch in enumerate(stage.launches):
            arguments = [self._argument(a, stage, names, scope, text) for a in launch.passed]
            first = self._first(launch, stage, started)
            call = self._call(launch, arguments, stage, first, kept.get(index, "nullptr"))
            text.take_pointers()
            text.lines.append(call)
        if tiles is not None:
            self._reduce(stage, text)
        return text

    def _first(self, launch: Launch, stage: StagePlan, started: set[Var]) -> str:
        """What a call passes for ``first``: later terms of a sum that several launches add to never start it anew."""
        kernel = launch.kernel
        item = stage.fused.values.stage
        start = "tile.first" if item.experts is not None else "first" if item.tiles is not None else "true"
        if not isinstance(kernel, (RowKernel, ContractKernel)):
            return start
        exports = stage.fused.values.exports
        sums = {exports[launch.arguments[s.slot].var].outer for s in kernel.stores if s.across_tiles}
        again = sums & started
        started |= sums
        if again and again != sums:
            raise InternalError(f"a kernel starts some of its sums over tiles and continues others: {launch.origin}")
        return "false" if again else start

    def _title(self, stage: StagePlan) -> str:
        item = stage.fused.values.stage
        if item.experts is not None:
            return f"tiles of at most {item.tile} rows of {experts_text(item.experts)}"
        if item.tiles is None:
            return "once, by all threads"
        return f"{item.tiles} tiles of {item.tile} batch element{'s' if item.tile > 1 else ''}"

    def _experts(self, stage: StagePlan) -> dict[str, Any] | None:
        """What the loop over tiles of rows needs: the experts, where their rows start, and where all rows end."""
        experts = stage.fused.values.stage.experts
        if experts is None:
            return None
        kind = CPP_TYPE[experts.offsets.type.dtype]
        base, _ = self._outer(self.plan.outer[experts.offsets], kind)
        return {
            "offsets": f"const {kind}* const offsets = {base};",
            "ids": experts.ids,
            "count": experts.count,
            "rows": experts.rows,
        }

    def _kept(self, stage: StagePlan) -> dict[int, str]:
        """Launch -> pointer to its kept probabilities, for the pairs of attention and its backward that fit."""
        result: dict[int, str] = {}
        total = 0
        if stage.fused.values.stage.tiles is None:
            return result
        for backward, forward in sorted(attention_pairs(stage).items(), key=lambda p: p[1]):
            kernel = stage.launches[forward].kernel
            assert isinstance(kernel, AttentionKernel)
            element = kernel.slots[0].dtype.itemsize
            size = kernel.batch * kernel.heads * kernel.queries * (kernel.keys + 16) * element
            if total + size > KEPT_LIMIT:
                continue
            total += size
            times = f"{kernel.batch} * " if kernel.batch > 1 else ""
            where = f"at<{self.kernels.real}>(scratch, {self.prefix}Kept_{len(self.kept)})"
            self.kept.append(f"{times}attention_kept<{self.kernels.real}, {self._attention(kernel)}>()")
            result[forward] = result[backward] = where
        return result

    def _attention(self, kernel: AttentionKernel) -> str:
        """The alias of an attention's type in this function."""
        text = f"Attention<{render_attention(kernel, [''] * len(kernel.slots), self.kernels.real)['sizes']}>"
        number = len(self.attentions)
        return self.attentions.setdefault(text, f"{self.label.capitalize()}Attention{number or ''}")

    def _call(self, launch: Launch, arguments: list[str], stage: StagePlan, first: str, kept: str) -> str:
        item = stage.fused.values.stage
        function = self.kernels.function(launch, parallel=item.tiles is None)
        if isinstance(launch.kernel, AttentionKernel):
            self._attention(launch.kernel)
            arguments += ["work", kept]
        if isinstance(launch.kernel, ExchangeKernel):
            made = gradients_made(launch, stage, self.plan, self.parameters)
            arguments = self.exchanges.arguments(launch, launch.kernel, made) + arguments
        arguments += ["tile.rows"] if is_ragged(launch.kernel) else []
        arguments += [first] if function.takes_first else []
        if function.takes_key:
            arguments += ["RandomKey{call.seed, call.step}", "tile" if item.tiles is not None else "0"]
        number = self.kernels.functions.index(function)
        function.calls += item.calls
        line = where(launch)
        remark = f"  // {comment_text(line)}" if line else ""
        once = "if (tile.first) " if item.experts is not None and not is_ragged(launch.kernel) else ""
        return f"{once}TSR_KERNEL({number}, {function.name}({', '.join(arguments)}));{remark}"

    # -- buffers ----------------------------------------------------------------------------------------

    def _argument(
        self, argument: Argument, stage: StagePlan, names: dict[Var, str], scope: CppNames, text: StageText
    ) -> str:
        var = argument.var
        export = stage.fused.values.exports.get(var)
        owner = export.outer if export is not None and export.partial else var  # terms of one sum share a buffer
        if owner not in names:
            names[owner] = self._pointer(var, stage, scope, text)
        return names[owner] + (f" + {argument.offset}" if argument.offset else "")

    def _pointer(self, var: Var, stage: StagePlan, scope: CppNames, text: StageText) -> str:
        """The expression for a buffer's start; declares a local pointer where that reads better."""
        values = stage.fused.values
        kind = CPP_TYPE[var.type.dtype]
        own = stage.partial.get(var) or stage.places.get(var)
        if own is not None:
            named = values.exports[var].outer if var in stage.partial else var
            memory = "scratch" if own.kind == "scratch" else "call.shared"
            return self._declare(scope, text, named, f"at<{kind}>({memory}, {own.offset})", kind)
        crossing = values.imports.get(var) or values.exports.get(var)
        outer, axis = (crossing.outer, crossing.axis) if crossing is not None else (var, None)
        if crossing is not None and crossing.each:
            return self._own(var, crossing.each, scope, text)
        place = self.plan.outer.get(outer)
        if place is None:
            raise InternalError(f"{outer} has no place in memory")
        base, constant = self._outer(place, kind)
        if text.tiles is not None and place.kind in ("grad", "bucket") and axis is not None:  # a part, not a term
            base = base.replace("g->", "reinterpret_cast<Parameters*>(call.grads)->", 1)
        if axis is not None and values.stage.experts is not None:
            step = outer_view(self.plan.outer, outer).strides[axis]
            base += " + tile.row" + (f" * {step}" if step != 1 else "")
        elif axis is not None:
            view = outer_view(self.plan.outer, outer)
            step = view.strides[axis] * (outer.type.sizes[axis] // self.plan.staged.batch) * values.stage.tile
            base = f"{base} + tile * {step}"
        if place.kind == "param" or (place.kind in ("grad", "bucket") and axis is None):
            return base
        return self._declare(scope, text, var, base, f"const {kind}" if constant else kind)

    def _own(self, var: Var, each: Sequence[Var], scope: CppNames, text: StageText) -> str:
        """The pointer of the tile's expert among those of all experts of the stage."""
        kind = CPP_TYPE[var.type.dtype]
        places = [self.plan.outer[outer] for outer in each]
        bases = [self._outer(place, kind) for place in places]
        pointed = f"const {kind}" if all(constant for _, constant in bases) else kind
        listed = ", ".join(base for base, _ in bases)
        if tuple(each) in self.early_gradients:
            return self._declare(scope, text, var, f"gradient_of<{pointed}>(call, tile, {{{listed}}})", pointed)
        return self._declare(scope, text, var, f"of_expert<{pointed}>(tile, {{{listed}}})", pointed)

    def _outer(self, place: Place, kind: str) -> tuple[str, bool]:
        """Start of a buffer that outlives its stage, and whether it is only read."""
        if place.kind == "param":
            return f"w.{self.parameters[place.index].member}", True
        if place.kind == "grad":
            return f"g->{self.parameters[place.index].member}", False
        if place.kind == "bucket":
            return in_bucket(place, self.parameters), False
        if place.kind == "input":
            return f"static_cast<const {kind}*>(call.inputs[{place.index}])", True
        if place.kind == "output":
            return f"static_cast<{kind}*>(call.outputs[{place.index}])", False
        return f"at<{kind}>(call.shared, {place.offset})", False

    def _declare(self, scope: CppNames, text: StageText, var: Var, value: str, kind: str) -> str:
        name = scope.fresh(var.name)
        text.pointers.append(f"{kind}* const {name} = {value};  // {var.type}")
        return name

    # -- sums over the tiles ----------------------------------------------------------------------------

    def _reduce(self, stage: StagePlan, text: StageText) -> None:
        """Sums of the threads' terms, and what a thread without tiles has to clear."""
        gradients: list[int] = []
        for export in {e.outer: e for e in stage.fused.values.stage.exports if e.partial}.values():
            place = self.plan.outer[export.outer]
            if place.kind == "grad" and export.local not in stage.partial:
                gradients.append(place.index)
                continue
            kind = CPP_TYPE[export.outer.type.dtype]
            view = stage.fused.values.storage(export.local)
            size = storage_bytes(view, export.local.type.dtype.itemsize)
            count = size // export.outer.type.dtype.itemsize
            offset = stage.partial[export.local].offset
            target, _ = self._outer(place, kind)
            start = f"scratch + {offset}" if offset else "scratch"
            text.clears.append(f"std::memset({start}, 0, {size});  // {comment_text(export.outer.name)}")
            text.sums.append(
                f"sum_workers({target}, at<{kind}>(call.scratch, {offset}), {self.prefix}Scratch / sizeof({kind}), "
                f"call.workers, {count});  // {comment_text(export.outer.name)}"
            )
        text.sums_gradients = bool(gradients)
        if len(gradients) == len(self.parameters) > 1:
            text.clears.append("std::memset(own, 0, sizeof *own);")
            start = f"reinterpret_cast<{self.kernels.real}*>(g)"
            text.sums.append(f"sum_workers({start}, {start}, distance, call.workers, distance);  // all gradients")
            return
        for item in (self.parameters[index] for index in gradients):
            text.clears.append(f"std::memset(own->{item.member}, 0, sizeof own->{item.member});")
            text.sums.append(
                f"sum_workers(g->{item.member}, g->{item.member}, distance, call.workers, {item.elements});"
            )
