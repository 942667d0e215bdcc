"""One entry as CUDA files: kernels and program; and the Makefile of a folder of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tesserac import __version__
from tesserac.codegen import comments
from tesserac.codegen.comments import short_name
from tesserac.codegen.cpu.exchanges import Exchanges
from tesserac.codegen.cpu.expressions import CPP_TYPE
from tesserac.codegen.cpu.project import EntryPlans
from tesserac.codegen.cpu.tables import Parameter, parameter_rows, parameters_of, table_rows
from tesserac.codegen.cuda.kernels import RUNTIME_NAMES, KernelCatalogue, KernelFunction
from tesserac.codegen.cuda.program import FunctionRenderer
from tesserac.codegen.cuda.schedule import Schedule
from tesserac.codegen.cuda.steps import CUFFT_HEADER
from tesserac.codegen.jinja import render_template
from tesserac.codegen.lifting import lifted_wavelets
from tesserac.codegen.names import CppNames, cpp_double
from tesserac.diagnostics import InternalError
from tesserac.ir.program import OptimizerSpec
from tesserac.ir.types import DType

_USUAL_HEADERS = ("attention", "fft", "grouped", "lines", "matmul", "philox", "reduce", "route", "wavelet")


@dataclass(frozen=True)
class Rendered:
    """An entry's kernels, and the values of its functions for the template of the program."""

    kernels: KernelCatalogue
    functions: list[dict[str, Any]]
    parameters: list[Parameter]
    exchanges: Exchanges

    @property
    def headers(self) -> list[str]:
        """What the kernels include of runtime/cuda, by stem: what all programs do, and what some kernel needs."""
        own = {header for function in self.kernels.functions for header in function.emitted.headers}
        return sorted({*_USUAL_HEADERS, *own} - ({"fft"} if CUFFT_HEADER in own else set()))


def rendered(
    plans: EntryPlans, lines: Mapping[str, list[str]], schedules: Mapping[str, Schedule] = {}
) -> Rendered:
    """Emits the kernels of an entry; names and order depend on the plans alone. ``schedules``: see KernelCatalogue."""
    kernels = KernelCatalogue(CPP_TYPE[_real_type(plans)], CppNames(reserved=RUNTIME_NAMES), lines, schedules)
    parameters = parameters_of(plans.entry, plans.meshed)
    declared = dict(plans.entry.roles())
    exchanges = Exchanges(plans.meshed)
    functions = [
        FunctionRenderer(plan, declared[label], parameters, kernels, label, exchanges).render()
        for label, plan in plans.roles()
    ]
    exchanges.list_buckets(list(table_rows(parameters, exchanges.cuts)))
    return Rendered(kernels, functions, parameters, exchanges)


def render_entry_cuda(
    plans: EntryPlans,
    *,
    stem: str,
    source: str,
    lines: Mapping[str, list[str]],
    schedules: Mapping[str, Schedule] = {},
) -> dict[str, str]:
    """``{stem}.kernels.cuh`` and ``{stem}.program.cu`` of an entry that was scheduled with ``Tile(enabled=False)``.

    ``stem`` is a C++ identifier, ``source`` the file that comments name, ``lines`` the source lines by file,
    ``schedules`` what kernels choose, by their digest.
    """
    return entry_files(rendered(plans, lines, schedules), plans, stem=stem, source=source)


def entry_files(found: Rendered, plans: EntryPlans, *, stem: str, source: str) -> dict[str, str]:
    """The same of an entry whose kernels have been emitted."""
    kernels, functions, parameters = found.kernels, found.functions, found.parameters
    common: dict[str, Any] = {
        "title": plans.entry.label,
        "version": __version__,
        "source": short_name(source),
        "stem": stem,
        "space": stem,
        "real": kernels.real,
    }
    program = render_template(
        "cuda/program.cu.j2",
        **common,
        functions=functions,
        parameters=parameters,
        parameter_rows=parameter_rows(parameters, found.exchanges.cuts),
        exchanges=found.exchanges,
        kernels=[_kernel_row(f) for f in kernels.functions],
        roles=[label for label, _ in plans.roles()],
        optimizer=_optimizer(plans.entry.optimizer),
        mixed=plans.entry.mixed,
    )
    return {
        f"{stem}.kernels.cuh": render_template(
            "cuda/kernels.cuh.j2",
            **common,
            kernels=kernels.functions,
            headers=found.headers,
            wavelets=lifted_wavelets(f.launch.kernel for f in kernels.functions),
        ),
        f"{stem}.program.cu": program,
    }


def render_cuda_makefile(
    entries: Sequence[Mapping[str, str]],
    *,
    title: str,
    architectures: Sequence[str] = (),
    emulate: bool = False,
    ranks: bool = False,
    cufft: bool = False,
) -> str:
    """The Makefile of a folder: for nvcc and ``architectures`` (none: of this machine's GPU), or for the emulation.

    An entry has the ``stem`` of its files and the name ``file`` of its executable. ``ranks``: some are on meshes;
    ``cufft``: some call it.
    """
    return render_template(
        "cuda/Makefile.emulated.j2" if emulate else "cuda/Makefile.j2",
        entries=list(entries),
        names=[entry["file"] for entry in entries],
        architectures=list(architectures) or ["native"],
        title=title,
        ranks=ranks,
        cufft=cufft,
        version=__version__,
    )


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


def _kernel_row(function: KernelFunction) -> dict[str, Any]:
    return {
        "name": function.name,
        "source": comments.where(function.launch),
        "formula": "; ".join(function.launch.origin.formulas[:3]),
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
