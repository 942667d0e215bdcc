"""`tesserac build --target cuda --emulate`: the CUDA program, executed, against the same program for the CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, command_environment
from tests.emulation.building import SELECTED, engine_object, make_programs, run

SIZES = [f"--set={s}" for s in ("L=1", "D=32", "H=2", "S=16", "B=2", "V=64")]
ADAM = ("--optimizer", "adamw", "--lr", "3e-3", "--clip", "1", "--warmup", "2", "--schedule", "cosine")


@dataclass(frozen=True)
class Built:
    """A folder with the program for the emulation and the one for the CPU, and 64 kinds of tokens to train on."""

    folder: Path

    def run(self, target: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs `cuda`, `cpu` or a folder of a mode."""
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1"}
        environment.update({f"TSR_EMULATION_{key.upper()}": value for key, value in settings.items()})
        return subprocess.run(
            [str(self.folder / target / "gpt"), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=240,
            env=environment,
            check=False,
        )

    def losses(self, target: str, *arguments: str, steps: int = 3, **settings: str) -> list[tuple[float, float]]:
        """Loss and norm of the gradients, step by step."""
        done = self.run(target, "train", "--data", "input=tokens", "--steps", str(steps), *arguments, **settings)
        assert done.returncode == 0, done.stderr
        return [(row["loss"], row["grad_norm"]) for row in map(json.loads, done.stdout.splitlines())]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("emulated")
    environment = command_environment(tmp_path_factory.mktemp("bin")) | {"ENGINE": str(engine_object("fast"))}
    source = ["tesserac", "build", str(ROOT / "examples" / "gpt.py"), *SIZES, "-q"]
    for name, mode, flags in (("cuda", "fast", ["--emulate", "--emit=cuda"]), ("cpu", "cpu", ["--emit=cpp"])):
        run([*source, *flags, "-o", name], folder, environment)
        make_programs(folder / name, mode, ["gpt"])
    # With its objects there, the command that users give builds the program in no time.
    run([*source, "--target", "cuda", "--emulate", "-o", "cuda"], folder, environment)
    np.random.default_rng(1).integers(0, 64, 4000).astype(np.uint8).tofile(folder / "tokens")
    return Built(folder)


def test_the_program_proves_itself(built: Built) -> None:
    done = built.run("cuda", "selftest")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("gpt: seed 1, on the device, f32 against double-precision loops\n")
    assert done.stdout.count("  ok") >= 18
    assert "second call equal bit for bit        ok" in done.stdout


def agree(found: list[tuple[float, float]], wanted: list[tuple[float, float]]) -> None:
    """Losses to 1e-5; norms of gradients, which Adam's first steps magnify the rounding of, to 1e-4."""
    np.testing.assert_allclose([loss for loss, _ in found], [loss for loss, _ in wanted], rtol=1e-5)
    np.testing.assert_allclose([norm for _, norm in found], [norm for _, norm in wanted], rtol=1e-4)


@pytest.mark.parametrize("flags", [ADAM, ("--optimizer", "momentum", "--weight-decay", "0.1"), ("--check-finite",)])
def test_training_follows_the_cpu(flags: tuple[str, ...], built: Built) -> None:
    agree(built.losses("cuda", *flags, steps=6), built.losses("cpu", *flags, steps=6))


def test_it_is_the_same_in_every_order(built: Built) -> None:
    usual = built.losses("cuda", *ADAM)
    assert built.losses("cuda", *ADAM, order="random", seed="7", **{"async": "random"}) == usual
    assert built.losses("cuda", *ADAM, order="falling", threads="2", **{"async": "early"}) == usual


def test_checkpoints_and_weights_come_from_the_device(built: Built) -> None:
    whole = built.losses("cuda", *ADAM, "--save", "whole.safetensors", steps=6)
    part = ("--checkpoint", "steps", "--save-every", "2")
    first = built.losses("cuda", *ADAM, *part, "--save", "part.safetensors", steps=6)
    assert first == whole
    (built.folder / "steps" / sorted(os.listdir(built.folder / "steps"))[-1]).unlink()
    again = built.losses("cuda", *ADAM, *part, "--resume", "--save", "resumed.safetensors", steps=6)
    assert again == whole[4:]
    files = [(built.folder / f"{name}.safetensors").read_bytes() for name in ("whole", "part", "resumed")]
    assert files[0] == files[1] == files[2]


def test_outputs_are_the_cpus(built: Built) -> None:
    tokens = np.random.default_rng(2).integers(0, 64, (5, 16)).astype(np.int32)
    np.save(built.folder / "x.npy", tokens)
    found = []
    for target in ("cuda", "cpu"):
        done = built.run(target, "infer", "--input", "input=x.npy", "--output", f"{target}.npy", "--seed", "3")
        assert done.returncode == 0, done.stderr
        found.append(np.load(built.folder / f"{target}.npy"))
    assert found[0].shape == (5, 16, 64)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_the_line_search_of_lbfgs_works_on_the_host(built: Built) -> None:
    flags = ("--optimizer", "lbfgs")
    cuda, cpu = built.losses("cuda", *flags), built.losses("cpu", *flags)
    np.testing.assert_allclose([loss for loss, _ in cuda], [loss for loss, _ in cpu], rtol=1e-3)
    assert cuda[-1][0] < cuda[0][0]


def test_other_commands(built: Built) -> None:
    described = built.run("cuda", "describe", devices="0").stdout  # which needs no device
    assert "parameters: 15328 in 16 tensors" in described
    assert "memory on the device\n    parameters 61.3 kB, gradients 61.3 kB" in described
    assert "update 0.000 ms" in built.run("cuda", "bench", "--steps", "2", "--warmup", "1").stdout


def test_no_device_and_too_little_memory(built: Built) -> None:
    done = built.run("cuda", "train", "--data", "input=tokens", devices="0")
    assert done.returncode == 1
    assert done.stderr.startswith("error[T0930]: this program cannot run here: no CUDA-capable device is detected (it ")
    done = built.run("cuda", "train", "--data", "input=tokens", arch="75")
    assert done.returncode == 1
    assert "processor has compute capability 7.5, for which it has no code (it holds code for the emula" in done.stderr
    done = built.run("cuda", "train", "--data", "input=tokens", memory="150000")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error[T0931]: out of device memory: the program needs ")
    assert lines[0].endswith("150.0 kB of 150.0 kB are free; largest:")
    assert len([line for line in lines if line.startswith("  - ")]) == 5
    assert lines[-1].startswith("  = help: build with a smaller batch")


@pytest.mark.parametrize("mode", [mode for mode in SELECTED if mode != "fast"])
def test_the_other_modes_find_nothing(mode: str, built: Built) -> None:
    """The whole step, forward, backward and update, is free of races and of accesses out of bounds."""
    source, target = built.folder / "cuda", built.folder / mode
    shutil.copytree(source, target)
    for path in (target / "gpt", target / "emulation" / "gpt.program.o"):
        path.unlink()
    make_programs(target, mode, ["gpt"])
    checked = built.run(mode, "selftest")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    agree(built.losses(mode, *ADAM), built.losses("cuda", *ADAM))  # another optimization level rounds otherwise
