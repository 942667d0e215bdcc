"""The benchmarks compare like with like: initial weights, work and losses are those of the peers."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench import cases, contestants, environment, ours, run
from bench.peers import harness
from tesserac.diagnostics import Diagnostics
from tesserac.elaborate import Options, elaborate
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function
from tesserac.parser import parse

ROOT = Path(__file__).resolve().parent.parent
EXPECTED: list[dict[str, Any]] = json.loads((ROOT / "bench" / "expected" / "tiny.json").read_text(encoding="utf-8"))[
    "cases"
]
Array = npt.NDArray[np.float64]


def name_of(entry: dict[str, Any]) -> str:
    return f"{entry['case']}-{entry['size']}"


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def cross_entropy(logits: Array, labels: npt.NDArray[np.int64]) -> float:
    return float(-np.log(np.take_along_axis(softmax(logits), labels[..., None], -1)).mean())


def attend(query: Array, key: Array, value: Array, heads: int, causal: bool) -> Array:
    """Multi-head attention of [B, S, D] in double precision."""
    batch, positions, width = query.shape
    q, k, v = (x.reshape(batch, positions, heads, -1).transpose(0, 2, 1, 3) for x in (query, key, value))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(width // heads)
    if causal:
        scores = np.where(np.tri(positions, dtype=bool), scores, -np.inf)
    return (softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(batch, positions, width)


def block_loss(size: cases.Block, w: cases.Arrays, data: cases.Arrays) -> float:
    x = data["input"]
    attention = attend(x @ w["Wq"], x @ w["Wk"], x @ w["Wv"], size.heads, size.causal)
    return cross_entropy(attention @ w["Wo"], data["labels"])


def gpt_loss(size: cases.Gpt, w: cases.Arrays, data: cases.Arrays) -> float:
    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled: Array = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * w[f"{name}_w"] + w[f"{name}_b"]

    def linear(x: Array, name: str) -> Array:
        product: Array = x @ w[f"{name}_w"] + w[f"{name}_b"]
        return product

    h = w["tok_emb"][data["input"]] + w["pos_emb"]
    for layer in range(size.layers):
        name = f"b{layer}"
        query, key, value = np.split(linear(norm(h, f"{name}.ln1"), f"{name}.qkv"), 3, -1)
        h = h + linear(attend(query, key, value, size.heads, True), f"{name}.proj")
        hidden = linear(norm(h, f"{name}.ln2"), f"{name}.fc")
        hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
        h = h + linear(hidden, f"{name}.out")
    return cross_entropy(norm(h, "lnf") @ w["head_w"], data["labels"])


def moe_loss(size: cases.Moe, w: cases.Arrays, data: cases.Arrays) -> float:
    """Every token by every expert, weighted by gates that are zero but for the chosen ones."""
    scores = data["input"] @ w["Wr"]
    least = np.sort(scores, -1)[:, -size.choices, None]
    gates = softmax(np.where(scores >= least, scores, -np.inf))
    out = np.zeros_like(data["input"])
    for i in range(size.experts):
        hidden = data["input"] @ w[f"W1.{i}"] + w[f"b1.{i}"]
        hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
        out += gates[:, i, None] * (hidden @ w[f"W2.{i}"] + w[f"b2.{i}"])
    return float(((out - data["target"]) ** 2).mean())


def spectral_loss(size: cases.Spectral, w: cases.Arrays, data: cases.Arrays) -> float:
    def part(x: Array) -> Array:
        return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))

    h = np.fft.fft(data["input"], norm="ortho")
    for _ in range(size.depth):
        gates, total = softmax(np.concatenate([h.real, h.imag], -1) @ w["gate"]), np.zeros_like(h)
        for i in range(size.experts):
            hidden = h @ w[f"e{i}.W1"] + w[f"e{i}.b1"]
            result = (part(hidden.real) + 1j * part(hidden.imag)) @ w[f"e{i}.W2"] + w[f"e{i}.b2"]
            total += gates[:, i : i + 1] * result
        h = total
    return float(np.mean((np.fft.ifft(h, norm="ortho").real - data["target"]) ** 2))


def pinn_loss(size: cases.Pinn, w: cases.Arrays, data: cases.Arrays) -> float:
    """Derivatives along directions by Cauchy's integral over a circle, mixed ones by polarisation."""
    points = np.concatenate([data[name] for name in size.coordinates], 1)
    turns = np.exp(2j * np.pi * np.arange(32) / 32)

    def along(*direction: float, order: int) -> Array:
        def field(at: Any) -> Any:
            for layer in range(1, size.hidden + 1):
                at = np.tanh(at @ w[f"w{layer}"] + w[f"b{layer}"])
            return at @ w[f"w{size.hidden + 1}"] + w[f"b{size.hidden + 1}"]

        radius = 0.2
        values = np.stack([field(points + radius * turn * np.array(direction)) for turn in turns])
        weights = math.factorial(order) / radius**order * turns**-order / len(turns)
        total: Array = np.tensordot(weights, values, 1).real[:, 0]
        return total

    if size.equation == "biharmonic":
        x, y = along(1, 0, order=4), along(0, 1, order=4)
        both = along(1, 1, order=4) + along(1, -1, order=4)
        return float(((x + y + (both - 2 * x - 2 * y) / 6 - 1) ** 2).mean())
    u, v = along(1, 0, 0, order=1), along(0, 1, 0, order=1)
    xx, yy, tt = along(1, 0, 0, order=2), along(0, 1, 0, order=2), along(0, 0, 1, order=2)
    xy = (along(1, 1, 0, order=2) - xx - yy) / 2
    xt = (along(1, 0, 1, order=2) - xx - tt) / 2
    return float(((xx + yy) ** 2).mean() + ((xt + u * xx + v * xy + xt) ** 2).mean())


def first_loss(size: cases.Case, w: cases.Arrays, data: cases.Arrays) -> float:
    if isinstance(size, cases.Spectral):
        return spectral_loss(size, w, data)
    if isinstance(size, cases.Pinn):
        return pinn_loss(size, w, data)
    if isinstance(size, cases.Moe):
        return moe_loss(size, w, data)
    return block_loss(size, w, data) if isinstance(size, cases.Block) else gpt_loss(size, w, data)


WIDE = {np.dtype(np.float32): np.float64, np.dtype(np.complex64): np.complex128}


@pytest.mark.parametrize("entry", EXPECTED, ids=name_of)
def test_first_loss_is_the_peers(entry: dict[str, Any]) -> None:
    """The weights and data are the peers', or their loss would be another: the model is written out in NumPy here."""
    size = cases.CASES[entry["case"]][entry["size"]]
    single = cases.initial(entry["case"], entry["size"])
    weights, data = (
        {k: v.astype(WIDE.get(v.dtype, v.dtype)) for k, v in part.items()} for part in single
    )
    loss = first_loss(size, weights, data)
    assert loss == pytest.approx(entry["losses"][0], rel=1e-6)


def elaborated(case: str, size: str) -> Function:
    """The training function of the Tessera source that is raced, before any pass."""
    path = ROOT / "bench" / "models" / ours.SOURCES[case][0]
    diagnostics = Diagnostics()
    unit = parse(path.read_text(encoding="utf-8"), path.name, diagnostics)
    assert unit is not None
    settings = tuple((name, str(value)) for name, value in ours.constants(case, size).items())
    program = elaborate(unit, Options(sets=settings), diagnostics)
    assert program is not None
    train = program.entries[0].train
    assert train is not None
    return train


class Update:
    """The update of `bench/expected/`, in double precision: SGD, or AdamW with decay of rank two and more."""

    def __init__(self, size: cases.Case) -> None:
        self.size = size
        self.moments: dict[str, tuple[Array, Array]] = {}
        self.count = 0

    def apply(self, weights: dict[str, Array], gradients: dict[str, Array]) -> None:
        self.count += 1
        for path, value in weights.items():
            weights[path] = self.updated(path, value, gradients[path])

    def updated(self, path: str, value: Array, gradient: Array) -> Array:
        size = self.size
        if not isinstance(size, cases.Gpt | cases.Pinn):
            return value - size.learning_rate * gradient
        zero = np.zeros_like(value)
        first, second = self.moments.get(path, (zero, zero))
        first = size.beta1 * first + (1 - size.beta1) * gradient
        second = size.beta2 * second + (1 - size.beta2) * gradient**2
        self.moments[path] = (first, second)
        direction = first / (1 - size.beta1**self.count)
        scale = np.sqrt(second / (1 - size.beta2**self.count)) + size.eps
        decay = size.weight_decay if isinstance(size, cases.Gpt) and value.ndim >= 2 else 0.0
        updated: Array = value - size.learning_rate * (decay * value + direction / scale)
        return updated


@pytest.mark.parametrize("entry", EXPECTED, ids=name_of)
def test_source_means_what_the_peers_compute(entry: dict[str, Any]) -> None:
    """Elaborated, differentiated and evaluated in NumPy, the Tessera source loses as PyTorch does over its updates."""
    case, size = entry["case"], entry["size"]
    train = elaborated(case, size)
    named, data = cases.initial(case, size)
    owned = [{"name": i.path, "shape": list(i.var.type.sizes)} for i in train.inputs if i.path not in data]
    weights = {path: value.astype(WIDE[value.dtype]) for path, value in ours.rename(named, owned).items()}
    update = Update(cases.CASES[case][size])
    losses = []
    for _ in entry["losses"]:
        results = evaluate(train, {**weights, **data}, dtype=np.float64)
        losses.append(float(results["loss"]))
        update.apply(weights, {path: results[f"grad:{path}"] for path in weights})
    assert run.largest_difference(losses, entry["losses"]) <= run.TOLERANCE


@pytest.mark.parametrize("entry", EXPECTED, ids=name_of)
def test_losses_agree_with_the_peers(entry: dict[str, Any]) -> None:
    program = ours.build(entry["case"], entry["size"])
    assert run.largest_difference(program.losses(), entry["losses"]) <= run.TOLERANCE


def test_work_of_the_raced_sizes() -> None:
    """Products of one step, counted by hand: 2 * m * n * k each."""
    rows, width = 8 * 512, 512
    forward = 4 * 2 * rows * width * width
    attention = 2 * 2 * rows * 512 * width
    counted = 2 * forward + 2 * rows * width * width + 3 * attention
    assert cases.CASES["block"]["h1"].gflop() * 1e9 == pytest.approx(counted)
    assert cases.CASES["spectral"]["n512"].gflop() == pytest.approx(8 * 256 * 512 * 512 * 4 * 17 / 1e9)
    assert cases.CASES["gpt"]["base"].gflop() == pytest.approx(90.6, abs=0.05)
    assert cases.CASES["moe"]["d512"].gflop() == pytest.approx(5 * 8192 * 2 * 512 * 1024 / 1e9, rel=0.01)
    assert cases.CASES["pinn"]["base"].gflop() * 1e9 == pytest.approx(3 * 5 * 2 * 4096 * 256**2)
    assert cases.CASES["pinn"]["deep"].gflop() * 1e9 == pytest.approx(3 * 5 * 2 * 4096 * 128**2 * 3)


def test_every_way_is_raced_and_tuned_ones_are_told_apart() -> None:
    for size in ("base", "biharmonic"):
        names = [peer.name for peer in contestants.peers("pinn", size)]
        assert len(set(names)) == len(names)
        assert {name.removesuffix(", tuned") for name in names if name.endswith(", tuned")} < set(names)
    assert len(contestants.peers("gpt", "base")) == 6


def test_renaming_refuses_what_it_cannot_match() -> None:
    weights, _ = cases.initial("block", "tiny")
    parameters = [{"name": f"transformer.{name}", "shape": list(value.shape)} for name, value in weights.items()]
    assert list(ours.rename(weights, parameters)) == [entry["name"] for entry in parameters]
    with pytest.raises(contestants.Failed, match="Wo"):
        ours.rename(weights, parameters[:-1])
    with pytest.raises(contestants.Failed, match=r"transformer\.Wo"):
        ours.rename(weights, [*parameters[:-1], {"name": "transformer.Wo", "shape": [32, 31]}])


def test_renaming_finds_the_parts_of_a_layer() -> None:
    weights, _ = cases.initial("gpt", "tiny")
    outer = {"gpt.tok_emb": "tok_emb", "gpt.pos_emb": "pos_emb", "gpt.head_w": "head_w"}
    names = {
        f"gpt.{mine.format(layer)}": theirs.format(layer)
        for layer in range(2)
        for mine, theirs in ours._NAMES.items()
        if mine.startswith(("layers", "norm"))
        if theirs.format(layer) in weights
    }
    parameters = [{"name": path, "shape": list(weights[name].shape)} for path, name in (outer | names).items()]
    renamed = ours.rename(weights, parameters)
    assert renamed["gpt.layers.1.mlp.w2"] is weights["b1.out_w"]
    assert renamed["gpt.layers.0.norm2.bias"] is weights["b0.ln2_b"]
    assert renamed["gpt.norm.weight"] is weights["lnf_w"]
    assert len(renamed) == len(weights)


def test_a_peer_that_fails_says_why() -> None:
    with pytest.raises(contestants.Failed, match="ValueError: no"):
        contestants.json_line(["python3", "-c", "raise ValueError('no')"], {"PATH": "/usr/bin:/bin"})


def test_a_peer_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    child = "import subprocess, time; subprocess.Popen(['sh', '-c', 'sleep 2; touch late']); time.sleep(60)"
    with pytest.raises(contestants.Failed, match="no answer within 1 s"):
        contestants.json_line([sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {child}"], {}, 0.8)
    time.sleep(2)
    assert not list(tmp_path.iterdir())


def test_a_slow_peer_times_fewer_steps(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "_exit", lambda status: None)
    told = argparse.Namespace(seconds=9.0, until=time.time() + 0.5, brief=False)
    harness.race(lambda: time.sleep(0.05) or 1.0, told, updates=1000)
    record = json.loads(capsys.readouterr().out)
    assert len(record["losses"]) < 12
    assert 1 <= record["steps"] < 12
    assert time.time() < told.until + 0.5


def test_every_contestant_of_a_round_keeps_its_time() -> None:
    left, count = 300.0, 20
    for to_come in range(count - 1, -1, -1):
        limit = run.share(left, to_come, most=60.0)
        assert run.LEAST_S <= limit <= 60.0
        left -= limit
    assert left >= 0.0


def test_the_fastest_of_each_kind_are_raced_in_every_round() -> None:
    record = {"peak_rss_mib": 1.0}
    shipped = [run.Row(f"s{t}", False, [{"median_ms": float(t), **record}]) for t in (5, 3, 9, 4)]
    tuned = [run.Row("tuned", True, [{"median_ms": 7.0, **record}]), run.Row("late", True, problem="no answer")]
    mine = run.Row(run.OURS, False, [{"median_ms": 1.0, **record}])
    assert [row.name for row in run.finalists([mine, *shipped, *tuned])] == ["tesserac", "s3", "s4", "s5", "tuned"]


def test_the_table_compares_with_our_time_and_memory() -> None:
    mine = run.Row(run.OURS, False, [{"median_ms": t, "peak_rss_mib": 50.0, "had": 0.98} for t in (9.0, 10.0, 30.0)])
    peer = run.Row("peer", False, [{"median_ms": 25.0, "peak_rss_mib": 400.0, "had": 0.9}])
    missing = run.Row("absent", False, problem="not installed")
    first, second = run.table([peer, missing, mine], gflop=1.0, peak=200.0).splitlines()[1:3]
    assert first.split() == ["tesserac", "10.0", "9.0", "-", "30.0", "1.00", "100", "50", "50", "1.0", "98%"]
    assert second.split() == ["peer", "25.0", "25.0", "-", "25.0", "2.50", "40", "20", "400", "8.0", "90%"]
    assert run.remarks([mine, peer, missing])[0] == "not installed: absent; `make setup-bench` installs the peers"


def test_different_losses_are_called_different() -> None:
    mine, peer = run.Row(run.OURS, False, losses=[2.0, 1.0]), run.Row("peer", False, losses=[2.0, 1.001])
    assert any("DIFFER" in line for line in run.remarks([mine, peer]))
    assert run.largest_difference([1.0], [1.0, 2.0]) == float("inf")


def test_a_disturbed_turn_is_repeated_and_the_quieter_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Program:
        times = iter([30.0, 10.0, 11.0])

        def run(self, seconds: float, step_ms: float | None) -> dict[str, Any]:
            return {"median_ms": next(self.times), "peak_rss_mib": 1.0}

    rates = iter([200.0, 200.0, 100.0, 196.0, 200.0, 200.0, 198.0])
    monkeypatch.setattr(run.environment, "peak_gflops", lambda seconds=2.0: next(rates))
    monkeypatch.setattr(run.environment, "taken_s", lambda: 0.0)
    row, program, machine = run.Row(run.OURS, False), Program(), run.Machine()
    for _ in range(2):
        run._one_round(row, program, "tiny", 1.0, 60.0, machine)  # type: ignore[arg-type]
    assert [record["median_ms"] for record in row.rounds] == [10.0, 11.0]
    assert row.had() == 0.98


def test_what_others_take_of_the_processors_is_seen() -> None:
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before = environment.taken_s()
        time.sleep(0.5)
        assert environment.taken_s() - before > 0.05
    finally:
        other.kill()
        other.wait()
