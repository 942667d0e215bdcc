"""The chapter's programs on meshes, as processes: every rank proves itself, and losses are those of one rank."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.comm.projects import CLEAN, build, losses, run, slow

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass(frozen=True)
class Case:
    """A source, the mesh (None: its own), sizes, and data; ``edit``: a text of the source and what replaces it."""

    source: str
    mesh: str | None
    ranks: int
    data: tuple[str, ...]
    shapes: tuple[tuple[str, str], ...] = ()
    sets: tuple[tuple[str, str], ...] = ()
    edit: tuple[tuple[str, str], ...] = ()
    entry: str | None = None
    lr: str = "0.05"

    def program(self, mesh: str | None) -> Path:
        """The executable for a mesh."""
        path = EXAMPLES / self.source
        text = path.read_text()
        for old, new in self.edit:
            assert old in text
            text = text.replace(old, new)
        return build(text, mesh, name=path.name, shapes=self.shapes, sets=self.sets, entry=self.entry)


SMALL = (("L", "1"), ("D", "32"), ("S", "16"), ("B", "8"))
TOKENS = ("--data", "input=randint", "--data", "labels=randint")
LISTING1 = (("input", "8x16x32"), ("Wo", "32x48"))
CASES = {
    "listing 1, verbatim": Case("chapter6/listing1.py", None, 8, ("--data", "input=normal", "--data", "labels=randint"),
                                LISTING1),
    "listing 1, heads": Case("chapter6/listing1.py", None, 8, ("--data", "input=normal", "--data", "labels=randint"),
                             LISTING1, edit=(("x @ Wv)", "x @ Wv, heads=8)"),)),
    "listing 2, points": Case("chapter6/listing2.py", "dp=4", 4,
                              ("--data", "x=uniform:0:1", "--data", "y=uniform:0:1", "--data", "t=uniform:0:1"),
                              (("x", "64x1"),), edit=(("[256,256]", "[32,32]"),), entry="ns_loss"),
    "experts, dp": Case("moe_lm.py", "dp=4", 4, TOKENS, sets=SMALL),
    "experts, ep": Case("moe_lm.py", "ep=4", 4, TOKENS, sets=SMALL),
    "heat": Case("heat.py", "dp=4", 4,
                 tuple(w for key in ("x", "t", "x0", "te") for w in ("--data", f"{key}=uniform:0:1")),
                 lr="1e-4"),
    "gpt, tp": Case("gpt.py", "tp=2", 2, TOKENS, sets=SMALL),
    "gpt, tp and dp": Case("gpt.py", "tp=2,dp=2", 4, TOKENS, sets=SMALL),
    "gpt, dp of three axes": Case("gpt.py", "pod=2,dp=2,tp=2", 8, TOKENS, sets=SMALL),
}


@slow
@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    """Loss, outputs and gradients against double precision on every rank; twenty losses against one rank's."""
    case = CASES[name]
    program = case.program(case.mesh)
    assert run(program, case.ranks, "selftest").rstrip().endswith("selftest: ok")
    train = ("train", *case.data, "--optimizer", "sgd", "--lr", case.lr, "--steps", 20)
    want = losses(run(case.program("none"), 1, *train))
    have = losses(run(program, case.ranks, *train))
    assert len(have) == 20
    np.testing.assert_allclose(have, want, rtol=1e-6)


@slow
def test_listing_1_under_mpirun() -> None:
    """The same ranks, started by an MPI's launcher."""
    if shutil.which("mpirun") is None:
        pytest.skip("no mpirun")
    program = CASES["listing 1, verbatim"].program(None)
    done = subprocess.run(["mpirun", "-n", "8", program, "selftest"], env={**CLEAN, "OMP_NUM_THREADS": "1"}, text=True,
                          capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("selftest: ok")


@slow
def test_megatron(tmp_path: Path) -> None:
    """Heads over tp: one all-reduce of activations ahead, none back, one bucket of gradients over dp."""
    program = CASES["listing 1, heads"].program(None)
    text = run(program, 8, "bench", "--steps", 2, "--warmup", 0, "--threads", 1)
    found = re.findall(r"^ +\d+ (\w+) +(\w+) +(\S+) +1 a step of (\d+) bytes \(planned: \4 bytes\)$", text, re.M)
    gradients = 4 * (3 * 32 * 32 // 2 + 32 * 48 // 2)
    assert [(kind, axis) for kind, axis, _, size in found if int(size) == gradients] == [("all_reduce", "dp")]
    assert {axis for _, axis, _, _ in found} == {"tp", "dp"}
