"""The same kernels in double precision."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function
from tesserac.ir.text import parse_function, print_function
from tesserac.passes.differentiate import differentiate
from tests import models
from tests.codegen.compiled import call, compile_functions
from tests.strategies import inputs_for


def in_double(function: Function) -> Function:
    return parse_function(print_function(function).replace("f32", "f64"))


def test_models_in_double_precision_agree_to_its_rounding() -> None:
    functions = [
        in_double(make())
        for make in (models.softmax, models.layernorm, models.bias_gelu, models.embedding, models.transformer_block)
    ]
    with tempfile.TemporaryDirectory() as folder:
        library = compile_functions(functions, Path(folder))
        for number, function in enumerate(functions):
            values = inputs_for(function)
            wanted = evaluate(differentiate(function), values, dtype=np.float64)
            found = call(library, number, function, values)
            for name, want in wanted.items():
                assert found[name].dtype == np.float64
                np.testing.assert_allclose(found[name], want, rtol=1e-9, atol=1e-11, err_msg=f"{function.name} {name}")
