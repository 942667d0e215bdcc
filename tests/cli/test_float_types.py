"""One program computes in one floating type: sources that ask for two are refused where they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Command

SOURCE = """from tessera import graph, op


@graph.module
def f(x: Tensor[4, 8], W: Tensor[8, 3]):
    return {value}
"""


@pytest.mark.parametrize(
    ("value", "flags", "found"),
    [
        ("op.cast(x, fp64) @ op.cast(W, fp64)", (), "f64: f64 beside f32 is"),
        ("op.cast(x @ W, fp32)", ("--precision", "fp64"), "f32: f32 beside f64 is"),
        ("op.cast(x, bf16) * 2", (), "bf16: 16-bit floats in the source are"),
    ],
)
def test_two_floating_types(tesserac: Command, tmp_path: Path, value: str, flags: tuple[str, ...], found: str) -> None:
    (tmp_path / "m.py").write_text(SOURCE.format(value=value), encoding="utf-8")
    done = tesserac("build", "m.py", *flags, "--emit=cpp", "-o", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert f"error[T0501]: what `cast` gives here is {found} not supported yet\n --> m.py:6:" in done.stderr
    assert not (tmp_path / "out").exists()
