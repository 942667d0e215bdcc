"""Emitted programs with derivatives by coordinates compute what the evaluator computes, in either precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function
from tesserac.passes.differentiate import differentiate
from tests.codegen.compiled import call, compile_functions
from tests.elaborate.support import EXAMPLES, compile_source
from tests.strategies import inputs_for

FIELDS = (Path(__file__).resolve().parents[1] / "programs" / "fields.py").read_text()
LISTING2 = (EXAMPLES / "chapter6" / "listing2.py").read_text()
SHAPES = (("x", "36x1"), ("xb", "5x1"), ("x0", "11x1"), ("z", "13x3"))


def functions() -> list[Function]:
    """Loss and fields of listing 6.2, a step of three batches, a module of a vector coordinate; in fp32 and fp64."""
    found = []
    for precision in ("fp32", "fp64"):
        listing = compile_source(
            LISTING2, header=False, shapes=(("x", "36x1"),), set_literals=((256, 12),), precision=precision
        ).program
        fields = compile_source(FIELDS, header=False, shapes=SHAPES, precision=precision).program
        assert listing is not None
        assert fields is not None
        pinn, loss = listing.entries
        heat, cloud = fields.entries
        found += [f for f in (pinn.infer, loss.train, heat.train, cloud.infer) if f is not None]
    assert len(found) == 8
    return found


def test_emitted_fields_agree_with_the_evaluator(tmp_path: Path) -> None:
    made = functions()
    library = compile_functions(made, tmp_path)
    for number, function in enumerate(made):
        values = inputs_for(function)
        wanted = evaluate(differentiate(function), values, dtype=np.float64)
        double = function.data[0].var.type.dtype.numpy == np.float64
        relative, absolute = (1e-9, 1e-11) if double else (2e-4, 1e-5)
        for workers in (1, 2):
            found = call(library, number, function, values, workers=workers)
            for name, want in wanted.items():
                scale = max(1.0, float(np.abs(want).max()))
                np.testing.assert_allclose(
                    found[name], want, rtol=relative, atol=absolute * scale, err_msg=f"{number} {function.name} {name}"
                )
