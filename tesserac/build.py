"""`tesserac build`: source to folder to program, doing only what has not been done before."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tesserac import __version__
from tesserac.console import Console
from tesserac.diagnostics import CompileError, Diagnostics
from tesserac.folder import Folder, Written
from tesserac.foreign import parse_json
from tesserac.resources import runtime_dir, templates_dir

if TYPE_CHECKING:
    from tesserac.commands.program_options import Source
    from tesserac.driver import Project

KINDS = ("ast", "ir", "cpp", "cuda", "ptx", "sass", "exe", "lib")
"""What ``--emit`` may name."""

CUDA_KINDS = frozenset(("cuda", "ptx", "sass"))
"""Those that ask for ``--target cuda`` without further ado."""


@dataclass(frozen=True, slots=True)
class Request:
    """One build: ``emit`` names what to produce, ``jobs`` compilations run at a time (0: one per processor)."""

    source: Source
    folder: Path
    emit: frozenset[str]
    jobs: int = 0
    verbose: bool = False
    time_passes: bool = False


@dataclass
class Result:
    """What a build did. ``model`` is the content of model.json (empty without sources)."""

    folder: Path
    written: Written
    model: Mapping[str, Any]
    made: bool = False
    reused: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    passes: Mapping[str, float] = field(default_factory=dict)

    @property
    def executables(self) -> list[str]:
        """File names of the executables."""
        return executables_of(self.model)


def executables_of(model: Mapping[str, Any]) -> list[str]:
    """File names of the executables that a description lists."""
    return [entry["executable"] for entry in model.get("entries", ()) if entry["executable"]]


def build(request: Request, console: Console) -> Result:
    """Brings the folder up to date and, where asked, makes its targets.

    CompileError: the user's source or the folder; ToolchainError: no compiler, or it failed.
    """
    options = request.source.options
    if request.emit & {"exe", "lib", "ptx", "sass"}:
        from tesserac.toolchain import find_toolchain

        find_toolchain()  # before any work is done
        if options.target == "cuda" and not options.emulate:
            from tesserac.nvcc import find_disassembler, find_nvcc

            nvcc = find_nvcc(options.architectures)
            if "sass" in request.emit:
                find_disassembler(nvcc)
    inputs = _inputs_digest(request)
    folder = Folder(request.folder)
    start = time.perf_counter()
    if folder.is_current(inputs):
        result = Result(request.folder, Written((), (), ()), _model(request.folder), reused=True)
        console.stage = "writing the folder"
        with folder.locked():
            if result.model:
                folder.put_if_changed(*_depfile(request, result.model))
            result.seconds["source"] = time.perf_counter() - start
            _make(request, result, console)
        return result
    files, project = _files(request, console)
    console.diagnostics(d for d in project.warnings if request.verbose or d.severity != "note") if project else None
    model = json.loads(files["model.json"]) if "model.json" in files else {}
    console.stage = "writing the folder"
    loose = dict([_depfile(request, model)] if model else [])
    with folder.locked():
        written = folder.write({**files, **loose}, inputs, loose)
        result = Result(request.folder, written, model, passes=project.seconds if project else {})
        if project:
            result.seconds["check"] = project.seconds["parse and elaborate"]
        result.seconds["source"] = time.perf_counter() - start
        _make(request, result, console)
    return result


def _files(request: Request, console: Console) -> tuple[dict[str, str], Project | None]:
    """Every file that the build asks for."""
    from tesserac.driver import compile_source, front_end, unit_name

    source, emit = request.source, request.emit
    files: dict[str, str] = {}
    if emit & {"ast", "ir"}:
        from tesserac.inspection.stages import ast_text, graph_text

        console.stage = "elaboration"
        unit, program, _ = front_end(source.text, source.path, source.options)
        name = unit_name(source.path)
        if "ast" in emit:
            files[f"{name}.ast.txt"] = ast_text(unit)
        if "ir" in emit:
            files[f"{name}.ir.txt"] = graph_text(program)
    if not emit - {"ast", "ir"}:
        return files, None
    console.stage = "parsing and elaboration"
    project = compile_source(source.text, source.path, source.options, progress(console))
    return {**project.files, **files}, project


def progress(console: Console) -> Callable[[str, object], None]:
    """A pass callback that keeps ``console.stage`` on the pass at work."""

    def after(name: str, function: object) -> None:
        console.stage = f"what follows pass `{name}`"

    return after


def _inputs_digest(request: Request) -> str:
    """Digest of everything that decides the files: the compiler, the source and the options. No path takes part."""
    whole = hashlib.sha256()
    options = request.source.options
    parts = [
        __version__,
        compiler_digest(),
        Path(request.source.path).name,
        request.source.text,
        repr(options),
        ",".join(sorted(request.emit & {"ast", "ir"})),
        str(bool(request.emit - {"ast", "ir"})),
    ]
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        whole.update(str(len(data)).encode() + b":" + data)
    return whole.hexdigest()


def compiler_digest() -> str:
    """Digest of the compiler's own files, so that a changed compiler never reuses an old build."""
    whole = hashlib.sha256()
    for top in (Path(__file__).parent, templates_dir(), runtime_dir()):
        for folder, folders, names in os.walk(top):
            folders[:] = sorted(f for f in folders if not f.startswith(("_", ".")))
            for name in sorted(n for n in names if n.endswith((".py", ".json", ".lark", ".j2", ".h", ".cuh", ".cpp"))):
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    data = file.read()
                whole.update(f"{os.path.relpath(path, top)}:{len(data)}:".encode() + data)
    return whole.hexdigest()


def _model(folder: Path) -> dict[str, Any]:
    try:
        data = parse_json((folder / "model.json").read_text(encoding="utf-8"))
        return data if isinstance(data, dict) else {}
    except (OSError, ValueError):
        return {}


def _depfile(request: Request, model: Mapping[str, Any]) -> tuple[str, str]:
    """Name and text of ``<stem>.d``: what the outputs depend on, for a makefile that includes it."""
    from tesserac.driver import unit_name

    source = request.source
    needs = [_prerequisite(p, request.folder) for p in (Path(source.path), *source.sidecars)]
    names = [*executables_of(model), *([model["library"]] if model["library"] else ())]
    targets = [f"$(dir $(lastword $(MAKEFILE_LIST))){name}" for name in names]
    lines = [" \\\n  ".join([" ".join(targets) + ":", *needs]), *(f"{need}:" for need in needs)]
    return f"{unit_name(source.path)}.d", "\n".join(lines) + "\n"


def _prerequisite(path: str | Path, folder: Path) -> str:
    """A path as make reads it: as it was typed, or from the folder where it was typed from the root."""
    text = str(path)
    if os.path.isabs(text):
        text = os.path.relpath(os.path.realpath(text), os.path.realpath(folder))
        return "$(dir $(lastword $(MAKEFILE_LIST)))" + _escaped(text)
    return _escaped(text)


def _escaped(path: str) -> str:
    return "".join("\\" + c if c in " #:%\\" else "$$" if c == "$" else c for c in path if c not in "\r\n")


def _make(request: Request, result: Result, console: Console) -> None:
    """Runs make, and marks what it made as newer than the source."""
    targets = [
        *(result.executables if "exe" in request.emit else ()),
        *([result.model["library"]] if "lib" in request.emit and result.model else ()),
    ]
    listings = sorted(request.emit & {"ptx", "sass"})
    if not targets + listings:
        return
    from tesserac.toolchain import run_make

    console.stage = "compilation of the emitted code"
    start = time.perf_counter()
    jobs = request.jobs or processors()
    result.made = run_make(request.folder, targets + listings, jobs, request.verbose, _variables(request))
    result.seconds["compile"] = time.perf_counter() - start
    _refresh([request.folder / name for name in targets], request.source)
    if "exe" in request.emit and result.executables:
        result.seconds["start-up"] = start_up(request.folder / result.executables[0])


def _variables(request: Request) -> list[str]:
    """What make has to be told of this machine beside its C++ compiler."""
    if request.source.options.target != "cuda" or request.source.options.emulate:
        return []
    from tesserac.nvcc import find_disassembler, find_nvcc

    nvcc = find_nvcc()
    return nvcc.variables + ([f"NVDISASM={find_disassembler(nvcc)}"] if "sass" in request.emit else [])


def _refresh(targets: Sequence[Path], source: Source) -> None:
    """Dates targets after the source: a change that compiles to the same files would keep make asking for ever."""
    newest = max(os.stat(p).st_mtime_ns for p in (Path(source.path), *source.sidecars))
    for target in targets:
        if target.stat().st_mtime_ns < newest:
            os.utime(target)


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_up(program: Path) -> float:
    """Seconds from starting a program to the end of its `describe`; T0807 when it cannot be started."""
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        try:
            subprocess.run(
                [str(program.absolute()), "describe"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        except OSError as error:
            raise not_started(program, error) from error
        best = min(best, time.perf_counter() - start)
    return best


def not_started(program: Path, error: OSError) -> CompileError:
    """The error for a program that the system refuses to run."""
    from tesserac.toolchain import ToolchainError

    diagnostics = Diagnostics()
    diagnostics.error(
        "T0807",
        f"`{program}` was built but cannot be started: {error.strerror}",
        None,
        help=["choose a folder on another file system with -o"],
    )
    return ToolchainError(diagnostics.items)


def parse_emit(text: str | None, target: str) -> frozenset[str] | str:
    """The kinds of ``--emit``; a message when the text is wrong. No text asks for what the target can do."""
    if not text:
        return frozenset(("cuda", "exe") if target == "cuda" else ("cpp", "exe", "lib"))
    kinds = [kind.strip() for kind in text.split(",") if kind.strip()]
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        import difflib

        near = difflib.get_close_matches(unknown[0], KINDS, 1) if unknown else []
        return f"{unknown[0] if unknown else text!r} is nothing to emit." + (
            f" Did you mean {near[0]}?" if near else f" Choose from {', '.join(KINDS)}."
        )
    return frozenset(kinds)


def check_target(emit: frozenset[str], target: str, emulate: bool = False) -> None:
    """Raises T0806 for combinations that no back end offers."""
    wrong = sorted(emit & {"cpp", "lib"}) if target == "cuda" else sorted(emit & CUDA_KINDS)
    what = f"--target {target}"
    if not wrong and emulate:
        wrong, what = sorted(emit & {"ptx", "sass"}), "--emulate, which compiles for this processor"
    if wrong:
        diagnostics = Diagnostics()
        diagnostics.error(
            "T0806",
            f"--emit={','.join(wrong)} does not go with {what}",
            None,
            help=["--target cuda --emit=cuda,ptx,sass,exe", "--target cpu --emit=cpp,exe,lib"],
        )
        raise CompileError(diagnostics.items)
