"""Mistakes in the backward pass of attention for sm_90a, planted in a copy of its text: the emulation finds each.

The race detector sees them whatever the order of threads and of copies; the six turns of the first case go around a
ring of four stages.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tesserac.resources import runtime_dir
from tests.emulation.building import SELECTED, build, write_emulated
from tests.emulation.test_attention_mma import ASKED_FOR, CASES, SOURCE, Problem, attend, check, run_case

HEADER = "cuda/attention_wgmma_backward.cuh"
MISTAKES = {
    # what is planted: lines of the kernels, what stands in their place, what is said
    "the tile of d_o is not waited for": (
        "    ptx::mbarrier_wait(memory.y_here(stage), parity);\n"
        "    ask_dots<E, S::values, C::rows, C::step>(pulls, values,",
        "    ask_dots<E, S::values, C::rows, C::step>(pulls, values,",
        "of shared memory: read by block 0",
    ),
    "a stage goes back before its product": (
        "    ptx::wgmma_wait<1>();  // the scores are here\n    settle();\n",
        "    settle();\n    ptx::wgmma_wait<1>();\n",
        "data race of shared memory",
    ),
    "the parity of the phase before": (
        "parity = (turn / C::stages + 1) % 2;\n  if",
        "parity = turn / C::stages % 2;\n  if",
        "more arrivals than the barrier was made for",
    ),
    "numbers are overwritten while they are read": (
        "      if (turn >= C::stages) ptx::mbarrier_wait(memory.x_done(stage), (turn / C::stages + 1) % 2);\n",
        "",
        "more arrivals than the barrier was made for",
    ),
    "an operand in registers is changed under way": (
        "    ptx::wgmma_wait<0>();\n    give_back(memory.x_done(before));\n    round_weights<E>(weights, scores[0]);\n",
        "    round_weights<E>(weights, scores[0]);\n    ptx::wgmma_wait<0>();\n    give_back(memory.x_done(before));\n",
        "changed its operand before the product was waited for",
    ),
}


@pytest.mark.skipif(not ASKED_FOR or "race" not in SELECTED, reason="make test-emulation MODE=race")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong, said = MISTAKES[mistake]
    text = (runtime_dir() / HEADER).read_text(encoding="utf-8")
    assert text.count(right) == 1
    files = {f"runtime/{HEADER}": text.replace(right, wrong), "attention_mma.cu": SOURCE.read_text(encoding="utf-8")}
    write_emulated(tmp_path, files)
    program = build(tmp_path, "attention_mma.cpp", "race", program=True, flags=["-DTSR_SM_90A", "-DTSR_FIRST"])
    problem = Problem.of(CASES[0])
    for order, asynchrony in (("rising", "late"), ("random", "random")):
        done = run_case(program, 0, problem, order, asynchrony)
        assert done.returncode == 2
        assert said in done.stderr.decode()
    monkeypatch.setenv("TSR_EMULATION_ARCH", "80")  # which takes the kernels that have none
    check(attend(program, 0, problem, "rising", "late"), problem)
