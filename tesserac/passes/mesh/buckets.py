"""Gradient buckets: all-reduces of parameters' gradients along one axis are one call over many tensors.

The backward pass makes gradients from the last layer to the first; a bucket closes when it holds enough bytes, where
its last gradient is made, so that it can be sent while the rest of the backward pass runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tesserac.diagnostics import Span
from tesserac.ir.program import Equation, Function, Var

BUCKET_BYTES = 25 << 20
"""Bytes after which a bucket is sent: large enough for bandwidth, small enough to leave before the pass ends."""

_Key = tuple[str, int, str]


def bucket_gradients(function: Function, limit: int = BUCKET_BYTES) -> Function:
    """The function with the all-reduces that only gradients need merged by axis and element type, in program order."""
    late = _only_for_gradients(function)
    if not late:
        return function
    return _Buckets(function, late, limit).run()


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
    def __init__(self, function: Function, late: dict[str, Equation], limit: int) -> None:
        self._function = function
        self._late = late
        self._limit = limit
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
        key = (str(attrs["axis"]), int(str(attrs["size"])), str(var.type.dtype))
        bucket = self._open.setdefault(key, _Bucket())
        bucket.equations.append(equation)
        bucket.bytes += var.type.bytes
        if bucket.bytes >= self._limit:
            self._send(key)

    def _send(self, key: _Key) -> None:
        members = self._open.pop(key).equations
        operands, results = (tuple(e.operands[0] for e in members), tuple(e.result for e in members))
        span: Span = members[-1].span
        self._body.append(Equation("all_reduce", operands, results, members[0].attrs, span))
        for var in results:
            self._made(var)
