"""Programs of ranks with a GPU each: in every mode of the emulation, and compiled by nvcc.

With buckets so small that exchanges go on beside the backward pass, on a second stream.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tesserac.driver import CompileOptions, compile_source
from tesserac.elaborate import Options
from tesserac.passes.mesh.settings import read_settings
from tests.comm.projects import build, losses
from tests.comm.projects import run as run_ranks
from tests.comm.test_experts import DATA as ROWS
from tests.comm.test_gpus import BEHIND_A_LAYER, BUCKET
from tests.comm.test_programs import DATA, GPT
from tests.emulation.building import ARCHITECTURES, SELECTED, run

asked = pytest.mark.skipif("TSR_EMULATION_MODE" not in os.environ, reason="slow: make test-emulation")
PROGRAMS = {"layers": (GPT, "tp=2,dp=2", 4, (*DATA, "--steps", 3)), "experts": (BEHIND_A_LAYER, "ep=2,dp=2", 4, ROWS)}


@asked
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("mode", SELECTED)
def test_ranks_train_as_one(mode: str, name: str) -> None:
    """No race, no access out of bounds; every rank proves itself, and losses are those of one processor."""
    source, mesh, ranks, words = PROGRAMS[name]
    program = build(source, mesh, gpus=True, toml=BUCKET, mode=mode)
    text = run_ranks(program, ranks, "selftest", ASAN_OPTIONS="detect_leaks=0")
    assert text.rstrip().endswith("selftest: ok")
    have = losses(run_ranks(program, ranks, "train", *words, ASAN_OPTIONS="detect_leaks=0"))
    want = losses(run_ranks(build(source, "none"), 1, "train", *words))
    np.testing.assert_allclose(have, want, rtol=1e-5)


@asked
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
@pytest.mark.parametrize("name", PROGRAMS)
def test_nvcc_has_nothing_to_say(name: str, tmp_path: Path) -> None:
    """The emitted Makefile makes errors of warnings, of the host's compiler, too."""
    source, mesh, _, _ = PROGRAMS[name]
    options = CompileOptions(Options(mesh=mesh), planning=read_settings(BUCKET, "plan.toml"), target="cuda",
                             architectures=ARCHITECTURES)
    files = compile_source(source, "model.py", options).files
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    run(["make", "-s", "compile-only"], tmp_path)
    made = subprocess.run(["cuobjdump", "--list-elf", *map(str, tmp_path.glob("*.program.o"))], capture_output=True,
                          text=True, check=False) if shutil.which("cuobjdump") else None
    assert made is None or all(arch in made.stdout for arch in ARCHITECTURES)
