"""`python -m bench.gpu`: on a machine with a GPU, build and measure everything that runs there, in eight minutes.

Correctness comes first: kernels against the evaluator (`tesserac verify`), losses against PyTorch's over the same
updates from the same weights, attention against another kernel. A step of the emitted program is then raced against
PyTorch (eager, torch.compile, with and without autocast) and JAX, where they are installed; attention on tensor cores
against PyTorch's scaled_dot_product_attention. Without a GPU it says what is missing and exits with 2.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench import cases, contestants, environment, ours
from bench.run import largest_difference
from tesserac.nvcc import INSTALL, locate
from tesserac.verification.library import has_device

RACES = (("gpt", "124m"), ("pinn", "base"), ("pinn", "biharmonic"), ("moe", "d1024"))
PEERS = ("PyTorch eager", "torch.compile", "JAX jit", "PyTorch reverse", "torch.compile reverse", "JAX mixed")
PEERS += ("PyTorch nested", "torch.compile nested", "JAX forward")
TOLERANCE = 2e-4
"""Of the losses of float32 programs whose sums are in different orders, relative."""
BF16_TOLERANCE = 5e-3
"""Of the losses of the program with `--precision bf16` from its own in float32, relative."""
KERNELS = ("examples/gpt2_124m.py", "L=1", "B=16", "S=1024", "V=512")
"""A source, and sizes at which its kernels run alone: values of 50 MB, which no L2 cache holds."""


@dataclass(slots=True)
class Line:
    """A row of the table: milliseconds of one step or call, and what is known of its correctness."""

    what: str
    who: str
    milliseconds: float = 0.0
    rate: str = ""
    correct: str = ""
    problem: str = ""


@dataclass(slots=True)
class Clock:
    """When to be finished; `left` seconds until then."""

    until: float
    started: float = field(default_factory=time.time)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.until - time.time()


def missing() -> list[str]:
    """What this machine lacks to run the benchmark, a line each."""
    lines = []
    if not has_device():
        lines.append("no GPU: the CUDA driver (libcuda.so.1) is not there, or it sees no device")
    if locate() is None:
        lines.append(f"no nvcc: {INSTALL}")
    return lines


def main() -> int:
    """Parses the command line, measures, prints the table and writes it to bench/results."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__, formatter_class=raw)
    parser.add_argument("--minutes", type=float, default=8.0, help="everything that does not fit is left out, and said")
    parser.add_argument("--only", default="", help="what to measure: a part of gpt, pinn, moe, attention, kernels")
    options = parser.parse_args()
    lacking = missing()
    if lacking:
        print("this benchmark needs a GPU and the CUDA compiler, and this machine lacks:", file=sys.stderr)
        print("\n".join(f"  {line}" for line in lacking), file=sys.stderr)
        print("without a GPU, `tesserac verify` checks the kernels under the emulation", file=sys.stderr)
        return 2
    clock = Clock(time.time() + 60 * options.minutes)
    lines: list[Line] = []
    if options.only in "attention":
        lines += attention(clock)
    for case, size in RACES:
        if options.only in case:
            lines += race(case, size, clock)
    text = "" if options.only not in "kernels" else kernels(clock)
    print(table(lines) + "\n\n" + text)
    folder = environment.ROOT / "bench" / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"gpu-{time.strftime('%Y%m%d-%H%M%S')}.json"
    rows = [{name: getattr(line, name) for name in Line.__dataclass_fields__} for line in lines]
    path.write_text(json.dumps({"lines": rows, "kernels": text}, indent=1) + "\n")
    print(f"written to {path.relative_to(environment.ROOT)}; {time.time() - clock.started:.0f} s")
    return 1 if any(line.correct.startswith("WRONG") for line in lines) else 0


def race(case: str, size: str, clock: Clock, flags: Sequence[str] = ("--target", "cuda")) -> list[Line]:
    """The emitted program and its peers, one after another; the peers' losses judge ours."""
    what = f"{case} {size}"
    try:
        program = ours.build(case, size, flags)
        losses = program.losses()
        record = program.run(3.0, None)
    except (contestants.Failed, subprocess.TimeoutExpired) as failure:
        return [Line(what, "tesserac", problem=str(failure).splitlines()[-1])]
    lines = [Line(what, "tesserac fp32", float(record["median_ms"]), rate_of(case, size, float(record["median_ms"])))]
    if case == "gpt":
        lines.append(_mixed(case, size, flags, losses))
    for peer in on_device(case, size):
        line = Line(what, peer.name)
        lines.append(line)
        if not peer.installed():
            line.problem = f"not installed: {contestants.INSTALL}"
        elif clock.left < 40:
            line.problem = "no time left"
        else:
            try:
                found = peer.run(size, 3.0, min(clock.left - 10, 120.0))
            except contestants.Failed as failure:
                line.problem = str(failure)
                continue
            line.milliseconds, line.rate = found["median_ms"], rate_of(case, size, found["median_ms"])
            if "autocast" not in peer.name and not lines[0].correct:
                lines[0].correct = judged(losses, found["losses"], peer.name)
    return lines


def _mixed(case: str, size: str, flags: Sequence[str], losses: list[float]) -> Line:
    """The same program with products and attention on bf16, held to its losses in float32."""
    line = Line(f"{case} {size}", "tesserac bf16")
    try:
        program = ours.build(case, size, (*flags, "--precision", "bf16"))
        line.correct = judged(program.losses(), losses, "tesserac fp32", BF16_TOLERANCE)
        line.milliseconds = float(program.run(3.0, None)["median_ms"])
    except (contestants.Failed, subprocess.TimeoutExpired) as failure:
        line.problem = str(failure).splitlines()[-1]
        return line
    line.rate = rate_of(case, size, line.milliseconds)
    return line


def judged(losses: list[float], theirs: list[float], name: str, tolerance: float = TOLERANCE) -> str:
    """What two loss curves say of ours; a peer that ran short of time has the first losses only."""
    worst = largest_difference(losses[: len(theirs)], theirs)
    verdict = "ok" if worst <= tolerance else "WRONG"
    return f"{verdict}: {worst:.0e} from {name} over {len(theirs)} losses"


def on_device(case: str, size: str) -> list[contestants.Peer]:
    """The peers of a case as they run on a GPU: PyTorch's through bench.peers.on_gpu, JAX's as they are, in float32."""
    found = []
    for peer in contestants.peers(case, size):
        if peer.tuned or peer.name not in PEERS:
            continue
        if peer.package == "torch":
            moved = replace(peer, module="bench.peers.on_gpu", flags=("--program", peer.module, *peer.flags))
            found.append(moved)
            if case == "gpt":
                found.append(replace(moved, name=f"{peer.name}, bf16 autocast", flags=("--autocast", *moved.flags)))
        else:
            found.append(replace(peer, environment=_exact))
    return found


def _exact() -> dict[str, str]:
    """JAX's products in float32, as PyTorch's and ours are."""
    return {**environment.plain(), "JAX_DEFAULT_MATMUL_PRECISION": "highest"}


def rate_of(case: str, size: str, milliseconds: float) -> str:
    """Tokens or points per second, and what the arithmetic of a step comes to."""
    values = cases.CASES[case][size]
    work = f"{values.gflop() / milliseconds:.1f} TFLOP/s"
    if isinstance(values, cases.Gpt):
        return f"{values.batch * values.context / milliseconds:.0f} K tokens/s, {work}"
    return work


def attention(clock: Clock) -> list[Line]:
    """The kernels of runtime/cuda/attention_{mma,wgmma}.cuh against scaled_dot_product_attention, all on bf16."""
    source = environment.ROOT / "bench" / "micro" / "attention_mma.cu"
    program = environment.WORK / "attention_mma"
    environment.WORK.mkdir(parents=True, exist_ok=True)
    command = [
        str(locate()),
        "-std=c++17",
        "-O3",
        *(f"-gencode=arch=compute_{a},code={code}" for a, code in (("80", "[sm_80,compute_80]"), ("90a", "sm_90a"))),
        "-DTSR_SM_90A",
        f"-I{environment.ROOT}",
        "-o",
        str(program),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return [Line("attention", "tesserac", problem=done.stderr.strip().splitlines()[0])]
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=max(clock.left, 30))
    records: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    numbers = [str(int(r[key])) for r in records for key in ("batch", "length", "heads", "width", "causal")]
    peers = _lines_of_json([sys.executable, "-m", "bench.peers.sdpa", *numbers], clock)
    lines = []
    for number, record in enumerate(records):
        for way in ("forward", "backward"):
            what = f"attention {record['name']}, {way}"
            correct = f"{'ok' if record['good'] else 'WRONG'}: {record['error']:.0e} from float32"
            lines.append(_attention_line(what, "tesserac bf16", record, record, way, correct))
            beside = {f"{way}_ms": record[f"{way}_mma_ms"]}
            lines.append(_attention_line(what, "tesserac bf16, mma.sync", beside, record, way, ""))
            if number < len(peers):
                lines.append(_attention_line(what, "PyTorch SDPA", peers[number], record, way, ""))
    return lines


def _attention_line(what: str, who: str, times: dict[str, Any], sizes: dict[str, Any], way: str, correct: str) -> Line:
    milliseconds = float(times[f"{way}_ms"])
    return Line(what, who, milliseconds, f"{sizes[f'{way}_flops'] / milliseconds / 1e9:.0f} TFLOP/s", correct)


def _lines_of_json(command: list[str], clock: Clock) -> list[dict[str, Any]]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=environment.ROOT, timeout=max(clock.left, 30)
        )
    except subprocess.TimeoutExpired:
        return []
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def kernels(clock: Clock) -> str:
    """The table of `tesserac verify`: every kernel alone, with its share of the roofline."""
    source, *settings = KERNELS
    command = [sys.executable, "-c", "from tesserac.cli import main; main()", "verify", source, "--target", "cuda"]
    command += [part for setting in settings for part in ("--set", setting)]
    if clock.left < 60:
        return "kernels: no time left"
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=environment.ROOT, timeout=clock.left)
    except subprocess.TimeoutExpired:
        return "kernels: no time left"
    return done.stdout + done.stderr


def table(lines: Sequence[Line]) -> str:
    """The lines as text, in order."""
    rows = [("", "", "ms", "rate", "correct")]
    for line in lines:
        time_text = f"{line.milliseconds:.3f}" if line.milliseconds else "-"
        rows.append((line.what, line.who, time_text, line.rate, line.correct or line.problem))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    text = [
        "  ".join(c.rjust(w) if i == 2 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in text)


if __name__ == "__main__":
    sys.exit(main())
