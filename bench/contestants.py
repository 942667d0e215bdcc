"""Who races: for each case, the peers as shipped and as an expert would tune them, each a process."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench import cases, environment

INSTALL = "make setup-bench"
TIMEOUT_S = 600


class Failed(Exception):
    """A contestant did not finish; the message is the last thing it said."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer program in one environment. `tuned` ones are compared with a bar of their own."""

    name: str
    package: str
    tuned: bool
    module: str
    flags: tuple[str, ...]
    environment: Callable[[], Mapping[str, str]]

    def installed(self) -> bool:
        """Whether the package it needs can be imported here."""
        return importlib.util.find_spec(self.package) is not None

    def run(self, size: str, seconds: float, limit: float = TIMEOUT_S, losses: bool = True) -> dict[str, Any]:
        """One round: the record printed by `bench.peers.harness.race`. Raises Failed.

        It has `limit` seconds for everything, and shortens what it times to keep them. Without `losses` it does not
        record those of the case's updates, which take most of a slow contestant's time.
        """
        command = [sys.executable, "-m", self.module, "--size", size, "--seconds", str(seconds), *self.flags]
        command += ["--until", str(time.time() + limit - 1), *([] if losses else ["--brief"])]
        return json_line(command, self.environment(), limit)


def json_line(command: list[str], env: Mapping[str, str], limit: float = TIMEOUT_S) -> dict[str, Any]:
    """Runs a program for at most `limit` seconds and returns the JSON object on the last line it prints.

    Raises Failed; a program that takes longer is ended with all that it started.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen(command, env=env, cwd=environment.ROOT, start_new_session=True, **pipes)
    try:
        out, err = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise Failed(f"no answer within {limit:.0f} s") from None
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if child.returncode or not lines:
        said = [line for line in err.splitlines() if re.match(r"\w*[Ee]rror", line)] or err.splitlines()
        raise Failed((said or [f"exit status {child.returncode}, nothing printed"])[-1])
    record: dict[str, Any] = json.loads(lines[-1])
    return record


def _torch(case: str, name: str, tuned: bool, *flags: str) -> Peer:
    chosen = (lambda: environment.tuned(mkl=True)) if tuned else environment.plain
    return Peer(name + ", tuned" * tuned, "torch", tuned, f"bench.peers.{case}_torch", flags, chosen)


def _jax(case: str, name: str, tuned: bool, *flags: str) -> Peer:
    chosen = (lambda: environment.tuned(mkl=False)) if tuned else environment.plain
    return Peer(name + ", tuned" * tuned, "jax", tuned, f"bench.peers.{case}_jax", flags, chosen)


def peers(case: str, size: str) -> tuple[Peer, ...]:
    """The peers of a case, as shipped first."""
    values = cases.CASES[case][size]
    if isinstance(values, cases.Pinn):
        return _pinn_peers(values.equation)
    best = {False: (), True: ("--fused",) if case == "spectral" else ()}
    return tuple(
        peer
        for tuned in (False, True)
        for peer in (
            _torch(case, "PyTorch eager", tuned, *best[tuned]),
            _torch(case, "torch.compile", tuned, "--compile", *best[tuned]),
            _jax(case, "JAX jit", tuned, *best[tuned]),
        )
    )


#: Ways to take the derivatives of an equation: in PyTorch, compiled as one graph with the gradient, in JAX; and those
#: worth tuning, which are the fastest as shipped of each kind.
_WAYS = {
    "momentum": (
        ("nested", "reverse", "forward", "mixed", "points", "hessian", "taylor"),
        ("nested", "reverse"),
        ("nested", "reverse", "forward", "mixed", "points", "hessian", "jet"),
        (("reverse", "mixed", "taylor"), ("reverse",), ("reverse", "mixed")),
    ),
    "biharmonic": (
        ("nested", "forward", "hessian"),
        ("nested",),
        ("nested", "forward", "mixed", "hessian", "jet"),
        (("nested", "forward"), ("nested",), ("forward", "mixed", "jet")),
    ),
}


def _pinn_peers(equation: str) -> tuple[Peer, ...]:
    eager, traced, jitted, best = _WAYS[equation]
    found = []
    for tuned, ways in ((False, (eager, traced, jitted)), (True, best)):
        found += [_torch("pinn", f"PyTorch {way}", tuned, "--way", way) for way in ways[0]]
        found += [_torch("pinn", f"torch.compile {way}", tuned, "--way", way, "--compile") for way in ways[0]]
        found += [_torch("pinn", f"make_fx {way}", tuned, "--way", f"traced {way}") for way in ways[1]]
        found += [_jax("pinn", f"JAX {way}", tuned, "--way", way) for way in ways[2]]
    return tuple(found)
