"""The output folder: nothing half written, nothing of the user's touched, nothing left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tesserac.diagnostics import CompileError
from tesserac.folder import MANIFEST, Folder
from tests.cli.conftest import SIZES, Cli, tree
from tests.conftest import ROOT

OLD = {"a.cpp": "a", "sub/b.h": "b", "old.cpp": "old", "sub/old.h": "old"}
NEW = {"a.cpp": "a", "sub/b.h": "changed", "new/c.h": "c"}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder after a first build."""
    out = Folder(tmp_path / "out")
    with out.locked():
        out.write(OLD, "first")
    return out


def contents(folder: Folder) -> dict[str, str]:
    """What is there, without the manifest."""
    return {k: v.decode() for k, v in tree(folder.path).items() if k != MANIFEST}


def test_unchanged_files_are_left_alone_and_stale_ones_removed(folder: Folder) -> None:
    os.utime(folder.path / "a.cpp", (1, 1))
    (folder.path / "mine.txt").write_text("mine")
    written = folder.write(NEW, "second")
    assert (written.changed, written.removed, written.edited) == (("new/c.h", "sub/b.h"), ("old.cpp", "sub/old.h"), ())
    assert contents(folder) == NEW | {"mine.txt": "mine"}
    assert (folder.path / "a.cpp").stat().st_mtime == 1
    assert folder.is_current("second")
    assert not folder.is_current("first")
    folder.write({"a.cpp": "a"}, "third")
    assert not (folder.path / "sub").exists(), "emptied folders go with their files"


def test_loose_files_belong_to_the_folder_whatever_they_hold(folder: Folder) -> None:
    folder.write({"a.cpp": "a", "x.d": "one"}, "second", loose=["x.d"])
    manifest = (folder.path / MANIFEST).read_text()
    folder.put_if_changed("x.d", "two")
    assert folder.is_current("second")
    assert (folder.path / MANIFEST).read_text() == manifest
    folder.write({"a.cpp": "a"}, "third")
    assert contents(folder) == {"a.cpp": "a"}


def test_edits_are_seen(folder: Folder) -> None:
    (folder.path / "a.cpp").write_text("edited")
    (folder.path / "old.cpp").write_text("edited")
    assert not folder.is_current("first")
    assert folder.write(NEW, "second").edited == ("a.cpp",)
    assert contents(folder) == NEW | {"old.cpp": "edited"}, "an edited file that is no longer emitted is the user's"


def test_foreign_files_are_refused(folder: Folder) -> None:
    (folder.path / "new").mkdir()
    (folder.path / "new" / "c.h").write_text("mine")
    before = tree(folder.path)
    with pytest.raises(CompileError, match="T0805"):
        folder.write(NEW, "second")
    assert tree(folder.path) == before


@pytest.mark.parametrize("at", range(3))
def test_full_disk_leaves_everything_as_it_was(folder: Folder, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    before, real, calls = tree(folder.path), Path.write_bytes, iter(range(99))

    def write(path: Path, data: bytes) -> int:
        if next(calls) == at:
            real(path, data[:1])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(CompileError) as caught:
        folder.write(NEW, "second")
    (found,) = caught.value.diagnostics
    assert found.message == f"cannot write the output folder `{folder.path}`: No space left on device"
    assert "make room on the disk" in found.help[0]
    assert tree(folder.path) == before
    assert folder.is_current("first")


def test_interrupted_write_is_finished_by_the_next(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.replace, iter(range(99))

    def replace(source: Path, target: Path) -> None:
        if next(calls) == 2:  # the manifest, the first file, not the second
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            folder.write(NEW, "second")
    assert not folder.is_current("second")
    folder.write(NEW, "second")
    assert contents(folder) == NEW


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"inputs": 1, "files": []}', '{"inputs": "x", "files": {"../mine": "0"}}']
)
def test_damaged_manifest_owns_nothing(folder: Folder, text: str) -> None:
    mine = folder.path.parent / "mine"
    mine.write_text("mine")
    (folder.path / MANIFEST).write_text(text)
    assert not folder.manifest().files
    folder.write({"other.cpp": ""}, "second")
    assert mine.read_text() == "mine"
    assert (folder.path / "a.cpp").exists()


def test_file_in_place_of_the_folder(cli: Cli, model: Path) -> None:
    Path("out").write_text("mine")
    done = cli("build", model, *SIZES, "-o", "out", "--emit=cpp")
    assert done.code == 1
    assert done.err.startswith("error[T0804]: cannot write the output folder `out`: ")
    assert "a file is in the place of the folder" in done.err
    assert Path("out").read_text() == "mine"
    assert cli("build", model, *SIZES, "-o", "out/below", "--emit=cpp").code == 1


def test_folder_that_cannot_be_made(cli: Cli, model: Path) -> None:
    done = cli("build", model, *SIZES, "-o", "/proc/out", "--emit=cpp")
    assert done.code == 1
    assert done.err.startswith("error[T0804]: cannot write the output folder `/proc/out`: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(cli: Cli, model: Path) -> None:
    Path("locked").mkdir(mode=0o500)
    done = cli("build", model, *SIZES, "-o", "locked/out", "--emit=cpp")
    assert done.code == 1
    assert "Permission denied" in done.err


def test_makefile_of_the_users_stays(cli: Cli, model: Path) -> None:
    Path("Makefile").write_text("mine:")
    done = cli("build", model, *SIZES, "-o", ".", "--emit=cpp")
    assert done.code == 1
    assert done.err.startswith("error[T0805]: `.` holds files that tesserac did not write and would overwrite\n")
    assert "= note: Makefile" in done.err
    assert {p.name for p in Path().iterdir()} == {"Makefile", "model.py"}


def test_limit_on_file_sizes_leaves_no_folder(model: Path) -> None:
    """The system itself refuses a write half way: what a full disk looks like from here."""
    command = f"ulimit -f 8; exec {sys.executable} -m tesserac.cli build model.py {' '.join(SIZES)} -o out --emit=cpp"
    done = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "error[T0804]: cannot write the output folder `out`: File too large" in done.stderr
    assert not Path("out").exists()
