"""The examples as a newcomer meets them: what builds, what is refused, and that the GPT learns and writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Command

SIZES = ("--mesh", "none", "--shape", "input=4x64x32", "--shape", "Wo=32x48")
SMALL = [part for setting in ("L=2", "D=32", "H=2", "S=32", "B=8") for part in ("--set", setting)]


def call(program: Path, *arguments: str | Path) -> str:
    """What the emitted program prints; it must succeed."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(tesserac: Command, folder: Path, source: str, *flags: str) -> Path:
    """Builds an example into a folder and returns the folder."""
    done = tesserac("build", source, *flags, "-o", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def gpt(tesserac: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GPT example at a size that trains in a second."""
    return build(tesserac, tmp_path_factory.mktemp("gpt") / "out", "examples/gpt.py", *SMALL) / "gpt"


def test_first_listing_proves_itself(tesserac: Command, tmp_path: Path) -> None:
    folder = build(tesserac, tmp_path / "out", "examples/chapter6/listing1.py", "--entry", "TransformerLM", *SIZES)
    assert call(folder / "TransformerLM", "selftest").splitlines()[-1] == "selftest: ok"


def test_the_whole_chapter_is_one_unit_whose_programs_prove_themselves(tesserac: Command, tmp_path: Path) -> None:
    settings = (
        *("--mesh", "none", "--set-literal", "4096=64", "--set-literal", "8192=128"),
        *("--shape", "TransformerLM.input=4x64x32", "--shape", "Wo=32x48", "--shape", "ns_pinn.x=256x1"),
        *("--shape", "moe_layer.x=96x64", "--shape", "main.input=8x64"),
    )
    folder = build(tesserac, tmp_path / "out", "examples/chapter6.md", *settings)
    for program in ("TransformerLM", "ns_pinn", "ns_loss", "moe_layer", "main"):
        assert call(folder / program, "selftest").splitlines()[-1] == "selftest: ok", program
    described = call(folder / "ns_loss", "describe")
    assert "ns_pinn.psi.w1" in described, "the loss trains the parameters of the module whose fields it takes"


def test_listing_3_is_clean_at_its_printed_size(tesserac: Command) -> None:
    done = tesserac("check", "examples/chapter6/listing3.py", "--shape", "x=512x4096")
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
    assert "warning" not in done.stderr


def test_listing_4_is_clean_at_its_printed_size(tesserac: Command) -> None:
    done = tesserac("check", "examples/chapter6/listing4.py", "--shape", "input=16x4096")
    assert done.returncode == 0, done.stderr
    assert "T0510" in done.stderr, "that transforms are orthonormal is said without being asked"
    assert "error" not in done.stderr


def test_gpt_proves_itself(gpt: Path) -> None:
    assert call(gpt, "selftest").splitlines()[-1] == "selftest: ok"


def test_gpt_learns_and_writes(gpt: Path, root: Path, tmp_path: Path) -> None:
    log, weights = tmp_path / "loss.jsonl", tmp_path / "gpt.safetensors"
    corpus = root / "examples" / "data" / "moby_dick.txt"
    flags = ("--steps", "150", "--optimizer", "adamw", "--lr", "3e-3", "--quiet", "--log", log, "--save", weights)
    call(gpt, "train", "--data", f"input={corpus}", *flags)
    losses = [json.loads(line)["loss"] for line in log.read_text(encoding="utf-8").splitlines()]
    assert len(losses) == 150
    assert losses[0] > 5.0, "a new model knows nothing of 256 bytes: log(256) is 5.5"
    assert sum(losses[-10:]) / 10 < 3.05, "knowing only how often each byte occurs gives 3.10"
    text = call(
        gpt, "generate", "--weights", weights, "--prompt", "The whale ", "--tokens", "60", "--temperature", "0.5"
    )
    assert text.startswith("The whale ")
    assert len(text) >= 70


def test_experts_prove_themselves_learn_and_report_their_load(tesserac: Command, root: Path, tmp_path: Path) -> None:
    sizes = [part for setting in ("L=1", "E=4") for part in ("--set", setting)]
    program = build(tesserac, tmp_path / "moe", "examples/moe_lm.py", *SMALL, *sizes) / "moe_lm"
    assert call(program, "selftest").splitlines()[-1] == "selftest: ok"
    log, corpus = tmp_path / "log.jsonl", root / "examples" / "data" / "moby_dick.txt"
    flags = ("--steps", "150", "--optimizer", "adamw", "--lr", "3e-3", "--quiet", "--log", log)
    call(program, "train", "--data", f"input={corpus}", *flags)
    metrics = [json.loads(line)["metrics"] for line in log.read_text(encoding="utf-8").splitlines()]
    learned = sum(m["cross_entropy"] for m in metrics[-10:]) / 10
    assert learned < 3.05, "knowing only how often each byte occurs gives 3.10"
    for record in metrics:
        loads = [record[f"load.{i}"] for i in range(4)]
        assert sum(loads) == pytest.approx(4.0, abs=1e-5)
        assert 0.99 < record["balance"] < 4.0


def test_make_trains_and_compares_an_equation(tesserac: Command, root: Path, tmp_path: Path) -> None:
    """`make -C examples heat` from the source to the picture, at a size that is trained in a second."""
    pytest.importorskip("matplotlib")
    small = ["BUILD=--set N=32 --set WIDTH=8", "ADAM=200", "LBFGS=60", "FLAGS=--quiet", "COMPARE=--limit 0.5"]
    command = ["make", "-C", str(root / "examples"), f"INTERPRETER={sys.executable}", f"OUT={tmp_path}", *small, "heat"]
    environment = os.environ | {"PYTHONPATH": str(root), "OPTIMIZE": "-O1"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"heat: relative L2 error of u \d+\.\d+% \(at most 50% is good\)", done.stdout)
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")


def test_a_signal_is_freed_from_noise(tesserac: Command, root: Path, tmp_path: Path) -> None:
    pytest.importorskip("pywt")
    program = build(tesserac, tmp_path / "out", "examples/spectral_denoise.py") / "spectral_denoise"
    assert call(program, "selftest").splitlines()[-1] == "selftest: ok"
    report = [sys.executable, root / "examples" / "spectral_report.py", "denoise", program, "--least", "4"]
    done = subprocess.run(report, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_neural_operator_learns(tesserac: Command, root: Path, tmp_path: Path) -> None:
    sizes = [part for setting in ("N=64", "W=8", "M=8", "L=1", "B=8") for part in ("--set", setting)]
    program = build(tesserac, tmp_path / "out", "examples/fno_burgers.py", *sizes) / "fno_burgers"
    assert call(program, "selftest").splitlines()[-1] == "selftest: ok"
    data, weights = tmp_path / "data", tmp_path / "w.safetensors"
    make = [sys.executable, root / "examples" / "burgers_data.py", "--out", data, "--train", "64", "--points", "64"]
    subprocess.run(make, check=True, capture_output=True)
    inputs = [part for name in ("u0", "u1") for part in ("--data", f"{name}={data / f'train_{name}.npy'}")]
    flags = ("--optimizer", "adam", "--lr", "5e-3", "--steps", "150", "--quiet", "--save", weights)
    call(program, "train", *inputs, *flags)
    report = [sys.executable, root / "examples" / "spectral_report.py", "burgers", program, weights, data]
    done = subprocess.run([*report, "--limit", "0.6"], capture_output=True, text=True)  # of nothing learnt: 1
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_comparison_that_fails_says_why(root: Path, tmp_path: Path) -> None:
    script = [sys.executable, str(root / "examples" / "compare.py"), "heat", str(tmp_path / "heat"), "w.safetensors"]
    done = subprocess.run(script, capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert f"{tmp_path}/heat does not exist; make -C examples heat builds and trains it" in done.stderr


def test_every_target_is_described_and_sets_itself_up() -> None:
    folder = ROOT / "examples"
    text = (folder / "Makefile").read_text(encoding="utf-8")
    targets = next(line for line in text.splitlines() if line.startswith(".PHONY:")).split()[1:]
    for target in targets:
        environment = {k: v for k, v in os.environ.items() if k not in ("INTERPRETER", "MAKEFLAGS")}
        plan = subprocess.run(["make", "-n", "-B", target], cwd=folder, env=environment, capture_output=True, text=True)
        assert plan.returncode == 0, plan.stderr
        assert "setup EXTRAS=plot" in plan.stdout
        assert f"build {target}.py" in plan.stdout
        assert re.search(rf"^#.*\b{target}\b", text, re.MULTILINE), f"{target} is not described"
