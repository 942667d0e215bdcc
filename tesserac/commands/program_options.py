"""The flags that settle what a source leaves open, shared by all commands that read one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from tesserac.console import Console
from tesserac.driver import CompileOptions
from tesserac.elaborate import Options
from tesserac.parser import read_source

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Source:
    """A source as the command line names it: its path and text, files beside it that count, options that go with it."""

    path: str
    text: str
    sidecars: tuple[Path, ...]
    options: CompileOptions

    @property
    def stem(self) -> str:
        """The file's name without folder and suffix."""
        return Path(self.path).stem or "program"


@dataclass(frozen=True, slots=True)
class Assignments:
    """A click callback that reads ``NAME=VALUE`` texts into pairs; ``left`` or ``right`` have to be integers."""

    example: str
    left: bool = False
    right: bool = False

    def __call__(self, ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[Any, ...]:
        """The pairs; a usage error that shows how they are written otherwise."""
        return tuple(self._pair(value, ctx, param) for value in values)

    def _pair(self, value: str, ctx: click.Context, param: click.Parameter) -> tuple[str | int, str | int]:
        name, equals, right = value.partition("=")
        name = name.strip()
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not of the form NAME=VALUE, e.g. {self.example}", ctx, param)
        for text, wanted in ((name, self.left), (right, self.right)):
            if wanted and not _is_integer(text):
                raise click.BadParameter(f"{text!r} in {value!r} is not an integer, e.g. {self.example}", ctx, param)
        return (int(name) if self.left else name), (int(right) if self.right else right)


def _is_integer(text: str) -> bool:
    digits = text.strip().removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= 18


_OPTIONS = (
    click.option("--entry", metavar="LABEL", help="Compile this entry alone."),
    click.option(
        "--shape",
        "shapes",
        multiple=True,
        metavar="NAME=SIZES",
        callback=Assignments("input=4x64x32"),
        help="Shape of a batch key, an input or a parameter (repeatable).",
    ),
    click.option(
        "--dim",
        "dims",
        multiple=True,
        metavar="NAME=N",
        callback=Assignments("B=8", right=True),
        help="Size of a named dimension (repeatable).",
    ),
    click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="NAME=VALUE",
        callback=Assignments("D=64"),
        help="Another value for a constant at the top of the source (repeatable).",
    ),
    click.option(
        "--set-literal",
        "set_literals",
        multiple=True,
        metavar="OLD=NEW",
        callback=Assignments("4096=64", left=True, right=True),
        help="Another value for an integer wherever the source has it (repeatable).",
    ),
    click.option("--mesh", metavar="none|AXIS=N,...", help="The mesh of devices, in place of the source's."),
    click.option("--loss", metavar="KIND:OUTPUT,TARGET", help="Make a module trainable: mse:Y,target."),
    click.option(
        "--precision",
        default="fp32",
        show_default=True,
        metavar="fp32|fp64|bf16",
        help="Floating-point type of the program.",
    ),
)


def program_options(function: F) -> F:
    """Adds the flags; the command receives them as keywords for `read`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def read(
    console: Console,
    path: str,
    *,
    entry: str | None,
    shapes: tuple[tuple[str, str], ...],
    dims: tuple[tuple[str, int], ...],
    sets: tuple[tuple[str, str], ...],
    set_literals: tuple[tuple[int, int], ...],
    mesh: str | None,
    loss: str | None,
    precision: str,
) -> Source:
    """Reads a source and the ``model.toml`` and ``plan.toml`` beside it; CompileError when one cannot be read."""
    console.stage = "reading the source"
    text = read_source(path)
    console.sources[path] = text
    sidecar = Path(path).with_name("model.toml")
    toml = read_source(sidecar) if os.path.lexists(sidecar) else None
    sidecars = [sidecar] if toml is not None else []
    planning = None
    beside = Path(path).with_name("plan.toml")
    if os.path.lexists(beside):
        from tesserac.passes.mesh.settings import read_settings

        planning = read_settings(read_source(beside), str(beside))
        mesh = mesh if mesh is not None else planning.mesh
        sidecars.append(beside)
    options = Options(sets, set_literals, shapes, dims, mesh, entry, loss, precision, toml)
    return Source(path, text, tuple(sidecars), CompileOptions(options, planning=planning))
