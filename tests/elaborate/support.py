"""Compiling small sources in tests."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tesserac.diagnostics import Diagnostic, Diagnostics, render
from tesserac.elaborate import Options, elaborate
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Entry, Function, Program
from tesserac.ir.text import parse_program, print_program
from tesserac.ir.verify import verify_program
from tesserac.parser import parse

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LISTING1 = (EXAMPLES / "chapter6" / "listing1.py").read_text()
SIZES = {"mesh": "none", "shapes": (("input", "4x64x32"), ("Wo", "32x48"))}

LINEAR = """
@graph.module
def net(x, W, b):
    return x @ W + b

@graph.training_step(module="fit")
def step(batch: {"x": Tensor[6, 3], "y": Tensor[6, 2]}):
    out = net(batch["x"])
    loss = op.mse(out, batch["y"])
    return graph.backward(loss), {"loss": loss, "size": op.mean(op.abs(out))}
"""

HEADER = "from tessera import op, graph, dist, optim, numerics\n"


@dataclass
class Result:
    """What elaboration made of a source."""

    program: Program | None
    items: list[Diagnostic]
    text: str

    @property
    def codes(self) -> list[str]:
        """Codes of the errors in order."""
        return [d.code for d in self.items if d.severity == "error"]

    @property
    def entry(self) -> Entry:
        """The only entry."""
        assert self.program is not None, self.text
        (entry,) = self.program.entries
        return entry


def compile_source(source: str, header: bool = True, file: str = "model.py", **options: Any) -> Result:
    """Elaborates a source; a program that comes out is verified and survives its text form."""
    text = (HEADER if header else "") + textwrap.dedent(source)
    diagnostics = Diagnostics()
    unit = parse(text, file, diagnostics)
    program = elaborate(unit, Options(**options), diagnostics) if unit is not None else None
    if program is not None:
        assert not diagnostics.has_errors
        verify_program(program)
        assert parse_program(print_program(program)) == program
    return Result(program, diagnostics.items, render(diagnostics.items, {file: text}))


def forward(body: str, *arrays: np.ndarray, **options: Any) -> Any:
    """Evaluates ``return`` expressions of a module ``f(a, b, c...)`` on arrays, in double precision."""
    names = "abcdefgh"[: len(arrays)]
    params = ", ".join(f"{n}: Tensor[{shape_text(x)}]" for n, x in zip(names, arrays, strict=True))
    result = compile_source(
        f"@graph.module\ndef f({params}):\n" + textwrap.indent(textwrap.dedent(body), "    "), **options
    )
    assert result.program is not None, result.text
    function = infer_of(result)
    # Nothing calls f, so a parameter called b counts as a bias of f: f.b.
    given = {i.path: arrays[names.index(i.path.rpartition(".")[2])] for i in function.inputs}
    found = evaluate(function, given, dtype=np.float64)
    values = list(found.values())
    return values[0] if len(values) == 1 else values


def shape_text(x: np.ndarray) -> str:
    """An annotation's contents for an array."""
    kind = {"f": "fp32", "i": "int32", "b": "bool"}[x.dtype.kind]
    return ", ".join([*map(str, x.shape), kind]) if x.ndim else f"(), {kind}"


def infer_of(result: Result) -> Function:
    """The infer function of the only entry."""
    function = result.entry.infer
    assert function is not None
    return function


def train_of(result: Result) -> Function:
    """The train function of the only entry."""
    function = result.entry.train
    assert function is not None
    return function


def paths(function: Function) -> list[str]:
    """Parameter paths in order."""
    return [p.path for p in function.parameters]
