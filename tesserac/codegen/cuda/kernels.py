"""The CUDA functions of a project: equal kernels are emitted once and launched with different pointers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tesserac.codegen import comments
from tesserac.codegen.cuda.exchanges import emit_exchange
from tesserac.codegen.cuda.experts import emit_grouped, emit_routing
from tesserac.codegen.cuda.layout import BLOCK, Layout, count, is_pointwise, layout, row_distance
from tesserac.codegen.cuda.passes import Extra
from tesserac.codegen.cuda.pointwise import LANES, POINTWISE_BLOCKS, PointwiseRenderer, fits_vectors
from tesserac.codegen.cuda.products import split
from tesserac.codegen.cuda.reductions import render_reduction
from tesserac.codegen.cuda.rows import RowRenderer
from tesserac.codegen.cuda.schedule import Choice, Schedule, choices, digest, unfit
from tesserac.codegen.cuda.single import emit_attention, emit_line, emit_product, emit_transpose
from tesserac.codegen.cuda.steps import Emitted, Workspace, pointer_type, wrapped
from tesserac.codegen.cuda.tensor_cores import emit_on_tensor_cores, takes_tensor_cores
from tesserac.codegen.cuda.transforms import TransformEmitter
from tesserac.codegen.in_place import in_place_pairs
from tesserac.codegen.jinja import render_template
from tesserac.codegen.names import CppNames
from tesserac.codegen.records import (
    AttentionKernel,
    ContractKernel,
    ExchangeKernel,
    FftKernel,
    GroupedKernel,
    Kernel,
    Launch,
    LineKernel,
    RoutingKernel,
    RowKernel,
    Slot,
    Store,
    TransposeKernel,
)
from tesserac.codegen.stage_values import PIECE
from tesserac.codegen.views import dense_strides
from tesserac.diagnostics import InternalError
from tesserac.tuning import misfit

_NAMES = """
tsr Two load2 store2 Four load4 store4 Neighbours at Call Context Parameters Matmul Epilogue matmul w g call
context stream workspace key c
u x y t row lane team tile terms out value across down outer from to int64_t uint64_t random_uniform
random_normal infinity not_a_number exp log sin cos tanh sqrt rsqrt erf pow atan2 fabs floor blockIdx threadIdx
gridDim blockDim shared warpSize dim3 warp_sum warp_max warp_min block_sum block_max block_min combine_rows
combine_blocks scatter_rows SumOf MaxOf MinOf attention_forward attention_backward attention_forward_tensor_cores
attention_backward_tensor_cores flash mma ptx attention RandomKey tsr_max tsr_min
tsr_relu tsr_sign tsr_sigmoid tsr_softplus tsr_silu tsr_dsilu tsr_gelu tsr_dgelu tsr_gelu_tanh tsr_dgelu_tanh
slice of_slice s train_run infer_run validate_run kParameters kTrain kInfer kValidate kKernels kTrainInputs
kTrainOutputs kInferInputs kValidateInputs kValidateOutputs kValidateArena kValidateWorkspace open_device Device
Haar Db2 Db4 wavelet_line iwavelet_line work outside Complex Factors FftForm FftPlan FftTables fft swapped conjugate
Grouped Experts OwnRows grouped_contract grouped_outer grouped_sum grouped_number grouped_table route limit
ranks axis number exchange comm OnStream Grid Reduce terms in kMesh kCollectives Cut Collective Mesh
CudaDevice Program Function Tensor Kernel kInferOutputs kTrainArena kInferArena kTrainWorkspace kInferWorkspace
"""
RUNTIME_NAMES = tuple(_NAMES.split())
"""Identifiers that emitted code uses itself; names of the source give way to them."""
PARAMETERS = "@parameters@"
PREFIX = {
    "RowKernel": "rows",
    "ContractKernel": "product",
    "AttentionKernel": "attention",
    "TransposeKernel": "transpose",
    "LineKernel": "along",
    "FftKernel": "transform",
    "RoutingKernel": "routing",
    "GroupedKernel": "experts",
}


@dataclass
class KernelFunction:
    """One emitted function: ``emitted`` says what it is and how to launch it; ``calls`` per run of the program.

    ``digest`` is the hash of what it computes, ``choices`` what it may choose freely, ``schedule`` what was chosen.
    """

    name: str
    text: str
    emitted: Emitted
    launch: Launch
    digest: str
    choices: tuple[Choice, ...]
    schedule: Schedule
    calls: int = 0


@dataclass
class KernelCatalogue:
    """Emits kernels on first use; ``lines`` are the source lines by file, for the comments.

    ``schedules`` are what kernels choose, by digest, where it is not the usual.
    """

    real: str
    names: CppNames
    lines: Mapping[str, list[str]]
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    functions: list[KernelFunction] = field(default_factory=list)
    _known: dict[tuple[Kernel, bool], KernelFunction] = field(default_factory=dict)

    def function(self, launch: Launch) -> KernelFunction:
        """The function that carries out a launch."""
        blank = tuple(replace(slot, name="") for slot in launch.kernel.slots)
        unit = PIECE if isinstance(launch.kernel, ContractKernel | GroupedKernel) else LANES
        aligned = all(argument.offset % unit == 0 for argument in launch.arguments)
        key = replace(launch.kernel, slots=blank), aligned
        if key not in self._known:
            self._known[key] = self._emit(launch, aligned)
            self.functions.append(self._known[key])
        return self._known[key]

    def _emit(self, launch: Launch, aligned: bool) -> KernelFunction:
        kernel = launch.kernel
        backward = "_backward" if isinstance(kernel, AttentionKernel) and kernel.backward else ""
        prefix = kernel.op if isinstance(kernel, ExchangeKernel) else PREFIX[type(kernel).__name__]
        name = self.names.fresh(f"{prefix}{backward}_{comments.subject(kernel)}")
        scope = CppNames(parent=self.names, reserved=RUNTIME_NAMES)
        found = choices(kernel, 8 if self.real == "double" else 4)
        content = digest(kernel, aligned, self.real)
        schedule = self.schedules.get(content, {})
        if wrong := unfit(schedule, found):
            raise misfit(f"the tuning file does not fit kernel {name}: {wrong}", [])
        schedule = {choice.name: schedule.get(choice.name, choice.usual) for choice in found}
        emitted = self._body(kernel, name, scope, aligned, schedule)
        text = comments.comment(launch, self.lines) + emitted.text
        return KernelFunction(name, text, emitted, launch, content, found, schedule)

    def _body(self, kernel: Kernel, name: str, scope: CppNames, aligned: bool, schedule: Schedule) -> Emitted:
        if isinstance(kernel, RowKernel):
            return RowEmitter(kernel, name, self.names, scope, self.real, aligned, schedule).emit()
        if isinstance(kernel, ContractKernel):
            parts = split(kernel)
            if takes_tensor_cores(kernel, parts):
                return emit_on_tensor_cores(kernel, name, self.names, self.real, aligned, schedule)
            emitted, rest, workspace = emit_product(kernel, parts, name, self.real)
            if rest is not None:
                own = self.names.fresh(f"{name}_epilogue")
                inner = RowEmitter(
                    rest, own, self.names, scope, self.real, aligned, schedule, workspace, parts.target
                ).emit()
                raw = emitted.raw or f"at<{self.real}>(workspace, {workspace.of('product')})"
                text = "// its epilogue, on the product in memory\n" + inner.text
                steps = [s.replace(f"{{{len(kernel.slots)}}}", raw) for s in inner.steps]
                return replace(
                    inner,
                    text=emitted.text + text,
                    steps=emitted.steps + steps,
                    workspace=workspace.size,
                    headers=emitted.headers + inner.headers,
                )
            return emitted
        if isinstance(kernel, AttentionKernel):
            return emit_attention(kernel, name, self.real, schedule)
        if isinstance(kernel, LineKernel):
            return emit_line(kernel, name, scope, schedule)
        if isinstance(kernel, TransposeKernel):
            return emit_transpose(kernel, name, scope, schedule)
        if isinstance(kernel, FftKernel):
            return TransformEmitter(kernel, name, scope, self.real, schedule).emit()
        if isinstance(kernel, RoutingKernel):
            return emit_routing(kernel)
        if isinstance(kernel, GroupedKernel):
            return emit_grouped(kernel, name, aligned)
        if isinstance(kernel, ExchangeKernel):
            return emit_exchange(kernel, name, scope)
        raise InternalError(f"no CUDA form of {type(kernel).__name__}")


@dataclass
class RowEmitter:
    """Text and launches of a row kernel. ``target``: the written slot in whose memory the last one, a product, lies."""

    kernel: RowKernel
    name: str
    names: CppNames
    scope: CppNames
    real: str
    aligned: bool
    schedule: Schedule
    workspace: Workspace = field(default_factory=Workspace)
    target: int = -1

    def emit(self) -> Emitted:
        """The kernel, its second phases, and how to launch them."""
        if any(s.across_tiles for s in self.kernel.stores):
            raise InternalError("the GPU's programs are not cut into tiles")
        slot_names = [self.scope.fresh(slot.name) for slot in self.kernel.slots]
        takes_key = any(n.kind == "random" for n in self.kernel.nodes)
        if is_pointwise(self.kernel):
            vectors = self.aligned and fits_vectors(self.kernel)
            block, blocks = self.schedule["block"], self.schedule.get("blocks", POINTWISE_BLOCKS)
            pointwise = PointwiseRenderer(
                self.kernel, slot_names, self.scope, self.real, vectors, block=block, most_blocks=blocks
            )
            values = pointwise.render()
            text = render_template("cuda/pointwise.cu.j2", name=self.name, parameters=PARAMETERS, **values)
            text, used = self._with_parameters(text, slot_names, [], takes_key)
            steps = [self._launch(pointwise.blocks, block, used, [], takes_key)]
            return Emitted(text, steps, self.workspace.size, takes_key)
        lost = len(self.kernel.slots) - 1 if self.target >= 0 else -1
        plan = layout(self.kernel, self.schedule.get("block", BLOCK), lost)
        rows = RowRenderer(self.kernel, slot_names, self.scope, self.real, plan)
        values = rows.render()
        places = {key: self._place(f"{key}", e) for key, e in rows.extras.items()}
        extras = [f"{e.kind}* __restrict__ {e.name}" for e in rows.extras.values()]
        text = render_template(
            "cuda/rows.cu.j2",
            name=self.name,
            parameters=PARAMETERS,
            width_steps=values["columns"],
            needs_team=bool(values["finish_columns"]),
            unrolled_thread=plan.team == 1 and bool(rows.saved),
            **values,
        )
        text, used = self._with_parameters(text, slot_names, extras, takes_key)
        steps = [self._launch(plan.blocks, plan.block, used, list(places.values()), takes_key)]
        if all(phase is not None and phase.kind == "direct" for phase in plan.phases):
            text, steps = "", []  # all there is to do is to add up what lies in memory
        for number, store in enumerate(self.kernel.stores):
            second, step = self._second(number, store, plan, places)
            text += ("\n" if text and second else "") + second
            steps += step
        return Emitted(text, steps, self.workspace.size, takes_key)

    def _place(self, name: str, extra: Extra) -> str:
        """A pointer to a new piece of the workspace."""
        size = extra.elements * (8 if extra.kind == "double" else 4)
        return f"at<{extra.kind}>(workspace, {self.workspace.add(name, size)})"

    def _with_parameters(
        self, text: str, slot_names: list[str], extras: list[str], takes_key: bool
    ) -> tuple[str, list[int]]:
        """The text with its parameter list, and the slots in it: those that the text mentions.

        Pointers do not alias, except those that the memory plan may have given one buffer.
        """
        words = set(re.findall(r"\w+", text))
        used = [i for i, name in enumerate(slot_names) if name in words]
        shared = {i for pair in in_place_pairs(self.kernel) for i in pair}
        shared |= {self.target, len(self.kernel.slots) - 1} if self.target >= 0 else set()
        pointers = [
            f"{pointer_type(s)} {'' if i in shared else '__restrict__ '}{slot_names[i]}"
            for i, s in enumerate(self.kernel.slots)
            if i in used
        ]
        key = ["const RandomKey* __restrict__ key"] if takes_key else []
        return text.replace(PARAMETERS, wrapped(pointers + extras + key)), used

    def _launch(self, blocks: int, block: int, used: list[int], extras: list[str], takes_key: bool) -> str:
        arguments = [f"{{{i}}}" for i in used] + extras + (["key"] if takes_key else [])
        return f"{self.name}<<<{blocks}, {block}, 0, stream>>>({', '.join(arguments)});"

    def _second(
        self, number: int, store: Store, plan: Layout, places: Mapping[tuple[int, str], str]
    ) -> tuple[str, list[str]]:
        """The second phase of a store: emitted text and launches."""
        phase = plan.phases[number]
        if phase is None:
            return "", []
        operation = {"sum": "SumOf", "max": "MaxOf", "min": "MinOf"}.get(store.mode, "")
        target, width, rows = f"{{{store.slot}}}", self.kernel.domain[-1], self.kernel.domain[:-1]
        if phase.kind == "total":
            return "", [
                f"combine_blocks<{operation}><<<1, 256, 0, stream>>>"
                f"({places[number, 'partial']}, {plan.blocks}, {target});"
            ]
        if phase.kind == "columns":
            stride = store.strides[-1] or 1
            return "", [
                f"combine_rows<{operation}><<<{-(-width // 32)}, dim3(32, 8), 0, stream>>>"
                f"({places[number, 'partial']}, {plan.teams}, "
                f"{width}, {stride}, {target});"
            ]
        source = f"{{{phase.source}}}" if phase.source >= 0 else places[number, "terms"]
        if phase.kind == "scatter":
            distance = row_distance(phase.strides) if phase.source >= 0 else width
            table = store.extent[0]
            grid = f"dim3({table}, {-(-width // 128)})" if width > 128 else str(table)
            return "", [
                f"scatter_rows<<<{grid}, 128, 0, stream>>>"
                f"({places[number, 'place']}, {source}, {count(rows)}, {distance}, {width}, "
                f"{target}, {store.row_stride}, {store.strides[-1] or 1});"
            ]
        full = self.kernel.nodes[store.node].extent == "full" or store.strides[-1] != 0
        domain = self.kernel.domain if full else rows
        strides = store.strides if full else store.strides[:-1]
        name = self.names.fresh(f"{self.name}_{self._slot(store).name}")
        values = render_reduction(domain, phase.strides or dense_strides(domain), strides, store.mode, self.real)
        text = render_template("cuda/reduce.cu.j2", name=name, title=f"second phase of {self.name}", **values)
        return text, [f"{name}<<<{values['blocks']}, {BLOCK}, 0, stream>>>({source}, {target});"]

    def _slot(self, store: Store) -> Slot:
        return self.kernel.slots[store.slot]
