"""The back end over NCCL under the emulation of CUDA, with a libnccl.so.2 that needs no GPU."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.comm.projects import LOST
from tests.comm.test_ranks import run, start


def texts(gpu_ranks: Path, count: int, *arguments: str, **env: str) -> tuple[list[int], str, str]:
    """Exit codes of all ranks, what they print, and their errors."""
    found = start(gpu_ranks, count, *arguments, each=dict.fromkeys(range(count), env))
    said = [process.communicate(timeout=60) for process in found]
    return [process.returncode for process in found], "".join(out for out, _ in said), "".join(err for _, err in said)


def test_exchanges(gpu_ranks: Path, ranks: Path, fake_nccl: Path) -> None:
    """Every exchange of arrays in the host's and in the device's memory, on every axis, and as in shared memory."""
    library = {"LD_LIBRARY_PATH": str(fake_nccl), "TSR_BACKEND": "nccl"}
    for sizes in (("2", "2"), ("3",)):
        codes, out, err = texts(gpu_ranks, 4 if len(sizes) == 2 else 3, "check", *sizes, **library)
        assert out.startswith("ok: "), out + err
        assert set(codes) == {0}
    over_nccl = texts(gpu_ranks, 4, "digest", "2", "2", **library)[1].split(" by ")
    in_memory = texts(ranks, 4, "digest", "2", "2")[1].split(" by ")
    assert (over_nccl[1], in_memory[1]) == ("nccl\n", "local\n")
    assert over_nccl[0] == in_memory[0]


def test_reproducible(gpu_ranks: Path, fake_nccl: Path) -> None:
    """Sums of a library with an order of its own are those of shared memory, bit for bit, where that is asked for."""
    library = {"LD_LIBRARY_PATH": str(fake_nccl), "TSR_BACKEND": "nccl", "FAKE_NCCL_BACKWARDS": "1"}
    wanted = texts(gpu_ranks, 4, "digest", "2", "2", LD_LIBRARY_PATH=str(fake_nccl))[1]
    assert texts(gpu_ranks, 4, "digest", "2", "2", **library)[1] != wanted
    assert texts(gpu_ranks, 4, "digest", "2", "2", **library, TEST_IN_ORDER="1")[1] == wanted
    assert texts(gpu_ranks, 3, "check", "3", **library, TEST_IN_ORDER="1")[1].startswith("ok: ")


@pytest.mark.parametrize(("number", "victim"), [(signal.SIGKILL, 1), (signal.SIGSTOP, 2), (signal.SIGSTOP, 0)])
def test_lost_rank(gpu_ranks: Path, fake_nccl: Path, number: signal.Signals, victim: int) -> None:
    """A lost rank is named; the others abort the communicators of every axis and end with code 75."""
    library = {"LD_LIBRARY_PATH": str(fake_nccl), "TSR_BACKEND": "nccl"}
    found = start(gpu_ranks, 3, "steps", "3", "2000", each=dict.fromkeys(range(3), library), TSR_COMM_TIMEOUT="1")
    time.sleep(1.5)
    found[victim].send_signal(number)
    begin = time.monotonic()
    said = [process.communicate(timeout=15)[1] for rank, process in enumerate(found) if rank != victim]
    assert time.monotonic() - begin < 15
    assert [p.returncode for rank, p in enumerate(found) if rank != victim] == [LOST, LOST]
    found[victim].kill()
    found[victim].communicate()
    assert f"error[T0944]: rank {victim} (pid {found[victim].pid} on " in "".join(said)
    assert all(text.count("aborted") == 2 for text in said)


def test_remote_error(gpu_ranks: Path, fake_nccl: Path) -> None:
    """What NCCL says of an exchange that cannot end is an error of this program, not a wait for ever."""
    library = {"LD_LIBRARY_PATH": str(fake_nccl), "TSR_BACKEND": "nccl", "FAKE_NCCL_FAIL": "7"}
    codes, _, err = texts(gpu_ranks, 2, "check", "2", **library)
    assert set(codes) == {LOST}
    assert "an exchange over NCCL has failed: remote process exited" in err


def test_unfit_library(gpu_ranks: Path, fake_nccl: Path) -> None:
    """No NCCL, one that is too old, and a back end that there is not."""
    one = {"TSR_RANK": "0", "TSR_WORLD_SIZE": "1", "TSR_BACKEND": "nccl"}
    assert (
        "error[T0946]: the ranks run on GPUs, and NCCL cannot be used: libnccl.so.2: "
        in run(gpu_ranks, "check", "1", **one, LD_LIBRARY_PATH="").stderr
    )
    old = run(gpu_ranks, "check", "1", **one, LD_LIBRARY_PATH=str(fake_nccl), FAKE_NCCL_OLD="1")
    assert "libnccl.so.2 is version 2.16; communicators are split since 2.18" in old.stderr
    other = run(gpu_ranks, "check", "1", **{**one, "TSR_BACKEND": "mpi"})
    assert "error[T0941]: TSR_BACKEND='mpi': ranks with a GPU each exchange by nccl" in other.stderr
