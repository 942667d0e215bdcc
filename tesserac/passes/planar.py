"""Planar: every complex value becomes two real ones, its real and its imaginary plane, and every op on it real ops.

All that comes later (tiling, fusion, products, memory) knows real numbers only. What the planes of an op are is the
op's own rule (``OpSpec.planar``). The outside keeps seeing one complex tensor: an array of the caller holds real and
imaginary parts in turns and is read as a real array with a last axis of two, through strides; a parameter is two
parameters, ``PATH:re`` and ``PATH:im``, whose planes lie one behind the other in the arena, and so are its gradient and
its moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tesserac.diagnostics import InternalError
from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Function, Input, Output, Var
from tesserac.ir.types import TensorType
from tesserac.ops.base import spec_of
from tesserac.ops.contract import ComplexForm, by_definition, form_of
from tesserac.ops.planes import Pair, Plane, whole
from tesserac.passes.rename import renamed_equation, tidy
from tesserac.passes.simplify import simplify

PARTS = ("re", "im")


def planar(function: Function) -> Function:
    """The same function on real values; itself when no value is complex. It must be differentiated already.

    Products take their cheaper form.
    """
    return simplify(_Planar(function).run()) if _is_complex(function) else function


def planar_exactly(function: Function) -> Function:
    """The same with products by their definition: sums of operands that are rounded to 16 bits would lose digits."""
    return simplify(_Planar(function, plain=True).run()) if _is_complex(function) else function


def planar_plainly(function: Function) -> Function:
    """The same, products by their definition and nothing simplified: for the reference."""
    return _Planar(function, plain=True).run() if _is_complex(function) else function


def _is_complex(function: Function) -> bool:
    return any(v.type.dtype.is_complex for v in function.variables())


def product_forms(function: Function) -> list[tuple[Equation, ComplexForm]]:
    """In which form the planar pass computes every contraction of complex values, in the order of the program."""
    work = _Planar(function)
    work.run()
    return work.forms


def plane_items(item: Input) -> tuple[Input, ...]:
    """The parameters that a parameter becomes: itself, or its two planes.

    Both planes start from the same distribution; ones and constants are real numbers.
    """
    kind = item.var.type
    if not kind.dtype.is_complex:
        return (item,)
    names = [f"{item.var.name}_{part}" for part in PARTS]
    planes = [
        replace(item, var=Var(name, _real(kind)), path=f"{item.path}:{part}")
        for name, part in zip(names, PARTS, strict=True)
    ]
    return tuple(planes)


def plane_of(path: str) -> tuple[str, str] | None:
    """The parameter's path and the part ("re" or "im") that a plane's path stands for; None for other paths."""
    base, colon, part = path.rpartition(":")
    return (base, part) if colon and part in PARTS else None


def interleaved(kind: TensorType) -> TensorType:
    """The real type of an array of complex numbers as callers hold it: real and imaginary parts in turns."""
    return TensorType(kind.dtype.real, (*(kind.shape or (1,)), 2))


def _real(kind: TensorType) -> TensorType:
    return kind.with_dtype(kind.dtype.real)


@dataclass
class _Planar:
    function: Function
    plain: bool = False
    builder: Builder = field(default_factory=Builder)
    pairs: dict[str, Pair] = field(default_factory=dict)
    replaced: dict[str, Var] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    zeros: set[str] = field(default_factory=set)
    forms: list[tuple[Equation, ComplexForm]] = field(default_factory=list)

    def run(self) -> Function:
        """See planar."""
        self.builder.reserve(v.name for v in self.function.variables())
        inputs = tuple(made for item in self.function.inputs for made in self._input(item))
        keep = {v.name for v in self.function.variables() if not v.type.dtype.is_complex}
        keep.update(item.var.name for item in inputs)
        for equation in self.function.equations:
            self._equation(equation)
        outputs = tuple(made for output in self.function.outputs for made in self._output(output))
        result = Function(self.function.name, inputs, tuple(self.builder.equations), outputs)
        return tidy(result, keep, self.names)

    def _input(self, item: Input) -> tuple[Input, ...]:
        kind, name = item.var.type, item.var.name
        if not kind.dtype.is_complex:
            return (item,)
        if item.is_parameter:
            planes = tuple(
                replace(p, var=Var(self.builder.fresh(p.var.name), p.var.type)) for p in plane_items(item)
            )
            self.pairs[name] = Pair(Plane(planes[0].var), Plane(planes[1].var))
            return planes
        array = Var(name, interleaved(kind))
        with self.builder.at(item.span):
            self.pairs[name] = Pair(*(Plane(self._part(array, kind, i)) for i in range(2)))
        self._name(name, self.pairs[name])
        return (replace(item, var=array),)

    def _part(self, array: Var, kind: TensorType, part: int) -> Var:
        """Every other element of the caller's array."""
        sizes = array.type.sizes
        first = tuple(part if axis == len(sizes) - 1 else 0 for axis in range(len(sizes)))
        limits = (*sizes[:-1], part + 1)
        alone = self.builder.op("slice", array, starts=first, limits=limits, strides=(1,) * len(sizes))
        return self.builder.op("reshape", alone, shape=kind.shape)

    def _equation(self, equation: Equation) -> None:
        b = self.builder
        if not any(v.type.dtype.is_complex for v in (*equation.operands, *equation.results)):
            b.append(renamed_equation(equation, self.replaced))
            if equation.op == "full" and equation.attr("value") == 0:
                self.zeros.add(equation.result.name)
            return
        rule = by_definition if self.plain and equation.op == "contract" else spec_of(equation.op).planar
        if rule is None:
            raise InternalError(f"{equation.op} has no rule for complex numbers: {equation.result}")
        operands = [self._pair(v) for v in equation.operands]
        if equation.op == "contract":
            self.forms.append((equation, form_of(equation, operands)))
        with b.at(equation.span, prefix=f"{equation.results[0].name}_"):
            found = rule(b, equation, operands)
            for var, pair in zip(equation.results, found, strict=True):
                if var.type.dtype.is_complex:
                    self.pairs[var.name] = pair
                    self._name(var.name, pair)
                else:
                    value = whole(b, pair.re, var.type)
                    self.replaced[var.name] = value
                    self.names.setdefault(value.name, var.name)

    def _pair(self, var: Var) -> Pair:
        if var.type.dtype.is_complex:
            return self.pairs[var.name]
        if var.name in self.zeros:
            return Pair(None)
        return Pair(Plane(self.replaced.get(var.name, var)))

    def _name(self, name: str, pair: Pair) -> None:
        for plane, part in zip((pair.re, pair.im), PARTS, strict=True):
            if plane is not None:
                self.names.setdefault(plane.var.name, f"{name}_{part}")

    def _output(self, output: Output) -> tuple[Output, ...]:
        var, b = output.var, self.builder
        if not var.type.dtype.is_complex:
            return (replace(output, var=self.replaced.get(var.name, var)),)
        pair = self.pairs[var.name]
        planes = [whole(b, plane, var.type) for plane in (pair.re, pair.im)]
        self._name(var.name, Pair(*map(Plane, planes)))
        if output.name.startswith("grad:"):
            return tuple(Output(f"{output.name}:{part}", plane) for part, plane in zip(PARTS, planes, strict=True))
        return (Output(output.name, self._in_turns(planes, var)),)

    def _in_turns(self, planes: Sequence[Var], var: Var) -> Var:
        """The caller's array from two planes."""
        shape = interleaved(var.type).shape
        columns = [self.builder.op("reshape", p, shape=(*shape[:-1], 1), named=p.name) for p in planes]
        return self.builder.op("concat", *columns, axis=len(shape) - 1, named=var.name)
