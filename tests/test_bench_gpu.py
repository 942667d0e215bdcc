"""bench/gpu.py as far as it goes without a GPU: what it says then, and its parts under the emulation and on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench import contestants, gpu
from tests.conftest import ROOT
from tests.emulation.building import build, write_emulated


def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "has_device", lambda: False)
    monkeypatch.setattr(gpu, "locate", lambda: None)
    monkeypatch.setattr(sys, "argv", ["bench.gpu"])
    assert gpu.main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[0] == "this benchmark needs a GPU and the CUDA compiler, and this machine lacks:"
    assert lines[1].startswith("  no GPU: ")
    assert lines[2].startswith("  no nvcc: pip install ")


def test_gpt2_follows_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example at a small size as the CUDA program, its peer through the module that moves it to a device."""
    pytest.importorskip("torch")

    def peers(case: str, size: str) -> list[contestants.Peer]:
        eager = contestants.peers(case, size)[0]
        flags = ("--program", eager.module, "--device", "cpu")
        return [replace(eager, module="bench.peers.on_gpu", flags=flags)]

    monkeypatch.setattr(gpu, "on_device", peers)
    flags = ("--target", "cuda", "--emulate")
    lines = gpu.race("gpt", "tiny-tied", gpu.Clock(time.time() + 400), flags)
    assert [line.who for line in lines] == ["tesserac fp32", "tesserac bf16", "PyTorch eager"]
    assert lines[0].correct.startswith("ok: "), lines
    assert lines[0].correct.endswith("from PyTorch eager over 11 losses")
    assert lines[1].correct.startswith("ok: "), lines
    text = gpu.table(lines)
    assert "K tokens/s" in text
    assert "gpt tiny-tied  PyTorch eager" in text


def test_losses_that_differ_are_wrong() -> None:
    assert gpu.judged([1.0, 0.5, 0.2], [1.0, 0.50001], "x").startswith("ok: 2e-05 from x over 2 losses")
    assert gpu.judged([1.0, 0.5], [1.0, 0.51], "x").startswith("WRONG: ")
    assert gpu.judged([1.0], [1.0, 0.5], "x").startswith("WRONG: ")


def test_peers_of_every_race_are_there() -> None:
    for case, size in gpu.RACES:
        names = [peer.name for peer in gpu.on_device(case, size)]
        assert any(name.startswith("PyTorch ") for name in names)
        assert any(name.startswith("torch.compile") for name in names)
        assert any(name.startswith("JAX ") for name in names)
    autocast = [peer for peer in gpu.on_device("gpt", "124m") if "autocast" in peer.name]
    assert [peer.flags for peer in autocast] == [
        ("--autocast", "--program", "bench.peers.gpt_torch"),
        ("--autocast", "--program", "bench.peers.gpt_torch", "--compile"),
    ]


def test_the_race_of_attention(tmp_path: Path) -> None:
    """The program agrees with the other kernel, and prints what bench/gpu.py reads."""
    source = ROOT / "bench" / "micro" / "attention_mma.cu"
    write_emulated(tmp_path, {source.name: source.read_text(encoding="utf-8")})
    program = build(tmp_path, "attention_mma.cpp", "fast", program=True, flags=["-DTINY", "-DTSR_SM_90A"])
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    assert record["good"] is True
    assert 1e-4 < record["error"] < 1e-2
    assert record["backward_flops"] == 2.5 * record["forward_flops"]


def test_gpt2_has_124_million_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    from tesserac.cli import run

    path = ROOT / "examples" / "gpt2_124m.py"
    assert run(["check", str(path)]) == 0
    assert "124,475,904 numbers" in capsys.readouterr().out
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40
