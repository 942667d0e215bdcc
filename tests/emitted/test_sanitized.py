"""Emitted programs under AddressSanitizer and UndefinedBehaviorSanitizer, with sizes that leave tails everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .conftest import LISTING1, SANITIZE, TAILS, WARNINGS, ZOO, Builder, Project

FLAGS = f"{WARNINGS} {SANITIZE}"


@pytest.fixture(scope="module")
def checked_gpt(builder: Builder) -> Project:
    return builder.build("gpt-sanitized", "examples/gpt.py", *TAILS, cxx=FLAGS, goals=("gpt",))


@pytest.fixture(scope="module")
def checked_listing(builder: Builder) -> Project:
    source = "examples/chapter6/listing1.py"
    return builder.build("listing1-sanitized", source, *LISTING1, cxx=FLAGS, goals=("TransformerLM",))


@pytest.fixture(scope="module")
def checked_zoo(builder: Builder) -> Project:
    return builder.build("zoo-sanitized", ZOO, cxx=FLAGS, goals=("decoder", "drops", "rows997", "single"))


def test_gpt(checked_gpt: Project, data: Path) -> None:
    assert checked_gpt.run("gpt", "selftest", cwd=data).stdout.splitlines()[-1] == "selftest: ok"
    source = ("--data", "input=text.txt", "--val", "input=text.txt", "--val-every", 2)
    checked_gpt.run("gpt", "train", *source, "--steps", 3, "--save", "w.safetensors", "--threads", 5, cwd=data)
    written = checked_gpt.run(
        "gpt", "generate", "--weights", "w.safetensors", "--prompt", "the ", "--tokens", 30, cwd=data
    ).stdout
    assert written.startswith("the ")
    np.save(data / "tokens.npy", np.frombuffer((data / "text.txt").read_bytes()[: 4 * 17], np.uint8).reshape(4, 17))
    weights = ("--weights", "w.safetensors", "--output", "scores.npy")
    checked_gpt.run("gpt", "infer", "--input", "input=tokens.npy", *weights, cwd=data)
    assert np.load(data / "scores.npy").shape == (4, 17, 123), "a batch of three and one of one"


def test_first_listing(checked_listing: Project, tmp_path: Path) -> None:
    assert checked_listing.run("TransformerLM", "selftest", cwd=tmp_path).stdout.splitlines()[-1] == "selftest: ok"
    specs = ("--data", "input=normal()", "--data", "labels=randint(19)")
    flags = ("--steps", 3, "--save", "w.safetensors", "--optimizer", "adam", "--clip", 1)
    checked_listing.run("TransformerLM", "train", *specs, *flags, cwd=tmp_path)
    np.save(tmp_path / "x.npy", np.ones((7, 17, 24), np.float32))
    weights = ("--weights", "w.safetensors", "--output", "y.npy", "--threads", 4)
    checked_listing.run("TransformerLM", "infer", "--input", "input=x.npy", *weights, cwd=tmp_path)
    assert np.isfinite(np.load(tmp_path / "y.npy")).all()


@pytest.mark.parametrize("entry", ["decoder", "drops", "rows997", "single"])
@pytest.mark.parametrize("threads", [1, 4])
def test_zoo(checked_zoo: Project, tmp_path: Path, entry: str, threads: int) -> None:
    done = checked_zoo.run(entry, "selftest", "--threads", threads, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "selftest: ok"
