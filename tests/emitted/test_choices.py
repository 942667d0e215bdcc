"""What tokens choose in `selftest`: a tie that rounding turned is taken over and named, a wrong choice fails."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.emitted.conftest import WARNINGS, Project, make

CHOICES = r"choices at routed\.py:11 \(\S+\) +(\d+) of 768 rows chose otherwise"
TURNED = re.compile(CHOICES + " within rounding of a tie .* ok")
WRONG = re.compile(CHOICES + r", \S+ of the largest apart +FAIL")


def test_choices_that_rounding_turned_are_taken_over_and_named(routed: Project, data: Path) -> None:
    found = []
    for seed in range(1, 7):
        out = routed.run("routed", "selftest", "--seed", seed, cwd=data).stdout
        found += [int(count) for count in TURNED.findall(out)]
    assert found, "none of 27,648 rows is nearly tied: the test shows nothing"
    assert max(found) < 40, "of 768 rows, few are nearly tied"


def test_what_is_no_tie_in_the_precision_asked_for_fails(routed: Project, data: Path) -> None:
    """The same choices, held against a tolerance that bf16 does not keep."""
    out = ""
    for seed in range(1, 7):
        process = routed.start("routed", "selftest", "--seed", seed, "--tolerance", 1e-6, cwd=data)
        out += process.communicate(timeout=120)[0]
        assert process.returncode != 0
    assert WRONG.search(out), out


@pytest.mark.parametrize(
    ("header", "right", "wrong"),
    [
        ("rows.h", "x[i * sx] > x[best * sx]", "x[i * sx] > x[best * sx] + T(0.3)"),
        ("experts.h", "a < b : x > y", "a < b : x < y"),
    ],
)
def test_wrong_choices_fail(routed: Project, data: Path, tmp_path: Path, header: str, right: str, wrong: str) -> None:
    """A planted mistake in how the largest are found, and in which slots an expert has room for."""
    broken = Project(tmp_path / "broken")
    shutil.copytree(routed.folder, broken.folder)
    path = broken.folder / "runtime" / header
    text = path.read_text(encoding="utf-8")
    assert right in text
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    make(broken.folder, WARNINGS, "routed")
    process = broken.start("routed", "selftest", cwd=data)
    out, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert WRONG.search(out), out
    assert out.endswith("selftest: FAILED\n")
