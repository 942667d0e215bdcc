"""Ranks on two hosts: how they find each other, what they exchange over the cable, and what happens when it is cut."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.comm.hosts import ADDRESSES, NAMES, Hosts, two_hosts
from tests.comm.projects import CLEAN, build, losses, run, slow
from tests.comm.test_mpi import MODEL, WRAPPER, processes

pytestmark = slow
ALONE = {**CLEAN, "OMP_NUM_THREADS": "1", "FIRST": NAMES[0]}
NETWORK = {**ALONE, "UCX_TLS": "tcp,self"}
"""Without it MPI finds that the hosts are one machine, and passes data through its memory."""
LAUNCHERS = {
    "nothing but MPI": 'export TSR_HOST=$FIRST TSR_PORT=29471\nexec "$@"\n',
    "srun": "export SLURM_PROCID=$PMI_RANK SLURM_STEP_NUM_TASKS=$PMI_SIZE SLURM_LOCALID=$MPI_LOCALRANKID\n"
            "export SLURM_JOB_ID=77 SLURM_STEP_ID=0 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST=tsr-[first,second]\n"
            'exec "$@"\n',
    "torchrun": "export RANK=$PMI_RANK WORLD_SIZE=$PMI_SIZE LOCAL_RANK=$MPI_LOCALRANKID MASTER_PORT=29472\n"
                'export LOCAL_WORLD_SIZE=$MPI_LOCALNRANKS MASTER_ADDR=$FIRST\nexec "$@"\n',
}
"""What starts a rank, with the variables that other launchers set on two hosts with two ranks each."""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with two_hosts(tmp_path_factory.mktemp("hosts")) as found:
        yield found


def finished(command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={**ALONE, **env}, text=True, capture_output=True, timeout=120)


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("by", LAUNCHERS)
def test_launchers(hosts: Hosts, mpi_ranks: Path, tmp_path: Path, by: str) -> None:
    """Ranks find each other by the variables of every launcher, and what they exchange is right."""
    done = finished(hosts.mpirun(4, script(tmp_path, "start", LAUNCHERS[by]), mpi_ranks, "check", "2", "2"))
    assert done.stdout.startswith("ok: "), done.stdout + done.stderr
    assert done.returncode == 0


def test_exchanges(hosts: Hosts, mpi_ranks: Path, tmp_path: Path) -> None:
    """What is exchanged goes over the cable. The end is not waited for: over TCP, MPICH 4.0 with UCX now and then does
    not return from MPI_Finalize.
    """
    before = hosts.sent()
    rank = script(tmp_path, "start", LAUNCHERS["nothing but MPI"])
    job = subprocess.Popen(hosts.mpirun(4, rank, mpi_ranks, "check", "2", "2"), text=True, stdout=subprocess.PIPE,
                           env={**NETWORK, "TEST_PLAN": str(os.getpid())}, stderr=subprocess.DEVNULL)
    assert job.stdout is not None
    try:
        assert job.stdout.readline().startswith("ok: ")
        assert hosts.sent() - before > 1_000_000
    finally:
        for process in processes(mpi_ranks).values():
            os.kill(process, signal.SIGKILL)
        job.communicate(timeout=30)


def test_program(hosts: Hosts, mpi_ranks: Path, tmp_path: Path) -> None:
    """Training on two hosts is that on one, to the digit; a checkpoint that ranks of both wrote is read on one."""
    program = build(MODEL, "dp=2,tp=2", words=("MPI=1",))
    data = ("train", "--data", "input=normal", "--data", "target=normal", "--seed", "3", "--steps")
    rank = script(tmp_path, "start", LAUNCHERS["nothing but MPI"])
    done = finished(hosts.mpirun(4, rank, program, *data, "4", "--checkpoint", tmp_path / "c"))
    assert len(losses(done.stdout)) == 4, done.stderr
    once = run(program, 4, *data, 6)
    assert losses(done.stdout).tolist() == losses(once)[:4].tolist()
    rest = run(program, 4, *data, 6, "--resume", "--checkpoint", tmp_path / "c")
    assert losses(rest).tolist() == losses(once)[4:].tolist()


def test_shared_memory_is_refused(hosts: Hosts, ranks: Path, mpi_ranks: Path, tmp_path: Path) -> None:
    """By programs without MPI, by TSR_BACKEND=local, and by containers of one name that share no /dev/shm."""
    where = f"in containers that share no memory (rank 0 on '{NAMES[0]}')"
    rank = script(tmp_path, "start", LAUNCHERS["nothing but MPI"])
    plain = finished(hosts.mpirun(4, rank, ranks, "check", "2", "2"))
    assert f"{where}, and this program is compiled without MPI" in plain.stderr
    assert "`make MPI=1`, where mpicxx is installed, or start all ranks on one host" in plain.stderr
    forced = finished(hosts.mpirun(4, rank, mpi_ranks, "check", "2", "2"), TSR_BACKEND="local")
    assert "TSR_BACKEND=local passes data through the memory of one host, and the ranks run on several" in forced.stderr
    assert "= help: leave TSR_BACKEND out, or start" in forced.stderr
    lost = finished(hosts.mpirun(4, mpi_ranks, "check", "2", "2"))
    assert "several hosts, and mpirun (PMI) does not say where rank 0 listens" in lost.stderr
    assert "mpirun -genv TSR_HOST node0 -genv TSR_PORT 29400" in lost.stderr
    box = "mount -t tmpfs tmpfs /dev/shm && exec \"$@\""
    boxes = [subprocess.Popen(["unshare", "-m", "sh", "-c", box, "-", ranks, "check", "2"], text=True,
                              stderr=subprocess.PIPE, env={**CLEAN, "TSR_RANK": str(rank), "TSR_WORLD_SIZE": "2",
                                                           "TSR_JOB": f"boxes.{os.getpid()}"}) for rank in range(2)]
    for process in boxes:
        assert "in containers that share no memory" in process.communicate(timeout=60)[1]


def test_rank_0_is_waited_for_no_longer_than_asked(hosts: Hosts, ranks: Path) -> None:
    """Where no host has the address, where the cable is cut, and where nobody listens."""
    subprocess.run(["ip", "-n", hosts.spaces[1], "neigh", "replace", "10.99.71.9", "lladdr", "00:11:22:33:44:55", "dev",
                    "cable", "nud", "permanent"], check=True)
    for address, said in (("10.99.71.9", "no answer"), (ADDRESSES[0], "Connection refused"), ("tsr-third", "")):
        begin = time.monotonic()
        done = finished(hosts.on(1, ranks, "check", "2"), TSR_RANK="1", TSR_WORLD_SIZE="2", TSR_HOST=address,
                        TSR_PORT="29473", TSR_INIT_TIMEOUT="2")
        assert f"error[T0942]: rank 1 cannot reach rank 0 at {address}:29473: {said}" in done.stderr
        assert time.monotonic() - begin < 10


def test_a_stranger_does_not_hold_up_the_ranks(ranks: Path) -> None:
    """Somebody who connects to rank 0 and says nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(rank: int) -> subprocess.Popen[str]:
        mine = {"TSR_RANK": str(rank), "TSR_WORLD_SIZE": "2", "TSR_HOST": "127.0.0.1", "TSR_PORT": str(port)}
        return subprocess.Popen([ranks, "check", "2"], env={**CLEAN, **mine}, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)

    first = start(0)
    deadline = time.monotonic() + 20
    while True:
        try:
            stranger = socket.create_connection(("127.0.0.1", port))
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with stranger:
        second = start(1)
        out, err = first.communicate(timeout=60)
        assert out.startswith("ok: "), err
        assert second.wait(timeout=60) == 0
    assert time.monotonic() < deadline


@pytest.mark.parametrize("fault", ["killed", "stopped", "cable"])
def test_lost(hosts: Hosts, mpi_ranks: Path, tmp_path: Path, fault: str) -> None:
    """A rank of the other host dies or stands still, or the hosts are parted: all ranks that can, end with code 75."""
    log = tmp_path / "log"
    log.touch()
    rank = script(tmp_path, "start", LAUNCHERS["nothing but MPI"])
    watched = script(tmp_path, "watched", WRAPPER.partition("\n")[2])
    env = {**NETWORK, "TSR_COMM_TIMEOUT": "1", "TEST_PLAN": str(os.getpid()), "LOG": str(log)}
    job = subprocess.Popen(hosts.mpirun(4, watched, rank, mpi_ranks, "steps", "2", "2", "3000"), env=env, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while len(found := processes(mpi_ranks)) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(3)
    ends = 3 if fault == "stopped" else 4
    try:
        if fault == "cable":
            hosts.plug(False)
        else:
            os.kill(found[3], signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
        begin = time.monotonic()
        while log.read_text().count("\n") < ends and time.monotonic() < begin + 15:
            time.sleep(0.05)
        ended = sorted(line.split()[1] for line in log.read_text().splitlines() if line.startswith("75 "))
    finally:
        hosts.plug(True)
        for process in processes(mpi_ranks).values():
            os.kill(process, signal.SIGKILL)
    text = job.communicate(timeout=30)[1]
    assert ended == [str(k) for k in range(4) if fault == "cable" or k != 3], text
    said = {"killed": "has died in step", "stopped": "has not come to all_reduce 0 over a (model.py:7) in step",
            "cable": "not come to all_reduce 0 over a (model.py:7) in step"}[fault]
    assert said in text
    assert any(f"(pid {found[k]} on {NAMES[1]})" in text for k in ((2, 3) if fault == "cable" else (3,)))
