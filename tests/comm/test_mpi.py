"""The back end over MPI: it gives what shared memory gives, bit for bit, and lost ranks are named there, too."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.comm.projects import CLEAN, build, losses

WRAPPER = '#!/bin/sh\ntrap "" USR1\n"$@"\necho "$? $PMI_RANK" >> "$LOG"\n'
"""Starts a rank so that MPICH's mpirun, which ends all ranks when one dies, lets the others speak."""


def mpirun(program: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Four ranks under mpirun."""
    command = ["mpirun", "-n", "4", str(program), *arguments]
    return subprocess.run(command, env={**CLEAN, **env}, text=True, capture_output=True, timeout=120)


def hosts(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Four ranks, two on each of two hosts, as far as they can see."""
    each = [["-n", "2", "-env", "TSR_TEST_HOST", name, str(program), *arguments] for name in ("first", "second")]
    command = ["mpirun", *each[0], ":", *each[1]]
    return subprocess.run(command, env=CLEAN, text=True, capture_output=True, timeout=120)


def test_exchanges(mpi_ranks: Path) -> None:
    """Every exchange gives what it should; equal to shared memory to the last bit, in small and in large pieces."""
    done = mpirun(mpi_ranks, "check", "2", "2", TSR_BACKEND="mpi")
    assert done.stdout.startswith("ok: "), done.stdout + done.stderr
    over_mpi = mpirun(mpi_ranks, "digest", "2", "2", TSR_BACKEND="mpi").stdout.split(" by ")
    in_memory = mpirun(mpi_ranks, "digest", "2", "2").stdout.split(" by ")
    assert (over_mpi[1], in_memory[1]) == ("mpi\n", "local\n")
    assert len(over_mpi[0]) == 16 * 4
    assert over_mpi[0] == in_memory[0]


def test_several_hosts(mpi_ranks: Path, ranks: Path) -> None:
    """Ranks on several hosts take MPI by themselves; without it they say how to compile it in."""
    done = hosts(mpi_ranks, "digest", "2", "2")
    assert done.stdout.endswith(" by mpi\n"), done.stderr
    done = hosts(ranks, "check", "2", "2")
    assert done.returncode != 0
    assert "error[T0946]: the ranks run on several hosts, or in containers that share no memory" in done.stderr
    assert "(rank 0 on 'first'), and this program is compiled without MPI" in done.stderr
    assert "make MPI=1" in done.stderr


def test_wrong_backend(mpi_ranks: Path, ranks: Path) -> None:
    """A back end that there is not, that is not compiled in, or whose launcher did not start the ranks."""
    one = {**CLEAN, "TSR_RANK": "0", "TSR_WORLD_SIZE": "1"}
    for program, name, code, text in (
        (ranks, "smoke", "T0941", "TSR_BACKEND='smoke' is neither local nor mpi"),
        (ranks, "mpi", "T0946", "TSR_BACKEND=mpi, and this program is compiled without MPI"),
    ):
        done = subprocess.run(
            [program, "check", "1"], env={**one, "TSR_BACKEND": name}, text=True, capture_output=True, timeout=60
        )
        assert f"error[{code}]: {text}" in done.stderr
    two = [
        subprocess.Popen(
            [mpi_ranks, "check", "2"],
            env={**CLEAN, "TSR_RANK": str(k), "TSR_WORLD_SIZE": "2", "TSR_JOB": f"{os.getpid()}", "TSR_BACKEND": "mpi"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for k in range(2)
    ]
    errors = [process.communicate(timeout=60)[1] for process in two]
    assert "error[T0946]: MPI knows of 1 rank, not of the 2 that were started" in errors[0]


MODEL = """
from tessera import graph, op

@graph.module
def net(x: Tensor[8, 16], A: Tensor[16, 32], B: Tensor[32, 4]):
    return op.relu(x @ A) @ B

@graph.training_step(module="net")
def step(batch):
    loss = op.mse(net(batch["input"]), batch["target"])
    return graph.backward(loss), {"loss": loss}
"""


def test_program(mpi_ranks: Path) -> None:
    """An emitted program that `make MPI=1` built trains over MPI to the digit as in shared memory."""
    program = build(MODEL, "dp=2,tp=2", words=("MPI=1",))
    data = ("train", "--data", "input=normal", "--data", "target=normal", "--steps", "5", "--seed", "3")
    over_mpi, in_memory = mpirun(program, *data, TSR_BACKEND="mpi"), mpirun(program, *data)
    assert over_mpi.returncode == 0, over_mpi.stderr
    assert len(losses(over_mpi.stdout)) == 5
    assert losses(over_mpi.stdout).tolist() == losses(in_memory.stdout).tolist()


def processes(mpi_ranks: Path) -> dict[int, int]:
    """Process ids of the running ranks of this program, by rank."""
    out = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "exe").resolve() == mpi_ranks.resolve():
                values = dict(
                    item.split("=", 1) for item in (folder / "environ").read_text().split("\0") if "=" in item
                )
                if values.get("TEST_PLAN") == str(os.getpid()):
                    out[int(values["PMI_RANK"])] = int(folder.name)
        except OSError:
            continue
    return out


@pytest.mark.parametrize(
    ("number", "victim"), [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGSTOP, 2), (signal.SIGSTOP, 0)]
)
def test_lost_rank(mpi_ranks: Path, tmp_path: Path, number: signal.Signals, victim: int) -> None:
    """A rank that dies or stands still is named; all others end with code 75."""
    wrapper, log = tmp_path / "wrapper", tmp_path / "log"
    log.touch()
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o755)
    job = subprocess.Popen(
        ["mpirun", "-disable-auto-cleanup", "-n", "3", wrapper, mpi_ranks, "steps", "3", "2000"],
        env={**CLEAN, "TSR_BACKEND": "mpi", "TSR_COMM_TIMEOUT": "1", "TEST_PLAN": str(os.getpid()), "LOG": str(log)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 30
    while len(found := processes(mpi_ranks)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)
    os.kill(found[victim], number)
    begin = time.monotonic()
    while len(processes(mpi_ranks)) > (number == signal.SIGSTOP) and time.monotonic() < begin + 15:
        time.sleep(0.05)
    while log.read_text().count("\n") < 3 - (number == signal.SIGSTOP) and time.monotonic() < begin + 15:
        time.sleep(0.05)
    ended = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("75 ")]
    if number == signal.SIGSTOP:
        os.kill(found[victim], signal.SIGKILL)
    text = job.communicate(timeout=30)[1]
    assert sorted(ended) == sorted(str(rank) for rank in range(3) if rank != victim), text
    said = {
        (signal.SIGKILL, 1): "has died in step",
        (signal.SIGKILL, 0): "has died; rank",
        (signal.SIGSTOP, 2): "has not come to all_reduce 0 over a (model.py:7) in step",
        (signal.SIGSTOP, 0): "does not answer; rank",
    }[number, victim]
    assert f"error[T0944]: rank {victim} (pid {found[victim]} on " in text
    assert said in text
    assert victim == 0 or text.count("error[T0944]") == 1  # rank 0 decides who may speak; without it, all others do
