"""What `verify` and `tune` share: which kernels, and whether they run on a GPU or under the emulation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from tesserac.commands.program_options import Source, program_options, read
from tesserac.console import Console

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--target", type=click.Choice(["cuda"]), default="cuda", help="What the kernels are emitted for."),
    click.option("--kernel", metavar="NAME", help="This kernel, or those whose names begin so, alone."),
    click.option("--emulate", is_flag=True, help="On this processor, even where there is a GPU."),
    click.option("--arch", metavar="sm_80,...", help="GPUs to compile for  [default: this machine's]"),
    program_options,
    click.option("-j", "--jobs", type=click.IntRange(1, 1024), default=None, help="Compilations at a time."),
)


def kernel_options(function: F) -> F:
    """Adds the flags; the command receives ``kernel``, and the rest as keywords for `prepared`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def prepared(
    console: Console,
    file: str,
    use: str,
    *,
    target: str,
    emulate: bool,
    arch: str | None,
    jobs: int | None,
    **flags: Any,
) -> tuple[Source, Path, list[str], int]:
    """The source, the folder to build in (below ``build/<use>``), variables for make, and compilations at a time."""
    from tesserac.build import processors
    from tesserac.nvcc import architectures, find_nvcc, locate
    from tesserac.verification.library import has_device

    names = architectures(arch)
    if isinstance(names, str):
        raise click.BadOptionUsage("arch", names)
    on_device = not emulate and has_device()
    if on_device and locate() is None:
        find_nvcc()  # says what is missing
    source = read(console, file, **flags)
    options = replace(source.options, target=target, emulate=not on_device, architectures=names)
    variables = find_nvcc(names).variables if on_device else []
    folder = Path("build") / use / f"{source.stem}-{_digest(os.path.abspath(file), options)}"
    return replace(source, options=options), folder, variables, jobs or processors()


def _digest(path: str, options: object) -> str:
    return hashlib.sha256(repr((path, options)).encode("utf-8", "surrogateescape")).hexdigest()[:8]
