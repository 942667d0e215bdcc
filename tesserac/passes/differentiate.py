"""Differentiation: replaces every equation that asks for derivatives by the equations of those derivatives.

Requests are replaced in order, so that a later one may differentiate the
results of an earlier one, to any order. Derivatives by coordinate are left to coordinates.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tesserac.diagnostics import Diagnostics, Label
from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.base import spec_of
from tesserac.passes.coordinates import Coordinates
from tesserac.passes.custom import drop_custom_rules
from tesserac.passes.decision import collapsed_where_cheaper
from tesserac.passes.linearize import push_forward
from tesserac.passes.rename import renamed_equation, tidy
from tesserac.passes.reverse import forward_active, pull_back
from tesserac.passes.transpose import Cotangents


def differentiate(function: Function, plain: bool = False) -> Function:
    """The same outputs without equations that ask for derivatives.

    The cotangent of ``%h`` is called ``%d_h`` and carries the span of the equation it comes from. A parameter
    that the loss does not use gets zeros; an op without a derivative rule on the way is CompileError T0601, and a
    parameter that reaches the loss only where derivatives vanish is T0602. With ``plain`` derivatives by coordinate are
    Taylor coefficients throughout, whatever they cost: a second derivation for others to be compared with.
    """
    if not any(spec_of(equation.op).kind == "transform" for equation in function.equations):
        return function
    return _Differentiation(function if plain else collapsed_where_cheaper(function), plain).run()


def final_requests(function: Function) -> tuple[Equation, ...]:
    """The equations that ask for gradients which nothing but outputs reads."""
    read = {v.name for e in function.equations for v in e.operands}
    return tuple(e for e in function.equations if e.op == "backward" and not any(v.name in read for v in e.results))


def expand_derivatives(function: Function) -> Function:
    """The same function with all derivatives replaced by their equations but the final gradients.

    What remains is a forward program, with rules of the source's own (``custom_grad``) still in it, and the requests
    for the gradients of its results.
    """
    left = final_requests(function)
    others = (e for e in function.equations if spec_of(e.op).kind == "transform" and e.op != "custom_grad")
    if all(e in left for e in others):
        return function
    return _Differentiation(collapsed_where_cheaper(function), False, keep_final=True).run()


class _Differentiation:
    def __init__(self, function: Function, plain: bool, keep_final: bool = False) -> None:
        self._function = function
        self._kept = final_requests(function) if keep_final else ()
        self._keep_final = keep_final
        self._builder = Builder()
        self._builder.reserve(v.name for v in function.variables())
        self._paths = {item.var.name: item.path for item in function.inputs}
        self._replaced: dict[str, Var] = {}
        self._names: dict[str, str] = {}
        self._coordinates = Coordinates(self._builder, function, plain)

    def run(self) -> Function:
        b = self._builder
        original = {item.var.name for item in self._function.inputs}
        rules = {"backward": self._gradients, "pushforward": self._tangent, "pullback": self._cotangents}
        for asked in self._function.equations:
            equation = renamed_equation(asked, self._replaced)
            if equation.op == "derivative":
                found = [self._coordinates.derivative(asked, self._replaced)]
            elif equation.op == "combination":
                found = [self._coordinates.combination(asked, self._replaced)]
            elif equation.op in rules and asked not in self._kept:
                found = rules[equation.op](equation)
            else:
                b.append(equation)
                original.update(v.name for v in equation.results)
                continue
            self._replaced.update((r.name, v) for r, v in zip(equation.results, found, strict=True))
        self._coordinates.raise_if_errors()
        self._names.update(self._coordinates.names())
        outputs = tuple(replace(o, var=self._replaced.get(o.var.name, o.var)) for o in self._function.outputs)
        whole = replace(self._function, equations=tuple(b.equations), outputs=outputs)
        return tidy(whole if self._keep_final else drop_custom_rules(whole), original, self._names)

    def _gradients(self, backward: Equation) -> list[Var]:
        b, (loss, *wrt) = self._builder, backward.operands
        equations = tuple(b.equations)
        active = forward_active(equations, {v.name for v in wrt})
        with b.at(backward.span):
            sums = Cotangents(b, [(loss.name, b.constant(1.0, loss.type, named=f"d_{loss.name}"))])
        pull_back(b, equations, sums, active, self._path_through(equations, wrt))
        self._names.update(sums.readable_names(self._names | self._coordinates.names()))
        gradients = []
        # A derivative of a derivative may well vanish everywhere (relu's second, say): then zeros are the answer.
        first = loss.name not in _reached(equations, {v.name for v in self._replaced.values()})
        for var in wrt:
            found = sums.get(var.name)
            if found is None:
                if first:
                    self._refuse_silent_zero(var, loss, equations, backward)
                with b.at(backward.span):
                    found = b.constant(0.0, var.type, named=f"d_{var.name}")
            gradients.append(found)
        return gradients

    def _tangent(self, pushforward: Equation) -> list[Var]:
        """The inputs are taken to be independent, whatever lies before them."""
        b, half = self._builder, len(pushforward.operands) // 2
        value, inputs, tangents = (pushforward.operands[0], pushforward.operands[1: half + 1],
                                   pushforward.operands[half + 1:])
        start = {v.name: t for v, t in zip(inputs, tangents, strict=True)}
        behind = [e for e in b.equations if not any(v.name in start for v in e.results)]
        found = push_forward(b, behind, start).get(value.name)
        with b.at(pushforward.span):
            return [b.constant(0.0, value.type, named=f"t_{value.name}") if found is None else found]

    def _cotangents(self, pullback: Equation) -> list[Var]:
        """The inputs are taken to be independent, as they are for ``pushforward``."""
        b, (value, cotangent, *inputs) = self._builder, pullback.operands
        names = {v.name for v in inputs}
        behind = [e for e in b.equations if not any(v.name in names for v in e.results)]
        sums = Cotangents(b, [(value.name, cotangent)])
        pull_back(b, behind, sums, forward_active(behind, names), self._path_through(behind, inputs))
        self._names.update(sums.readable_names(self._names | self._coordinates.names()))
        found = [sums.get(v.name) for v in inputs]
        with b.at(pullback.span):
            return [b.constant(0.0, v.type, named=f"d_{v.name}") if ct is None else ct
                    for v, ct in zip(inputs, found, strict=True)]

    def _path_through(self, equations: Sequence[Equation], wrt: Sequence[Var]) -> Mapping[str, str]:
        """For every value that depends on a wrt: the user's name of one such wrt."""
        found = {v.name: self._paths.get(v.name, str(v)) for v in wrt}
        for equation in equations:
            through = next((found[v.name] for v in equation.operands if v.name in found), None)
            if through is not None:
                for var in equation.results:
                    found.setdefault(var.name, through)
        return found

    def _refuse_silent_zero(self, var: Var, loss: Var, equations: Sequence[Equation], backward: Equation) -> None:
        """T0602 if the loss depends on ``var`` but only where every derivative is zero."""
        reached = {var.name}
        blocking: Equation | None = None
        carrying = forward_active(equations, {var.name})
        for equation in equations:
            if equation.op != "stop_gradient" and any(v.name in reached for v in equation.operands):
                reached.update(v.name for v in equation.results)
                if blocking is None and any(v.name in carrying for v in equation.operands) and _vanishes(equation):
                    blocking = equation
        if loss.name not in reached or blocking is None:
            return
        path = self._paths.get(var.name, str(var))
        bag = Diagnostics()
        bag.error("T0602", f"the gradient of {path} is zero everywhere", backward.span,
                  labels=(Label(backward.span, "asked for here"),
                          Label(blocking.span, f"`{blocking.op}` has the derivative 0, and nothing bypasses it")),
                  help=(f"let {path} reach the loss through differentiable ops",
                        "or write op.stop_gradient(...) where it is meant to be a constant"))
        bag.raise_if_errors()


def _reached(equations: Sequence[Equation], start: set[str]) -> set[str]:
    """Names of the values that depend on those in ``start`` in any way."""
    reached = set(start)
    for equation in equations:
        if any(v.name in reached for v in equation.operands):
            reached.update(v.name for v in equation.results)
    return reached


def _vanishes(equation: Equation) -> bool:
    return equation.op in ("floor", "sign") or not any(v.type.dtype.is_differentiable for v in equation.results)
