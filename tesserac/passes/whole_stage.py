"""A function that is not cut, as one stage in which products add up straight into the gradients they are terms of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.base import spec_of
from tesserac.passes.stages import Export, Import, Stage


def whole_stage(function: Function, accumulate: bool = True) -> Stage:
    """All equations, by all threads together; ``accumulate``: kernels of products can add to what is there."""
    sums = _gradient_sums(function) if accumulate else {}
    inner = {v for terms in sums.values() for v in _adds(function, terms)} | sums.keys()
    equations = tuple(e for e in function.equations if not inner.intersection(e.results))
    made = {v for e in equations for v in e.results}
    exports = []
    for var in dict.fromkeys(output.var for output in function.outputs):
        if var in sums:
            exports += [Export(term, var, partial=True) for term in sums[var]]
        elif var in made:
            exports.append(Export(var, var))
    imports = tuple(Import(item.var, item.var) for item in function.inputs)
    return Stage(_counts_first(equations, function), imports, tuple(exports))


def _counts_first(equations: Sequence[Equation], function: Function) -> tuple[Equation, ...]:
    """The same equations, sums over labels and the like in front.

    What is counted of integers that are given, such as the labels that are not ignored, waits for nothing; what
    divides by it can then be computed with what was there before it, and needs no second walk.
    """
    given = {i.var for i in function.inputs if not (i.var.type.dtype.is_float or i.var.type.dtype.is_complex)}
    maker: dict[Var, Equation] = {}
    first: set[int] = set()
    for equation in equations:
        kind = spec_of(equation.op).kind
        if kind not in ("elementwise", "source", "reduce", "view") or not given.issuperset(equation.operands):
            continue
        given.update(equation.results)
        maker.update((v, equation) for v in equation.results)
        waiting = [equation] if kind == "reduce" or equation.results[0].type.rank == 0 else []
        while waiting:
            one = waiting.pop()
            if id(one) not in first:
                first.add(id(one))
                waiting += [maker[v] for v in one.operands if v in maker]
    return tuple(sorted(equations, key=lambda e: id(e) not in first))


def _gradient_sums(function: Function) -> dict[Var, tuple[Var, ...]]:
    """Gradients that are sums of products which nothing else reads, with these products in order.

    The gradient of a weight that is used several times is such a sum. A buffer for each use would be as large as
    the weight.
    """
    uses = Counter(v for e in function.equations for v in e.operands)
    uses.update(output.var for output in function.outputs)
    terms: dict[Var, tuple[Var, ...]] = {}
    for equation in function.equations:
        if spec_of(equation.op).kind == "contract":
            terms[equation.result] = (equation.result,)
        elif equation.op == "add" and all(v in terms and uses[v] == 1 for v in equation.operands):
            first, second = equation.operands
            terms[equation.result] = (*terms[first], *terms[second])
    gradients = (output.var for output in function.outputs if output.name.startswith("grad:"))
    return {var: terms[var] for var in gradients if len(terms.get(var, ())) > 1 and uses[var] == 1}


def _adds(function: Function, terms: tuple[Var, ...]) -> set[Var]:
    """The sums of some of these terms."""
    parts = set(terms)
    for equation in function.equations:
        if equation.op == "add" and parts.issuperset(equation.operands):
            parts.add(equation.result)
    return parts.difference(terms)
