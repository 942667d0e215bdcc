"""Promises about the headers themselves: each compiles alone, stays small, and its error codes are explained."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tesserac.explanations.t09_data import EXPLANATIONS

from .conftest import FLAGS, ROOT

NAMES = (
    "bench capi checkpoint cli data dataset dataspec describe dtype error generate import infer init io json memory npy "
    "optimizer options peak profile program random report safetensors schedule selftest session tensor trace train "
    "train_command weights"
).split()


def test_every_header_compiles_alone(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.cpp").write_text(f'#include "runtime/{name}.h"\n')
    done = subprocess.run(
        ["g++", *FLAGS, "-fsyntax-only", *(str(tmp_path / f"{name}.cpp") for name in NAMES)], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [*NAMES, "capi_functions", "tessera"])
def test_headers_are_short_and_light(name: str) -> None:
    text = (ROOT / "runtime" / f"{name}.h").read_text()
    assert len(text.splitlines()) <= 300
    assert not re.search(r"#include <(iostream|sstream|fstream|regex|filesystem|functional|map)>", text)


def test_every_code_is_explained() -> None:
    used = {code for path in (ROOT / "runtime").glob("*.h") for code in re.findall(r'"(T09\d\d)"', path.read_text())}
    assert used == {entry.code for entry in EXPLANATIONS}
