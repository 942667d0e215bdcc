"""Training: against the same computation in NumPy and PyTorch's formulas, data order, logs, schedules."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from .conftest import Programs

XY = ("--data", "x=x.npy", "--data", "labels=labels.npy")


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def gradients(x: Any, labels: Any, w: Any, b: Any) -> tuple[float, Any, Any]:
    """Loss and gradients of softmax regression in float64."""
    logits = x @ w + b
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(labels)), labels]).mean()
    p[np.arange(len(labels)), labels] -= 1
    p /= len(labels)
    return float(loss), x.T @ p, p.sum(0)


def numpy_update(rule: str, p: Any, g: Any, state: list[Any], t: int, lr: float, decay: float) -> Any:
    """One update, written from the papers: torch.optim with the same settings gives the same."""
    if rule == "sgd":
        return p - lr * (g + decay * p)
    if rule == "momentum":
        state[0] = 0.9 * state[0] + g + decay * p
        return p - lr * state[0]
    if rule == "adamw":
        p = p * (1 - lr * decay)
    else:
        g = g + decay * p
    state[0] = 0.9 * state[0] + 0.1 * g
    state[1] = 0.999 * state[1] + 0.001 * g * g
    return p - lr * (state[0] / (1 - 0.9**t)) / (np.sqrt(state[1] / (1 - 0.999**t)) + 1e-8)


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam", "adamw"])
def test_every_optimizer_follows_its_formula(plain: Programs, data: Path, rule: str) -> None:
    x, labels = np.load(data / "x.npy")[:8], np.load(data / "labels.npy")[:8]
    np.save(data / "x.npy", x)  # exactly one batch: used in every step
    np.save(data / "labels.npy", labels)
    rng = np.random.default_rng(0)
    params = {"W": rng.normal(size=(5, 4)), "b": rng.normal(size=4)}
    save_file({k: v.astype(np.float32) for k, v in params.items()}, data / "start.safetensors")
    params = {k: v.astype(np.float32).astype(np.float64) for k, v in params.items()}
    flags = ["--optimizer", rule, "--lr", "0.05", "--weight-decay", "0.1", "--weights", "start.safetensors"]
    done = plain.run("Softmax", "train", *XY, *flags, "--steps", 20, "--save", "end.safetensors", cwd=data)
    state: dict[str, list[Any]] = {name: [0.0, 0.0] for name in params}
    for step, line in enumerate(lines(done.stdout), 1):
        loss, gw, gb = gradients(x.astype(np.float64), labels, params["W"], params["b"])
        assert line["step"] == step
        assert line["loss"] == pytest.approx(loss, rel=1e-5)
        assert line["grad_norm"] == pytest.approx(np.sqrt((gw**2).sum() + (gb**2).sum()), rel=1e-4)
        for name, gradient, decay in (("W", gw, 0.1), ("b", gb, 0.0)):  # no decay on the bias
            params[name] = numpy_update(rule, params[name], gradient, state[name], step, 0.05, decay)
    end = load_file(data / "end.safetensors")
    for name, want in params.items():
        np.testing.assert_allclose(end[name], want, rtol=2e-4, atol=2e-5)


def test_clipping_limits_the_update(plain: Programs, data: Path) -> None:
    start = {"W": np.zeros((5, 4), np.float32), "b": np.zeros(4, np.float32)}
    save_file(start, data / "start.safetensors")
    flags = ["--optimizer", "sgd", "--lr", "1", "--clip", "0.01", "--weights", "start.safetensors", "--steps", 1]
    done = plain.run("Softmax", "train", *XY, *flags, "--save", "end.safetensors", cwd=data)
    end = load_file(data / "end.safetensors")
    moved = np.sqrt(sum((end[name].astype(np.float64) ** 2).sum() for name in end))
    assert lines(done.stdout)[0]["grad_norm"] > 0.1
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_accumulated_gradients(checked: Programs, data: Path) -> None:
    """A step of two batches is the step of all their samples; resumed in the middle it is the same bit for bit."""
    random = np.random.default_rng(3)
    x, labels = random.standard_normal((16, 5)).astype(np.float32), random.integers(0, 4, 16).astype(np.int32)
    np.save(data / "x.npy", x)
    np.save(data / "labels.npy", labels)
    start = {"W": random.standard_normal((5, 4)).astype(np.float32), "b": random.standard_normal(4).astype(np.float32)}
    save_file(start, data / "start.safetensors")
    flags = [*XY, "--optimizer", "sgd", "--lr", "0.5", "--accumulate", 2, "--clip", 100]
    begin = ["--weights", "start.safetensors"]
    done = checked.run("Softmax", "train", *flags, *begin, "--steps", 3, "--save", "end.safetensors", cwd=data)
    w, b = (start[name].astype(np.float64) for name in ("W", "b"))
    for line in lines(done.stdout):
        loss, gw, gb = gradients(x.astype(np.float64), labels, w, b)
        assert line["loss"] == pytest.approx(loss, rel=1e-5)
        assert line["grad_norm"] == pytest.approx(np.sqrt((gw**2).sum() + (gb**2).sum()), rel=1e-4)
        w, b = w - 0.5 * gw, b - 0.5 * gb
    end = load_file(data / "end.safetensors")
    np.testing.assert_allclose(end["W"], w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(end["b"], b, rtol=1e-4, atol=1e-5)
    checked.run("Softmax", "train", *flags, *begin, "--steps", 1, "--checkpoint", "c", cwd=data)
    checked.run("Softmax", "train", *flags, "--steps", 3, "--checkpoint", "c", "--resume", "--save", "b.st", cwd=data)
    assert (data / "b.st").read_bytes() == (data / "end.safetensors").read_bytes()
    error = checked.fails("Softmax", "train", *XY, "--optimizer", "lbfgs", "--accumulate", 2, cwd=data, code=2)
    assert "--accumulate means nothing to lbfgs" in error
    checked.fails("Softmax", "train", *XY, "--accumulate", 0, cwd=data, code=2)


def test_schedules(plain: Programs, data: Path) -> None:
    def rates(*flags: object) -> list[float]:
        done = plain.run("Softmax", "train", *XY, "--steps", 10, "--lr", "0.1", *flags, cwd=data)
        return [line["lr"] for line in lines(done.stdout)]

    assert rates() == pytest.approx([0.1] * 10)
    warm = [0.1 * k / 4 for k in (1, 2, 3, 4)]
    assert rates("--warmup", 4) == pytest.approx(warm + [0.1] * 6)
    linear = [0.01 + 0.09 * (1 - k / 6) for k in range(6)]
    assert rates("--warmup", 4, "--schedule", "linear", "--min-lr", "0.01") == pytest.approx(warm + linear)
    cosine = [0.5 * 0.1 * (1 + np.cos(np.pi * k / 10)) for k in range(10)]
    assert rates("--schedule", "cosine") == pytest.approx(cosine)


def test_every_epoch_sees_every_sample_once(plain: Programs, tmp_path: Path) -> None:
    """With W = 0 and one-hot labels as features, the loss of a batch reveals its samples: count labels instead."""
    labels = np.repeat(np.arange(4), 4)  # 16 samples, two batches
    x = np.zeros((16, 5), np.float32)
    x[np.arange(16), labels] = 1
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "labels.npy", labels)
    bias = np.array([0.0, 1.0, 2.0, 3.0], np.float32)
    save_file({"W": np.zeros((5, 4), np.float32), "b": bias}, tmp_path / "w.safetensors")
    flags = ["--optimizer", "sgd", "--lr", "0", "--steps", 12, "--weights", "w.safetensors"]
    done = plain.run("Softmax", "train", *XY, *flags, cwd=tmp_path)
    losses = [line["loss"] for line in lines(done.stdout)]
    whole = np.log(np.exp(bias).sum()) - bias[labels].mean()
    for epoch in range(6):
        assert np.mean(losses[2 * epoch : 2 * epoch + 2]) == pytest.approx(whole, rel=1e-5)
    assert len({round(loss, 4) for loss in losses[::2]}) > 2, "every epoch has its own order"


def test_text_gives_next_token_labels(checked: Programs, data: Path) -> None:
    """In abcdefgh... every byte has one successor: a bigram model learns it completely."""
    flags = ["--steps", 300, "--lr", "0.3", "--save", "w.safetensors"]
    done = checked.run("Bigram", "train", "--data", "input=text.txt", *flags, cwd=data)
    losses = [line["loss"] for line in lines(done.stdout)]
    assert losses[0] == pytest.approx(np.log(128), rel=0.02)
    assert losses[-1] < 0.05
    done = checked.run("Bigram", "generate", "--weights", "w.safetensors", "--prompt", "c", "--tokens", 30, cwd=data)
    assert done.stdout == "c" + ("defghabc" * 4)[:30] + "\n"


def test_u16_tokens_equal_bytes(plain: Programs, data: Path) -> None:
    np.frombuffer((data / "text.txt").read_bytes(), np.uint8).astype("<u2").tofile(data / "text.u16")
    one = plain.run("Bigram", "train", "--data", "input=text.txt", "--steps", 5, "--save", "a.safetensors", cwd=data)
    two = plain.run("Bigram", "train", "--data", "input=text.u16", "--steps", 5, "--save", "b.safetensors", cwd=data)
    assert [line["loss"] for line in lines(one.stdout)] == [line["loss"] for line in lines(two.stdout)]
    assert (data / "a.safetensors").read_bytes() == (data / "b.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", "<i4", "|i1"])
def test_float_inputs_take_any_number_type(checked: Programs, tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(-3, 4, size=(8, 5)).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "labels.npy", np.arange(8, dtype=np.uint8) % 4)
    save_file({"W": np.eye(5, 4, dtype=np.float32), "b": np.zeros(4, np.float32)}, tmp_path / "w.safetensors")
    done = checked.run("Softmax", "train", *XY, "--steps", 1, "--weights", "w.safetensors", cwd=tmp_path)
    want, _, _ = gradients(x.astype(np.float64), np.arange(8) % 4, np.eye(5, 4), np.zeros(4))
    assert lines(done.stdout)[0]["loss"] == pytest.approx(want, rel=1e-5)


def test_samplers(checked: Programs, tmp_path: Path) -> None:
    for spec in ("uniform(-1, 1)", "normal()", "normal(1,0.5)", "zeros", "uniform"):
        done = checked.run(
            "Softmax", "train", "--data", f"x={spec}", "--data", "labels=randint(4)", "--steps", 3, cwd=tmp_path
        )  # fmt: skip
        assert len({line["loss"] for line in lines(done.stdout)}) > 1
    # zeros: the loss is that of the bias alone, log 4 at first
    done = checked.run("Softmax", "train", "--data", "x=zeros", "--data", "labels=randint", "--steps", 1, cwd=tmp_path)
    assert lines(done.stdout)[0]["loss"] == pytest.approx(np.log(4), rel=1e-6)


def test_log_and_validation(checked: Programs, data: Path) -> None:
    flags = [
        "--val",
        "x=x.npy",
        "--val",
        "labels=labels.npy",
        "--val-every",
        4,
        "--val-batches",
        5,
        "--log",
        "log.jsonl",
    ]
    checked.run("Softmax", "train", *XY, *flags, "--steps", 10, "--quiet", cwd=data)
    logged = lines((data / "log.jsonl").read_text())
    assert [line["step"] for line in logged if "loss" in line] == list(range(1, 11))
    assert all(set(line) == {"step", "loss", "metrics", "grad_norm", "lr", "ms"} for line in logged if "loss" in line)
    assert all(0 <= line["metrics"]["accuracy"] <= 1 for line in logged if "loss" in line)
    validation = [line for line in logged if "val_loss" in line]
    assert [line["step"] for line in validation] == [4, 8, 10]
    assert validation[-1]["val_loss"] < validation[0]["val_loss"]


def test_validation_leaves_training_alone(plain: Programs, data: Path) -> None:
    plain.run("Softmax", "train", *XY, "--steps", 9, "--save", "a.safetensors", "--quiet", cwd=data)
    flags = ["--val", "x=normal()", "--val", "labels=randint", "--val-every", 2]
    plain.run("Softmax", "train", *XY, *flags, "--steps", 9, "--save", "b.safetensors", "--quiet", cwd=data)
    assert (data / "a.safetensors").read_bytes() == (data / "b.safetensors").read_bytes()


def test_two_runs_are_equal_bit_for_bit(plain: Programs, data: Path) -> None:
    for name in ("a", "b"):
        plain.run("Softmax", "train", *XY, "--steps", 50, "--save", f"{name}.safetensors", "--seed", 5, cwd=data)
    assert (data / "a.safetensors").read_bytes() == (data / "b.safetensors").read_bytes()
    plain.run("Softmax", "train", *XY, "--steps", 50, "--save", "c.safetensors", "--seed", 6, cwd=data)
    assert (data / "a.safetensors").read_bytes() != (data / "c.safetensors").read_bytes()


def test_source_fixes_the_optimizer(checked: Programs, data: Path) -> None:
    done = checked.run("Softmax64", "train", *XY, "--steps", 60, cwd=data)
    losses = [line["loss"] for line in lines(done.stdout)]
    assert lines(done.stdout)[0]["lr"] == 0.25
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    error = checked.fails("Softmax64", "train", *XY, "--optimizer", "adamw", cwd=data, code=2)
    assert error == (
        "error[T0922]: --optimizer adamw contradicts the source, which fixes sgd\n"
        "  = help: drop the flag, or the optimizer from softmax64.py\n"
    )
    error = checked.fails("Softmax64", "train", *XY, "--lr", "0.5", cwd=data, code=2)
    assert error.startswith("error[T0922]: --lr 0.5 contradicts the source, which fixes 0.25\n")
    checked.run("Softmax64", "train", *XY, "--lr", "0.25", "--steps", 1, cwd=data)


def test_divergence_is_reported(checked: Programs, data: Path) -> None:
    flags = ["--optimizer", "sgd", "--lr", "1e38", "--steps", 50, "--check-finite"]
    error = checked.fails("Softmax", "train", *XY, *flags, cwd=data)
    assert error.startswith("error[T0925]: step ")
    assert "the loss is " in error or "the gradient of '" in error


def test_progress_line_on_a_terminal(plain: Programs, data: Path) -> None:
    parent, child = pty.openpty()
    command = [str(plain.folder / "Softmax"), "train", *XY, "--steps", "3"]
    process = subprocess.Popen(command, cwd=data, stdout=child, stderr=subprocess.PIPE)
    os.close(child)
    text = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:
            break
        if not part:
            break
        text += part
    assert process.wait() == 0
    assert b"step       1/3  loss " in text
    assert b"samples/s" in text
    assert b"GFLOP/s (FMA loop)" in text
