"""`tesserac verify`: kernels run one by one against the evaluator, here under the emulation."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tesserac.codegen.cuda.alone import alone_kernels
from tesserac.driver import CompileOptions, compile_source
from tesserac.elaborate import Options
from tesserac.verification import library, program
from tests.cli.conftest import MODEL, Cli

# A concatenation that three kernels fill, a walk along lines, integers, dropout, attention.
WIDE = """from tessera import graph, op


@graph.module
def model(tokens, x, table):
    h = op.embedding(tokens, table)
    y = op.concat([h, op.tanh(x), op.cumsum(x, axis=-1)], axis=-1)
    q, k, v = op.split(op.dropout(y, 0.2), 3, axis=-1)
    return op.flash_attention(q, k, v, heads=2, causal=True)


@graph.training_step(module="model")
def step(batch):
    out = model(batch["tokens"], batch["x"])
    loss = op.mse(out, batch["y"])
    return graph.backward(loss), {"loss": loss}
"""
SIZES = ("--shape", "x=8x4", "--shape", "W=4x6", "--shape", "V=6x3")


@pytest.fixture(autouse=True)
def without_optimization(monkeypatch: pytest.MonkeyPatch, fast_compiler: Path) -> None:
    """Kernels are small here: compiling takes longest."""
    monkeypatch.setenv("CXX", str(fast_compiler))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.py"
    path.write_text(MODEL, encoding="utf-8")
    return path


def rows(text: str) -> dict[str, str]:
    """The verdict of every kernel in a table."""
    found = re.findall(r"^(\w+)  .*  (?:[\d.]+e[-+]\d+|inf)  +[\d.]+e[-+]\d+ +(ok|WRONG)", text, re.MULTILINE)
    return dict(found)


def test_every_kernel_agrees(source: Path, cli: Cli) -> None:
    done = cli("verify", source, "--target", "cuda", "--emulate", *SIZES)
    assert (done.code, done.err) == (0, "")
    verdicts = rows(done.out)
    assert len(verdicts) > 5
    assert set(verdicts.values()) == {"ok"}
    assert f"all {len(verdicts)} kernels agree with the evaluator\n" in done.out
    assert "whose times mean nothing" in done.out
    assert "GB/s" not in done.out


def test_what_is_wrong_is_found(source: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that compute another function."""
    build = library.build_library

    def sabotage(folder: Path, files: Mapping[str, str], *rest: Any, **more: Any) -> Path:
        changed = {name: text.replace("tanh(", "sin(") if "kernels" in name else text for name, text in files.items()}
        return build(folder, changed, *rest, **more)

    monkeypatch.setattr(program, "build_library", sabotage)
    done = cli("verify", source, "--target", "cuda", "--emulate", *SIZES)
    verdicts = rows(done.out)
    wrong = [name for name, verdict in verdicts.items() if verdict == "WRONG"]
    assert done.code == 1
    assert 0 < len(wrong) < len(verdicts)
    assert f"{len(wrong)} of {len(verdicts)} kernels are wrong\n" in done.out


def test_one_kernel_alone(source: Path, cli: Cli) -> None:
    done = cli("verify", source, "--target", "cuda", "--emulate", *SIZES, "--kernel", "rows_loss")
    assert done.code == 0
    assert set(rows(done.out)) == {"rows_loss"}
    done = cli("verify", source, "--target", "cuda", "--emulate", *SIZES, "--kernel", "rows_los")
    assert done.code == 1
    assert done.err.startswith("error[T0809]: there is no kernel `rows_los`\n")
    assert "did you mean `rows_loss`" in done.err


def test_kernels_of_all_kinds(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wide.py").write_text(WIDE, encoding="utf-8")
    shapes = [f"--shape={shape}" for shape in ("tokens=2x5", "x=2x5x8", "y=2x5x8", "table=7x8")]
    done = cli("verify", "wide.py", "--target", "cuda", "--emulate", *shapes)
    assert (done.code, done.err) == (0, "")
    names = " ".join(rows(done.out))
    assert "along_" in names
    assert "attention_backward_" in names


def test_mixed_precision(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention on tensor cores, of which weights are rounded once: its error is that of bf16, and no larger."""
    monkeypatch.chdir(tmp_path)
    Path("wide.py").write_text(WIDE, encoding="utf-8")
    shapes = [f"--shape={shape}" for shape in ("tokens=2x37", "x=2x37x16", "y=2x37x16", "table=7x16")]
    flags = ("--target", "cuda", "--emulate", "--precision", "bf16", "--kernel", "attention")
    done = cli("verify", "wide.py", *flags, *shapes)
    assert (done.code, done.err) == (0, "")
    errors = [float(line.split()[2]) for line in done.out.splitlines() if line.startswith("attention_")]
    assert len(errors) == 2  # forward, which training shares with inference, and backward
    assert all(2e-4 < error < 8e-3 for error in errors)
    (text,) = [p.read_text() for p in Path("build").glob("verify/*/*.alone.cu")]
    assert text.count("attention_forward_tensor_cores<") == 1
    assert text.count("attention_backward_tensor_cores<") == 1


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
def test_nvcc_makes_the_library(source: Path) -> None:
    sizes = (("x", "8x4"), ("W", "4x6"), ("V", "6x3"))
    options = CompileOptions(Options(shapes=sizes), target="cuda", architectures=("sm_80",))
    project = compile_source(MODEL, str(source), options)
    kernels = alone_kernels(project.plans[0], {})
    path = library.build_library(
        Path("out"), project.files, kernels, stem="net", source="net.py", emulate=False, variables=[], jobs=1
    )
    symbols = subprocess.check_output(["nm", "-D", "--defined-only", str(path)], text=True)
    assert {line.split()[-1] for line in symbols.splitlines()} >= {"tsr_alone_open", "tsr_alone_launch"}
