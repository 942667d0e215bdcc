"""What elaboration settled: inputs, parameters and outputs of every entry."""

from __future__ import annotations

from collections.abc import Iterator

from tesserac.ir.program import Function, Input, Program


def summary_line(program: Program) -> str:
    """``1 entry, 52 parameters (843,520 numbers), 214 equations``."""
    parameters = {
        (e.label, i.path): i.var.type.size
        for e in program.entries
        for _, f in e.roles()
        for i in f.parameters
    }
    equations = sum(len(f.equations) for f in program.functions())
    return (
        f"{_count(len(program.entries), 'entry', 'entries')}, "
        f"{_count(len(parameters), 'parameter')} ({sum(parameters.values()):,} numbers), "
        f"{_count(equations, 'equation')}"
    )


def signature_lines(program: Program) -> Iterator[str]:
    """Every entry with its functions: inputs, parameters and outputs with their types and source lines."""
    for entry in program.entries:
        yield entry.label + (": mixed precision (matrix products read bf16, all else is fp32)" if entry.mixed else "")
        for role, function in entry.roles():
            yield f"  {role}"
            yield from _function(function)


def _function(function: Function) -> Iterator[str]:
    width = max((len(i.path) for i in function.inputs), default=0)
    for title, items in (("input", function.data), ("parameter", function.parameters)):
        for item in items:
            yield f"    {title:<9} {item.path:<{width}}  {item.var.type}{_origin(item)}"
    for output in function.outputs:
        if not output.name.startswith("grad:"):
            yield f"    {'output':<9} {output.name:<{width}}  {output.var.type}"


def _origin(item: Input) -> str:
    known = "" if item.span.file == "<none>" else f"  ({item.span.file}:{item.span.line})"
    return known + (f" {item.init.kind}" if item.init is not None else "")


def _count(number: int, singular: str, plural: str | None = None) -> str:
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
