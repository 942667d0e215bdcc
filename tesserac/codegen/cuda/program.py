"""A planned function as CUDA host code: the launches in order, and the text of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tesserac.codegen import comments
from tesserac.codegen.cpu.exchanges import Exchanges, gradients_made
from tesserac.codegen.cpu.tables import Parameter, data_rows, in_bucket, output_rows
from tesserac.codegen.cuda.expressions import CUDA_TYPE
from tesserac.codegen.cuda.kernels import RUNTIME_NAMES, KernelCatalogue
from tesserac.codegen.cuda.steps import wrapped_call
from tesserac.codegen.names import CppNames, comment_text
from tesserac.codegen.records import Argument, ExchangeKernel, Launch
from tesserac.diagnostics import InternalError
from tesserac.ir.program import Function, Var
from tesserac.passes.placement import batch_size
from tesserac.passes.plan import Plan, StagePlan, rounded


class FunctionRenderer:
    """Text of one planned function. ``label`` is train or infer, ``declared`` the function as the source has it."""

    def __init__(
        self, plan: Plan, declared: Function, parameters: Sequence[Parameter], kernels: KernelCatalogue, label: str,
        exchanges: Exchanges,
    ) -> None:
        if any(stage.fused.values.stage.tiles is not None for stage in plan.stages):
            raise InternalError("the GPU's programs are not cut into tiles")
        self.plan, self.declared, self.parameters, self.kernels, self.label = plan, declared, parameters, kernels, label
        self.exchanges = exchanges
        self.scope = CppNames(parent=kernels.names, reserved=RUNTIME_NAMES)
        self.pointers: list[str] = []
        self.names: dict[Var, str] = {}
        self.workspace = 0
        self.takes_key = False

    def render(self) -> dict[str, Any]:
        """Values for templates/cuda/program.cu.j2."""
        function = self.plan.staged.function
        calls = [line for stage in self.plan.stages for launch in stage.launches for line in self._call(launch, stage)]
        gradients = {p.index for p in self.plan.outer.values() if p.kind == "grad"}
        zeros = [p.member for i, p in enumerate(self.parameters) if i not in gradients] if gradients else []
        batch = batch_size(function)
        text = "\n".join([*self.pointers, *calls])
        shared = rounded(self.plan.shared_bytes)
        return {
            "label": self.label,
            "name": function.name,
            "pointers": self.pointers,
            "calls": calls,
            "zeros": zeros,
            "gradients": bool(gradients),
            "shared_bytes": shared,
            "workspace_bytes": self.workspace,
            "batch": batch or 1,
            "takes_key": self.takes_key,
            "uses_workspace": "(workspace," in text,
            "uses_parameters": "w->" in text,
            "uses_stream": "stream" in text,
            "flops": sum(launch.flops for stage in self.plan.stages for launch in stage.launches),
            "inputs": data_rows(self.declared, batch, self.exchanges.cuts, self.label),
            "outputs": output_rows(self.declared, batch, self.exchanges.cuts, self.label),
        }

    def _call(self, launch: Launch, stage: StagePlan) -> list[str]:
        function = self.kernels.function(launch)
        function.calls += 1
        self.workspace = max(self.workspace, function.emitted.workspace)
        self.takes_key |= function.emitted.takes_key
        arguments = [self._argument(a, stage) for a in launch.passed]
        if isinstance(launch.kernel, ExchangeKernel):
            made = gradients_made(launch, stage, self.plan, self.parameters)
            arguments = [", ".join(self.exchanges.arguments(launch, launch.kernel, made)), *arguments]
        lines = [wrapped_call(step.format(*arguments)) for step in function.emitted.steps]
        place = comments.where(launch)
        return [f"{lines[0]}  // {comment_text(place)}" if place else lines[0], *lines[1:]]

    def _argument(self, argument: Argument, stage: StagePlan) -> str:
        var = argument.var
        if var not in self.names:
            self.names[var] = self._pointer(var, stage)
        return self.names[var] + (f" + {argument.offset}" if argument.offset else "")

    def _pointer(self, var: Var, stage: StagePlan) -> str:
        """The expression for a buffer's start; declares a local pointer where that reads better."""
        values = stage.fused.values
        outer = var
        if var in values.imports:
            outer = values.imports[var].outer
        elif var in values.exports:
            outer = values.exports[var].outer
        place = self.plan.outer.get(outer)
        if place is None:
            raise InternalError(f"{outer} has no place in memory")
        kind = CUDA_TYPE[var.type.dtype]
        if place.kind == "param":
            return f"w->{self.parameters[place.index].member}"
        if place.kind == "grad":
            return f"g->{self.parameters[place.index].member}"
        if place.kind == "bucket":
            return in_bucket(place, self.parameters)
        if place.kind == "input":
            return self._declare(var, f"static_cast<const {kind}*>(call.inputs[{place.index}])", f"const {kind}")
        if place.kind == "output":
            return self._declare(var, f"static_cast<{kind}*>(call.outputs[{place.index}])", kind)
        return self._declare(var, f"at<{kind}>(call.arena, {place.offset})", kind)

    def _declare(self, var: Var, value: str, kind: str) -> str:
        name = self.scope.fresh(var.name)
        self.pointers.append(f"{kind}* const {name} = {value};  // {var.type}")
        return name
