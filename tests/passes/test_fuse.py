"""Fusion: the kernels of a small transformer block, and the choices that lead to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tesserac.driver import CompileOptions, plan_entry
from tesserac.ir.program import Entry, Function
from tesserac.passes.grouping import Fused
from tesserac.passes.plan import Plan
from tests import models


def plan_of(function: Function) -> Plan:
    trains = any(o.name.startswith("grad:") for o in function.outputs)
    plans = plan_entry(Entry("f", function if trains else None, None if trains else function), CompileOptions())
    plan = plans.train if trains else plans.infer
    assert plan is not None
    return plan


def described(plan: Plan) -> str:
    """Every stage with its groups: kind and loop nest, what leaves registers, what is recomputed inside."""
    return "\n".join(line for stage in plan.stages for line in _stage(stage.fused)) + "\n"


def _stage(fused: Fused) -> Iterator[str]:
    stage = fused.values.stage
    yield f"{stage.tiles} tiles of {stage.tile}" if stage.tiles is not None else "once"
    for group in fused.groups:
        domain = " x ".join(map(str, group.region.domain)) if group.region is not None else group.lead.op
        roots = ", ".join(v.name for e in group.roots for v in e.results)
        inlined = ", ".join(v.name for v in (group.region.inlined if group.region is not None else ()))
        yield f"  {group.kind} {domain}: {roots}" + (f"\n      recomputes {inlined}" if inlined else "")


def kinds(plan: Plan) -> list[str]:
    """Kinds of the groups of all tile stages."""
    return [
        group.kind
        for stage in plan.stages
        if stage.fused.values.stage.tiles is not None
        for group in stage.fused.groups
    ]


def test_groups_of_a_transformer_block(golden: Callable[[str, str], None]) -> None:
    golden("transformer_block.fuse.txt", described(plan_of(models.transformer_block())))


def test_softmax_is_one_kernel() -> None:
    assert kinds(plan_of(models.softmax())) == ["rows"]


def test_bias_and_gelu_are_the_epilogue_of_the_product() -> None:
    assert kinds(plan_of(models.bias_gelu())) == ["contract"]


def test_a_norm_and_its_gradients_are_one_kernel_forward_and_one_backward() -> None:
    assert kinds(plan_of(models.layernorm())).count("rows") <= 2


def test_the_lookup_reads_the_table_inside_the_kernel_that_needs_it() -> None:
    (stage,) = (s for s in plan_of(models.embedding()).stages if s.fused.values.stage.tiles is not None)
    assert [g.kind for g in stage.fused.groups] == ["rows"]
    assert {n.kind for launch in stage.launches for n in launch.kernel.nodes} >= {"take"}  # type: ignore[union-attr]


def test_every_result_that_others_read_is_made_before_it_is_read() -> None:
    for stage in plan_of(models.transformer_block()).stages:
        values = stage.fused.values
        made = {values.root(v) for v in values.imports}
        for launch in stage.launches:
            pairs = list(zip(launch.kernel.slots, launch.arguments, strict=True))
            assert all(a.var in made for slot, a in pairs if not slot.written)
            made.update(a.var for slot, a in pairs if slot.written)


def test_an_expensive_value_of_two_products_is_kept_and_a_cheap_one_repeated() -> None:
    """Both products' epilogues read an activation of the other input: a gelu is computed once, a doubling twice."""
    for op, computed in (("gelu", 1), ("neg", 2)):
        m = models.Model()
        x, z = m.data("x", 16, 5, 24), m.data("z", 16, 5, 40)
        act = m.op(2, op, z, named="act")
        made = [m.op(3, "mul", m.linear(3, x, m.weight(name, 24, 40), None, name + "x"), act) for name in ("w", "u")]
        stages = plan_of(m.infer(*made)).stages
        nodes = [n for s in stages for launch in s.launches for n in launch.kernel.nodes]  # type: ignore[union-attr]
        assert [n.op for n in nodes].count(op) == computed
