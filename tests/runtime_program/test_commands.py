"""infer, generate, describe, bench, selftest, profile and the command line itself. Run under sanitizers."""

# ruff: noqa: E501  (exact messages stay on one line)
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from .conftest import Programs


def softmax(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    p = np.exp(x @ w + b - (x @ w + b).max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize("samples", [0, 1, 8, 13, 40])
def test_infer_takes_any_number_of_samples(checked: Programs, tmp_path: Path, samples: int) -> None:
    rng = np.random.default_rng(2)
    x, w, b = rng.normal(size=(samples, 5)), rng.normal(size=(5, 4)), rng.normal(size=4)
    np.save(tmp_path / "x.npy", x)
    save_file({"W": w, "b": b}, tmp_path / "w.safetensors")  # float64, converted
    flags = ["--input", "x=x.npy", "--output", "probabilities=p.npy", "--weights", "w.safetensors"]
    done = checked.run("Softmax", "infer", *flags, cwd=tmp_path)
    assert done.stderr == ""
    p = np.load(tmp_path / "p.npy")
    assert p.dtype == np.float32
    assert p.shape == (samples, 4)
    if samples:
        np.testing.assert_allclose(p, softmax(x, w, b), rtol=1e-5)


def test_infer_says_when_weights_are_initial_ones(checked: Programs, data: Path) -> None:
    done = checked.run("Softmax", "infer", "--input", "x=x.npy", "--output", "p.npy", cwd=data)
    assert done.stderr == "note: no --weights given; the parameters have their initial values (seed 0)\n"


def test_infer_errors_leave_no_file(checked: Programs, data: Path) -> None:
    x = np.load(data / "x.npy")
    x[39, 4] = np.inf
    np.save(data / "x.npy", x)
    run = ["infer", "--input", "x=x.npy"]
    error = checked.run("Softmax", *run, "--output", "p.npy", cwd=data, code=1).stderr
    assert "error[T0907]: input 'x': +infinity at sample 39, position 4 of 'x.npy'\n" in error
    assert not [path for path in data.iterdir() if path.name.startswith("p.npy")]
    assert (
        checked.fails("Softmax", *run, cwd=data, code=2)
        == "error[T0920]: infer: --output is missing\n  = help: outputs: probabilities\n"
    )
    error = checked.fails("Softmax", *run, "--output", "probs=p.npy", cwd=data, code=2)
    assert error.startswith("error[T0910]: --output: the program has no output 'probs'\n")
    error = checked.fails("Softmax", "infer", "--output", "p.npy", cwd=data, code=2)
    assert error == "error[T0910]: no data for input 'x' (f32, 8 x 5)\n  = help: add --input KEY=SPEC for each: FILE.npy, grid:LO:HI:N or const:V\n"
    assert checked.fails("Wrong", "infer", cwd=data, code=2).startswith("error[T0924]: Wrong has no forward outputs\n")


def bigram(folder: Path) -> None:
    """Weights of a model in which a is followed by b, c or d with probabilities 1/2, 1/4 and 1/4."""
    table = np.full((128, 128), -50.0, np.float32)
    for token in range(128):
        table[token, ord("a")] = 0
    table[ord("a"), [ord("b"), ord("c"), ord("d")]] = np.log([0.5, 0.25, 0.25])
    table[ord("a"), ord("a")] = -50
    save_file({"table": table}, folder / "w.safetensors")


def test_generate_samples_the_distribution(checked: Programs, tmp_path: Path) -> None:
    bigram(tmp_path)

    def run(*flags: object) -> str:
        done = checked.run("Bigram", "generate", "--weights", "w.safetensors", "--prompt", "a", *flags, cwd=tmp_path)
        return done.stdout[:-1]

    text = run("--tokens", 2000, "--temperature", 1)
    assert len(text) == 2001
    counts = {letter: text.count(letter) / 1000 for letter in "abcd"}
    assert counts == pytest.approx({"a": 1.0, "b": 0.5, "c": 0.25, "d": 0.25}, abs=0.05)
    assert run("--tokens", 50, "--temperature", 1) == text[:51], "the seed decides"
    assert run("--tokens", 50, "--temperature", 1, "--seed", 1) != text[:51]
    assert run("--tokens", 6, "--temperature", 0) == "abababa"
    assert run("--tokens", 40, "--temperature", 1, "--top-k", 1) == "ab" * 20 + "a"
    assert "d" not in run("--tokens", 200, "--temperature", 1, "--top-k", 2), "ties go to the smaller token"
    cold = run("--tokens", 400, "--temperature", 0.25)
    assert cold.count("b") > 170


def test_generate_from_a_checkpoint(checked: Programs, data: Path) -> None:
    checked.run(
        "Bigram", "train", "--data", "input=text.txt", "--steps", 3, "--checkpoint", "ckpt", "--quiet", cwd=data
    )
    done = checked.run("Bigram", "generate", "--checkpoint", "ckpt", "--prompt", "x" * 40, "--tokens", 5, cwd=data)
    assert done.stdout.startswith("x" * 40)
    assert len(done.stdout) == 46


def test_generate_errors(checked: Programs, data: Path) -> None:
    bigram(data)
    assert checked.fails("Softmax", "generate", "--weights", "w", cwd=data, code=2) == (
        "error[T0924]: Softmax is no token model\n  = help: generate needs one integer input [B, S] and an output of scores [B, S, V]\n"
    )
    assert checked.fails("Bigram", "generate", cwd=data, code=2).startswith(
        "error[T0920]: generate: give either --weights FILE or --checkpoint DIR\n"
    )
    assert checked.fails("Bigram", "generate", "--checkpoint", "none", cwd=data).startswith(
        "error[T0918]: no checkpoint in 'none' can be used\n"
    )
    error = checked.fails("Bigram", "generate", "--weights", "w.safetensors", "--prompt", "caf\u00e9", cwd=data)
    assert error.startswith("error[T0908]: input 'input': value 195 at token 3 of '--prompt' is outside 0 .. 127\n")


@pytest.mark.parametrize("program", ["Softmax", "Softmax64", "Bigram"])
def test_selftest_passes(checked: Programs, tmp_path: Path, program: str) -> None:
    out = checked.run(program, "selftest", cwd=tmp_path).stdout
    assert out.endswith("selftest: ok\n")
    assert "FAIL" not in out
    for name in {"Bigram": ["gradient table", "output scores"]}.get(
        program, ["gradient W", "gradient b", "metric accuracy", "output probabilities"]
    ):
        assert f"  {name} " in out
    assert checked.run(program, "selftest", "--seed", 7, "--threads", 1, cwd=tmp_path).stdout.endswith("selftest: ok\n")


def test_selftest_notices_a_wrong_gradient(checked: Programs, tmp_path: Path) -> None:
    out = checked.run("Wrong", "selftest", cwd=tmp_path, code=1).stdout
    assert out.endswith("selftest: FAILED\n")
    wrong = [line for line in out.splitlines() if line.endswith("FAIL")]
    assert [line.split()[1] for line in wrong] == ["W", "thread:"]
    assert "    at element 3: computed " in out
    assert checked.run("Wrong", "selftest", "--tolerance", "0.1", cwd=tmp_path).stdout.endswith("selftest: ok\n")


def test_describe(checked: Programs, tmp_path: Path) -> None:
    text = checked.run("Softmax", "describe", "--threads", 3, cwd=tmp_path).stdout
    for part in ("Softmax, from softmax.py, by tesserac 0.1", "parameters: 24 in 2 tensors", "normal(0, 0.5)", "gradients 1.2 kB",
                 "values 0 .. 3, -100 is ignored", "cross_entropy", "softmax.py:7", "-log softmax(x W + b)[label]"):  # fmt: skip
        assert part in text
    data = json.loads(checked.run("Softmax", "describe", "--json", cwd=tmp_path).stdout)
    assert data["parameters"][0] == {
        "name": "W",
        "dtype": "f32",
        "shape": [5, 4],
        "init": "normal(0, 0.5)",
        "decay": True,
    }
    assert data["train"]["batch"] == 8
    assert data["kernels"][0]["flops"] == 960
    assert data["infer"]["outputs"][0]["shape"] == [8, 4]


def test_bench(checked: Programs, tmp_path: Path) -> None:
    text = checked.run("Softmax", "bench", "--steps", 3, cwd=tmp_path).stdout
    assert "GFLOP/s (FMA loop, same threads)" in text
    result = json.loads(checked.run("Softmax", "bench", "--json", "--steps", 5, "--infer", cwd=tmp_path).stdout)
    assert result["function"] == "forward"
    assert 0 < result["min_ms"] <= result["median_ms"] <= result["max_ms"]
    assert result["peak_gflops"] > 0


def test_profile(plain: Programs, checked: Programs, tmp_path: Path) -> None:
    text = checked.run("Softmax", "profile", "trace.json", "--steps", 2, cwd=tmp_path).stdout
    assert "cross_entropy" in text
    assert "sum_workers" in text
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sorted(event["name"] for event in events) == ["cross_entropy"] * 4 + ["sum_workers"] * 2
    assert {event["args"]["source"] for event in events} == {"softmax.py:7"}
    error = plain.fails("Softmax", "profile", cwd=tmp_path, code=2)
    assert error.startswith("error[T0928]: this binary was built without timing hooks\n")


def test_help_and_version(checked: Programs, tmp_path: Path) -> None:
    assert checked.run("Softmax", "--version", cwd=tmp_path).stdout == "Softmax (tesserac 0.1)\n"
    overview = checked.run("Softmax", "--help", cwd=tmp_path).stdout
    for command in ("train", "infer", "generate", "bench", "describe", "selftest", "profile"):
        assert f"\n  {command} " in overview
        assert checked.run("Softmax", command, "--help", cwd=tmp_path).stdout.startswith(f"Softmax {command} ")
    assert "--weight-decay X" in checked.run("Softmax", "train", "--help", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command given"),
        (["trian"], "unknown command 'trian'\n  = help: did you mean train? "),
        (["train", "--step", "3"], "train: unknown flag '--step'\n  = help: did you mean --steps? "),
        (["train", "--lr"], "train: --lr needs a value: --lr X"),
        (["train", "--lr", "--quiet"], "train: --lr needs a value: --lr X"),
        (["train", "--quiet=1"], "train: --quiet takes no value"),
        (["train", "extra"], "train: unexpected argument 'extra'"),
        (["train", "--resume"], "train: --resume needs --checkpoint DIR"),
        (["train", "--save", ""], "train: --save is empty\n  = help: write --save FILE"),
        (["generate", "--prompt="], "generate: --prompt is empty"),
        (["generate", "\x1b[31m"], "generate: unexpected argument '\\x1b[31m'"),
    ],
)
def test_usage_errors(checked: Programs, tmp_path: Path, words: list[str], message: str) -> None:
    assert checked.fails("Bigram", *words, cwd=tmp_path, code=2).startswith(f"error[T0920]: {message}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "fast"], "--lr 'fast' is not a number of at least 0"),
        (["--lr", "nan"], "--lr 'nan' is not a number of at least 0"),
        (["--steps", "-1"], "--steps '-1' is not an integer of at least 0"),
        (["--steps", "1e3"], "--steps '1e3' is not an integer of at least 0"),
        (["--steps", "99999999999999999999"], "--steps '99999999999999999999' is not an integer of at least 0"),
        (["--threads", "0"], "--threads '0' is not an integer from 1 to 4096"),
        (
            ["--optimizer", "adma"],
            "--optimizer 'adma' is unknown\n  = help: did you mean adam? known: sgd, momentum, adam, adamw",
        ),
        (["--schedule", "cos"], "--schedule 'cos' is unknown"),
        (["--optimizer", "sgd", "--beta1", "0.5"], "--beta1 means nothing to sgd"),
    ],
)
def test_bad_flag_values(checked: Programs, data: Path, flags: list[str], message: str) -> None:
    run = ["train", "--data", "x=normal()", "--data", "labels=randint", *flags]
    assert checked.fails("Softmax", *run, cwd=data, code=2).startswith(f"error[T0921]: {message}")
