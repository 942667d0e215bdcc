"""Building for real: programs that run, rebuilding nothing, and compilers that are missing or fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import SIZES, Built, Cli, tree
from tests.conftest import Command


def mtimes(folder: Path) -> dict[str, int]:
    """Modification times of everything that make works on."""
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*") if p.suffix in (".o", ".cpp", ".h")}


def test_program_and_library_are_there_and_right(built: Built) -> None:
    done = subprocess.run([built.out / "net", "selftest"], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "selftest: ok", done.stdout + done.stderr
    symbols = subprocess.run(["nm", "-D", "--defined-only", built.out / "libmodel.so"], capture_output=True, text=True)
    assert "tessera_open" in symbols.stdout or "tessera_" in symbols.stdout


def test_summary_says_what_was_built_and_what_to_do_next(built: Built) -> None:
    assert "net: 2 parameters (42 numbers" in built.printed
    assert re.search(r"train: +\S+ \S+ per call, \d+ launches", built.printed)
    assert re.search(
        r"time: check \S+ m?s, source \S+ m?s, compile \S+ m?s, start-up \d+ ms, \S+ s in all", built.printed
    )
    assert "in out/: net, libmodel.so, README.md" in built.printed
    assert "next: ./out/net selftest" in built.printed


def test_folder_explains_itself(built: Built) -> None:
    readme = (built.out / "README.md").read_text(encoding="utf-8")
    model = json.loads((built.out / "model.json").read_text(encoding="utf-8"))
    kernels = model["entries"][0]["kernels"]
    header = (built.out / "net.kernels.h").read_text(encoding="utf-8").splitlines()
    assert {p["name"] for p in model["entries"][0]["parameters"]} == {"net.W", "net.V"}
    assert len(kernels) >= 4
    for kernel in kernels:
        assert f"`{kernel['name']}`" in readme
        assert header[kernel["line"] - 1].startswith("// model.py:"), "the line where the kernel's comment begins"
        assert any(f"void {kernel['name']}(" in line for line in header[kernel["line"] : kernel["line"] + 12])
    assert (built.out / "tessera.h").read_text() == (built.out / "runtime" / "tessera.h").read_text()


def test_only_headers_that_are_needed_are_copied(built: Built) -> None:
    texts = [
        p.read_text(encoding="utf-8") for p in [*built.out.glob("*.[ch]*"), *built.out.glob("runtime/*")] if p.is_file()
    ]
    for header in (built.out / "runtime").iterdir():
        assert any(re.search(rf'#include "(runtime/)?{re.escape(header.name)}"', text) for text in texts), header.name


def test_rebuild_does_nothing(built: Built, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built.folder)
    monkeypatch.setenv("CXX", str(built.compiler))
    before = mtimes(built.out)
    start = time.perf_counter()
    done = cli("build", "model.py", *SIZES, "-o", "out")
    assert done.code == 0
    assert "nothing to write" in done.out
    assert mtimes(built.out) == before
    assert time.perf_counter() - start < 3, "half a second on an idle machine"


def test_change_of_a_comment_compiles_nothing(built: Built, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built.folder)
    monkeypatch.setenv("CXX", str(built.compiler))
    source = built.folder / "model.py"
    text = source.read_text(encoding="utf-8")
    before = mtimes(built.out)
    try:
        source.write_text(text + "# a remark at the end\n", encoding="utf-8")
        assert cli("build", "model.py", *SIZES, "-o", "out").code == 0
        assert mtimes(built.out) == before
        assert (built.out / "net").stat().st_mtime >= source.stat().st_mtime, "or make would call tesserac for ever"
    finally:
        source.write_text(text, encoding="utf-8")
        assert cli("build", "model.py", *SIZES, "-o", "out").code == 0


def test_plain_make_finds_nothing_to_do(built: Built) -> None:
    done = subprocess.run(
        ["make", "-C", built.out, f"CXX={built.compiler}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "Nothing to be done for 'all'" in done.stdout


def test_dependency_file_works_in_a_makefile(built: Built, tmp_path: Path) -> None:
    makefile = tmp_path / "Makefile"
    makefile.write_text("out/net: ; @echo building $@\ninclude out/model.d\n", encoding="utf-8")

    def ask() -> str:
        return subprocess.run(
            ["make", "-f", makefile, "out/net"], cwd=built.folder, capture_output=True, text=True
        ).stdout

    assert "up to date" in ask()
    later = time.time() + 60
    before = (built.folder / "model.py").stat()
    os.utime(built.folder / "model.py", (later, later))
    assert ask() == "building out/net\n"
    os.utime(built.folder / "model.py", ns=(before.st_atime_ns, before.st_mtime_ns))


def test_run_builds_once_and_passes_arguments_and_status(tesserac: Command, built: Built, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text((built.folder / "model.py").read_text(), encoding="utf-8")
    command = ("run", "model.py", *SIZES, "--", "describe", "--json")
    environment = {"CXX": str(built.compiler)}
    done = tesserac(*command, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert [p["name"] for p in json.loads(done.stdout)["parameters"]] == ["net.W", "net.V"]
    assert len(list((tmp_path / "build" / "run").iterdir())) == 1
    wrong = tesserac("run", "model.py", *SIZES, "--", "no-such-command", cwd=tmp_path, env=environment)
    assert wrong.returncode == 2, "the program's own status"


@pytest.mark.parametrize("variable", ["PATH", "CXX"])
def test_missing_compiler(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv(variable, "/nonexistent/g++")
    done = cli("build", model, *SIZES, "-o", "out")
    assert done.code == 4
    assert done.err.startswith("error[T0801]: there is no C++ compiler\n")
    assert "--emit=cpp writes the sources without compiling them" in done.err
    assert not Path("out").exists()
    assert cli("build", model, *SIZES, "-o", "out", "--emit=cpp").code == 0, "sources need no compiler"
    assert cli("doctor").code == 4


def test_missing_make(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, fast_compiler: Path) -> None:
    monkeypatch.setenv("PATH", str(fast_compiler.parent))
    monkeypatch.setenv("CXX", "fast-g++")
    done = cli("build", model, *SIZES, "-o", "out")
    assert (done.code, done.err.splitlines()[0]) == (4, "error[T0803]: there is no make")


def test_failing_compiler_speaks_for_itself(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "bad-g++"
    compiler.write_text("#!/bin/sh\necho 'net.cpp:1:2: error: no such luck' >&2\nexit 1\n", encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    done = cli("build", model, *SIZES, "-o", "out")
    assert done.code == 4
    assert done.err.startswith(f"error[T0802]: the C++ compiler `{compiler}` failed on the emitted project\n")
    assert "net.cpp:1:2: error: no such luck" in done.err
    assert "make -C out" in done.err


def test_built_folder_is_byte_identical_elsewhere(built: Built, cli: Cli, tmp_path: Path) -> None:
    """Another folder, an absolute path and another hash seed (this process's) make no difference."""
    (tmp_path / "model.py").write_text((built.folder / "model.py").read_text(), encoding="utf-8")
    assert cli("build", tmp_path / "model.py", *SIZES, "-o", tmp_path / "out", "--emit=cpp", "-q").code == 0
    here = tree(tmp_path / "out")
    there = {path: data for path, data in tree(built.out).items() if path in here}
    del here["model.d"], there["model.d"]
    assert here == there
