"""Exchanges beside the backward pass: a bucket of gradients is sent where its last one is made, and awaited at the end.

What an all-reduce of gradients makes is read by outputs alone, perhaps through further reductions, so all of that can
wait until everything else is computed. Every bucket behind which products are left to compute becomes two equations,
``all_reduce_begin`` in its place and ``all_reduce_end`` behind all of them; the last bucket, which nothing can hide, is
reduced at once. Exchanges that are under way happen one after another in the order of the program, which all ranks
share, so that none waits for one that waits for it; a later exchange of another axis waits until they are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from tesserac.ir.program import Equation, Function, Var, sorted_attrs
from tesserac.ops.attributes import integer
from tesserac.ops.base import flops_of, spec_of
from tesserac.ops.mesh import in_shares, share_of

WORTH = 0.02
"""Share of the function's products that must be left behind a bucket: for less, a program is not taken apart."""

PRODUCTS = ("contract", "fused", "spectral", "grouped")


def overlapped(function: Function) -> Function:
    """The function with its buckets of gradients taken into beginnings and ends where that hides anything."""
    late = _for_gradients_alone(function)
    buckets = {i for i in late if function.equations[i].op in ("all_reduce", "reduce_shares")
               and function.equations[i].attr("kind") == "sum"}
    tail = _downstream(function, buckets)
    # A bucket of complex numbers would have to become one of planes.
    fit = {i for i in buckets - tail if not function.equations[i].results[0].type.dtype.is_complex}
    begun = {i for i, left in enumerate(_work_left(function, tail | buckets)) if i in fit and left > WORTH}
    if not begun:
        return function
    taken = {v.name for v in function.variables()}
    head: list[Equation] = []
    rest: list[Equation] = []
    for i, equation in enumerate(function.equations):
        if i in begun:
            begin, end = _halves(equation, taken)
            head.append(begin)
            rest.append(end)
        else:
            (rest if i in tail | buckets else head).append(equation)
    return Function(function.name, function.inputs, (*head, *rest), function.outputs)


def _halves(equation: Equation, taken: set[str]) -> tuple[Equation, Equation]:
    first = equation.results[0]
    name = next(n for i in range(len(taken) + 1) if (n := f"{first.name}.bucket{i or ''}") not in taken)
    taken.add(name)
    shares = int(in_shares(equation))
    where = {key: equation.attr(key) for key in ("axis", "size")}
    size = sum(v.type.size for v in equation.results)
    if shares:
        ranks = integer(equation.attributes, "size")
        size = (ranks + 1) * share_of([v.type for v in equation.results], ranks)
    bucket = Var(name, first.type.with_shape((size,)))
    begin = Equation("all_reduce_begin", equation.operands, (bucket,),
                     sorted_attrs({**where, "kind": equation.attr("kind"), "shares": shares}), equation.span)
    sizes = tuple(tuple(v.type.sizes) for v in equation.results)
    end = Equation("all_reduce_end", (bucket,), equation.results,
                   sorted_attrs({**where, "sizes": sizes, "shares": shares}), equation.span)
    return begin, end


def _for_gradients_alone(function: Function) -> set[int]:
    """Numbers of equations whose results reach nothing but gradients."""
    gradients = {o.var for o in function.outputs if o.name.startswith("grad:")}
    wanted = {o.var for o in function.outputs if not o.name.startswith("grad:")}
    used: set[Var] = set()
    found: set[int] = set()
    for i in range(len(function.equations) - 1, -1, -1):
        equation = function.equations[i]
        results = equation.results
        if any(v in gradients or v in used for v in results) and wanted.isdisjoint(results):
            found.add(i)
        else:
            wanted.update(equation.operands)
        used.update(equation.operands)
    return found


def _downstream(function: Function, buckets: set[int]) -> set[int]:
    """Numbers of equations that read what buckets make."""
    made: set[Var] = set()
    found: set[int] = set()
    for i, equation in enumerate(function.equations):
        if made.intersection(equation.operands):
            found.add(i)
        if i in buckets or i in found:
            made.update(equation.results)
    return found


def _work_left(function: Function, but: set[int]) -> Sequence[float]:
    """By equation: the share of the function's products that come after it."""
    work = [0.0 if i in but or spec_of(e.op).kind not in PRODUCTS else flops_of(e)
            for i, e in enumerate(function.equations)]
    total = sum(work) or 1.0
    return [(total - done) / total for done in accumulate(work)]
