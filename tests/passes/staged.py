"""An interpreter for staged functions: stage by stage and tile by tile with the NumPy evaluator's ops."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tesserac.ir.program import Equation, Var
from tesserac.ops.base import Array, spec_of
from tesserac.passes.stages import Stage, Staged

Values = dict[Var, Array]


def run_staged(staged: Staged, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name; floating values are carried in double precision where the inputs are."""
    values: Values = {item.var: np.asarray(inputs[item.path]) for item in staged.function.inputs}
    for stage in staged.stages:
        if stage.tiles is None:
            local = {item.local: values[item.outer] for item in stage.imports}
            _run(stage, local, tile=0)
            sums: set[Var] = set()
            for export in stage.exports:
                assert export.axis is None
                term = local[export.local]
                values[export.outer] = values[export.outer] + term if export.outer in sums else term
                sums |= {export.outer} if export.partial else set()
        else:
            _run_tiles(stage, values)
    return {output.name: values[output.var] for output in staged.function.outputs}


def _run_tiles(stage: Stage, values: Values) -> None:
    assert stage.tiles is not None
    parts: dict[Var, list[Array]] = {export.outer: [] for export in stage.exports}
    for tile in range(stage.tiles):
        local = {}
        for item in stage.imports:
            array = values[item.outer]
            local[item.local] = array if item.axis is None else np.split(array, stage.tiles, item.axis)[tile]
        _run(stage, local, tile)
        for export in stage.exports:
            parts[export.outer].append(local[export.local])
    for export in stage.exports:
        assert export.partial != (export.axis is not None)
        found = parts[export.outer]
        values[export.outer] = np.sum(found, 0) if export.axis is None else np.concatenate(found, export.axis)


def _run(stage: Stage, local: Values, tile: int) -> None:
    """Adds the values of all equations; every operand must be there and every result have its type's shape."""
    for equation in stage.equations:
        for var, array in zip(equation.results, _results(stage, equation, local, tile), strict=True):
            assert array.shape == var.type.sizes, equation
            assert var not in local, f"{var} is computed twice"
            local[var] = array


def _results(stage: Stage, equation: Equation, local: Values, tile: int) -> tuple[Array, ...]:
    spec = spec_of(equation.op)
    attrs = equation.attributes
    if spec.kind != "random" or stage.tiles is None:
        return spec.evaluate([local[v] for v in equation.operands], attrs)
    # A tile's random values follow those of the tiles before it.
    rows, *rest = equation.result.type.sizes
    whole = spec.evaluate([], {**attrs, "shape": (rows * stage.tiles, *rest)})[0]
    return (np.split(whole, stage.tiles)[tile],)
