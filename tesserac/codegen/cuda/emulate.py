"""CUDA C++ as a host compiler takes it, for the emulation: the three constructs that are not C++, line for line.

``kernel<<<grid, block, bytes, stream>>>(a, b)`` becomes a call of ``launch``; ``__shared__ T x[N], y;`` become
references into the block's shared memory; ``extern __shared__ T x[];`` a pointer to its dynamic part. Everything else
CUDA has is declared by ``runtime/emulation``. Lines keep their numbers and files their names, so that reports point at
the source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tesserac.codegen.names import cpp_string
from tesserac.diagnostics import InternalError

FOLDER = "emulation"
"""Where a project keeps what only the emulation compiles."""

ENGINE = ("runtime/emulation/engine.cpp", "runtime/emulation/race.cpp")
"""Files of the runtime that the emulation is made of, with what they include."""

_REPLACED = {f"runtime/cuda/{name}.cuh": f'#pragma once\n#include "runtime/emulation/{header}.h"\n'
             for name, header in (("ptx", "ptx"), ("ptx_sm90", "ptx_sm90"), ("nccl_library", "nccl"))}
"""Headers of inline assembly and of libraries, and what stands in their place."""

_NAMESPACE = "::tsr::emulation"
_OPAQUE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
_SHARED = re.compile(r"(extern\s+)?\b__shared__\s+(?:(?:__align__|alignas)\s*\(([^()]*)\)\s*)?([^;]*);")
_DECLARATOR = re.compile(r"^(.*?)\b(\w+)\s*((?:\[[^\[\]]*\]\s*)*)$", re.DOTALL)
_ASM = re.compile(r"\basm\b")


def emulated_files(files: Mapping[str, str]) -> dict[str, str]:
    """What to compile in place of the CUDA files (``.cu``, ``.cuh``) of a project, by path: ``emulation/<path>``.

    ``.cu`` files become ``.cpp`` files. Their quoted includes find each other below ``emulation/``, and everything else
    where it was.
    """
    found = {}
    for path, text in files.items():
        stem, _, suffix = path.rpartition(".")
        if path in _REPLACED:
            found[f"{FOLDER}/{path}"] = _REPLACED[path]
        elif suffix in ("cu", "cuh"):
            found[f"{FOLDER}/{stem}.cpp" if suffix == "cu" else f"{FOLDER}/{path}"] = emulated(text, path)
    return found


def emulated(text: str, path: str) -> str:
    """One CUDA file as C++. ``path`` is the name that reports give it."""
    masked = _mask(text)
    if _ASM.search(masked):
        raise InternalError(f"{path} has inline assembly, which belongs into a header that the emulation replaces")
    edits = [*_shared_edits(text, masked), *_launch_edits(text, masked)]
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + "\n" * text.count("\n", start, end) + text[end:]
    return f"#line 1 {cpp_string(path)}\n{text}"


def _mask(text: str) -> str:
    """The text with comments and literals blanked, character for character."""
    return _OPAQUE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def _shared_edits(text: str, masked: str) -> list[tuple[int, int, str]]:
    edits = []
    for match in _SHARED.finditer(masked):
        declarators = _split(text[match.start(3) : match.end(3)], of_types=True)
        first = _DECLARATOR.match(declarators[0])
        if first is None:
            raise InternalError(f"a __shared__ declaration that the emulation cannot read: {match[0]}")
        kind, parts = first[1].strip(), []
        for number, declarator in enumerate(declarators):
            found = _DECLARATOR.match(declarator)
            if found is None or (number and found[1].strip()):
                raise InternalError(f"a __shared__ declaration that the emulation cannot read: {match[0]}")
            name, sizes = found[2], found[3].strip()
            if match[1]:
                parts.append(f"{kind}* const {name} = reinterpret_cast<{kind}*>({_NAMESPACE}::dynamic_shared());")
                continue
            key = "[] { static char key; return &key; }()"  # one per instantiation of a template, as the variable is
            parts.append(
                f"{kind} (&{name}){sizes} = {_NAMESPACE}::Shared{{{key}, {cpp_string(name)}, {match[2] or 0}}};"
            )
        edits.append((match.start(), match.end(), " ".join(parts)))
    return edits


def _launch_edits(text: str, masked: str) -> list[tuple[int, int, str]]:
    edits, at = [], masked.find("<<<")
    while at >= 0:
        begin, end = _name_before(masked, at), masked.index(">>>", at)
        opened = masked.index("(", end)
        if masked[end + 3 : opened].strip():
            raise InternalError(f"a launch without arguments at {text[begin:opened]!r}")
        name, config = text[begin:at].strip(), _split(text[at + 3 : end])
        grid, block, size, stream = config + ["0", "nullptr"][len(config) - 2 :]
        empty = masked[opened + 1 :].lstrip().startswith(")")
        place = f"{cpp_string(name)}, __FILE__, __LINE__"
        launch = f"{_NAMESPACE}::Launch{{{place}, {grid}, {block}, size_t({size}), {stream}}}"
        call = f"[](auto... a) {{ {name}(a...); }}"
        edits.append((begin, opened + 1, f"{_NAMESPACE}::launch({launch}, {call}{'' if empty else ', '}"))
        at = masked.find("<<<", end)
    return edits


def _name_before(masked: str, at: int) -> int:
    """Where the kernel's name begins that ends at ``at``: an identifier with scopes and template arguments."""
    begin, angles, rounds = at - (len(masked[:at]) - len(masked[:at].rstrip())), 0, 0
    while begin > 0 and (angles or rounds or re.match(r"[\w:>]", masked[begin - 1])):
        begin -= 1
        rounds += (masked[begin] == ")") - (masked[begin] == "(")
        if rounds == 0:
            angles += (masked[begin] == ">") - (masked[begin] == "<")
    return begin


def _spans(text: str, *, of_types: bool = False) -> list[tuple[int, int]]:
    """The parts of a list between commas that no bracket encloses; ``of_types``: nor template arguments."""
    spans, depth, start = [], 0, 0
    opening, closing = ("([{<", ")]}>") if of_types else ("([{", ")]}")
    for i, c in enumerate(text):
        depth += (c in opening) - (c in closing)
        if c == "," and depth == 0:
            spans.append((start, i))
            start = i + 1
    return [*spans, (start, len(text))]


def _split(text: str, *, of_types: bool = False) -> list[str]:
    return [text[a:b].strip() for a, b in _spans(text, of_types=of_types)]
