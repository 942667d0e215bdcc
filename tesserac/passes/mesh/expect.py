"""Collectives that a known way of parallel training must have, by formula, to hold a plan against.

Per layer of a transformer with activations of M bytes on a data rank: weights by columns and rows need an all-reduce of
M per block (attention, MLP) forward and one backward (Shoeybi et al. 2019), or with sequences cut between products a
gather and a scatter each way (Korthikanti et al. 2022). A first block that reads data needs no cotangent of its input,
and a vocabulary that is cut adds what its embedding and its logits need. Data parallelism reduces each gradient once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tesserac.diagnostics import CompileError, Diagnostics
from tesserac.ir.program import Equation, Function, Var
from tesserac.ops.base import spec_of
from tesserac.passes.mesh.planning import Planned
from tesserac.passes.mesh.traffic import KINDS
from tesserac.passes.reverse import forward_active

KNOWN = ("dp", "megatron", "megatron-sp")
SCALAR = 64
"""Bytes up to which a collective is that of a loss or a count, which formulas leave out."""

Key = tuple[str, str, str, int]
"""Axis, phase, kind, bytes of one collective."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a formula wants and what the program has; equal when ``same``."""

    name: str
    wanted: Counter[Key]
    counted: Counter[Key]
    blocks: int

    @property
    def same(self) -> bool:
        """Whether all counts and bytes agree."""
        return self.wanted == self.counted

    def lines(self) -> list[str]:
        """A table with both."""
        found = [f"expected of {self.name} ({self.blocks} blocks), collectives up to {SCALAR} B left out:"]
        for key in sorted(self.wanted | self.counted):
            axis, phase, kind, size = key
            mark = "ok" if self.wanted[key] == self.counted[key] else "DIFFERS"
            found.append(f"  {axis:6} {phase:9} {KINDS[kind]:4} of {size:>14,} B: expected {self.wanted[key]:>4}, "
                         f"in the program {self.counted[key]:>4}  {mark}")
        return found


def compare(planned: Planned, name: str) -> Comparison:
    """A plan against a formula; CompileError T0705 for an unknown one or one that the mesh has no axis for."""
    tensor = [axis for axis in planned.mesh.axes if planned.searcher.roles[axis].name == "tensor"]
    if name not in KNOWN or (name != "dp" and len(tensor) != 1):
        bag = Diagnostics()
        what = f"{name} needs one tensor axis, and the mesh is {planned.mesh}" if name in KNOWN else \
            f"there is no formula {name!r}"
        bag.error("T0705", f"--expect: {what}", None,
                  help=[f"formulas are {', '.join(KNOWN)}; a tensor axis is called tp"])
        raise CompileError(bag.items)
    counted: Counter[Key] = Counter()
    for item in planned.collectives:
        if item.bytes > SCALAR and item.phase != "gradient":
            counted[item.axis, item.phase, item.kind, item.bytes] += 1
    wanted, blocks = (Counter[Key](), 0) if name == "dp" else _megatron(planned, tensor[0], name == "megatron-sp")
    counted.update(_gradients(planned))
    wanted.update(_expected_gradients(planned))
    return Comparison(name, wanted, counted, blocks)


# ------------------------------------------------------------------------------------------------ gradients


def _gradients(planned: Planned) -> Counter[Key]:
    """One entry per data axis: all its gradient reductions together, as bucketing would send them."""
    found: Counter[Key] = Counter()
    for axis in _data(planned):
        total = sum(c.bytes for c in planned.collectives if c.axis == axis and c.phase == "gradient")
        found[axis, "gradient", "all_reduce", total] += 1
    return found


def _expected_gradients(planned: Planned) -> Counter[Key]:
    """The bytes of the parameters that a rank trains."""
    found: Counter[Key] = Counter()
    for axis in _data(planned):
        total = sum(o.var.type.bytes for o in planned.joint.outputs if o.name.startswith("grad:"))
        found[axis, "gradient", "all_reduce", total] += 1
    return found


def _data(planned: Planned) -> list[str]:
    return [axis for axis in planned.mesh.axes if planned.searcher.roles[axis].name == "data"]


# ------------------------------------------------------------------------------------------------ layers


@dataclass(frozen=True, slots=True)
class _Block:
    """Attention or an MLP: the value that its first products read, and what its last one makes."""

    entry: Var
    result: Var


def _megatron(planned: Planned, axis: str, sequence: bool) -> tuple[Counter[Key], int]:
    function = planned.function
    wrt = {v.name for e in function.equations if e.op == "backward" for v in e.operands[1:]}
    active = forward_active(function.equations, wrt) | wrt
    found: Counter[Key] = Counter()
    blocks = blocks_of(function)
    makers = {v.name: e for e in function.equations for v in e.results}
    data = 1
    for other in _data(planned):
        data *= planned.mesh.sizes[other]
    for number, block in enumerate(blocks):
        size = block.result.type.bytes // data
        source = _stream(makers, block.entry)
        back = source.name in active
        # The stream of the first block comes from data or an embedding, which every rank may have whole.
        inward = number > 0 or planned.found.choice(axis, source.name).results[0].is_cut
        if sequence:
            found[axis, "forward", "reduce_scatter", size] += 1
            found[axis, "backward", "all_gather", size] += 1
            if inward:
                found[axis, "forward", "all_gather", size] += 1
                found[axis, "backward", "reduce_scatter", size] += 1
        else:
            found[axis, "forward", "all_reduce", size] += 1
            if back:
                found[axis, "backward", "all_reduce", size] += 1
    found.update(_vocabulary(planned, axis, sequence, data))
    return +found, len(blocks)


def blocks_of(function: Function) -> list[_Block]:
    """Attention with the product behind it, and pairs of products with weights that a nonlinear op stands between."""
    makers = {v.name: e for e in function.equations for v in e.results}
    weights = {item.var.name for item in function.parameters}
    found = []
    for equation in function.equations:
        if not _weighs(equation, makers, weights):
            continue
        through = _behind(equation.operands[0], makers)
        if through is None:
            continue
        kind, first = through
        if kind == "attention" or _weighs(first, makers, weights):
            entry = _entry(first, makers, weights) if kind == "attention" else first.operands[0]
            if entry is not None:
                found.append(_Block(entry, equation.results[0]))
    return found


def _weighs(equation: Equation, makers: dict[str, Equation], weights: set[str]) -> bool:
    """Whether it is a product with a parameter, or with a view of one."""
    if spec_of(equation.op).kind != "contract":
        return False
    var = equation.operands[-1]
    while var.name in makers and spec_of(makers[var.name].op).kind == "view":
        var = makers[var.name].operands[0]
    return var.name in weights


def _behind(var: Var, makers: dict[str, Equation]) -> tuple[str, Equation] | None:
    """Back through one nonlinear op, with biases and views around it, to attention or to a product."""
    nonlinear = 0
    while var.name in makers:
        equation = makers[var.name]
        kind = spec_of(equation.op).kind
        if equation.op == "attention":
            return "attention", equation
        if kind == "contract":
            return ("product", equation) if nonlinear else None
        if kind == "elementwise" and equation.op not in ("add", "sub"):
            nonlinear += 1
        elif kind not in ("elementwise", "view"):
            return None
        var = equation.operands[0]
    return None


def _entry(attention: Equation, makers: dict[str, Equation], weights: set[str]) -> Var | None:
    """What the products of queries, keys and values read."""
    var = attention.operands[0]
    while var.name in makers:
        equation = makers[var.name]
        if _weighs(equation, makers, weights):
            return equation.operands[0]
        if spec_of(equation.op).kind not in ("elementwise", "view"):
            return None
        var = equation.operands[0]
    return None


def _stream(makers: dict[str, Equation], var: Var) -> Var:
    """The value of the residual stream that a block reads, in front of its norm: a norm's own weights do not count."""
    while var.name in makers and makers[var.name].op in ("layernorm", "rmsnorm"):
        var = makers[var.name].operands[0]
    return var


def _vocabulary(planned: Planned, axis: str, sequence: bool, data: int) -> Counter[Key]:
    """What a cut vocabulary adds: an embedding that looks up its part, logits of which a loss needs statistics."""
    found: Counter[Key] = Counter()
    makers = {v.name: e for e in planned.function.equations for v in e.results}
    for equation in planned.function.equations:
        if equation.op == "take" and planned.found.choice(axis, equation.results[0].name).results[0].kind == "P":
            size = equation.results[0].type.bytes // data
            found[axis, "forward", "reduce_scatter" if sequence else "all_reduce", size] += 1
            if sequence:
                found[axis, "backward", "all_gather", size] += 1
        if equation.op == "cross_entropy":
            found.update(_logits(planned, axis, equation, makers, data))
    return found


def _logits(planned: Planned, axis: str, loss: Equation, makers: dict[str, Equation], data: int) -> Counter[Key]:
    """Logits by columns: what they read is gathered; the loss takes three statistics of the parts, or all of them."""
    found: Counter[Key] = Counter()
    logits = loss.operands[0]
    product = makers.get(logits.name)
    if product is None or spec_of(product.op).kind != "contract":
        return found
    last = logits.type.rank - 1
    made = planned.found.choice(axis, logits.name).results[0]
    if not made.is_cut or made.dim != last:
        return found
    entry = product.operands[0]
    if planned.found.choice(axis, entry.name).results[0].is_cut:
        found[axis, "forward", "all_gather", entry.type.bytes // data] += 1
        found[axis, "backward", "reduce_scatter", entry.type.bytes // data] += 1
    else:
        found[axis, "backward", "all_reduce", entry.type.bytes // data] += 1
    if planned.found.choice(axis, loss.results[0].name).operands[0] == made:
        found[axis, "forward", "all_reduce", logits.type.bytes // logits.type.sizes[last] // data] += 3
    else:
        found[axis, "forward", "all_gather", logits.type.bytes // data] += 1
    return found
