"""Who races: for each case, the peers as shipped and as an expert would tune them, each a process."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench import environment

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

    def run(self, size: str, seconds: float) -> dict[str, Any]:
        """One round: the record printed by `bench.peers.harness.race`. Raises Failed."""
        command = [sys.executable, "-m", self.module, "--size", size, "--seconds", str(seconds), *self.flags]
        return json_line(command, self.environment())


def json_line(command: list[str], env: Mapping[str, str]) -> dict[str, Any]:
    """Runs a program and returns the JSON object on the last line it prints. Raises Failed."""
    try:
        done = subprocess.run(command, env=env, cwd=environment.ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"no answer within {TIMEOUT_S} s") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        said = [line for line in done.stderr.splitlines() if re.match(r"\w*[Ee]rror", line)] or done.stderr.splitlines()
        raise Failed((said or [f"exit status {done.returncode}, nothing printed"])[-1])
    record: dict[str, Any] = json.loads(lines[-1])
    return record


def peers(case: str) -> tuple[Peer, ...]:
    """The peers of a case, as shipped first."""

    def torch(name: str, tuned: bool, *flags: str) -> Peer:
        chosen = (lambda: environment.tuned(mkl=True)) if tuned else environment.plain
        return Peer(name, "torch", tuned, f"bench.peers.{case}_torch", flags, chosen)

    def jax(name: str, tuned: bool, *flags: str) -> Peer:
        chosen = (lambda: environment.tuned(mkl=False)) if tuned else environment.plain
        return Peer(name, "jax", tuned, f"bench.peers.{case}_jax", flags, chosen)

    best = ("--fused",) if case == "spectral" else ()

    return (
        torch("PyTorch eager", False),
        torch("torch.compile", False, "--compile"),
        jax("JAX jit", False),
        torch("PyTorch eager, tuned", True, *best),
        torch("torch.compile, tuned", True, "--compile", *best),
        jax("JAX jit, tuned", True, *best),
    )
