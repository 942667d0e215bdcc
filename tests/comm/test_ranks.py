"""Ranks without a model: who they are, what they exchange, and what happens when one is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tesserac.launch import environment, exit_code, launch

CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("TSR_", "SLURM_", "OMPI_", "PMI_", "MPI_"))}

ENVIRONMENTS = {
    "nothing": ("", "0/1 local 0 by nothing job '' at :0"),
    "own": ("TSR_RANK=2 TSR_WORLD_SIZE=4 TSR_JOB=j", "2/4 local 2 by tesserac run job 'j' at :0"),
    "own before others": (
        "TSR_RANK=2 TSR_WORLD_SIZE=4 RANK=0 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=9",
        "2/4 local 2 by tesserac run job '' at :0",
    ),
    "own hosts": (
        "TSR_RANK=1 TSR_WORLD_SIZE=4 TSR_HOST=node1 TSR_PORT=4000 TSR_LOCAL_RANK=0",
        "1/4 local 0 by tesserac run job '' at node1:4000",
    ),
    "torchrun, one host": (
        "RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=29500 "
        "TORCHELASTIC_USE_AGENT_STORE=True TORCHELASTIC_RUN_ID=x",
        "1/2 local 1 by torchrun job 'torchrun.x.29500.' at localhost:0",
    ),
    "torchrun's agent has the port": (
        "RANK=1 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=n0 MASTER_PORT=29500 "
        "TORCHELASTIC_USE_AGENT_STORE=True",
        "1/4 local 1 by torchrun job 'torchrun..29500.' at n0:29501",
    ),
    "torchrun without agent": (
        "RANK=1 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=n0 MASTER_PORT=29500",
        "1/4 local 1 by torchrun job 'torchrun..29500.' at n0:29500",
    ),
    "Open MPI": (
        "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=3 "
        "OMPI_COMM_WORLD_LOCAL_SIZE=4 PMIX_NAMESPACE=77",
        "3/4 local 3 by mpirun (Open MPI) job 'ompi.77' at :0",
    ),
    "MPICH": ("PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2", "1/2 local 1 by mpirun (PMI) job '' at :0"),
    "MPICH, two hosts": (
        "PMI_RANK=1 PMI_SIZE=4 MPI_LOCALNRANKS=2 TSR_HOST=n0 TSR_PORT=5000",
        "1/4 local 0 by mpirun (PMI) job '' at n0:5000",
    ),
    "srun": (
        "SLURM_PROCID=1 SLURM_NTASKS=4 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1 SLURM_JOB_ID=9 SLURM_STEP_ID=0 "
        "SLURM_STEP_NODELIST=node[03-05,7],x1 SLURM_STEP_NUM_NODES=2",
        "1/4 local 1 by srun job 'slurm.9.0' at node03:20279",
    ),
    "sbatch without srun": ("SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_JOB_ID=9", "0/1 local 0 by nothing job '' at :0"),
}

WRONG_ENVIRONMENTS = {
    "TSR_RANK=1": "TSR_RANK is set, TSR_WORLD_SIZE is not",
    "TSR_RANK=4 TSR_WORLD_SIZE=4": "TSR_RANK='4' is not an integer from 0 to 3",
    "TSR_RANK=x TSR_WORLD_SIZE=4": "TSR_RANK='x' is not an integer",
    "PMI_RANK=1 PMI_SIZE=4 MPI_LOCALNRANKS=2": "several hosts, and mpirun (PMI) does not say where rank 0 listens",
}


def run(ranks: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """One process."""
    return subprocess.run([ranks, *arguments], env={**CLEAN, **env}, text=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_environment(ranks: Path, case: str) -> None:
    """The launchers' variables, one table."""
    text, want = ENVIRONMENTS[case]
    assert run(ranks, "environment", *text.split()).stdout.strip() == want


@pytest.mark.parametrize("text", WRONG_ENVIRONMENTS)
def test_wrong_environment(ranks: Path, text: str) -> None:
    """A set that contradicts itself is an error."""
    done = run(ranks, "environment", *text.split())
    assert done.returncode == 2
    assert "error[T0941]" in done.stderr
    assert WRONG_ENVIRONMENTS[text] in done.stderr


@pytest.mark.parametrize("sizes", ["1", "2", "3", "8", "2 2", "2 3", "1 2 2"])
def test_exchanges(ranks: Path, sizes: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Every exchange on every axis, lengths below and beyond a chunk; sums in the order of the ranks."""
    count = 1
    for size in sizes.split():
        count *= int(size)
    assert launch(str(ranks), ["check", *sizes.split()], count) == 0
    out = capfd.readouterr().out
    assert out.startswith("ok: ")
    assert "WRONG" not in out


def test_mpirun(ranks: Path) -> None:
    """The same under an MPI's launcher, from its environment alone."""
    if shutil.which("mpirun") is None:
        pytest.skip("no mpirun")
    done = subprocess.run(
        ["mpirun", "-n", "4", ranks, "check", "2", "2"], env=CLEAN, text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok: ")


def start(
    ranks: Path, count: int, *arguments: str, each: dict[int, dict[str, str]] | None = None, **env: str
) -> list[subprocess.Popen[str]]:
    """The ranks of a job as processes of their own."""
    job = f"test.{os.getpid()}.{time.monotonic_ns()}"
    return [
        subprocess.Popen(
            [ranks, *arguments],
            env={**CLEAN, **environment(rank, count, job), **env, **(each or {}).get(rank, {})},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]


@pytest.mark.parametrize(
    ("number", "victim"), [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGSTOP, 2), (signal.SIGSTOP, 0)]
)
def test_lost_rank(ranks: Path, number: signal.Signals, victim: int) -> None:
    """A rank that dies or stands still is named once, with exchange, step and source line; all others end."""
    found = start(ranks, 3, "steps", "3", "2000", TSR_COMM_TIMEOUT="1")
    time.sleep(0.7)
    found[victim].send_signal(number)
    begin = time.monotonic()
    text = "".join(process.communicate(timeout=15)[1] for rank, process in enumerate(found) if rank != victim)
    assert time.monotonic() - begin < 15
    assert [p.returncode for rank, p in enumerate(found) if rank != victim] == [75, 75]
    found[victim].kill()
    found[victim].communicate()
    assert text.count("error[T0944]") == 1
    assert f"rank {victim} (pid {found[victim].pid} on " in text
    assert (
        "has died" in text
        if number == signal.SIGKILL
        else re.search(r"has not come to all_reduce 0 over a \(model.py:7\) in step|stands still", text)
    )


def test_wrong_number(ranks: Path) -> None:
    """Ranks that are not as many as the mesh's end at once and say how to start them."""
    done = run(ranks, "check", "2", "2")
    assert done.returncode == 2
    assert "ranks is compiled for 4 ranks (a=2,b=2), 1 was started" in done.stderr
    assert "tesserac run -n 4 ranks" in done.stderr


def test_different_programs(ranks: Path, tmp_path: Path) -> None:
    """Rank 0 prints both sides of what differs, and nobody runs: another plan, another executable."""
    other = tmp_path / "other"
    shutil.copy(ranks, other)
    with other.open("ab") as file:
        file.write(b"\0")
    found = start(ranks, 2, "check", "2", each={1: {"TEST_PLAN": "another"}})
    texts = [process.communicate(timeout=30)[1] for process in found]
    assert [process.returncode for process in found] == [1, 1]
    assert "error[T0943]" in texts[0]
    assert "plan: rank 0 has 'plan', rank 1 has 'another'" in texts[0]
    assert "rank 0 refused this rank" in texts[1]
    job = {"TSR_WORLD_SIZE": "2", "TSR_JOB": f"two.{os.getpid()}"}
    found = [
        subprocess.Popen(
            [path, "check", "2"],
            env={**CLEAN, **job, "TSR_RANK": str(rank)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank, path in enumerate((ranks, other))
    ]
    text = found[0].communicate(timeout=30)[1]
    assert found[1].wait(timeout=30) == 1
    found[1].communicate()
    assert "executable: rank 0 has '" in text


def test_port_taken(ranks: Path) -> None:
    """Rank 0 says which port; TCP works where it is free."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run(ranks, "check", "2", TSR_RANK="0", TSR_WORLD_SIZE="2", TSR_PORT=port)
        assert done.returncode == 1
        assert f"error[T0942]: rank 0 cannot listen on port {port}" in done.stderr
    found = start(ranks, 2, "check", "2", TSR_PORT=port)
    assert [process.communicate(timeout=30)[0][:2] for process in found] == ["ok", ""]


def test_missing_rank(ranks: Path) -> None:
    """Rank 0 names the ranks that do not come."""
    done = run(
        ranks, "check", "3", TSR_RANK="0", TSR_WORLD_SIZE="3", TSR_JOB=f"missing.{os.getpid()}", TSR_INIT_TIMEOUT="0.3"
    )
    assert done.returncode == 1
    assert "missing: 1, 2" in done.stderr


def test_launcher(ranks: Path) -> None:
    """What a job's exit code is made of."""
    assert exit_code([0, 0]) == 0
    assert exit_code([75, -9, 75]) == 75
    assert exit_code([75, 1, 75]) == 1
    assert environment(1, 2, "j")["TSR_RANK"] == "1"
    assert not list(Path("/dev/shm").glob(f"tesserac.{os.getpid()}.*"))


def test_a_rank_that_fails_alone_ends_the_job(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever rank 0 is doing: the others get a while, then they are ended, and it is said which one failed."""
    monkeypatch.setattr("tesserac.launch.GRACE", 0.3)
    begin = time.monotonic()
    assert launch("sh", ["-c", '[ "$TSR_RANK" = 1 ] && exit 7; exec sleep 60'], 3) == 7
    assert time.monotonic() - begin < 30
    assert "error: rank 1 ended with exit code 7, and the others did not end" in capfd.readouterr().err
