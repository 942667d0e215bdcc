"""Gradient buckets: all-reduces of parameters' gradients along one axis are one call over many tensors.

The backward pass makes gradients from the last layer to the first; a bucket closes when it holds enough bytes, where
its last gradient is made, so that it can be sent while the rest of the backward pass runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tesserac.diagnostics import Span
from tesserac.ir.program import Equation, Function, Var, sorted_attrs
from tesserac.passes.bucket_layout import looseness

BUCKET_BYTES = 25 << 20
"""Bytes after which a bucket is sent: large enough for bandwidth, small enough to leave before the pass ends."""

_Key = tuple[str, str, bool]
"""Axis, element type, and whether ranks get shares."""


def bucket_gradients(function: Function, limit: int = BUCKET_BYTES, shared: str | None = None) -> Function:
    """The function with the all-reduces that only gradients need merged by axis and element type, in program order.

    ``shared``: an axis whose ranks update a share each of the parameters that lie whole along it (ZeRO-1, Rajbhandari
    et al., arXiv 1910.02054): of the sums along it they get the elements that they need (``reduce_shares``).
    """
    if shared is not None:
        function = _reduced_last(function, shared)
    late = _only_for_gradients(function)
    if not late:
        return function
    return _Buckets(function, late, limit, shared).run()


def _reduced_last(function: Function, axis: str) -> Function:
    """Gradients that are reduced along several axes, with this one as the last."""
    late = {id(e) for e in _only_for_gradients(function).values()}
    chain = [i for i, e in enumerate(function.equations) if id(e) in late]
    equations = list(function.equations)
    after = {equations[i].operands[0].name: i for i in chain}
    for i in chain:
        following = after.get(equations[i].result.name)
        if following is not None and equations[i].attr("axis") == axis:
            first, second = equations[i], equations[following]
            equations[i] = replace(first, attrs=second.attrs)
            equations[following] = replace(second, attrs=first.attrs)
    return replace(function, equations=tuple(equations))


def _only_for_gradients(function: Function) -> dict[str, Equation]:
    """All-reduces, by operand, whose results are gradients or are reduced along another axis to become one."""
    gradients = {o.var.name for o in function.outputs if o.name.startswith("grad:")}
    others = {o.var.name for o in function.outputs if not o.name.startswith("grad:")}
    users: dict[str, list[Equation]] = {}
    for equation in function.equations:
        for var in equation.operands:
            users.setdefault(var.name, []).append(equation)
    found: dict[str, Equation] = {}
    late: set[int] = set()
    for equation in reversed(function.equations):
        if equation.op != "all_reduce" or len(equation.operands) > 1 or equation.attr("kind") != "sum":
            continue
        (operand,), name = equation.operands, equation.result.name
        after = users.get(name, [])
        alone = sum(user.op == "all_reduce" for user in users[operand.name]) == 1
        ends = (name in gradients or after) and name not in others and all(id(user) in late for user in after)
        if alone and ends:
            late.add(id(equation))
            found[operand.name] = equation
    return found


@dataclass(slots=True)
class _Bucket:
    equations: list[Equation] = field(default_factory=list)
    bytes: int = 0


class _Buckets:
    def __init__(self, function: Function, late: dict[str, Equation], limit: int, shared: str | None) -> None:
        self._function = function
        self._late = late
        self._limit = limit
        self._shared = shared
        self._names = [o.var.name for o in function.outputs]
        self._open: dict[_Key, _Bucket] = {}
        self._body: list[Equation] = []

    def run(self) -> Function:
        members = {id(e) for e in self._late.values()}
        for item in self._function.inputs:
            self._made(item.var)
        for equation in self._function.equations:
            if id(equation) in members:
                continue
            self._body.append(equation)
            for var in equation.results:
                self._made(var)
        while self._open:
            self._send(next(iter(self._open)))
        f = self._function
        return Function(f.name, f.inputs, tuple(self._body), f.outputs)

    def _made(self, var: Var) -> None:
        """Puts the all-reduce that waits for this value into its bucket, and sends that when it is full."""
        equation = self._late.get(var.name)
        if equation is None:
            return
        attrs = equation.attributes
        key = (str(attrs["axis"]), str(var.type.dtype), self._in_shares(equation))
        bucket = self._open.setdefault(key, _Bucket())
        bucket.equations.append(equation)
        bucket.bytes += var.type.bytes
        if bucket.bytes >= self._limit:
            self._send(key)

    def _in_shares(self, equation: Equation) -> bool:
        """Whether it makes the gradient of one parameter, of real numbers, along the axis of shares."""
        return (equation.attr("axis") == self._shared and not equation.result.type.dtype.is_complex
                and self._names.count(equation.result.name) == 1)

    def _send(self, key: _Key) -> None:
        made = self._open.pop(key).equations
        members = sorted(made, key=self._order)
        operands, results = (tuple(e.operands[0] for e in members), tuple(e.result for e in members))
        span: Span = made[-1].span
        if key[2]:
            attrs = sorted_attrs({k: v for k, v in members[0].attrs if k != "to"})
            self._body.append(Equation("reduce_shares", operands, results, attrs, span))
        else:
            self._body.append(Equation("all_reduce", operands, results, members[0].attrs, span))
        for var in results:
            self._made(var)

    def _order(self, equation: Equation) -> tuple[int, int]:
        """Loose ones come last, so that most lie where they belong (``bucket_layout``); what goes further, together."""
        loose = looseness(equation.result.type)
        return (1 if equation.result.name in self._late else 2 * min(loose, 1)), loose
