"""What emitted programs compute: against their own references, and against the evaluator on the elaborated source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tesserac.binding import Library, load
from tesserac.diagnostics import Diagnostics
from tesserac.elaborate import Options, elaborate
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Entry
from tesserac.parser import parse
from tests.conftest import ROOT

from .conftest import ZOO, Builder, Project

ENTRIES = ("decoder", "drops", "rows1000", "rows997", "single")


@pytest.fixture(scope="module")
def library(zoo: Project) -> Library:
    return load(zoo.folder / "libzoo.so")


@pytest.fixture(scope="module")
def elaborated() -> dict[str, Entry]:
    """The entries of the zoo before any pass."""
    diagnostics = Diagnostics()
    unit = parse((ROOT / ZOO).read_text(encoding="utf-8"), "zoo.py", diagnostics)
    assert unit is not None
    program = elaborate(unit, Options(), diagnostics)
    assert program is not None
    return {entry.label: entry for entry in program.entries}


def drawn(entry: Entry, seed: int = 5) -> dict[str, NDArray[np.generic]]:
    """Random data inputs, every fifth label ignored where labels may be."""
    assert entry.train is not None
    rng, data = np.random.default_rng(seed), {}
    for item in entry.train.data:
        shape = item.var.type.sizes
        if item.index_bound:
            ids = rng.integers(0, item.index_bound, shape).astype(np.int32)
            if item.ignore_index is not None:
                ids.reshape(-1)[::5] = item.ignore_index
            data[item.path] = ids
        else:
            data[item.path] = rng.normal(size=shape).astype(np.float32)
    return data


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("entry", ENTRIES)
def test_selftest_with_any_number_of_threads(zoo: Project, tmp_path: Path, entry: str, threads: int) -> None:
    """Five threads are more than `decoder` and `single` have tiles, and divide no batch of the zoo but 1000."""
    done = zoo.run(entry, "selftest", "--threads", threads, "--seed", threads, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "selftest: ok"


@pytest.mark.parametrize("name", ENTRIES)
def test_loss_metrics_and_gradients_equal_the_evaluator(
    library: Library, elaborated: dict[str, Entry], name: str
) -> None:
    entry, model = elaborated[name], library.create(name, seed=3)
    assert entry.train is not None
    data = drawn(entry)
    found = model.value_and_grad(**data)
    weights = {path: np.array(value) for path, value in model.params.items()}
    want = evaluate(entry.train, {**weights, **data}, dtype=np.float64, seed=3)
    assert found.loss == pytest.approx(float(want["loss"]), rel=1e-5)
    assert set(found.metrics) == {key for key in want if key != "loss" and not key.startswith("grad:")}
    for key, value in found.metrics.items():
        assert value == pytest.approx(float(want[key]), rel=1e-5)
    largest = max(float(np.abs(want[f"grad:{path}"]).max()) for path in weights)
    for path in weights:
        np.testing.assert_allclose(found.grads[path], want[f"grad:{path}"], rtol=1e-4, atol=2e-6 * largest)


@pytest.mark.parametrize("name", ENTRIES)
def test_inference_equals_the_evaluator_and_drops_nothing(
    library: Library, elaborated: dict[str, Entry], name: str
) -> None:
    entry, model = elaborated[name], library.create(name, seed=3)
    assert entry.infer is not None
    data = {key: value for key, value in drawn(entry).items() if key in {i.path for i in entry.infer.data}}
    weights = {path: np.array(value) for path, value in model.params.items()}
    want = evaluate(entry.infer, {**weights, **data}, dtype=np.float64)
    found = model.infer(**data)
    assert list(found) == list(want)
    for key, value in want.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5 * np.abs(value).max())
    first = {key: value[:1] for key, value in data.items()}
    for key, value in model.infer(**first).items():
        np.testing.assert_array_equal(value, found[key][:1], err_msg="a batch of one differs from one of many")


def test_double_precision(builder: Builder, tmp_path: Path) -> None:
    flags = ("--precision", "fp64", "--entry", "decoder")
    project = builder.build("zoo64", ZOO, *flags, goals=("decoder",))
    done = project.run("decoder", "selftest", cwd=tmp_path)
    assert "f64 against" in done.stdout
    assert "tolerance 1e-10" in done.stdout
    assert done.stdout.splitlines()[-1] == "selftest: ok"


def test_a_tied_table_is_one_parameter_with_both_gradients(library: Library) -> None:
    """The embedding's rows that no token names still have the gradient of the scores."""
    model = library.create("decoder", seed=1)
    assert [p.name for p in model.parameters].count("decoder.table") == 1
    tokens = np.zeros((3, 7), np.int32)
    grad = model.value_and_grad(tokens=tokens, labels=tokens).grads["decoder.table"]
    assert np.abs(grad[1:]).max() > 0


def losses(project: Project, folder: Path, *flags: object) -> list[float]:
    specs = ("--data", "x=x13.npy", "--data", "labels=classes.npy", "--quiet", "--log", "log.jsonl")
    (folder / "log.jsonl").unlink(missing_ok=True)
    project.run("drops", "train", *specs, *flags, cwd=folder)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_dropout_depends_on_seed_and_step_alone(zoo: Project, data: Path) -> None:
    """With a learning rate of nothing, only the mask can change the loss of a batch that stays the same."""
    still = ("--steps", 4, "--optimizer", "sgd", "--lr", 0)
    first = losses(zoo, data, *still)
    assert len(set(first)) == 4, "every step has a mask of its own"
    assert losses(zoo, data, *still) == first
    assert losses(zoo, data, *still, "--seed", 1) != first
    for threads in (1, 3, 16):
        assert losses(zoo, data, *still, "--threads", threads) == pytest.approx(first, rel=1e-6)


def test_validation_drops_nothing_out(zoo: Project, data: Path) -> None:
    """The loss that --val reports is that of the forward function, and no step of training changes by it."""
    flags = ("--steps", 3, "--save", "trained.safetensors", "--val", "x=x13.npy", "--val", "labels=classes.npy")
    plain = losses(zoo, data, *flags[:2])
    assert losses(zoo, data, *flags) == plain
    log = [json.loads(line) for line in (data / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    infer = ("--input", "x=x13.npy", "--weights", "trained.safetensors", "--output", "scores.npy")
    zoo.run("drops", "infer", *infer, cwd=data)
    scores = np.load(data / "scores.npy").astype(np.float64)
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))
    want = -scores[np.arange(13), np.load(data / "classes.npy")].mean()
    assert log[-1]["val_loss"] == pytest.approx(want, rel=1e-5)
    described = [json.loads(zoo.run(name, "describe", "--json", cwd=data).stdout) for name in ("drops", "decoder")]
    assert [entry["validate"] is None for entry in described] == [False, True]
