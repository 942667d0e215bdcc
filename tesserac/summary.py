"""What `tesserac build` says at its end: what was built, how long it took, where it is, what to try next."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Any

from tesserac.build import Result
from tesserac.codegen.comments import quantity
from tesserac.console import Console
from tesserac.diagnostics import some


def print_summary(console: Console, result: Result, emit: frozenset[str]) -> None:
    """The summary; nothing under ``--quiet``."""
    for entry in result.model.get("entries", ()):
        for line in entry_lines(entry):
            console.say(line)
    if result.written.edited:
        console.say(f"replaced your changes in {some(result.written.edited)}")
    console.say(_state(result))
    console.say(_times(console, result))
    console.say(f"in {result.folder}/: {', '.join(_products(result, emit))}")
    folder = shlex.quote(str(result.folder))
    if "exe" in emit and result.executables:
        program = f"{folder}/{result.executables[0]}"
        console.say(f"next: {program if program.startswith(('/', '.')) else './' + program} selftest")
    elif "cuda" in emit:
        console.say(f"next: make -C {folder} compile-only ARCH=sm_90a")
    elif "cpp" in emit:
        console.say(f"next: make -C {folder}")


def entry_lines(entry: Mapping[str, Any]) -> list[str]:
    """One entry in two or three lines."""
    numbers = sum(_size(p["shape"]) for p in entry["parameters"])
    kernels = f", {len(entry['kernels'])} kernels" if entry["kernels"] else ""
    lines = [
        f"{entry['label']}: {len(entry['parameters'])} parameters ({numbers:,} numbers, "
        f"{quantity(entry['parameter_bytes'], 'B')}){kernels}"
    ]
    if "mesh" in entry:
        lines.append(f"  mesh:   {entry['mesh']}, planned {entry['planned']}")
    for role, function in entry["functions"].items():
        tiles = f" in {function['tiles']} tiles" if function["tiles"] > 1 else ""
        scratch = function["scratch_bytes_per_thread"]
        lines.append(
            f"  {role + ':':<7} {quantity(function['flops'], 'FLOP')} per call, "
            f"{function['launches']} launches{tiles}; "
            f"memory {quantity(function['shared_bytes'], 'B')} shared"
            + (f", {quantity(scratch, 'B')} per thread" if scratch else "")
        )
    return lines


def print_times(console: Console, result: Result) -> None:
    """Seconds of every pass, and their sum."""
    if not result.passes:
        console.say("no pass ran: the folder was built from the same source and options")
        return
    for name, seconds in result.passes.items():
        console.say(f"  {seconds * 1e3:8.1f} ms  {name}")
    console.say(f"  {sum(result.passes.values()) * 1e3:8.1f} ms  all")


def _state(result: Result) -> str:
    written = result.written
    if result.reused or not (written.changed or written.removed):
        made = "" if result.made or "compile" not in result.seconds else ", and so is what make builds from it"
        return f"nothing to write: the folder is up to date{made}"
    removed = f", {len(written.removed)} of an earlier build removed" if written.removed else ""
    return f"{len(written.changed)} files written{removed}"


def _times(console: Console, result: Result) -> str:
    parts = []
    for name, seconds in result.seconds.items():
        shown = f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
        parts.append(f"{name} {shown}")
    return "time: " + ", ".join([*parts, f"{time.perf_counter() - console.start:.2f} s in all"])


def _products(result: Result, emit: frozenset[str]) -> list[str]:
    products = []
    if "exe" in emit:
        products += result.executables
    if "lib" in emit and result.model:
        products.append(result.model["library"])
    for kind in sorted(emit & {"ptx", "sass"}):
        products += sorted(path.name for path in result.folder.glob(f"*.{kind}"))
    if result.model:
        products.append("README.md (which kernel is where)")
    return products or ["the text files"]


def _size(shape: list[int]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size
