"""Promises about the headers themselves: each compiles alone, stays small, and its error codes are explained."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tesserac.explanations.t09_data import EXPLANATIONS

from .conftest import FLAGS, ROOT

OTHERS = [
    "attention",
    "elementary",
    "activation",
    "gemm",
    "philox",
    "rows",
    "simd",
    "transpose",
    "vmath",
]  # tested in tests/runtime
NAMES = sorted(
    path.stem
    for path in (ROOT / "runtime").glob("*.h")
    if path.stem not in OTHERS and not path.stem.startswith("reference")
)


def test_every_header_compiles_alone(tmp_path: Path) -> None:
    sources = []
    for name in NAMES:
        if name == "capi_functions":  # the second half of capi.h
            continue
        sources.append(tmp_path / f"{name}.cpp")
        sources[-1].write_text(f'#include "runtime/{name}.h"\n')
    command = ["g++", *FLAGS, "-fsyntax-only", *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_headers_are_short_and_light(name: str) -> None:
    text = (ROOT / "runtime" / f"{name}.h").read_text()
    assert len(text.splitlines()) <= 300
    assert not re.search(r"#include <(iostream|sstream|fstream|regex|filesystem|functional|map)>", text)


def test_every_code_is_explained() -> None:
    files = [*(ROOT / "runtime").glob("*.h"), *(ROOT / "runtime" / "cuda").glob("*.cuh")]
    files += (ROOT / "runtime" / "comm").glob("*.h")
    used = {code for path in files for code in re.findall(r'"(T09\d\d)"', path.read_text())}
    assert used == {entry.code for entry in EXPLANATIONS}
