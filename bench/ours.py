"""The emitted program as a contestant: built, given the peers' weights and data, asked for its losses and times."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from bench import cases, contestants, environment

#: The Tessera source of each case in bench/models/, and the name of its program.
SOURCES = {
    "block": ("block.py", "block"),
    "gpt": ("gpt_bench.py", "gpt_bench"),
    "moe": ("moe.py", "moe"),
    "spectral": ("spectral.py", "spectral"),
    "pinn": ("pinn.py", "pinn"),
}

#: The same for sizes that are examples of their own.
_EXAMPLES = {("gpt", "124m"): "gpt2_124m", ("gpt", "tiny-tied"): "gpt2_124m"}

#: Parameters whose name in bench/models/ is not the peers': the path without its first part, and the peers' name, both
#: with `{}` for the number of the layer.
_NAMES = {
    "layers.{}.norm1.weight": "b{}.ln1_w",
    "layers.{}.norm1.bias": "b{}.ln1_b",
    "layers.{}.qkv.weight": "b{}.qkv_w",
    "layers.{}.qkv.bias": "b{}.qkv_b",
    "layers.{}.proj.weight": "b{}.proj_w",
    "layers.{}.proj.bias": "b{}.proj_b",
    "layers.{}.norm2.weight": "b{}.ln2_w",
    "layers.{}.norm2.bias": "b{}.ln2_b",
    "layers.{}.mlp.w1": "b{}.fc_w",
    "layers.{}.mlp.b1": "b{}.fc_b",
    "layers.{}.mlp.w2": "b{}.out_w",
    "layers.{}.mlp.b2": "b{}.out_b",
    "router.gate": "Wr",
    "experts.{}.w1": "W1.{}",
    "experts.{}.b1": "b1.{}",
    "experts.{}.w2": "W2.{}",
    "experts.{}.b2": "b2.{}",
    "mlp.{}.w1": "e{}.W1",
    "mlp.{}.b1": "e{}.b1",
    "mlp.{}.w2": "e{}.W2",
    "mlp.{}.b2": "e{}.b2",
    "mixture.gate": "gate",
    "norm.weight": "lnf_w",
    "norm.bias": "lnf_b",
}


#: Seconds of steps before those that are timed.
WARM_S = 1.0


@dataclass(frozen=True, slots=True)
class Program:
    """An emitted program of one case and size, and the folder with its weights and data."""

    case: str
    size: str
    folder: Path
    executable: Path

    def profile(self) -> str:
        """The table of time per kernel that `profile` prints, from a copy of the project built with timing hooks."""
        copy = self.folder / "traced"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(
            self.executable.parent, copy, ignore=shutil.ignore_patterns("*.o", "*.so", self.executable.name)
        )
        _run("make TRACE=1", ["make", "-s", "-C", str(copy), "TRACE=1", self.executable.name])
        return replace(self, executable=copy / self.executable.name)._call("profile", "--steps", "5")

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

    def losses(self) -> list[float]:
        """The losses before and after each of the case's updates, from the peers' weights on their fixed batch."""
        steps = cases.UPDATES[self.case] + 1
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
        """One round of `bench --json` that fills `seconds`; `step_ms` is an earlier round's median, None for the first.

        Peers compile for seconds before they are timed, on processors that are awake by then: so are ours.
        """
        if step_ms is None:
            step_ms = float(self._bench(steps=10, warmup=3)["median_ms"])
        steps = max(5, min(500, int(seconds * 1e3 / step_ms)))
        record = self._bench(steps, warmup=max(3, min(100, int(WARM_S * 1e3 / step_ms))))
        return record | {"peak_rss_mib": record["peak_rss_bytes"] / 2**20}

    def _bench(self, steps: int, warmup: int) -> dict[str, Any]:
        counts = ["--steps", str(steps), "--warmup", str(warmup)]
        optimizer = _optimizer(self.case, self.size)[:2]
        record: dict[str, Any] = json.loads(
            self._call("bench", "--json", *counts, "--weights", str(self._weights()), *optimizer)
        )
        return record


def build(case: str, size: str, extra: Sequence[str] = ()) -> Program:
    """Compiles the Tessera source of a case at a size into build/bench. Raises Failed with the compiler's message."""
    example = _EXAMPLES.get((case, size))
    source, label = (f"{example}.py", example) if example else SOURCES[case]
    path = environment.ROOT / "examples" / source if example else environment.ROOT / "bench" / "models" / source
    folder = environment.WORK / f"{case}-{size}{''.join(extra)}"
    folder.mkdir(parents=True, exist_ok=True)
    settings = [part for name, value in constants(case, size).items() for part in ("--set", f"{name}={value}")]
    compiler = [sys.executable, "-c", "from tesserac.cli import main; main()"]
    command = [*compiler, "build", str(path)]
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
    if isinstance(values, cases.Moe):
        return {"T": values.tokens, "D": values.width, "E": values.experts, "K": values.choices}
    if isinstance(values, cases.Spectral):
        sizes = {"B": values.batch, "N": values.width, "HIDDEN": values.hidden}
        return {**sizes, "E": values.experts, "DEPTH": values.depth}
    if isinstance(values, cases.Pinn):
        return {"N": values.points, "W": values.width, "L": values.hidden, "PLATE": values.equation == "biharmonic"}
    sizes = {"L": values.layers, "D": values.width, "H": values.heads}
    return {**sizes, "S": values.context, "B": values.batch, "V": values.vocabulary}


def _optimizer(case: str, size: str) -> list[str]:
    values = cases.CASES[case][size]
    if not isinstance(values, cases.Gpt | cases.Pinn):
        return ["--optimizer", "sgd", "--lr", str(values.learning_rate)]
    flags = {
        "--optimizer": "adamw" if isinstance(values, cases.Gpt) else "adam",
        "--lr": values.learning_rate,
        "--beta1": values.beta1,
        "--beta2": values.beta2,
        "--eps": values.eps,
    }
    if isinstance(values, cases.Gpt):
        flags["--weight-decay"] = values.weight_decay
    return [part for flag, value in flags.items() for part in (flag, str(value))]


def rename(weights: cases.Arrays, parameters: Sequence[dict[str, Any]]) -> cases.Arrays:
    """The peers' weights under the names the program gives its parameters.

    Raises Failed where a parameter stays without a weight, a weight without a parameter, or shapes differ.
    """
    shapes = {str(entry["name"]): tuple(entry["shape"]) for entry in parameters}
    renamed = {path: _peers_name(path) for path in shapes}
    unknown = [path for path, name in renamed.items() if name not in weights or weights[name].shape != shapes[path]]
    unused = sorted(set(weights) - set(renamed.values()))
    if unknown or unused:
        raise contestants.Failed(f"the program's parameters are not the peers': {', '.join(unknown + unused)}")
    return {path: weights[name] for path, name in renamed.items()}


def _peers_name(path: str) -> str:
    inner = path.partition(".")[2].removeprefix("net.")
    number = re.search(r"\d+", inner)
    layer = number[0] if number else ""
    return _NAMES.get(inner.replace(f".{layer}.", ".{}."), inner).replace("{}", layer)
