"""`make bench CASE=gpt`: the emitted program against the peers, interleaved in one run on one machine.

Every round starts each contestant once, as a process of its own, so that a slow minute of a shared machine falls on all
of them. A contestant's figure is the median of its rounds' medians. Peers that are not installed are named, with the
command that installs them.

A size takes no longer than `--minutes`. The first round gives every peer a part of that, at most `--budget` seconds;
who has no answer by then says so. Only the fastest as shipped and the fastest tuned ones are raced in all rounds.

The machine's multiply-add rate is measured before and after each turn of each contestant. Who met a machine that was
slower than that, or shared with others, has that turn once more; what counts is the turn that was disturbed less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from bench import cases, contestants, environment, ours

OURS = "tesserac"
TOLERANCE = 1e-4

VARIANTS = {("block", "h1"): ("--reassociate",)}
"""Flags of `tesserac build` that are raced beside its defaults, where they change what is computed."""

FINALISTS = 3
"""How many peers as shipped, and how many tuned ones, are raced in every round."""

LEAST_S = 10.0
"""Seconds that are kept for every contestant of a round whose turn has not come."""

DISTURBED = 0.9
"""A turn is repeated where this share of the multiply-add peak was not reached around it, or not left to it."""

PROBE_S = 0.4
"""Seconds of a measurement of the multiply-add rate beside a turn."""

PROFILE_S = 75.0
"""Seconds that are kept for the profile at the end: it compiles the program once more."""


@dataclass(slots=True)
class Row:
    """What is known of one contestant after some rounds; `problem` says why it has none."""

    name: str
    tuned: bool
    rounds: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    problem: str = ""
    took_s: float = 0.0

    def median_ms(self) -> float:
        """The median over the rounds of each round's median step."""
        return statistics.median(float(record["median_ms"]) for record in self.rounds)

    def peak_rss_mib(self) -> float:
        """The largest resident set any round reached."""
        return max(float(record["peak_rss_mib"]) for record in self.rounds)

    def had(self) -> float:
        """The least share of the machine that a round had: of its multiply-add peak, and of its processors' time."""
        return min(float(record["had"]) for record in self.rounds)


class Machine:
    """The machine's multiply-add rate: the best that was ever measured, and the share of it that is there now."""

    def __init__(self) -> None:
        self.peak_gflops = environment.peak_gflops()

    def share(self) -> float:
        """Of the best so far."""
        rate = environment.peak_gflops(PROBE_S)
        self.peak_gflops = max(self.peak_gflops, rate)
        return rate / self.peak_gflops


def main() -> int:
    """Parses the command line, races every size asked for, and returns the exit status."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__, formatter_class=raw)
    parser.add_argument("--case", choices=list(cases.CASES), default="gpt")
    parser.add_argument("--size", action="append", help="one size of the case; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="timed part of each contestant in each round")
    parser.add_argument("--minutes", type=float, default=9.5, help="for one size, all rounds and the builds together")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds that a peer may take in a round")
    parser.add_argument("--only", default="", help="race only contestants whose name contains this")
    options = parser.parse_args()
    sizes = options.size or cases.DEFAULT_SIZES[options.case]
    unknown = [size for size in sizes if size not in cases.CASES[options.case]]
    if unknown:
        parser.error(f"case {options.case} has no size {unknown[0]}; it has {', '.join(cases.CASES[options.case])}")
    machine = Machine()
    results = [race(options, size, machine) for size in sizes]
    folder = environment.ROOT / "bench" / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{options.case}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nwritten to {path.relative_to(environment.ROOT)}")
    return 0 if all(result["contestants"][0]["rounds"] for result in results) else 1


def race(options: argparse.Namespace, size: str, machine: Machine) -> dict[str, Any]:
    """Races one size, prints its table and returns everything measured."""
    case, end = options.case, time.monotonic() + 60 * options.minutes - PROFILE_S
    print(f"\n{case} {size}: {cases.CASES[case][size]}", flush=True)
    rows = [Row(OURS, tuned=False)]
    program = _prepare(case, size, rows[0])
    peers = [peer for peer in contestants.peers(case, size) if options.only.lower() in peer.name.lower()]
    rows += [Row(peer.name, peer.tuned, problem="" if peer.installed() else "not installed") for peer in peers]
    flags = VARIANTS.get((case, size), ()) if not options.only or options.only.lower() in OURS else ()
    rows += [Row(f"{OURS} {flag}", tuned=False) for flag in flags]
    variants = [_prepare(case, size, row, flag) for row, flag in zip(rows[1 + len(peers) :], flags, strict=True)]
    everyone = zip(rows, [program, *peers, *variants], strict=True)
    entered = [(row, contestant) for row, contestant in everyone if contestant is not None and not row.problem]
    done = 0
    for number in range(1, options.rounds + 1):
        if number > 1:
            entered = [(row, contestant) for row, contestant in entered if row in finalists(rows)]
            if time.monotonic() + sum(row.took_s for row, _ in entered) > end:
                break
        for position, (row, contestant) in enumerate(entered, 1):
            limit = share(end - time.monotonic(), len(entered) - position, options.budget)
            _progress(f"round {number} of {options.rounds}: {row.name}, at most {limit:.0f} s")
            _one_round(row, contestant, size, options.seconds, limit, machine)
        done = number
    _progress("")
    print(table(rows, cases.CASES[case][size].gflop(), machine.peak_gflops))
    print("\n".join(remarks(rows)))
    if done < options.rounds:
        print(f"no time was left for round {done + 1} of {options.rounds}: --minutes gives more")
    if program is not None:
        print(where_time_goes(program))
    return {
        "case": case,
        "size": size,
        "peak_gflops": machine.peak_gflops,
        "threads": environment.threads(),
        "machine": environment.machine(),
        "cleared_environment": environment.cleared_names(),
        "gflop_per_step": cases.CASES[case][size].gflop(),
        "contestants": [{"name": r.name, "problem": r.problem, "losses": r.losses, "rounds": r.rounds} for r in rows],
    }


def share(left: float, to_come: int, most: float) -> float:
    """Seconds for a contestant, with `left` of a round, so that the ones to come keep theirs; never below LEAST_S."""
    return max(LEAST_S, min(most, left - LEAST_S * to_come))


def finalists(rows: list[Row]) -> list[Row]:
    """Who is raced in every round: the emitted programs, and the fastest as shipped and tuned."""
    emitted = [row for row in rows if row.name.startswith(OURS)]
    ranked = sorted((row for row in rows if row.rounds and not row.problem and row not in emitted), key=Row.median_ms)
    kinds = ([row for row in ranked if row.tuned is tuned][:FINALISTS] for tuned in (False, True))
    return emitted + [row for kind in kinds for row in kind]


def _prepare(case: str, size: str, row: Row, *flags: str) -> ours.Program | None:
    try:
        program = ours.build(case, size, flags)
        row.losses = program.losses()
    except contestants.Failed as failure:
        row.problem = str(failure)
        return None
    return program


def _one_round(
    row: Row, contestant: contestants.Peer | ours.Program, size: str, seconds: float, limit: float, machine: Machine
) -> None:
    """A turn of one contestant, or two where the first was disturbed, of which the less disturbed one counts."""
    start, turns = time.monotonic(), []
    try:
        for _ in range(2):
            turns.append(_turn(row, contestant, size, seconds, limit, machine))
            if turns[-1]["had"] >= DISTURBED or time.monotonic() - start > limit:
                break
    except contestants.Failed as failure:
        row.problem = str(failure) if not turns else ""
    if turns:
        row.rounds.append(max(turns, key=lambda record: record["had"]))
        row.took_s = (time.monotonic() - start) / len(turns)


def _turn(
    row: Row, contestant: contestants.Peer | ours.Program, size: str, seconds: float, limit: float, machine: Machine
) -> dict[str, Any]:
    before = machine.share()
    start, taken = time.monotonic(), environment.taken_s()
    if isinstance(contestant, contestants.Peer):
        record = contestant.run(size, seconds, limit, losses=not row.losses)
        row.losses = record.pop("losses") or row.losses
    else:
        record = contestant.run(seconds, row.median_ms() if row.rounds else None)
    lost = (environment.taken_s() - taken) / ((time.monotonic() - start) * environment.threads())
    rate = min(before, machine.share())
    return record | {"peak": round(rate, 3), "taken": round(lost, 4), "had": round(min(rate, 1 - lost), 3)}


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def table(rows: list[Row], gflop: float, peak: float) -> str:
    """The contestants as text, fastest first; `ours` is how many times the emitted program's time each one takes.

    `had` is the part of the machine that its most disturbed round had: where it differs, so do the conditions.
    """
    measured = sorted((row for row in rows if row.rounds), key=Row.median_ms)
    base = next((row.median_ms() for row in measured if row.name == OURS), None)
    memory = next((row.peak_rss_mib() for row in measured if row.name == OURS), None)
    lines = [
        f"{'':28}{'ms':>9}{'rounds from-to':>18}{'x ours':>9}{'GFLOP/s':>9}{'% peak':>8}{'MiB':>9}{'x ours':>8}"
        f"{'had':>7}"
    ]
    for row in measured:
        medians = [record["median_ms"] for record in row.rounds]
        rate = gflop / row.median_ms() * 1e3
        ratio = f"{row.median_ms() / base:.2f}" if base else "-"
        larger = f"{row.peak_rss_mib() / memory:.1f}" if memory else "-"
        lines.append(
            f"{row.name:28}{row.median_ms():9.1f}{f'{min(medians):.1f} - {max(medians):.1f}':>18}{ratio:>9}"
            f"{rate:9.0f}{100 * rate / peak:8.0f}{row.peak_rss_mib():9.0f}{larger:>8}{row.had():7.0%}"
        )
    lines.append(f"{gflop:.2f} GFLOP a step; {peak:.0f} GFLOP/s is the fp32 multiply-add peak, the best of this run")
    return "\n".join(lines)


def remarks(rows: list[Row]) -> list[str]:
    """What the table cannot say: who is missing, whether the losses agree, which variables were cleared."""
    said: list[str] = []
    if any(row.problem == "not installed" for row in rows):
        missing = [row.name for row in rows if row.problem == "not installed"]
        said.append(f"not installed: {', '.join(missing)}; `{contestants.INSTALL}` installs the peers")
    said += [f"{row.name}: {row.problem}" for row in rows if row.problem not in ("", "not installed")]
    compared = [row for row in rows if row.losses and row.name != OURS]
    if rows[0].losses and compared:
        reference = max(compared, key=lambda row: len(row.losses))
        count = len(reference.losses)
        worst = largest_difference(rows[0].losses[:count], reference.losses)
        verdict = "agree" if worst <= TOLERANCE else "DIFFER"
        span = f"losses after 0 to {count - 1} updates"
        said.append(f"{span} {verdict} with {reference.name}: within {worst:.1e} relative")
        said += [
            f"the losses of {row.name} DIFFER from those of {reference.name}: {gap:.1e} relative"
            for row in compared
            if (gap := largest_difference(row.losses, reference.losses[: len(row.losses)])) > TOLERANCE
        ]
    if environment.cleared_names():
        said.append(f"cleared for every contestant (slower kernels): {', '.join(environment.cleared_names())}")
    return said


def where_time_goes(program: ours.Program, lines: int = 14) -> str:
    """The head of the program's own profile, or why there is none."""
    try:
        return "\n" + "\n".join(program.profile().splitlines()[:lines])
    except contestants.Failed as failure:
        return f"no profile: {failure}"


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    """The largest relative difference of two loss curves; infinite where their lengths differ."""
    if len(ours) != len(theirs):
        return float("inf")
    return max(abs(a - b) / max(abs(b), 1e-30) for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    sys.exit(main())
