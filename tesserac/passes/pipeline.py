"""The compiler's order of work, top to bottom, with one reason per line.

Everything up to ``orient`` maps a function to an equivalent function, is verified after every pass and can be printed
between passes; ``tile`` cuts it into stages, ``fuse`` groups a stage into kernels, ``plan`` gives everything a place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tesserac.codegen.lower import lower
from tesserac.ir.program import Equation, Function, Output, Var
from tesserac.ir.verify import verify
from tesserac.ops.base import flops_of, spec_of
from tesserac.passes.bucket_layout import lay_out_buckets
from tesserac.passes.combine import combine_rows
from tesserac.passes.differentiate import differentiate
from tesserac.passes.expand import expand
from tesserac.passes.fuse import Fuse
from tesserac.passes.mixed import mix, mix_for_device
from tesserac.passes.orient import Orient
from tesserac.passes.plan import Plan, make_plan, outer_places, outer_view
from tesserac.passes.planar import planar, planar_exactly
from tesserac.passes.reassociate import reassociate
from tesserac.passes.simplify import simplify
from tesserac.passes.squeeze import squeeze_products
from tesserac.passes.tile import Tile
from tesserac.passes.whole_experts import whole_experts

KEPT_WHOLE = ("attention", "attention_grad")
"""Fused ops with a kernel of their own; all others are expanded into primitives, which the row fuser joins again."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the pipeline."""

    name: str
    reason: str
    run: Callable[[Function], Function]


def _expand_norms_and_losses(function: Function) -> Function:
    return expand(function, {e.op for e in function.equations} - set(KEPT_WHOLE))


def own_outputs(function: Function) -> Function:
    """Gives every output a value of its own: no output is an input, and no two outputs are one value."""
    seen: set[Var] = {item.var for item in function.inputs}
    names = {v.name for v in function.variables()}
    copies: list[Equation] = []
    outputs: list[Output] = []
    for output in function.outputs:
        var = output.var
        if var in seen:
            name = next(f"{var.name}.out{n}" for n in range(1, len(names) + 2) if f"{var.name}.out{n}" not in names)
            names.add(name)
            copy = Var(name, var.type)
            copies.append(Equation("relayout", (var,), (copy,), (("perm", tuple(range(var.type.rank))),)))
            var = copy
        seen.add(var)
        outputs.append(Output(output.name, var))
    return Function(function.name, function.inputs, (*function.equations, *copies), tuple(outputs))


def contraction_flops(function: Function) -> float:
    """Floating-point operations of the products and of attention: what reordering may save."""
    return sum(flops_of(e) for e in function.equations if spec_of(e.op).kind == "contract" or e.op in KEPT_WHOLE)


def reassociated(function: Function) -> Function:
    """Matrix chains of the joint forward and backward program in their cheapest order, if that saves work.

    Attention is written out first, since its products belong to the chains; where nothing is gained (several heads, a
    mask that its own kernel skips), the function stays as it was.
    """
    written_out = simplify(differentiate(expand(function, {"attention"})))
    better = simplify(reassociate(simplify(squeeze_products(written_out))))
    return better if contraction_flops(better) < 0.95 * contraction_flops(written_out) else function


REASSOCIATE = Step(
    "reassociate", "matrix chains in their cheapest order (changes rounding: only on request)", reassociated
)

WHOLE_EXPERTS = Step(
    "whole_experts", "rows of all experts stay one array of fixed size (no tiles: for GPUs)", whole_experts
)

MIX = Step("mixed", "products read bf16 and add in float32 (changes rounding: only on request)", mix)

MIX_FOR_DEVICE = replace(MIX, run=mix_for_device)
"""The same for a target whose attention and products of experts run on tensor cores."""

PIPELINE: tuple[Step, ...] = (
    Step("differentiate", "gradients become ordinary equations: linearise, then transpose", differentiate),
    Step("simplify", "what autodiff leaves behind: zeros, sums of pads, equal subexpressions", simplify),
    Step(
        "expand",
        "norms, softmax and losses in primitives, so that they fuse with their neighbours",
        _expand_norms_and_losses,
    ),
    Step("simplify2", "forward and backward of a norm share their row statistics", simplify),
    Step("planar", "complex values as pairs of real ones: all that follows knows real numbers only", planar),
    Step("combine", "rows of experts come back to their tokens by reads that fuse with their neighbours", combine_rows),
    Step("outputs", "every output gets memory of its own", own_outputs),
    Step("orient", Orient().reason, Orient().run),
)


@dataclass
class Trace:
    """What a caller wants to see of a run: ``after`` is called with every step's name and result; seconds per step.

    ``checked``: equations that the verifier knows already.
    """

    after: Callable[[str, Function], None] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    checked: dict[int, Equation] = field(default_factory=dict)

    def step(self, name: str, function: Function, start: float, changed: bool = True) -> None:
        """Records one step and checks its result, which was checked before where nothing changed."""
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if changed:
            verify(function, checked=self.checked)
        if self.after is not None:
            self.after(name, function)


def steps(reorder: bool, mixed: bool, whole: bool = False) -> list[Step]:
    """The pipeline with the steps that were asked for: reordering comes first, rounding before layouts are chosen."""
    found = [REASSOCIATE, *PIPELINE] if reorder else list(PIPELINE)
    if whole:
        found.insert([step.name for step in found].index("outputs"), WHOLE_EXPERTS)
    if mixed:
        found = [replace(step, run=planar_exactly) if step.run is planar else step for step in found]
        found.insert([step.name for step in found].index("outputs"), MIX_FOR_DEVICE if whole else MIX)
    return found


def optimize(
    function: Function,
    trace: Trace | None = None,
    stop_after: str | None = None,
    reorder: bool = False,
    mixed: bool = False,
    whole: bool = False,
) -> Function:
    """The function after the pipeline's function-to-function steps, with those that are made on request.

    ``whole``: it will not be cut into tiles, not even rows of experts.
    """
    trace = trace or Trace()
    simplified: Function | None = None
    for step in steps(reorder, mixed, whole):
        start, before = time.perf_counter(), function
        if step.run is not simplify or function is not simplified:  # simplifying twice changes nothing
            function = step.run(function)
        if step.run is simplify:
            simplified = function
        trace.step(step.name, function, start, changed=function is not before)
        if step.name == stop_after:
            break
    return function


def schedule(
    function: Function,
    parameters: list[str],
    tile: Tile | None = None,
    fuse: Fuse | None = None,
    trace: Trace | None = None,
    filters: bool = True,
    moves: bool = True,
) -> Plan:
    """Stages, kernels and memory of an optimized function. ``parameters``: paths in table order.

    ``filters``: the target has kernels of two transforms, one behind the other. ``moves``: see ``lay_out_buckets``.
    """
    tile, fuse, trace = tile or Tile(), fuse or Fuse(), trace or Trace()
    start = time.perf_counter()
    staged = tile.run(function)
    places = outer_places(function, parameters)
    buckets = lay_out_buckets(staged.function, places, moves)
    trace.seconds["tile"] = trace.seconds.get("tile", 0.0) + time.perf_counter() - start
    start = time.perf_counter()
    fused = [fuse.run(stage, lambda var: outer_view(places, var), buckets) for stage in staged.stages]
    launches = [lower(item, filters) for item in fused]
    trace.seconds["fuse"] = trace.seconds.get("fuse", 0.0) + time.perf_counter() - start
    start = time.perf_counter()
    plan = make_plan(staged, fused, launches, places)
    trace.seconds["plan"] = trace.seconds.get("plan", 0.0) + time.perf_counter() - start
    return plan
