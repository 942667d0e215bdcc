"""The verifier: what every pass must leave true. A violation is a fault of the compiler, not of the user."""

from __future__ import annotations

from typing import NoReturn

from tesserac.diagnostics import InternalError
from tesserac.ir.dims import STATIC, Dims, ShapeError
from tesserac.ir.program import Attr, Equation, Function, Program, Var
from tesserac.ir.text import print_equation
from tesserac.ir.types import DType
from tesserac.ops.base import REQUIRED, spec_of

_AROUND = 5


def verify(function: Function, dims: Dims = STATIC, checked: dict[int, Equation] | None = None) -> None:
    """Checks one function; InternalError shows the bad equation with five lines around it.

    Names are defined once and before use, operands carry the types they were defined with, every op is in
    the catalogue with the right number of operands and exactly its attributes, and every result type is what
    the op's shape rule infers. Equations in ``checked`` (by identity) agree with their op already, and those of this
    function are added to it: a pass leaves most of a function as it was.
    """
    _Verifier(function, dims, {} if checked is None else checked).run()


def verify_program(program: Program) -> None:
    """Checks every function of a program."""
    for function in program.functions():
        verify(function)


class _Verifier:
    def __init__(self, function: Function, dims: Dims, checked: dict[int, Equation]) -> None:
        self._checked = checked
        self._function = function
        self._dims = dims
        self._defined: dict[str, Var] = {}
        self._index: int | None = None

    def run(self) -> None:
        for item in self._function.inputs:
            self._define(item.var)
        for index, equation in enumerate(self._function.equations):
            self._index = index
            for var in equation.operands:
                if self._defined.get(var.name) is not var:
                    self._use(var)
            if id(equation) not in self._checked:
                self._equation(equation)
                self._checked[id(equation)] = equation
            for var in equation.results:
                self._define(var)
        self._index = None
        self._unique("input path", [item.path for item in self._function.inputs])
        self._unique("output", [output.name for output in self._function.outputs])
        for output in self._function.outputs:
            self._use(output.var)

    def _define(self, var: Var) -> None:
        if not var.name or var.name in self._defined:
            self._fail(f"{var} is defined twice" if var.name else "a variable has no name")
        for size in var.type.shape:
            if isinstance(size, int) and (isinstance(size, bool) or size < 0):
                self._fail(f"{var} has an impossible shape {var.type}")
        self._defined[var.name] = var

    def _use(self, var: Var) -> None:
        known = self._defined.get(var.name)
        if known is None:
            self._fail(f"{var} is used before it is defined")
        if known != var:
            self._fail(f"{var} is used as {var.type} but defined as {known.type}")

    def _equation(self, equation: Equation) -> None:
        try:
            spec = spec_of(equation.op)
        except InternalError:
            self._fail(f"there is no op {equation.op!r}")
        if spec.arity is not None and len(equation.operands) != spec.arity:
            self._fail(f"{equation.op} takes {spec.arity} operands, not {len(equation.operands)}")
        names = [name for name, _ in equation.attrs]
        if names != sorted(name for name, _ in spec.attrs):
            known = sorted(name for name, _ in spec.attrs)
            self._fail(f"{equation.op} has the attributes {known} in this order, not {names}")
        if not all(_is_attr(value) for _, value in equation.attrs):
            self._fail("an attribute is missing or of a type that attributes cannot have")
        try:
            inferred = spec.infer([v.type for v in equation.operands], equation.attributes, self._dims)
        except (ShapeError, InternalError) as error:
            self._fail(f"the shape rule of {equation.op} rejects it: {error}")
        if inferred != tuple(v.type for v in equation.results):
            self._fail(f"{equation.op} yields {', '.join(map(str, inferred))}, not "
                       f"{', '.join(str(v.type) for v in equation.results)}")

    def _unique(self, what: str, names: list[str]) -> None:
        seen: set[str] = set()
        for name in names:
            if name in seen:
                self._fail(f"{what} {name!r} occurs twice")
            seen.add(name)

    def _fail(self, reason: str) -> NoReturn:
        lines = [f"invalid IR in {self._function.name}: {reason}"]
        if self._index is not None:
            first = max(self._index - _AROUND, 0)
            for i, equation in enumerate(self._function.equations[first: self._index + _AROUND + 1], first):
                lines.append(f"{'-->' if i == self._index else '   '} {print_equation(equation)}")
        raise InternalError("\n".join(lines))


def _is_attr(value: Attr) -> bool:
    if isinstance(value, tuple):
        return all(_is_attr(v) for v in value)
    return value is None or (isinstance(value, bool | int | float | str | DType) and value != REQUIRED)
