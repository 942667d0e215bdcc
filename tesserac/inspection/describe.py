"""``model.json``: an emitted project described for programs, and the rows of the README's index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tesserac import __version__
from tesserac.codegen.comments import short_name, sizes
from tesserac.codegen.cpu.project import EntryPlans
from tesserac.codegen.cpu.tables import declared_parameters, parameters_of
from tesserac.codegen.names import comment_text
from tesserac.inspection.kernels import EmittedKernel, launches
from tesserac.ir.program import Function, Input
from tesserac.passes.plan import Plan, rounded


def describe_entry(plans: EntryPlans, executable: str, kernels: Sequence[EmittedKernel]) -> dict[str, Any]:
    """One entry: its parameters, functions and kernels."""
    parameters = parameters_of(plans.entry)
    declared = dict(plans.entry.roles())
    functions = {role: _function(plan, declared[role]) for role, plan in plans.roles()}
    size = sum(-(-p.elements * p.type.dtype.itemsize // 64) * 64 for p in parameters)
    return {
        "label": plans.entry.label,
        "executable": executable,
        "parameter_bytes": size,
        "parameters": [_tensor(item) for item in declared_parameters(plans.entry)],
        **_mesh(plans),
        "functions": functions,
        "kernels": [_kernel(k) for k in kernels],
    }


def _mesh(plans: EntryPlans) -> dict[str, Any]:
    """The grid, and whose rates or which file decided the plan; nothing for one device."""
    meshed = plans.meshed
    if meshed is None:
        return {}
    return {"mesh": str(meshed.mesh), "ranks": len(meshed.mesh.devices), "planned": meshed.planned}


def description(unit: str, source: str, library: str, entries: Sequence[dict[str, Any]]) -> str:
    """The text of ``model.json``."""
    whole = {
        "unit": unit,
        "source": short_name(source),
        "tesserac": __version__,
        "library": library,
        "entries": list(entries),
    }
    return json.dumps(whole, indent=1, ensure_ascii=True) + "\n"


def source_lines(kernel: EmittedKernel) -> list[str]:
    """``gpt.py:14`` for every line a kernel comes from, each once."""
    return list(dict.fromkeys(f"{short_name(s.file)}:{s.line}" for s in kernel.spans))


def readme_entries(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same entries with texts that are safe in a Markdown table."""
    return [
        {
            **entry,
            "label": cell(entry["label"]),
            "mesh": cell(entry["mesh"]) if "mesh" in entry else "",
            "kernels": [
                {
                    **kernel,
                    "sources": cell(", ".join(kernel["sources"][:4])),
                    "formula": cell(kernel["formulas"][0], 90),
                }
                for kernel in entry["kernels"]
            ],
        }
        for entry in entries
    ]


def cell(text: str, limit: int = 160) -> str:
    """Text as code in one cell of a Markdown table."""
    return "`" + comment_text(text, limit).replace("`", "'").replace("|", "\\|") + "`"


def _function(plan: Plan, function: Function) -> dict[str, Any]:
    flops = sum(use.launch.flops * use.times for use in launches(plan, ""))
    return {
        "inputs": [_tensor(i) for i in function.data],
        "outputs": [
            {"name": o.name, "type": str(o.var.type)} for o in function.outputs if not o.name.startswith("grad:")
        ],
        "flops": flops,
        "launches": sum(len(s.launches) for s in plan.stages),
        "shared_bytes": plan.shared_bytes,
        "scratch_bytes_per_thread": rounded(plan.scratch_bytes),
        "tiles": max((s.tiles or 1 for s in plan.staged.stages), default=1),
    }


def _tensor(item: Input) -> dict[str, Any]:
    return {"name": item.path, "dtype": str(item.var.type.dtype), "shape": list(item.var.type.sizes)}


def _kernel(kernel: EmittedKernel) -> dict[str, Any]:
    return {
        "name": kernel.name,
        "file": kernel.file,
        "line": kernel.first,
        "sources": source_lines(kernel),
        "formulas": list(kernel.launch.origin.formulas),
        "sizes": sizes(kernel.launch.kernel),
        "flops": kernel.launch.flops,
        "bytes": kernel.launch.bytes,
        "calls": kernel.calls,
    }
