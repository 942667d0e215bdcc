"""`tesserac tune` under the emulation, and `build --tuning` with what it wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tesserac import __version__
from tesserac.codegen.cuda.alone import alone_kernels
from tesserac.driver import CompileOptions, compile_source
from tesserac.elaborate import Options
from tests.cli.conftest import MODEL, SIZES, Cli
from tests.cli.test_verify import WIDE

SHAPES = [f"--shape={shape}" for shape in ("tokens=2x37", "x=2x37x16", "y=2x37x16", "table=7x16")]
BUILD = (*SIZES, "--emit=cuda", "--tuning", "tuning.json")


def test_schedules_of_attention_on_tensor_cores(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, fast_compiler: Path
) -> None:
    """Two numbers of warps, forward and backward, each the same bits; a build takes what the file says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", str(fast_compiler))
    Path("wide.py").write_text(WIDE, encoding="utf-8")
    done = cli("tune", "wide.py", "--emulate", "--precision", "bf16", "--kernel", "attention", *SHAPES)
    assert (done.code, done.err) == (0, "")
    assert done.out.count("2 schedules, the same bits: warps=4\n") == 2
    assert "times there mean nothing, and the usual schedules are kept" in done.out
    content = json.loads(Path("tuning.json").read_text())
    assert content["device"] == ""
    assert [k["schedule"] for k in content["kernels"].values()] == [{"warps": 4}, {"warps": 4}]

    for row in content["kernels"].values():
        row["schedule"] = {"warps": 8}
    Path("tuning.json").write_text(json.dumps(content))
    build = ("build", "wide.py", *SHAPES, "--precision", "bf16", "--emit=cuda", "-o", "out")
    done = cli(*build, "--tuning", "tuning.json")
    assert done.code == 0
    assert done.err.startswith("warning[T0814]: tuning.json does not know ")
    (text,) = [p.read_text() for p in Path("out").glob("*.kernels.cuh")]
    assert text.count("static constexpr int warps = 8;") == 2


def test_a_kernel_that_is_not_there(model: Path, cli: Cli) -> None:
    done = cli("tune", model, *SIZES, "--emulate", "--kernel", "rows_los")
    assert done.code == 1
    assert done.err.startswith("error[T0809]: there is no kernel `rows_los`\n")
    assert not Path("tuning.json").exists()


@pytest.mark.parametrize("place", ["none/tuning.json", "."])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(model: Path, cli: Cli, place: str) -> None:
    done = cli("tune", model, *SIZES, "--emulate", "-o", place)
    assert done.code == 1
    assert done.err.startswith(f"error[T0916]: cannot write `{place}`: ")
    assert not Path("build").exists()


@pytest.fixture
def write(model: Path) -> Callable[..., None]:
    """Writes a tuning file for `model` in which every kernel has its second schedule, but for what is given."""
    sizes = tuple((name, size) for name, size in (s.split("=") for s in SIZES if "=" in s))
    project = compile_source(MODEL, str(model), CompileOptions(Options(shapes=sizes), target="cuda"))
    kernels = [k.function for k in alone_kernels(project.plans[0], {}) if k.function.choices]
    assert len(kernels) > 2

    def change(**more: Any) -> None:
        rows = {
            k.digest: {"kernel": k.name, "line": "", "schedule": {c.name: c.values[0] for c in k.choices}}
            for k in kernels
        }
        whole = {"tuning": 1, "tesserac": __version__, "device": "NVIDIA H200 (sm_90)", "kernels": rows, **more}
        Path("tuning.json").write_text(json.dumps(whole))

    return change


def test_a_build_takes_the_schedules(model: Path, cli: Cli, write: Callable[..., None]) -> None:
    write()
    assert cli("build", model, *SIZES, "--emit=cuda", "-o", "usual").code == 0
    done = cli("build", model, *BUILD, "-o", "tuned")
    assert (done.code, done.err) == (0, "")
    blocks = [set(re.findall(r"<<<\d+, (\d+),", Path(f, "net.program.cu").read_text())) for f in ("usual", "tuned")]
    assert "256" in blocks[0]
    assert blocks[1] - blocks[0]
    # The file is part of what decides the folder: without it, the usual ones again.
    assert cli("build", model, *SIZES, "--emit=cuda", "-o", "tuned").code == 0
    assert Path("tuned/net.program.cu").read_text() == Path("usual/net.program.cu").read_text()


def test_another_gpu_than_the_builds(model: Path, cli: Cli, write: Callable[..., None]) -> None:
    write()
    assert cli("build", model, *BUILD, "--arch", "sm_80,sm_90a").err == ""
    done = cli("build", model, *BUILD, "--arch", "sm_80")
    assert done.code == 0
    assert done.err.startswith("warning[T0814]: tuning.json was measured on NVIDIA H200 (sm_90), not on sm_80\n")


def test_files_that_do_not_fit(model: Path, cli: Cli, write: Callable[..., None]) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"kernels": {"0" * 24: {"kernel": "k", "line": "", "schedule": {}}}}, "has none of this program's kernels"),
        ({"tesserac": "0.0.1"}, f"is stale: tesserac 0.0.1 wrote it, and this is {__version__}"),
        ({"kernels": {"0" * 24: {"kernel": "k", "line": "", "schedule": {"block": "many"}}}}, "is no tuning file"),
        ({"kernels": []}, "is no tuning file of tesserac"),
    ]
    for change, message in cases:
        write(**change)
        done = cli("build", model, *BUILD)
        assert done.code == 1
        assert done.err.startswith(f"error[T0813]: tuning.json {message}")
        assert "tesserac tune FILE" in done.err
    Path("tuning.json").write_text("not json")
    assert cli("build", model, *BUILD).err.startswith("error[T0813]: tuning.json is no tuning file")
    refused = cli("tune", model, "--target", "cuda", "--emulate")
    assert refused.code == 1
    assert refused.err.startswith("error[T0813]: tuning.json is no tuning file of tesserac, and would be overwritten\n")
    assert Path("tuning.json").read_text() == "not json"
    Path("tuning.json").unlink()
    assert cli("build", model, *BUILD).code == 1
    assert "go with --target cuda" in cli("build", model, *BUILD[:-3], "--target", "cpu", *BUILD[-2:]).err
