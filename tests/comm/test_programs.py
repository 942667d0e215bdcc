"""Programs on a mesh, as processes: they train as one rank does, whatever the mesh, and stop and go on as a whole."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tesserac.driver import CompileOptions, compile_source
from tesserac.elaborate import Options
from tests.comm.projects import build, launch, losses, run

GPT = """
from tessera import graph, op

L, D, H, S, B, V = 2, 16, 2, 8, 4, 32

blocks = [(op.layernorm(D), op.linear(D, 3 * D), op.linear(D, D), op.layernorm(D), op.mlp(D, [2 * D], D))
          for _ in range(L)]

def block(x, layers):
    norm1, qkv, project, norm2, mlp = layers
    q, k, v = op.split(qkv(norm1(x)), 3, axis=-1)
    x = x + project(op.flash_attention(q, k, v, heads=H, causal=True))
    return x + mlp(norm2(x))

@graph.module
def gpt(tokens: Tensor[B, S, int32], table: Tensor[V, D], positions: Tensor[S, D]):
    x = op.embedding(tokens, table) + positions
    for layers in blocks:
        x = block(x, layers)
    return x @ table.T

@graph.training_step(module="gpt")
def step(batch):
    loss = op.cross_entropy(gpt(batch["input"]), batch["labels"])
    return graph.backward(loss), {"loss": loss}
"""
DATA = (
    "--data",
    "input=randint",
    "--data",
    "labels=randint",
    "--optimizer",
    "momentum",
    "--lr",
    "0.05",
    "--clip",
    "0.5",
)


@pytest.fixture(scope="module")
def alone() -> Path:
    """The program of one device."""
    return build(GPT, "none")


@pytest.fixture(scope="module")
def four() -> Path:
    """The program of four ranks on two axes."""
    return build(GPT, "tp=2,dp=2")


@pytest.fixture(scope="module")
def two() -> Path:
    """The program of two ranks."""
    return build(GPT, "dp=2")


def test_selftest(four: Path, two: Path) -> None:
    """Every rank's outputs and parts of gradients against the whole program in double precision."""
    for program, ranks in ((four, 4), (two, 2)):
        text = run(program, ranks, "selftest")
        assert text.rstrip().endswith("selftest: ok")
        assert "second call equal bit for bit        ok" in text


def test_data_are_asked_for_whole(four: Path) -> None:
    """What files have to hold is said as the user's program has it, not as a rank's part."""
    assert "no data for input 'input' (i32, 4 x 8), 'labels' (i32, 4 x 8)" in run(four, 4, "train", code=2)


def test_training_equals_one_rank(alone: Path, four: Path, two: Path, tmp_path: Path) -> None:
    """Twenty steps with momentum and clipping: losses to 1e-6 of one rank's, weights close, every run the same bits."""
    want = losses(run(alone, 1, "train", *DATA, "--steps", 20, "--save", tmp_path / "one.safetensors"))
    reference = load_file(tmp_path / "one.safetensors")
    for program, ranks in ((four, 4), (two, 2)):
        first = tmp_path / f"{ranks}.safetensors"
        have = losses(run(program, ranks, "train", *DATA, "--steps", 20, "--save", first))
        assert len(have) == 20
        np.testing.assert_allclose(have, want, rtol=1e-6)
        weights = load_file(first)
        for name, value in reference.items():
            np.testing.assert_allclose(weights[name], value, atol=2e-5, err_msg=name)
        again = tmp_path / "again.safetensors"
        run(program, ranks, "train", *DATA, "--steps", 20, "--save", again, "--quiet")
        assert again.read_bytes() == first.read_bytes()


def test_no_mesh_no_trace() -> None:
    """An axis of size 1 leaves nothing behind: the same bytes as without a mesh."""
    plain = compile_source(GPT, "model.py", CompileOptions(elaboration=Options(mesh="none"))).files
    for mesh in ("dp=1", "tp=1,dp=1"):
        assert compile_source(GPT, "model.py", CompileOptions(elaboration=Options(mesh=mesh))).files == plain
    assert not any(path.startswith("runtime/comm") for path in plain)
    assert not any("ranks" in text for path, text in plain.items() if not path.startswith("runtime/"))


def test_resume_on_another_mesh(alone: Path, four: Path, two: Path, tmp_path: Path) -> None:
    """A checkpoint of four ranks goes on with two, with one, and bit for bit with four; merged, it is one file."""
    straight = run(four, 4, "train", *DATA, "--steps", 8)
    run(four, 4, "train", *DATA, "--steps", 5, "--checkpoint", tmp_path / "c")
    for program, ranks in ((alone, 1), (two, 2), (four, 4)):
        copy = tmp_path / f"c{ranks}"
        shutil.copytree(tmp_path / "c", copy)
        rest = losses(run(program, ranks, "train", *DATA, "--steps", 8, "--checkpoint", copy, "--resume"))
        assert len(rest) == 3
        np.testing.assert_allclose(rest, losses(straight)[5:], rtol=0 if ranks == 4 else 1e-6)
    merged = tmp_path / "merged.safetensors"
    from tesserac.checkpoints import merge, newest, read_index

    merge(read_index(newest(tmp_path / "c")), merged)
    run(four, 4, "train", *DATA, "--steps", 5, "--save", tmp_path / "direct.safetensors", "--quiet")
    direct, whole = load_file(tmp_path / "direct.safetensors"), load_file(merged)
    assert all(np.array_equal(direct[name], whole[name]) for name in direct)


def test_inference(alone: Path, four: Path, two: Path, tmp_path: Path) -> None:
    """Ranks of dp divide the samples. Outputs are whole, whatever the mesh and their number; on dp the same bits."""
    tokens = np.random.default_rng(0).integers(0, 32, (7, 8)).astype(np.int32)
    for count in (1, 7):  # less than a rank's share, and a batch and a half
        np.save(tmp_path / "tokens.npy", tokens[:count])
        for program, ranks in ((alone, 1), (two, 2), (four, 4)):
            out = f"{tmp_path}/{ranks}.npy"
            run(program, ranks, "infer", "--input", f"input={tmp_path}/tokens.npy", "--output", out)
        one, half, quarter = (np.load(tmp_path / f"{ranks}.npy") for ranks in (1, 2, 4))
        assert one.shape == (count, 8, 32)
        assert np.array_equal(half, one)
        np.testing.assert_allclose(quarter, one, atol=1e-6)


def test_generate(alone: Path, four: Path, two: Path, tmp_path: Path) -> None:
    """Every mesh writes the same text with the same weights, once."""
    weights = tmp_path / "w.safetensors"
    run(alone, 1, "train", *DATA, "--steps", 3, "--save", weights, "--quiet")
    words = ("generate", "--weights", weights, "--prompt", "\x01\x02", "--tokens", 9)
    want = run(alone, 1, *words)
    assert len(want) == 12
    assert run(two, 2, *words) == run(four, 4, *words) == want


def test_killed_rank(four: Path, tmp_path: Path) -> None:
    """kill -9 in the middle: the others end within seconds and say who; the run goes on, bit for bit."""
    straight = losses(run(four, 4, "train", *DATA, "--steps", 4000))
    log, options = tmp_path / "log", ("--checkpoint", tmp_path / "c", "--save-every", 200)
    found = launch(four, 4, "train", *DATA, "--steps", 4000, *options, "--log", log, "--quiet")
    limit = time.monotonic() + 60
    while len(list(tmp_path.glob("c/step-*/index.json"))) < 2 and time.monotonic() < limit:
        time.sleep(0.02)
    victim = 2
    found[victim].kill()
    begin = time.monotonic()
    text = "".join(process.communicate(timeout=30)[1] for process in found)
    assert time.monotonic() - begin < 15
    assert [p.returncode for p in found] == [75, 75, -9, 75]
    assert f"rank {victim} (pid {found[victim].pid} on " in text
    assert text.count("error[T0944]") == 1
    rest = run(four, 4, "train", *DATA, "--steps", 4000, *options, "--log", log, "--resume")
    first = json.loads(rest.splitlines()[0])["step"]
    assert first > 1
    assert np.array_equal(losses(rest), straight[first - 1 :])
    assert np.array_equal(losses(log.read_text()), straight)


def test_terminated(two: Path, tmp_path: Path) -> None:
    """SIGTERM at one rank: all finish the same step and checkpoint it; exit code 75."""
    found = launch(two, 2, "train", *DATA, "--steps", 1000000, "--checkpoint", tmp_path / "c", "--quiet")
    time.sleep(1.5)
    found[1].send_signal(signal.SIGTERM)
    texts = [process.communicate(timeout=30)[1] for process in found]
    assert [p.returncode for p in found] == [75, 75], texts
    (saved,) = (tmp_path / "c").glob("step-*")
    step = int(saved.name.removeprefix("step-"))
    rest = run(two, 2, "train", *DATA, "--steps", step + 1, "--checkpoint", tmp_path / "c", "--resume")
    assert json.loads(rest.splitlines()[0])["step"] == step + 1


def test_full_disk_on_one_rank(four: Path, tmp_path: Path) -> None:
    """A rank that cannot write its part: one error that names it, no checkpoint, nobody waits."""

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    command = [str(four), "train", *DATA, "--steps", "3", "--checkpoint", str(tmp_path / "c"), "--quiet"]
    from tests.comm.projects import CLEAN

    found = [
        subprocess.Popen(
            command,
            env={
                **CLEAN,
                "OMP_NUM_THREADS": "1",
                "TSR_RANK": str(rank),
                "TSR_WORLD_SIZE": "4",
                "TSR_JOB": f"disk.{tmp_path.parent.name}",
            },
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=little if rank == 3 else None,
        )
        for rank in range(4)
    ]
    text = "".join(process.communicate(timeout=60)[1] for process in found)
    assert any(p.returncode == 1 for p in found)
    assert all(p.returncode in (1, 75) for p in found)
    assert text.count("error[T0917]") == 1, text
    assert not list(tmp_path.glob("c/step-*/index.json"))


def test_damaged_checkpoints(four: Path, tmp_path: Path) -> None:
    """A checkpoint that lacks a rank's file, or has a shorter one, is skipped for the one before."""
    options = ("--checkpoint", tmp_path / "c", "--save-every", 2, "--keep", 9)
    run(four, 4, "train", *DATA, "--steps", 6, *options, "--quiet")
    names = sorted(path.name for path in (tmp_path / "c").glob("step-*"))
    assert len(names) == 3
    next((tmp_path / "c" / names[2]).glob("rank-*.safetensors")).unlink()
    part = next((tmp_path / "c" / names[1]).glob("rank-*.safetensors"))
    part.write_bytes(part.read_bytes()[:-64])
    rest = run(four, 4, "train", *DATA, "--steps", 8, *options, "--resume")
    assert json.loads(rest.splitlines()[0])["step"] == 3
