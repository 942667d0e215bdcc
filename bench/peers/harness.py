"""What every peer program shares: its options, the timed loop, and the JSON line it prints at the end."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable

from bench import cases


def options(case: str, description: str) -> argparse.Namespace:
    """Parses `--size`, `--seconds`, `--fused`, `--way` and `--compile` (torch.compile; JAX always compiles)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=list(cases.CASES[case]), default=cases.DEFAULT_SIZES[case][0])
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the timed part")
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss")
    parser.add_argument("--fused", action="store_true", help="experts computed together, where the case has some")
    parser.add_argument("--way", default="", help="how derivatives by coordinates are taken, where there are several")
    return parser.parse_args()


def race(step: Callable[[], float], seconds: float, updates: int = 10) -> None:
    """Runs `step`, which trains once and returns the loss before its update, and prints what it cost.

    The first steps record the losses after 0 to `updates` updates and warm caches and allocators up; then steps are
    timed for about `seconds`, five at the least. Times in milliseconds, memory in MiB.
    """
    start = time.perf_counter()
    losses = [step()]
    first = time.perf_counter() - start
    for _ in range(updates):
        start = time.perf_counter()
        losses.append(step())
    count = max(5, min(200, int(seconds / (time.perf_counter() - start))))

    times = []
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(count):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    after = resource.getrusage(resource.RUSAGE_SELF)
    record = {
        "median_ms": statistics.median(times),
        "min_ms": min(times),
        "max_ms": max(times),
        "steps": count,
        "first_s": first,
        "peak_rss_mib": after.ru_maxrss / 1024,
        "page_faults_per_step": (after.ru_minflt - before.ru_minflt) / count,
        "losses": losses,
    }
    print(json.dumps(record))
    sys.stdout.flush()
    os._exit(0)  # torch.compile keeps worker processes that would delay an ordinary exit by seconds
