"""Starts the ranks of a program on this host and waits for them: `tesserac run -n N PROGRAM ...`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

GRACE = 10.0
"""Seconds that the other ranks have to end by themselves when one has ended badly."""
LOST = 75
"""Exit code of ranks that stop because another one is lost: the job can be started again."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def environment(rank: int, count: int, job: str) -> dict[str, str]:
    """What tells a process which rank it is. Processors are shared out unless OMP_NUM_THREADS says otherwise."""
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "TSR_RANK": str(rank),
        "TSR_WORLD_SIZE": str(count),
        "TSR_LOCAL_RANK": str(rank),
        "TSR_JOB": job,
    }


def launch(program: str, arguments: Sequence[str], count: int) -> int:
    """Runs ``count`` ranks; their exit code (see `exit_code`). Rank 0 has this process's standard output.

    What ranks print on standard error, and ranks other than 0 at all, gets the rank in front of every line. Raises
    OSError when the program cannot be started.
    """
    job = f"{os.getpid()}.{time.monotonic_ns()}"
    ranks: list[subprocess.Popen[bytes]] = []
    readers: list[threading.Thread] = []
    sys.stdout.flush()
    try:
        for rank in range(count):
            process = subprocess.Popen(
                [program, *arguments],
                env=environment(rank, count, job),
                stdin=None if rank == 0 else subprocess.DEVNULL,
                stdout=None if rank == 0 else subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=rank > 0,  # the terminal's own signals reach rank 0; all others come from here
            )
            ranks.append(process)
            readers += [_reader(stream, rank) for stream in (process.stdout, process.stderr) if stream is not None]
    except OSError:
        _end(ranks)
        raise
    before = {number: signal.signal(number, lambda n, _: _tell(ranks, n)) for number in FORWARDED}
    try:
        _wait(ranks)
    finally:
        _end(ranks)
        for number, handler in before.items():
            signal.signal(number, handler)
    for reader in readers:
        reader.join()
    return exit_code([process.returncode for process in ranks])


def exit_code(codes: Sequence[int]) -> int:
    """Of all ranks: what one that ended by itself says, else that a rank was lost, else 0."""
    own = [code for code in codes if code > 0 and code != LOST]
    if own:
        return own[0]
    return LOST if any(codes) else 0


def _reader(stream: IO[bytes], rank: int) -> threading.Thread:
    def copy() -> None:
        for line in stream:
            sys.stderr.buffer.write(f"[rank {rank}] ".encode() + line)
            sys.stderr.buffer.flush()

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return thread


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all have ended, or for a while after one has ended badly."""
    limit: float | None = None
    while None in (codes := [process.poll() for process in ranks]):  # each is asked, whoever still runs before it
        if limit is None and any(codes):
            limit = time.monotonic() + GRACE
        if limit is not None and time.monotonic() > limit:
            rank = next(k for k, code in enumerate(codes) if code)
            text = f"rank {rank} ended with {_outcome(codes[rank])}, and the others did not end by themselves"
            sys.stderr.write(f"error: {text} within {GRACE:g} s: they are ended now\n")
            return
        time.sleep(0.02)


def _outcome(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _tell(ranks: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in ranks:
        if process.poll() is None:
            process.send_signal(number)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends what still runs, stopped processes too."""
    for process in ranks:
        if process.poll() is None:
            process.kill()
    for process in ranks:
        process.wait()
