"""Emitted folders: the same bytes everywhere, and buildable where there is neither Python nor tesserac."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import TAILS, WARNINGS, ZOO, Builder, Project


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_output_is_the_same_in_any_folder_and_under_any_hash_seed(builder: Builder, tmp_path: Path, root: Path) -> None:
    """The dependency file is the one that names the folder."""
    found = []
    for number, name in ((0, "a"), (4321, "deep/er/b c")):
        for source, flags in ((ZOO, ()), ("examples/gpt.py", TAILS)):
            done = builder.tesserac(
                "build", source, *flags, "--emit=cpp", "-o", tmp_path / name, env={"PYTHONHASHSEED": str(number)}
            )
            assert done.returncode == 0, done.stderr
        found.append({path: text for path, text in tree(tmp_path / name).items() if not path.endswith(".d")})
    assert found[0] == found[1]
    assert not [path for path, text in found[0].items() if str(tmp_path).encode() in text or str(root).encode() in text]


def test_plain_make_builds_it_without_python(builder: Builder, tmp_path: Path) -> None:
    """An environment with a compiler, make and the core tools only; the source's folder is out of reach too."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("g++", "make", "sh", "uname", "rm", "as", "ld"):
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(os.path.realpath(found) if tool != "g++" else found)
    folder = tmp_path / "with a space"
    builder.emit(folder, "tests/programs/forward.py")
    environment = {"PATH": str(tools), "HOME": "/nonexistent", "CXXFLAGS": WARNINGS, "LC_ALL": "C"}
    done = subprocess.run(
        ["make", "-j2", "OPTIMIZE=-O0"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[:4000]
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    run = subprocess.run([str(moved / "forward"), "selftest"], env={}, capture_output=True, text=True, check=False)
    assert run.stdout.splitlines()[-1] == "selftest: ok", run.stderr
    again = subprocess.run(["make"], cwd=moved, env=environment, capture_output=True, text=True, check=False)
    assert "Nothing to be done" in again.stdout, "moving the folder rebuilds nothing"


def test_programs_need_the_c_runtime_alone(zoo: Project) -> None:
    listed = subprocess.run(["ldd", str(zoo.folder / "decoder")], capture_output=True, text=True, check=True).stdout
    names = {line.split()[0].split("/")[-1].split(".so")[0] for line in listed.splitlines()}
    assert names <= {"linux-vdso", "libstdc++", "libm", "libgomp", "libgcc_s", "libc", "ld-linux-x86-64",
                     "ld-linux-aarch64", "libpthread", "libdl"}  # fmt: skip


@pytest.mark.skipif(platform.machine() != "x86_64", reason="one instruction set elsewhere")
def test_a_portable_binary_is_right_with_the_kernels_of_every_instruction_set(builder: Builder, tmp_path: Path) -> None:
    builder.emit(tmp_path, "tests/programs/forward.py", "--portable")
    chosen = tmp_path / "forward.dispatch.cpp"
    text = chosen.read_text(encoding="utf-8")
    here = _cpu_flags()
    levels = {"v2": set(), "v3": {"avx2", "fma", "bmi2"}, "v4": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
    for level in (name for name, needs in levels.items() if needs <= here):
        chosen.write_text(re.sub(r"return tsr::best_of.*;", f"return forward_program_{level};", text), encoding="utf-8")
        done = subprocess.run(
            ["make", "-j2", "forward", "OPTIMIZE=-O1"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[:4000]
        run = subprocess.run([str(tmp_path / "forward"), "selftest"], capture_output=True, text=True, check=False)
        assert run.stdout.splitlines()[-1] == "selftest: ok", level
    for level in levels:
        listed = subprocess.run(["nm", "-g", "--defined-only", f"forward.program.{level}.o"], cwd=tmp_path,
                                capture_output=True, text=True, check=True).stdout  # fmt: skip
        assert [line.split()[-1] for line in listed.splitlines()] == [f"forward_program_{level}"]


def _cpu_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())
