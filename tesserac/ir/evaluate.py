"""The reference evaluator: NumPy, one equation after another. It defines what every other form must compute."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tesserac.diagnostics import InternalError
from tesserac.ir.program import Attr, Equation, Function, Input, Var
from tesserac.ir.types import DType
from tesserac.ops.base import Array, spec_of
from tesserac.ops.numerics import to_bfloat16


def evaluate(function: Function, inputs: Mapping[str, Array], *, dtype: np.dtype[np.generic] | type | None = None,
             seed: int = 0, step: int = 0) -> dict[str, Array]:
    """Outputs by name, from inputs by path.

    ``dtype`` None computes in the program's own types (bf16 rounded after every equation); float64 carries
    every floating value in double precision (complex ones as pairs of doubles); complex128 does so for complex steps
    through programs of real numbers. Random tensors keep the
    values of their own type in either case. A missing or misshapen input is a ValueError; equations that ask
    for gradients are differentiated first.
    """
    if any(spec_of(equation.op).kind == "transform" for equation in function.equations):
        # Imported here: the passes are written against this package.
        from tesserac.passes.differentiate import differentiate

        function = differentiate(function)
    wide = None if dtype is None else np.dtype(dtype)
    if wide is not None and wide not in (np.dtype(np.float64), np.dtype(np.complex128)):
        raise ValueError(f"evaluate carries floats in float64 or complex128, not {wide}")
    values = {item.var.name: _input(item, inputs, wide) for item in function.inputs}
    with np.errstate(all="ignore"):
        for equation in function.equations:
            arrays = [values[v.name] for v in equation.operands]
            values.update(run_equation(equation, arrays, wide, seed, step))
    return {output.name: values[output.var.name] for output in function.outputs}


def run_equation(equation: Equation, arrays: list[Array], wide: np.dtype[np.generic] | None, seed: int = 0,
                 step: int = 0, coordinate: int | None = None) -> dict[str, Array]:
    """Results of one equation by name; ``coordinate`` is that of the rank on the mesh axis that the equation names."""
    found = _results(equation, arrays, wide, seed, step, coordinate)
    return {var.name: checked(var, array, wide) for var, array in zip(equation.results, found, strict=True)}


def _input(item: Input, inputs: Mapping[str, Array], wide: np.dtype[np.generic] | None) -> Array:
    if item.path not in inputs:
        raise ValueError(f"input {item.path!r} is missing")
    array = np.asarray(inputs[item.path])
    if array.shape != item.var.type.sizes:
        raise ValueError(f"input {item.path!r} must have the shape {item.var.type.sizes}, not {array.shape}")
    return _stored(item.var, array, wide)


def _stored(var: Var, array: Array, wide: np.dtype[np.generic] | None) -> Array:
    """The array in the type that holds values of ``var``."""
    dtype = var.type.dtype
    if wide is not None and dtype.is_float:
        keeps_step = wide.kind == "c" and np.iscomplexobj(array)
        return array.astype(wide if keeps_step else np.float64, copy=False)
    if wide is not None and dtype.is_complex:
        return array.astype(np.complex128, copy=False)
    if dtype is DType.BF16:
        return to_bfloat16(array)
    return array.astype(dtype.numpy, copy=False)


def _results(equation: Equation, arrays: list[Array], wide: np.dtype[np.generic] | None, seed: int, step: int,
             coordinate: int | None) -> tuple[Array, ...]:
    spec = spec_of(equation.op)
    attrs: dict[str, Attr] = equation.attributes
    if coordinate is not None:
        attrs["coordinate"] = coordinate
    if spec.kind == "random":
        # A wide run sees the very numbers of the narrow one, so that both drop the same elements.
        return spec.evaluate(arrays, {**attrs, "seed": seed, "step": step})
    if wide is not None:
        attrs = {key: _widened(value) for key, value in attrs.items()}
    return spec.evaluate(arrays, attrs)


def _widened(value: Attr) -> Attr:
    if not isinstance(value, DType) or not value.is_differentiable:
        return value
    return DType.C128 if value.is_complex else DType.F64


def checked(var: Var, array: Array, wide: np.dtype[np.generic] | None) -> Array:
    """The array in the type that holds values of ``var``, whose shape it must have."""
    if array.shape != var.type.sizes:
        raise InternalError(f"{var} evaluates to the shape {array.shape} but is typed {var.type}")
    return _stored(var, array, wide)
