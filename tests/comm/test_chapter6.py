"""The chapter's programs on meshes, as processes: every rank proves itself, and losses are those of one rank."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

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
    literals: tuple[tuple[int, int], ...] = ()
    loss: str | None = None

    def text(self) -> str:
        """The edited source."""
        text = (EXAMPLES / self.source).read_text()
        for old, new in self.edit:
            assert old in text
            text = text.replace(old, new)
        return text

    def plan(self, folder: Path) -> list[str]:
        """Arguments of `tesserac plan` for the same program."""
        path = folder / Path(self.source).name
        path.write_text(self.text())
        given = {"--shape": self.shapes, "--set": self.sets, "--set-literal": self.literals}
        words = [w for flag, pairs in given.items() for key, value in pairs for w in (flag, f"{key}={value}")]
        words += ["--mesh", self.mesh] if self.mesh else []
        words += ["--entry", self.entry] if self.entry else []
        words += ["--loss", self.loss] if self.loss else []
        return ["plan", str(path), *words]

    def program(self, mesh: str | None) -> Path:
        """The executable for a mesh."""
        return build(self.text(), mesh, name=Path(self.source).name, shapes=self.shapes, sets=self.sets,
                     entry=self.entry, literals=self.literals, loss=self.loss)


SMALL = (("L", "1"), ("D", "32"), ("S", "16"), ("B", "8"))
TOKENS = ("--data", "input=randint", "--data", "labels=randint")
LISTING1 = (("input", "8x16x32"), ("Wo", "32x48"))
LISTING3 = Case("chapter6/listing3.py", "dp=4", 4, ("--data", "x=normal", "--data", "target=normal"), (("x", "32x32"),),
                literals=((4096, 32), (8192, 64), (16, 8)), loss="mse:moe_layer,target", lr="0.01")
CASES = {
    "listing 1, verbatim": Case("chapter6/listing1.py", None, 8, ("--data", "input=normal", "--data", "labels=randint"),
                                LISTING1),
    "listing 1, heads": Case("chapter6/listing1.py", None, 8, ("--data", "input=normal", "--data", "labels=randint"),
                             LISTING1, edit=(("x @ Wv)", "x @ Wv, heads=8)"),)),
    "listing 2, points": Case("chapter6/listing2.py", "dp=4", 4,
                              ("--data", "x=uniform:0:1", "--data", "y=uniform:0:1", "--data", "t=uniform:0:1"),
                              (("x", "64x1"),), edit=(("[256,256]", "[32,32]"),), entry="ns_loss"),
    "listing 3, dp": LISTING3,
    "listing 3, ep": replace(LISTING3, mesh="ep=4"),
    "listing 4, batch": Case("chapter6/listing4.py", "dp=4", 4, ("--data", "input=normal", "--data", "target=normal"),
                             (("input", "8x4x32"),), literals=((4096, 32),), loss="mse:Y,target", lr="0.01"),
    "operator, dp": Case("fno_burgers.py", "dp=4", 4, ("--data", "u0=normal", "--data", "u1=normal"),
                         sets=(("B", "8"), ("N", "32"), ("W", "8"), ("M", "4"), ("L", "2"))),
    "experts, dp": Case("moe_lm.py", "dp=4", 4, TOKENS, sets=SMALL),
    "experts, ep": Case("moe_lm.py", "ep=4", 4, TOKENS, sets=SMALL),
    "heat": Case("heat.py", "dp=4", 4,
                 tuple(w for key in ("x", "t", "x0", "te") for w in ("--data", f"{key}=uniform:0:1")),
                 lr="1e-4"),
    "gpt, tp": Case("gpt.py", "tp=2", 2, TOKENS, sets=SMALL),
    "gpt, tp and dp": Case("gpt.py", "tp=2,dp=2", 4, TOKENS, sets=SMALL),
    "gpt, dp of three axes": Case("gpt.py", "pod=2,dp=2,tp=2", 8, TOKENS, sets=SMALL),
}


def same_weights(have: Path, want: Path) -> None:
    """Every parameter to 1e-6 of its size: the norm of the difference against that of the parameter."""
    found, wanted = load_file(have), load_file(want)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        distance = np.linalg.norm((found[name] - value).astype(np.complex128))
        assert distance <= 1e-6 * np.linalg.norm(value.astype(np.complex128)) + 1e-9, name


@slow
@pytest.mark.parametrize("name", CASES)
def test_case(name: str, tmp_path: Path) -> None:
    """Gradients against double precision on every rank; losses and weights of twenty steps against one rank's."""
    case = CASES[name]
    program = case.program(case.mesh)
    assert run(program, case.ranks, "selftest").rstrip().endswith("selftest: ok")
    train = ("train", *case.data, "--optimizer", "sgd", "--lr", case.lr, "--steps", 20)
    want = losses(run(case.program("none"), 1, *train, "--save", tmp_path / "one"))
    have = losses(run(program, case.ranks, *train, "--save", tmp_path / "all"))
    assert len(have) == 20
    np.testing.assert_allclose(have, want, rtol=1e-6)
    same_weights(tmp_path / "all", tmp_path / "one")


@slow
def test_listing_1_under_mpirun() -> None:
    """The same ranks, started by an MPI's launcher."""
    if shutil.which("mpirun") is None:
        pytest.skip("no mpirun")
    case = CASES["listing 1, verbatim"]
    train = ("train", *case.data, "--optimizer", "sgd", "--lr", case.lr, "--steps", "20")

    def started(*words: str) -> str:
        done = subprocess.run(["mpirun", "-n", "8", case.program(None), *words],
                              env={**CLEAN, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert started("selftest").rstrip().endswith("selftest: ok")
    found = losses(started(*train))
    assert len(found) == 20
    np.testing.assert_array_equal(found, losses(run(case.program(None), case.ranks, *train)))
