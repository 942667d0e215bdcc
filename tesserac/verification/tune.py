"""The schedules of chosen kernels, tried one after another: each must compute the same bits, the fastest is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tesserac.build import progress
from tesserac.codegen import comments
from tesserac.codegen.cpu.project import EntryPlans
from tesserac.codegen.cuda.alone import Alone, alone_kernels
from tesserac.codegen.cuda.project import entry_files, rendered
from tesserac.codegen.cuda.schedule import Schedule, schedules
from tesserac.console import Console
from tesserac.driver import Project, compile_source, entry_stems
from tesserac.inspection.stages import unknown
from tesserac.replacing import check_writable, replace_text, unwritable
from tesserac.toolchain import find_toolchain
from tesserac.tuning import Tuned, Tuning, earlier_tuning
from tesserac.verification.check import Row, verify
from tesserac.verification.gpu import Gpu, opened
from tesserac.verification.library import Kernels, build_library
from tesserac.verification.program import chosen_kernels

if TYPE_CHECKING:
    from tesserac.commands.program_options import Source

GAIN = 0.97
"""A schedule is taken in place of the usual one if it needs less than this share of its time: less is noise."""

NO_GPU = (
    "no GPU is used: every schedule ran under the emulation of CUDA, for its results alone; times there mean nothing, "
    "and the usual schedules are kept"
)


@dataclass
class Trial:
    """A kernel's schedules (the usual one first) and what each of them did; ``wrong`` says what was not right."""

    item: Alone
    schedules: list[dict[str, int]]
    rows: list[Row] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """The result of the next schedule."""
        self.rows.append(row)
        text = ", ".join(f"{k}={v}" for k, v in self.schedules[len(self.rows) - 1].items())
        if not row.good:
            self.wrong.append(f"{row.name} with {text}: {row.note or f'an error of {row.error:.1e}'}")
        elif row.bits != self.rows[0].bits:
            self.wrong.append(f"{row.name} with {text}: other bits than with the usual schedule")

    @property
    def best(self) -> int:
        """The number of the schedule to take."""
        usual = self.rows[0].seconds
        timed = [(row.seconds, i) for i, row in enumerate(self.rows) if row.seconds > 0]
        fastest, number = min(timed, default=(0.0, 0))
        return number if fastest < GAIN * usual else 0

    def tuned(self) -> Tuned:
        """What the file says of the kernel."""
        function, best = self.item.function, self.best
        times = self.rows[best].seconds, self.rows[0].seconds
        place = comments.where(self.item.launch)
        return Tuned(function.digest, function.name, place, tuple(self.schedules[best].items()), *times)


def tune_program(
    source: Source, console: Console, folder: Path, kernel: str | None, out: Path, variables: Sequence[str], jobs: int
) -> int:
    """Tries schedules, prints a table and writes ``out``; 0, or 1 if one changes a result. Builds below ``folder``."""
    find_toolchain()  # before any work is done
    check_writable(out)
    before = earlier_tuning(out)
    emulate = source.options.emulate
    gpu = opened(emulate)
    console.stage = "parsing and elaboration"
    project = compile_source(source.text, source.path, source.options, progress(console))
    stems = entry_stems(project.program)
    trials: list[Trial] = []
    names = []
    for plans in project.plans:
        search = _Search(source, project, plans, stems[plans.entry.label], folder, variables, jobs, gpu)
        names += [item.function.name for item in search.kernels]
        chosen = [i for i in chosen_kernels(search.kernels, kernel) if search.kernels[i].function.choices]
        if chosen:
            console.say(f"{plans.entry.label}: {len(chosen)} kernels with choices")
            trials += search.run(chosen, console)
    if kernel is not None and not any(n == kernel or n.startswith(f"{kernel}_") for n in names):
        raise unknown("kernel", kernel, list(dict.fromkeys(names)))
    console.show(table(trials, gpu is not None))
    wrong = [text for trial in trials for text in trial.wrong]
    for text in wrong:
        console.show(f"WRONG: {text}")
    if wrong:
        return 1
    device = gpu.name() if gpu else ""
    fresh = Tuning(str(out), device, tuple(trial.tuned() for trial in trials))
    tried = fresh.schedules
    kept = [k for k in before.kernels if k.digest not in tried] if before and before.device == device else []
    try:
        replace_text(out, Tuning(str(out), device, (*kept, *fresh.kernels)).text())
    except OSError as error:
        raise unwritable(out, error) from error
    if gpu is None:
        console.show(NO_GPU)
    more = f", {len(kept)} from before" if kept else ""
    console.show(f"{out}: {len(trials)} kernels{more}\nbuild with it: --target cuda --tuning {out}")
    return 0


@dataclass
class _Search:
    """The kernels of an entry, built again for every round of schedules."""

    source: Source
    project: Project
    plans: EntryPlans
    stem: str
    folder: Path
    variables: Sequence[str]
    jobs: int
    gpu: Gpu | None

    def __post_init__(self) -> None:
        self.lines = {self.source.path: self.source.text.splitlines()}
        self.kernels = alone_kernels(self.plans, self.lines)

    def run(self, chosen: Sequence[int], console: Console) -> list[Trial]:
        """All schedules of the chosen kernels, one of each per round."""
        trials = {n: Trial(self.kernels[n], schedules(self.kernels[n].function.choices)) for n in chosen}
        rounds = max(len(trial.schedules) for trial in trials.values())
        for number in range(rounds):
            console.say(f"  round {number + 1} of {rounds}")
            active = {n: t for n, t in trials.items() if number < len(t.schedules)}
            picked = {t.item.function.digest: t.schedules[number] for t in active.values()}
            kernels, library = self._built(number, picked, console)
            console.stage = "the kernels"
            rows = verify(kernels, library, self.gpu is not None, list(active))
            for n, row in zip(active, rows, strict=False):
                trials[n].add(row)
        return list(trials.values())

    def _built(self, number: int, picked: Mapping[str, Schedule], console: Console) -> tuple[list[Alone], Kernels]:
        console.stage = "compilation of the emitted code"
        kernels = alone_kernels(self.plans, self.lines, picked)
        own = entry_files(rendered(self.plans, self.lines, picked), self.plans, stem=self.stem, source=self.source.path)
        library = build_library(
            self.folder,
            {**self.project.files, **own},
            kernels,
            stem=self.stem,
            source=self.source.path,
            emulate=self.source.options.emulate,
            variables=self.variables,
            jobs=self.jobs,
        )
        own_name = library.with_name(f"{self.stem}.round{number}.so")  # a process loads a path but once
        return kernels, Kernels(library.replace(own_name), self.gpu)


def table(trials: Sequence[Trial], timed: bool) -> str:
    """A line per kernel: what was tried, and what is taken."""
    lines = []
    width = max((len(t.item.function.name) for t in trials), default=0)
    for trial in trials:
        count = f"{len(trial.rows)} schedules"
        if trial.wrong:
            lines.append(f"{trial.item.function.name:<{width}}  {count}, WRONG")
            continue
        tuned = trial.tuned()
        taken = ", ".join(f"{name}={value}" for name, value in tuned.schedule)
        gain = f"  {tuned.seconds * 1e6:.1f} us instead of {tuned.usual * 1e6:.1f}" if timed else ""
        lines.append(f"{tuned.kernel:<{width}}  {count}, the same bits: {taken}{gain}")
    return "\n".join(lines) or "no kernel has a choice"
