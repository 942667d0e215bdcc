"""Finding nvcc, what it is refused for, and what `inspect --resources` reads from it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tesserac.inspection.resources import Resources, launch_bounds, occupancy, parse, table
from tests.cli.conftest import SIZES, Cli

NVCC = shutil.which("nvcc")
LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN3net4rowsEPKf' for 'sm_80'
ptxas info    : Function properties for _ZN3net4rowsEPKf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 376 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN3net7productE' for 'sm_90a'
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 8320 bytes smem
"""


@pytest.fixture
def nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that tells its version and architectures and compiles nothing."""
    script = tmp_path / "nvcc"
    script.write_text(
        '#!/bin/sh\ncase $1 in\n--version) echo "Cuda compilation tools, release ${RELEASE:-13.0}, V";;\n'
        "--list-gpu-code) printf 'sm_80\\nsm_90\\n';;\n*) exit 1;;\nesac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("NVCC", str(script))
    return script


def test_no_nvcc(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCC", "/nowhere/nvcc")
    done = cli("build", model, *SIZES, "--target", "cuda")
    assert done.code == 4
    assert done.err.startswith("error[T0810]: there is no nvcc\n = note: $NVCC is `/nowhere/nvcc`, which cannot be run")
    assert "--emulate builds the same program for this processor" in done.err
    assert not Path("build").exists()


def test_nvcc_too_old(cli: Cli, model: Path, nvcc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELEASE", "11.8")
    done = cli("build", model, *SIZES, "--target", "cuda")
    assert done.code == 4
    assert done.err.startswith("error[T0811]: nvcc 11.8 is too old")


@pytest.mark.parametrize("arch", ["sm_81", "sm_80a"])
def test_unknown_architecture(arch: str, cli: Cli, model: Path, nvcc: Path) -> None:
    done = cli("build", model, *SIZES, "--target", "cuda", "--arch", f"sm_90a,{arch}")
    assert done.code == 4
    assert done.err.startswith(f"error[T0812]: nvcc 13.0 does not know the architecture {arch}\n")
    assert "it knows sm_80, sm_90" in done.err


def test_flags_that_mean_nothing(cli: Cli, model: Path) -> None:
    assert "'90' is no architecture; they are written like sm_90." in cli("build", model, "--arch", "90").err
    assert "go with --target cuda" in cli("build", model, "--target", "cpu", "--emulate").err
    assert "go with --target cuda" in cli("inspect", model, "--stage", "source", "--resources").err


def test_architectures_reach_the_makefile(cli: Cli, model: Path) -> None:
    flags = ("--emit=cuda", "--arch", "sm_80,sm_90a", "-o", "out")
    assert cli("build", model, *SIZES, *flags).code == 0
    assert "\nARCH ?= sm_80,sm_90a\n" in Path("out/Makefile").read_text()


def test_the_cuda_of_one_kernel(cli: Cli, model: Path) -> None:
    done = cli("inspect", model, *SIZES, "--target", "cuda", "--stage", "source", "--kernel", "product")
    assert done.code == 0
    assert "static constexpr Matmul product_" in done.out
    wrong = cli("inspect", model, *SIZES, "--target", "cuda", "--stage", "source", "--kernel", "nothing")
    assert (wrong.code, wrong.err[:13]) == (1, "error[T0809]:")


def test_resources_are_read_from_ptxas() -> None:
    first, second = parse(LOG)
    assert first == Resources("_ZN3net4rowsEPKf", "sm_80", 40, 0, 0)
    assert second == Resources("_ZN3net7productE", "sm_90a", 128, 8320, 20)
    # 40 registers: 40 * 256 per block of 8 warps, so 6 blocks of 8 warps; 128: 32768, so 2.
    assert occupancy(replace(first, block=256)) == 0.75
    assert occupancy(replace(second, block=256)) == 0.25
    assert table([first, second], None).splitlines()[1].endswith("  net::product")
    ptx = ".visible .entry _Z1aPf(\n\t.param .u64 a\n)\n.maxntid 32, 8, 1\n{\n.visible .entry _Z1bv()\n{\n"
    assert launch_bounds(ptx) == {"_Z1aPf": 256}


def test_emit_cuda_needs_no_cuda(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCC", "/nowhere/nvcc")
    monkeypatch.setenv("PATH", "/nowhere")
    done = cli("build", model, *SIZES, "--emit=cuda", "-o", "out")
    assert (done.code, done.err) == (0, "")
    assert {p.suffix for p in Path("out").glob("net.*")} == {".cuh", ".cu", ".cpp"}


def test_no_disassembler(cli: Cli, model: Path, nvcc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in ("g++", "make"):
        (nvcc.parent / tool).symlink_to(shutil.which(tool) or "")
    monkeypatch.setenv("PATH", str(nvcc.parent))
    monkeypatch.setattr("tesserac.nvcc._of_pip", lambda name: None)
    done = cli("build", model, *SIZES, "--emit=sass", "--arch", "sm_80")
    assert done.code == 4
    assert done.err.startswith("error[T0815]: there is no disassembler for --emit=sass\n")
    assert "pip install nvidia-cuda-nvdisasm" in done.err
    assert not Path("build").exists()


@pytest.mark.parametrize("flags", [("--emulate",), ("--target", "cpu")])
def test_listings_are_of_gpus(flags: tuple[str, ...], cli: Cli, model: Path) -> None:
    done = cli("build", model, *SIZES, "--emit=ptx", *flags)
    assert done.code == 1
    assert done.err.startswith(f"error[T0806]: --emit=ptx does not go with {' '.join(flags)}")


@pytest.mark.skipif(NVCC is None, reason="no nvcc on this machine")
def test_ptx_and_sass(cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in prints what it is given in place of nvdisasm."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvdisasm").write_text('#!/bin/sh\necho "code of $2, $(head -c 4 $2 | tail -c 3)"\n')
    (tools / "nvdisasm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    done = cli("build", model, *SIZES, "--emit=ptx,sass", "--arch", "sm_80", "-o", "out")
    assert (done.code, done.err) == (0, "")
    assert "in out/: net.sm_80.ptx, net.sm_80.sass, README.md" in done.out
    ptx = Path("out/net.sm_80.ptx").read_text()
    assert ".target sm_80" in ptx
    assert ".visible .entry" in ptx
    assert Path("out/net.sm_80.sass").read_text() == "code of net.sm_80.sass.cubin, ELF\n"
    assert not list(Path("out").glob("*.cubin"))
