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
    """Parses what every peer is told; `--compile` is torch.compile (JAX always compiles)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=list(cases.CASES[case]), default=cases.DEFAULT_SIZES[case][0])
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the timed part")
    parser.add_argument("--until", type=float, default=float("inf"), help="Unix time at which to be finished")
    parser.add_argument("--brief", action="store_true", help="a few steps to warm up, no losses of the updates")
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss")
    parser.add_argument("--fused", action="store_true", help="experts computed together, where the case has some")
    parser.add_argument("--way", default="", help="how derivatives by coordinates are taken, where there are several")
    return parser.parse_args()


LEAST = 5
"""Steps that are timed where there is time for them."""


def race(step: Callable[[], float], told: argparse.Namespace, updates: int = 10) -> None:
    """Runs `step`, which trains once and returns the loss before its update, and prints what it cost.

    The first steps record the losses after 0 to `updates` updates and warm caches and allocators up; then steps are
    timed for about the seconds that were asked for, five at the least. Times in milliseconds, memory in MiB. Where the
    time that was given would run out, there are fewer of both.
    """
    start = time.perf_counter()
    losses = [step()]
    first = last = time.perf_counter() - start
    for update in range(3 if told.brief else updates):
        if update and time.time() + (LEAST + 1) * last > told.until:
            break
        start = time.perf_counter()
        losses.append(step())
        last = time.perf_counter() - start
    count = max(LEAST, min(200, int(told.seconds / last)))

    times: list[float] = []
    before = resource.getrusage(resource.RUSAGE_SELF)
    while len(times) < count and (not times or time.time() + last < told.until):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    after = resource.getrusage(resource.RUSAGE_SELF)
    record = {
        "median_ms": statistics.median(times),
        "min_ms": min(times),
        "max_ms": max(times),
        "steps": len(times),
        "first_s": first,
        "peak_rss_mib": after.ru_maxrss / 1024,
        "page_faults_per_step": (after.ru_minflt - before.ru_minflt) / len(times),
        "losses": [] if told.brief else losses,
    }
    print(json.dumps(record))
    sys.stdout.flush()
    os._exit(0)  # torch.compile keeps worker processes that would delay an ordinary exit by seconds
