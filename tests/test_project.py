"""The project itself: what the wheel holds, what the make targets are, what the examples and data promise."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

LONGEST_FILE = 400
OUR_SUFFIXES = {".c", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".j2", ".lark", ".py"}
ALLOWED_IMPORTS = {"click", "cupy", "jinja2", "lark", "numpy", "tesserac"}


def tracked(root: Path) -> list[Path]:
    """The files of the checkout that git knows, relative to it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name and (root / name).is_file()]


def make_output(root: Path, *goals: str) -> str:
    """What make prints for these goals."""
    command = ["make", "--no-print-directory", *goals]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("tesserac-*.whl")
    return built


def test_wheel_holds_templates_and_runtime(root: Path, wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("templates", "runtime"):
        files = [path for path in tracked(root) if path.parts[0] == folder]
        assert files
        missing = [str(path) for path in files if f"tesserac/_{path}" not in packed]
        assert not missing


def test_resources_are_found_in_a_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = "from tesserac import resources as r; print(r.templates_dir()); print(r.runtime_dir())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "tesserac" / name) for name in ("_templates", "_runtime")]


def test_resources_are_found_in_a_checkout(root: Path) -> None:
    from tesserac import resources

    assert resources.templates_dir() == root / "templates"
    assert resources.runtime_dir() == root / "runtime"


def test_missing_resources_say_where_they_were_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tesserac import resources

    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "tesserac")
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "runtime"))):
        resources.runtime_dir()


def test_compiler_imports_only_its_dependencies(root: Path) -> None:
    foreign = []
    for path in (root / "tesserac").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            for name in names:
                package = name.partition(".")[0]
                if package not in ALLOWED_IMPORTS and package not in sys.stdlib_module_names:
                    foreign.append(f"{path.relative_to(root)}: {name}")
    assert not foreign


def test_compilations_do_not_wait_for_numpy(root: Path) -> None:
    """Its import takes 0.1 s of the two that a project may take."""
    script = (
        "import sys\nfrom tesserac.driver import *\nfrom tesserac.elaborate import Options\n"
        "text = open('examples/chapter6/listing2.py').read()\n"
        "compile_source(text, 'm.py', CompileOptions(Options(shapes=(('x', '64x1'),))))\n"
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_every_target_is_in_the_help(root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    match = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert match
    listed = re.findall(r"^  make ([a-z-]+) +\S", make_output(root, "help"), re.MULTILINE)
    assert sorted(listed) == sorted(match[1].split())


def test_make_alone_prints_the_help(root: Path) -> None:
    assert make_output(root) == make_output(root, "help")


def test_ci_runs_the_tests_a_developer_runs(root: Path) -> None:
    script = root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert re.search(r"^make test$", script.read_text(encoding="utf-8"), re.MULTILINE)


def test_files_stay_short(root: Path) -> None:
    counted = ((path, (root / path).read_bytes().count(b"\n")) for path in tracked(root) if path.suffix in OUR_SUFFIXES)
    assert {str(path): lines for path, lines in counted if lines > LONGEST_FILE and "golden" not in path.parts} == {}


def test_nothing_needs_the_folder_beside_the_checkout(root: Path) -> None:
    needle = "/".join(["", "work", "shared"]).encode()
    assert [str(path) for path in tracked(root) if needle in (root / path).read_bytes()] == []


def test_listings_are_the_chapters_blocks(root: Path) -> None:
    chapter = (root / "examples" / "chapter6.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", chapter, re.MULTILINE | re.DOTALL)
    listings = sorted((root / "examples" / "chapter6").glob("listing*.py"))
    assert [path.read_text(encoding="utf-8") for path in listings] == blocks
    assert len(blocks) == 4


def test_readme_shows_the_first_listing(root: Path) -> None:
    listing = (root / "examples" / "chapter6" / "listing1.py").read_text(encoding="utf-8")
    assert f"```python\n{listing}```\n" in (root / "README.md").read_text(encoding="utf-8")


def test_gpt_example_is_short(root: Path) -> None:
    lines = (root / "examples" / "gpt.py").read_text(encoding="utf-8").count("\n")
    assert lines < 40
    assert f"in {lines} lines" in (root / "README.md").read_text(encoding="utf-8")


def test_corpus_is_what_its_readme_says(root: Path) -> None:
    text = (root / "examples" / "data" / "moby_dick.txt").read_bytes()
    said = (root / "examples" / "data" / "README.md").read_text(encoding="utf-8")
    assert len(text) >= 300_000
    assert text.isascii()
    assert f"{len(text):,} bytes" in said
    assert hashlib.sha256(text).hexdigest() in said
