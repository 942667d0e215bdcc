"""The examples and the chapter's listings as CUDA programs, executed, against the same programs for the CPU.

All run with the race detector, two of them in the other modes too, in which test_program.py has the GPT. Under `make
test-emulation` all run in every mode (or those asked for), and losses are compared with those of programs for the CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, command_environment
from tests.emulation.building import SELECTED, make_programs, run

ALL = "TSR_EMULATION_MODE" in os.environ


@dataclass(frozen=True)
class Example:
    """``programs``: executables and the data that each is trained on (none: it has no training step)."""

    source: str
    flags: tuple[str, ...]
    programs: dict[str, tuple[str, ...]]
    tolerance: float = 1e-5


def sizes(**settings: int) -> tuple[str, ...]:
    return tuple(f"--set={name}={value}" for name, value in settings.items())


def uniform(**limits: str) -> tuple[str, ...]:
    return tuple(f"{name}=uniform:0:{limit}" for name, limit in limits.items())


SMALL = ("--mesh=none", "--set-literal=4096=32")
CASES = {
    "listing1": Example(
        "chapter6/listing1.py",
        ("--mesh=none", "--entry=TransformerLM", "--shape=input=4x16x32", "--shape=Wo=32x48"),
        {"TransformerLM": ("input=input.npy", "labels=labels.npy")},
    ),
    "listing2": Example(
        "chapter6/listing2.py",
        ("--mesh=none", "--set-literal=256=16", "--shape=ns_pinn.x=32x1"),
        {"ns_pinn": (), "ns_loss": uniform(x="1", y="1", t="1")},
    ),
    "listing3": Example(
        "chapter6/listing3.py", (*SMALL, "--set-literal=8192=64", "--shape=x=24x32"), {"moe_layer": ()}
    ),
    "listing4": Example("chapter6/listing4.py", (*SMALL, "--shape=input=8x32"), {"main": ()}),
    "heat": Example(
        "heat.py", sizes(N=32, WIDTH=8), {"heat": uniform(x="1", t="1", x0="1", te="1")}
    ),
    "biharmonic": Example(
        "biharmonic.py", sizes(N=32, WIDTH=8), {"biharmonic": uniform(x="1", y="1", way="4")}
    ),
    "navier_stokes": Example(
        "navier_stokes.py",
        sizes(N=32, WIDTH=8),
        {"navier_stokes": uniform(x="3", y="3", t="1", x0="3", y0="3", way="4", tw="1")},
    ),
    "moe_lm": Example(
        "moe_lm.py", sizes(L=2 if ALL else 1, D=32, H=2, S=16, B=2, V=64, E=4), {"moe_lm": ("input=tokens",)}
    ),
    "fno_burgers": Example(
        "fno_burgers.py", sizes(B=2, N=32, W=6, M=5, L=2), {"fno_burgers": ("u0=u0.npy", "u1=u1.npy")}
    ),
    "spectral_denoise": Example("spectral_denoise.py", sizes(B=2, N=128), {"spectral_denoise": ()}),
    # Sums in another order round to other bf16 numbers, one in 256 apart.
    "gpt_bf16": Example(
        "gpt.py", (*sizes(L=2, D=32, H=2, S=16, B=2, V=64), "--precision=bf16"), {"gpt": ("input=tokens",)}, 1e-4
    ),
    "gpt2_124m": Example(
        "gpt2_124m.py",
        (*sizes(L=1, D=32, H=2, S=16, B=2, V=64), "--precision=bf16"),
        {"gpt2_124m": ("input=tokens",)},
        1e-4,
    ),
}
SAMPLE = ("listing3", "spectral_denoise")
"""What runs in every mode where no mode was asked for: experts and transforms, which compile fast."""
RUNS = [(mode, name) for mode in SELECTED for name in CASES if ALL or mode == "race" or name in SAMPLE]


def write_data(folder: Path) -> None:
    """What the programs read, the same for both targets."""
    random = np.random.default_rng(1)
    random.integers(0, 64, 4000).astype(np.uint8).tofile(folder / "tokens")
    np.save(folder / "input.npy", random.standard_normal((8, 16, 32)).astype(np.float32))
    np.save(folder / "labels.npy", random.integers(0, 48, (8, 16)).astype(np.int32))
    for name in ("u0", "u1"):
        np.save(folder / f"{name}.npy", random.standard_normal((6, 32)).astype(np.float32))


def execute(program: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1"}
    environment.update({f"TSR_EMULATION_{key.upper()}": value for key, value in settings.items()})
    command = [str(program), *arguments]
    return subprocess.run(
        command, cwd=program.parent.parent, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


def losses(program: Path, data: tuple[str, ...], **settings: str) -> list[float]:
    flags = [part for item in data for part in ("--data", item)]
    done = execute(program, "train", *flags, "--steps", "3", "--optimizer", "adam", "--lr", "1e-3", **settings)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["loss"] for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The folder of an example for a target: emitted once, in a folder with the data."""
    top, environment = tmp_path_factory.mktemp("examples"), command_environment(tmp_path_factory.mktemp("bin"))

    def folder(name: str, target: str) -> Path:
        case, found = CASES[name], top / name / target
        if not found.exists():
            found.parent.mkdir(exist_ok=True)
            write_data(found.parent)
            flags = ["--emulate", "--emit=cuda"] if target == "cuda" else ["--emit=cpp"]
            source = str(ROOT / "examples" / case.source)
            run(["tesserac", "build", source, *case.flags, *flags, "-o", str(found), "-q"], found.parent, environment)
        return found

    return folder


@pytest.mark.parametrize(("mode", "name"), RUNS)
def test_an_example_proves_itself_and_trains(mode: str, name: str, folders: Callable[[str, str], Path]) -> None:
    """Three steps of training: the second is captured as a graph, the third replays it."""
    case = CASES[name]
    folder = folders(name, "cuda")
    for path in [*(folder / program for program in case.programs), *folder.glob("emulation/*.o")]:
        path.unlink(missing_ok=True)
    make_programs(folder, mode, list(case.programs))
    for program, data in case.programs.items():
        path = folder / program
        checked = execute(path, "selftest")
        assert checked.returncode == 0, f"{program}\n{checked.stdout[-3000:]}{checked.stderr[-3000:]}"
        if data:
            found = losses(path, data)
            assert np.isfinite(found).all()
            assert found == losses(path, data, order="random", seed="5", **{"async": "random"})
            if ALL:
                cpu = folders(name, "cpu")
                make_programs(cpu, "cpu", [program])
                np.testing.assert_allclose(found, losses(cpu / program, data), rtol=case.tolerance)
