"""What a kernel must compute: the evaluator's values, and the kernel's own equations on what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tesserac.codegen.stage_values import StageValues
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Equation, Function, Input, Output, Var
from tesserac.ir.types import DType
from tesserac.ops.numerics import to_bfloat16

Array = NDArray[np.generic]
SEED, STEP = 1, 3
"""Key of what is random, in the kernels and in the evaluator."""


def sample_inputs(function: Function) -> dict[str, Array]:
    """Values for every input: parameters as they are initialised (where that is constant, something near it), data of
    order one, integers within their bound."""
    rng = np.random.default_rng(SEED)
    values: dict[str, Array] = {}
    for item in function.inputs:
        shape, dtype = item.var.type.sizes, item.var.type.dtype
        if dtype.is_integer:
            values[item.path] = rng.integers(0, max(item.index_bound, 1), shape).astype(dtype.numpy)
        elif dtype is DType.BOOL:
            values[item.path] = rng.integers(0, 2, shape).astype(bool)
        elif item.init is not None and item.init.kind == "normal":
            values[item.path] = item.init.a + item.init.b * rng.normal(size=shape)
        elif item.init is not None and item.init.kind == "uniform":
            values[item.path] = rng.uniform(item.init.a, item.init.b, shape)
        else:
            start = {None: 0.0, "zeros": 0.0, "ones": 1.0}.get(item.init.kind if item.init else None)
            around = item.init.a if start is None and item.init is not None else start or 0.0
            values[item.path] = around + (1.0 if item.init is None else 0.1) * rng.normal(size=shape)
    return values


def program_values(function: Function) -> dict[Var, Array]:
    """Every value of a function in double precision, from `sample_inputs`."""
    inputs = sample_inputs(function)
    made = [v for e in function.equations for v in e.results]
    everything = Function(function.name, function.inputs, function.equations, tuple(Output(v.name, v) for v in made))
    values = evaluate(everything, inputs, dtype=np.float64, seed=SEED, step=STEP)
    return {**{i.var: inputs[i.path] for i in function.inputs}, **{v: values[v.name] for v in made}}


def in_memory(array: Array, dtype: DType) -> tuple[Array, Array]:
    """An array as memory holds it (bf16: the bits), and the values that are read from there."""
    if dtype is DType.BF16:
        kept = to_bfloat16(np.asarray(array, np.float32))
        return (np.ascontiguousarray(kept).view(np.uint32) >> 16).astype(np.uint16), kept.astype(np.float64)
    kept = np.asarray(array).astype(dtype.numpy)
    return kept, kept.astype(np.float64) if dtype.is_float else kept


def from_memory(raw: Array, dtype: DType) -> Array:
    """The values of an array as memory holds it."""
    if dtype is DType.BF16:
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw


@dataclass
class Expected:
    """What a kernel of a stage must write, given what is ``read``: buffers by the value that owns them."""

    values: StageValues
    read: Mapping[Var, Array]
    otherwise: Mapping[Var, Array]

    def of(self, wanted: Iterable[Var]) -> dict[Var, Array]:
        """Values in double precision, from the equations between what is read and what is wanted."""
        targets = list(wanted)
        needed: dict[int, Equation] = {}
        inputs: dict[Var, Array] = {}
        waiting = [self.values.producer[v] for v in targets]
        while waiting:
            equation = waiting.pop()
            if id(equation) in needed:
                continue
            needed[id(equation)] = equation
            for var in equation.operands:
                if var in self.values.producer and self.values.root(var) not in self.read:
                    waiting.append(self.values.producer[var])
                else:
                    inputs[var] = self.read.get(var, self.otherwise[var])
        # A value that is read from memory may also be made here, for one of the targets: it is computed then.
        made = {v for e in needed.values() for v in e.results}
        order = tuple(e for e in self.values.stage.equations if id(e) in needed)
        start = tuple(Input(v, v.name) for v in inputs if v not in made)
        function = Function("alone", start, order, tuple(Output(v.name, v) for v in targets))
        found = evaluate(function, {v.name: a for v, a in inputs.items()}, dtype=np.float64, seed=SEED, step=STEP)
        return {v: found[v.name] for v in targets}
