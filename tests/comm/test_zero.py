"""ZeRO-1: ranks along a data axis update parameters in shares, with a share of the moments each."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tesserac.checkpoints import merge, newest, read_index
from tesserac.driver import CompileOptions, compile_source
from tesserac.elaborate import Options
from tesserac.passes.mesh.settings import read_settings
from tests.comm.projects import CLEAN, build, losses, run, slow
from tests.comm.test_programs import DATA as GPT_DATA
from tests.comm.test_programs import GPT

LAYERS = """
from tessera import graph, op

B, D, F = 12, 10, 14

first, last = op.linear(D, F), op.linear(F, D)

@graph.module
def net(x: Tensor[B, D], gain: Tensor[D]):
    return last(op.gelu(first(x * gain)))

@graph.training_step(module="net")
def step(batch):
    loss = op.mse(net(batch["x"]), batch["y"])
    return graph.backward(loss), {"loss": loss}
"""
COUNT = 10 * 14 + 14 + 14 * 10 + 10 + 10
ZERO = "[zero]\nstage = 1\n"
DATA = ("--data", "x=normal", "--data", "y=normal", "--clip", "0.1", "--lr", "0.01")


def train(program: Path, ranks: int, *more: object) -> np.ndarray:
    """The losses of a run."""
    return losses(run(program, ranks, "train", *DATA, *more))


def test_shares_of_three_ranks(tmp_path: Path) -> None:
    """As many bytes travel as before, moments shrink to a third, and training is that of whole moments.

    The sums of gradients are the same bits; only the norm for clipping adds its squares in another order.
    """
    plain, shared = build(LAYERS, "dp=3"), build(LAYERS, "dp=3", toml=ZERO)
    assert run(shared, 3, "selftest").rstrip().endswith("selftest: ok")
    for rule in ("adamw", "momentum", "sgd"):
        options = ("--optimizer", rule, "--steps", 20, "--save", tmp_path / "w.safetensors")
        want = train(plain, 3, *options)
        weights = load_file(tmp_path / "w.safetensors")
        np.testing.assert_allclose(train(shared, 3, *options), want, rtol=1e-6)
        for name, value in load_file(tmp_path / "w.safetensors").items():
            np.testing.assert_allclose(value, weights[name], atol=1e-6, err_msg=name)
    share = -(-COUNT // 3) * 4
    data = json.loads(run(shared, 3, "bench", "--steps", 2, "--warmup", 1, "--json"))
    found = {e["kind"]: (e["calls"], e["bytes"], e["planned_bytes"]) for e in data["exchanges"] if e["bytes"] > 4}
    assert found == {"reduce_scatter": (1, 3 * share, 3 * share), "all_gather": (1, share, share)}
    text = run(shared, 1, "describe")
    size = re.search(r"each optimizer moment (\S+ \w+)", text)
    assert size is not None
    assert size.group(1) == "448 bytes"  # a share, to a multiple of 64
    assert "moments of 5 tensors in shares along dp" in text
    refused = run(shared, 3, "train", "--data", "x=normal", "--data", "y=normal", "--optimizer", "lbfgs", code=2)
    assert "ZeRO-1" in refused


def test_accumulated_batches_are_exchanged_once(tmp_path: Path) -> None:
    """Three batches a step: the losses and weights of one rank that adds them up, in shares or not."""
    alone = build(LAYERS, "none")
    options = ("--accumulate", 3, "--optimizer", "adam", "--steps", 20, "--save", tmp_path / "w.safetensors")
    want = train(alone, 1, *options)
    weights = load_file(tmp_path / "w.safetensors")
    for toml in (ZERO, ""):
        program = build(LAYERS, "dp=3", toml=toml)
        np.testing.assert_allclose(train(program, 3, *options), want, rtol=1e-6)
        for name, value in load_file(tmp_path / "w.safetensors").items():
            np.testing.assert_allclose(value, weights[name], atol=2e-6, err_msg=name)
        words = ("--steps", 2, "--warmup", 1, "--accumulate", 3, "--json")
        exchanges = json.loads(run(program, 3, "bench", *words))["exchanges"]
        calls = {e["kind"]: e["calls"] for e in exchanges if e["bytes"] > 64}
        assert calls == ({"reduce_scatter": 1, "all_gather": 1} if toml else {"all_reduce": 1})
        assert [e["calls"] for e in exchanges if e["bytes"] <= 64] == [3]  # the loss of every batch


def test_emitted_for_gpus() -> None:
    """The CUDA program has the exchanges of the CPU's, and the table of buckets from which moments are divided."""
    options = CompileOptions(Options(mesh="dp=3"), planning=read_settings(ZERO, "plan.toml"))
    texts = [compile_source(LAYERS, "model.py", replace(options, target=target, emulate=target == "cuda")).files[file]
             for target, file in (("cpu", "net.program.cpp"), ("cuda", "net.program.cu"))]
    tables = [text[text.index("static const Collective"):text.index("static const Mesh")] for text in texts]
    assert tables[0] == tables[1]
    assert "reduce_scatter" in tables[1]
    assert "kBuckets" in tables[1]


@slow
def test_ranks_with_a_gpu_each(tmp_path: Path) -> None:
    """The same bits as with whole moments, several batches a step are exchanged once, and processors go on with it."""
    plain, shared = build(LAYERS, "dp=3", gpus=True), build(LAYERS, "dp=3", gpus=True, toml=ZERO)
    assert run(shared, 3, "selftest").rstrip().endswith("selftest: ok")
    assert "each optimizer moment 448 bytes" in run(shared, 1, "describe")
    for rule in ("adamw", "momentum", "sgd"):
        options = ("--optimizer", rule, "--steps", 20)
        np.testing.assert_allclose(train(shared, 3, *options), train(plain, 3, *options), rtol=1e-6)
    options = ("--accumulate", 3, "--optimizer", "adam", "--steps", 20)
    want = train(build(LAYERS, "none"), 1, *options)
    for program, kinds in ((plain, {"all_reduce": 1}), (shared, {"reduce_scatter": 1, "all_gather": 1})):
        np.testing.assert_allclose(train(program, 3, *options), want, rtol=1e-6)
        words = ("--steps", 2, "--warmup", 1, "--accumulate", 3, "--json")
        exchanges = json.loads(run(program, 3, "bench", *words))["exchanges"]
        assert {e["kind"]: e["calls"] for e in exchanges if e["bytes"] > 64} == kinds
        assert all(e["bytes"] == e["planned_bytes"] for e in exchanges if e["bytes"] > 64)
    straight = train(shared, 3, "--optimizer", "adam", "--steps", 20)
    train(shared, 3, "--optimizer", "adam", "--steps", 11, "--checkpoint", tmp_path / "c")
    shutil.copytree(tmp_path / "c", tmp_path / "d")
    for program, folder, tolerance in ((shared, "c", 0.0), (build(LAYERS, "dp=3", toml=ZERO), "d", 1e-6)):
        rest = train(program, 3, "--optimizer", "adam", "--steps", 20, "--checkpoint", tmp_path / folder, "--resume")
        np.testing.assert_allclose(rest, straight[11:], rtol=tolerance)


@slow
def test_checkpoints_go_on_anywhere(tmp_path: Path) -> None:
    """Moments are stored by their place in the parameter: shares of three go on whole, in other shares, and alone."""
    programs = {name: (build(LAYERS, mesh, toml=toml), ranks) for name, mesh, toml, ranks in (
        ("three", "dp=3", ZERO, 3), ("plain", "dp=3", "", 3), ("two", "dp=2", ZERO, 2), ("alone", "none", "", 1),
        ("both", "dp=2,tp=2", ZERO, 4))}
    options = ("--optimizer", "adam", "--steps", 20)
    straight = train(*programs["three"], *options)
    for start in ("three", "both", "alone"):
        program, ranks = programs[start]
        folder = tmp_path / start
        train(program, ranks, *options[:-1], 11, "--checkpoint", folder)
        if ranks > 1:
            merge(read_index(newest(folder)), tmp_path / "merged.safetensors", optimizer=True)
            assert len(load_file(tmp_path / "merged.safetensors")) == 15
        for name, (other, n) in programs.items():
            copy = tmp_path / f"{start}-{name}"
            shutil.copytree(folder, copy)
            rest = train(other, n, *options, "--checkpoint", copy, "--resume")
            assert len(rest) == 9
            np.testing.assert_allclose(rest, straight[11:], rtol=0 if name == start == "three" else 1e-6)


@slow
def test_under_mpirun(tmp_path: Path) -> None:
    """Shares on their way beside the backward pass: the bits of whole sums, over MPI and awaited at once, too."""
    words = ("MPI=1",) if shutil.which("mpicxx") and shutil.which("mpirun") else ()
    if not words:
        pytest.skip("no mpicxx and mpirun")
    bucket = '[gradients]\nbucket = "14kB"\n'
    shared, whole = (build(GPT, "dp=2", toml=toml + bucket, words=words) for toml in (ZERO, ""))
    assert "reduce_shares_begin_" in (shared.parent / "gpt.program.cpp").read_text()
    options = [str(o) for o in ("train", *GPT_DATA, "--optimizer", "adam", "--steps", 20, "--quiet", "--save")]
    for name, program, env in (("whole", whole, {}), ("shared", shared, {}), ("late", shared, {"TSR_OVERLAP": "0"})):
        run(program, 2, *options, tmp_path / name, **env)
    for name, backend in (("mpi", "mpi"), ("local", "local")):
        done = subprocess.run(["mpirun", "-n", "2", str(shared), *options, str(tmp_path / name)],
                              env={**CLEAN, "TSR_BACKEND": backend, "OMP_NUM_THREADS": "1"}, text=True,
                              capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
    first = (tmp_path / "whole").read_bytes()
    assert all((tmp_path / name).read_bytes() == first for name in ("shared", "late", "mpi", "local"))
