"""The emitted program as a contestant: built, given the peers' weights and data, asked for its losses and times."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from bench import cases, contestants, environment

#: The peers' names of the parameters of one GPT layer, by position in the tuple that bench/models/gpt_bench.py builds.
_LAYER = (
    ("ln1_w", "ln1_b"),
    ("qkv_w", "qkv_b"),
    ("proj_w", "proj_b"),
    ("ln2_w", "ln2_b"),
    ("fc_w", "fc_b", "out_w", "out_b"),
)


@dataclass(frozen=True, slots=True)
class Program:
    """An emitted program of one case and size, and the folder with its weights and data."""

    case: str
    size: str
    folder: Path
    executable: Path

    def profile(self) -> str:
        """The table of time per kernel that `profile` prints, from a copy of the program built with `make trace`."""
        traced = self.executable.with_name(f"{self.executable.name}-trace")
        _run("make trace", ["make", "-s", "-C", str(traced.parent), "trace"])
        return Program(self.case, self.size, self.folder, traced)._call("profile", "--steps", "5")

    def _call(self, *arguments: str) -> str:
        # A process inherits the peak resident set of the one that replaced itself by it, here Python's. Through a shell
        # that stays, the program is forked from something small and reports its own.
        command = ["sh", "-c", '"$@"; exit $?', "sh", str(self.executable), *arguments]
        limit = contestants.TIMEOUT_S
        done = subprocess.run(command, env=environment.plain(), capture_output=True, text=True, timeout=limit)
        if done.returncode:
            raise contestants.Failed((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0])
        return done.stdout

    def _weights(self) -> Path:
        return self.folder / "initial.safetensors"

    def describe(self) -> dict[str, Any]:
        """What `describe --json` prints."""
        description: dict[str, Any] = json.loads(self._call("describe", "--json"))
        return description

    def losses(self, steps: int = 11) -> list[float]:
        """The losses after 0 to `steps` - 1 updates, from the peers' weights on their fixed batch."""
        weights, data = cases.initial(self.case, self.size)
        save_file(rename(weights, self.describe()["parameters"]), self._weights())
        flags = ["--weights", str(self._weights()), "--steps", str(steps), *_optimizer(self.case, self.size)]
        for key, value in data.items():
            np.save(self.folder / f"{key}.npy", value)
            flags += ["--data", f"{key}={self.folder / f'{key}.npy'}"]
        log = self.folder / "loss.jsonl"
        log.unlink(missing_ok=True)
        self._call("train", *flags, "--log", str(log), "--quiet")
        records = [json.loads(line) for line in log.read_text().splitlines()]
        return [float(record["loss"]) for record in records if "loss" in record]

    def run(self, seconds: float, step_ms: float | None) -> dict[str, Any]:
        """One round of `bench --json`; an earlier round's median `step_ms` sets how many steps fill `seconds`."""
        steps = 10 if step_ms is None else max(5, min(500, int(seconds * 1e3 / step_ms)))
        optimizer = _optimizer(self.case, self.size)[:2]
        flags = ["--steps", str(steps), "--warmup", "3", "--weights", str(self._weights()), *optimizer]
        record: dict[str, Any] = json.loads(self._call("bench", "--json", *flags))
        return record | {"peak_rss_mib": record["peak_rss_bytes"] / 2**20}


def build(case: str, size: str, extra: Sequence[str] = ()) -> Program:
    """Compiles the Tessera source of a case at a size into build/bench. Raises Failed with the compiler's message."""
    source, label = {"block": ("block.py", "block"), "gpt": ("gpt_bench.py", "gpt_bench")}[case]
    folder = environment.WORK / f"{case}-{size}{''.join(extra)}"
    folder.mkdir(parents=True, exist_ok=True)
    settings = [part for name, value in constants(case, size).items() for part in ("--set", f"{name}={value}")]
    compiler = [sys.executable, "-c", "from tesserac.cli import main; main()"]
    command = [*compiler, "build", str(environment.ROOT / "bench" / "models" / source)]
    command += [*settings, "--mesh", "none", *extra, "-o", str(folder / "out")]
    _run(f"tesserac build {source}", command)
    _run("make", ["make", "-s", "-C", str(folder / "out")])
    return Program(case, size, folder, folder / "out" / label)


def _run(name: str, command: list[str]) -> None:
    done = subprocess.run(command, env=environment.plain(), capture_output=True, text=True)
    if done.returncode:
        raise contestants.Failed(f"`{name}` failed:\n{done.stderr.strip()}")


def constants(case: str, size: str) -> dict[str, int | bool]:
    """The `--set` overrides that give the Tessera source of a case this size."""
    values = cases.CASES[case][size]
    if isinstance(values, cases.Block):
        sizes = {"B": values.batch, "S": values.positions, "D": values.width, "V": values.classes}
        return {**sizes, "H": values.heads, "CAUSAL": values.causal}
    sizes = {"L": values.layers, "D": values.width, "H": values.heads}
    return {**sizes, "S": values.context, "B": values.batch, "V": values.vocabulary}


def _optimizer(case: str, size: str) -> list[str]:
    values = cases.CASES[case][size]
    if isinstance(values, cases.Block):
        return ["--optimizer", "sgd", "--lr", str(values.learning_rate)]
    flags = {
        "--optimizer": "adamw",
        "--lr": values.learning_rate,
        "--beta1": values.beta1,
        "--beta2": values.beta2,
        "--eps": values.eps,
        "--weight-decay": values.weight_decay,
    }
    return [part for flag, value in flags.items() for part in (flag, str(value))]


def rename(weights: cases.Arrays, parameters: Sequence[dict[str, Any]]) -> cases.Arrays:
    """The peers' weights under the names the program gives its parameters.

    A parameter of the module keeps its own name as the last part of its path. Parts of a layer lie in a tuple, so
    their paths hold two numbers, `layers.<layer>.<part>`; biases are told from weights by a name that begins with `b`.
    Raises Failed where a parameter stays without a weight, a weight without a parameter, or shapes differ.
    """
    wanted: dict[str, str] = {}
    parts: dict[tuple[int, int] | None, list[str]] = {}
    shapes = {str(entry["name"]): tuple(entry["shape"]) for entry in parameters}
    for path in shapes:
        last = path.rsplit(".", 1)[-1]
        inside = re.search(r"\blayers\.(\d+)\.(\d+)\.", path)
        if inside:
            parts.setdefault((int(inside[1]), int(inside[2])), []).append(path)
        elif last in weights:
            wanted[path] = last
        else:
            parts.setdefault(None, []).append(path)
    for key, paths in parts.items():
        names = ("lnf_w", "lnf_b") if key is None else tuple(f"b{key[0]}.{name}" for name in _LAYER[key[1]])
        for kind in (False, True):  # weights, then biases
            chosen = [path for path in paths if path.rsplit(".", 1)[-1].startswith("b") is kind]
            wanted |= dict(zip(chosen, [name for name in names if name.endswith("_b") is kind], strict=False))
    unmatched = sorted(set(shapes) - set(wanted)) + sorted(set(weights) - set(wanted.values()))
    wrong = [path for path, name in wanted.items() if weights[name].shape != shapes[path]]
    if unmatched or wrong:
        raise contestants.Failed(f"the program's parameters are not the peers': {', '.join(unmatched + wrong)}")
    return {path: weights[name] for path, name in wanted.items()}
