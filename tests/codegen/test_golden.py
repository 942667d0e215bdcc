"""Emitted kernels, read by people: a change of their text is seen in a review. And text that no hash seed changes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tesserac.codegen.cpu.project import render_entry
from tesserac.driver import CompileOptions, plan_entry
from tesserac.ir.program import Entry, Function
from tests import models

SOURCE = "\n".join(f"line {number} of the source" for number in range(1, 10))


def emitted(function: Function) -> dict[str, str]:
    """kernels.h and program.cpp of a function."""
    trains = any(o.name.startswith("grad:") for o in function.outputs)
    plans = plan_entry(Entry("model", function if trains else None, None if trains else function), CompileOptions())
    return render_entry(plans, stem="model", source="model.py", lines={"model.py": SOURCE.splitlines()})


@pytest.mark.parametrize("name", ["softmax", "layernorm", "bias_gelu", "embedding"])
def test_kernels(name: str, golden: Callable[[str, str], None]) -> None:
    header = emitted(getattr(models, name)())["model.kernels.h"]
    golden(f"{name}.kernels.txt", header.partition("using namespace tsr;\n\n")[2])


def test_program(golden: Callable[[str, str], None]) -> None:
    golden("layernorm.program.txt", emitted(models.layernorm())["model.program.cpp"])


SCRIPT = """
import hashlib
from tests import models
from tests.codegen.test_golden import emitted
text = "".join(emitted(getattr(models, name)())[file] for name in ("transformer_block", "embedding")
               for file in ("model.kernels.h", "model.program.cpp"))
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_text_is_the_same_under_every_hash_seed(root: Path) -> None:
    digests = set()
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["softmax", "layernorm", "bias_gelu", "embedding", "transformer_block"])
def test_lines_are_of_a_readable_length(name: str) -> None:
    for text in emitted(getattr(models, name)()).values():
        assert [line for line in text.splitlines() if len(line) > 140 and '"' not in line] == []


def test_no_name_is_declared_and_left_unused() -> None:
    kernels = emitted(models.transformer_block())["model.kernels.h"]
    for body in kernels.split("\n}\n"):
        words = body.replace("*", " ").replace("(", " ").replace(",", " ").replace(")", " ").replace(";", " ").split()
        declared = [words[i + 2] for i, word in enumerate(words[:-2]) if word == "const" and words[i + 1] in ("auto",)]
        assert [name for name in declared if words.count(name) < 2] == []
