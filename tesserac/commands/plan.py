"""`tesserac plan`: how a program is cut over a mesh, what that sends and holds, and why."""

from __future__ import annotations

import json
from typing import Any

import click

from tesserac.commands.program_options import program_options, read
from tesserac.console import Console

SHARD = ("auto", "explain", "strict")


class Size(click.ParamType[float]):
    """Bytes: ``25MB``, ``1.5GiB``, ``4096``."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number of bytes; a usage error for anything else."""
        from tesserac.passes.mesh.settings import parse_bytes

        found = value if isinstance(value, float) else parse_bytes(str(value))
        if found is None or (found == 0 and param is not None and param.name == "memory"):
            self.fail(f"{value!r} is not a size such as 25MB or 1.5GiB", param, ctx)
        return found


@click.command("plan")
@click.argument("file")
@program_options
@click.option("--hw", default="cpu-local", show_default=True, metavar="NAME|FILE", help="The machine to plan for.")
@click.option("--toml", "settings", metavar="FILE", help="Roles, pins and limits  [default: plan.toml beside FILE]")
@click.option("--lock", metavar="FILE", help="Take the plan from this lock file instead of searching one.")
@click.option("--write-lock", metavar="FILE", help="Write the plan to a lock file, for `--lock`.")
@click.option("--expect", metavar="TEMPLATE", help="Exit 1 unless collectives are as in megatron, megatron-sp or dp.")
@click.option("--shard", type=click.Choice(SHARD), default="explain", show_default=True,
              help="auto: a summary; explain: everything; strict: refuse collectives that nobody asked for.")
@click.option("--deny-replicated", type=Size(), help="Refuse parameters of this size that lie whole on every rank.")
@click.option("--max-collective-bytes", type=Size(), help="Refuse collectives of larger tensors.")
@click.option("--memory", type=Size(), help="Bytes that one rank may hold  [default: the machine's]")
@click.option("--infer", is_flag=True, help="Plan inference instead of training.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.pass_obj
def command(console: Console, /, file: str, **flags: Any) -> None:
    """Plans FILE over its mesh, or over --mesh, without building anything.

    Any mesh can be planned for, whatever this machine has: --mesh dp=128,tp=8 --hw h100-ib400.
    """
    from tesserac.inspection.mesh_report import PlanOptions, plan_report

    own = ("hw", "settings", "lock", "write_lock", "expect", "shard", "deny_replicated", "max_collective_bytes",
           "memory", "infer", "as_json")
    options = PlanOptions(**{name: flags.pop(name) for name in own})
    source = read(console, file, **flags)
    console.stage = "planning"
    report = plan_report(source, options)
    console.diagnostics(report.notes)
    console.show(json.dumps(report.data, indent=2) if options.as_json else report.text)
    if report.errors:
        from tesserac.diagnostics import CompileError

        raise CompileError(report.errors)
