"""One entry as C++ files: kernels, program, reference, main."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tesserac import __version__
from tesserac.codegen.comments import short_name, where
from tesserac.codegen.cpu.exchanges import Exchanges
from tesserac.codegen.cpu.expressions import CPP_TYPE
from tesserac.codegen.cpu.kernels import RUNTIME_NAMES, KernelCatalogue, KernelFunction
from tesserac.codegen.cpu.program import FunctionRenderer
from tesserac.codegen.cpu.tables import parameter_rows, parameters_of, table_rows
from tesserac.codegen.jinja import render_template
from tesserac.codegen.lifting import lifted_wavelets
from tesserac.codegen.names import CppNames, cpp_double
from tesserac.codegen.records import ExchangeKernel, FftKernel, FilterKernel, RoutingKernel
from tesserac.codegen.wrap import wrap_cpp
from tesserac.diagnostics import InternalError
from tesserac.ir.program import Entry, OptimizerSpec
from tesserac.ir.types import DType
from tesserac.passes.plan import Plan

if TYPE_CHECKING:
    from tesserac.passes.mesh.entry import Meshed


@dataclass(frozen=True, slots=True)
class EntryPlans:
    """An entry with the plans of its functions: on a mesh those of one rank."""

    entry: Entry
    meshed: Meshed | None = None
    train: Plan | None = None
    infer: Plan | None = None
    validate: Plan | None = None

    def roles(self) -> Iterator[tuple[str, Plan]]:
        """The plans there are, in the order of ``Entry.roles``."""
        for role, plan in (("train", self.train), ("infer", self.infer), ("validate", self.validate)):
            if plan is not None:
                yield role, plan


def render_entry(plans: EntryPlans, *, stem: str, source: str, lines: Mapping[str, list[str]]) -> dict[str, str]:
    """``{stem}.kernels.h`` and ``{stem}.program.cpp``. ``stem`` is a C++ identifier."""
    real = CPP_TYPE[_real_type(plans)]
    kernels = KernelCatalogue(real, CppNames(reserved=RUNTIME_NAMES), lines)
    parameters = parameters_of(plans.entry, plans.meshed)
    declared = dict(plans.entry.roles())
    exchanges = Exchanges(plans.meshed)
    functions = [
        FunctionRenderer(plan, declared[label], parameters, kernels, label, exchanges).render()
        for label, plan in plans.roles()
    ]
    rows = parameter_rows(parameters, exchanges.cuts)
    exchanges.list_buckets(list(table_rows(parameters, exchanges.cuts)))
    common: dict[str, Any] = {
        "title": plans.entry.label,
        "version": __version__,
        "source": short_name(source),
        "stem": stem,
        "space": stem,
        "real": real,
    }
    program = render_template(
        "cpu/program.cpp.j2",
        **common,
        functions=functions,
        parameters=parameters,
        parameter_rows=rows,
        exchanges=exchanges,
        kernels=[_kernel_row(f) for f in kernels.functions],
        has_train=plans.train is not None,
        has_infer=plans.infer is not None,
        has_validate=plans.validate is not None,
        optimizer=_optimizer(plans.entry.optimizer),
        mixed=plans.entry.mixed,
    )
    return {
        f"{stem}.kernels.h": wrap_cpp(
            render_template(
                "cpu/kernels.cpp.j2",
                **common,
                kernels=kernels.functions,
                bf16=_reads_bf16(kernels.functions),
                wavelets=lifted_wavelets(f.kernel for f in kernels.functions),
                fft=any(isinstance(f.kernel, (FftKernel, FilterKernel)) for f in kernels.functions),
                ragged=any("share_of_" in f.text for f in kernels.functions),
                experts=any(isinstance(f.kernel, RoutingKernel) for f in kernels.functions),
                exchange=any(isinstance(f.kernel, ExchangeKernel) for f in kernels.functions),
            )
        ),
        f"{stem}.program.cpp": wrap_cpp(program),
    }


def _real_type(plans: EntryPlans) -> DType:
    """The one floating type that an entry's kernels compute in (bf16 is a form of storage)."""
    found = {
        v.type.dtype
        for _, plan in plans.roles()
        for v in plan.staged.function.variables()
        if v.type.dtype.is_float and v.type.dtype is not DType.BF16
    }
    if len(found) > 1:
        raise InternalError(f"floating types {sorted(map(str, found))} in one entry")
    return found.pop() if found else DType.F32


def _reads_bf16(functions: Sequence[KernelFunction]) -> bool:
    return any(slot.dtype is DType.BF16 for function in functions for slot in function.kernel.slots)


def _kernel_row(function: KernelFunction) -> dict[str, Any]:
    formula = "; ".join(function.launch.origin.formulas[:3])
    return {
        "name": function.name,
        "source": where(function.launch),
        "formula": formula,
        "flops": function.launch.flops,
        "bytes": function.launch.bytes,
        "calls": function.calls,
    }


def _optimizer(spec: OptimizerSpec | None) -> str:
    if spec is None:
        return "{nullptr, 0, 0, 0, 0, 0, 0}"
    settings = dict(spec.settings)
    defaults = {"lr": 1e-3, "momentum": 0.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    values = ", ".join(cpp_double(settings.get(key, value)) for key, value in defaults.items())
    return f'{{"{spec.kind}", {values}}}'
