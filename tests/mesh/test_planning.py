"""Counts and bytes of planned programs against formulas; templates, lock files, pins and limits."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest

from tesserac.diagnostics import CompileError
from tesserac.ir.evaluate import evaluate
from tesserac.ir.verify import verify
from tesserac.passes.mesh.expect import compare
from tesserac.passes.mesh.lock import lock_text
from tesserac.passes.mesh.planning import Planned, Settings, plan, with_pins
from tesserac.passes.mesh.projections import split_projections
from tesserac.passes.mesh.report import described_plan
from tesserac.passes.mesh.settings import parse_bytes, read_settings
from tesserac.passes.mesh.traffic import KINDS
from tests.mesh.programs import EXAMPLES, H100, LAYERS, LISTING1, SEED, entry_of, function_of

NOTHING = Settings()
HEADS = LISTING1.replace("x @ Wv)", "x @ Wv, heads=8)")
LARGE = (("D", "1024"), ("F", "4096"), ("S", "256"), ("H", "16"))
PINN = """
from tessera import graph, op
layers = op.mlp(3, [256, 256], 1)
@graph.module
def psi(x: Tensor[4096, 3]):
    return layers(x)
@graph.training_step(module="pinn")
def step(batch):
    return graph.backward(op.mean(psi(batch["x"]) ** 2))
"""
SPECTRAL = """
from tessera import graph, op
layers = op.linear(64, 64)
@graph.module
def net(u: Tensor[B, 32, 64]):
    return op.irfft(op.rfft(layers(u), axis=-1), n=64, axis=-1)
@graph.training_step(module="net")
def step(batch):
    return graph.backward(op.mse(net(batch["u"]), batch["y"]))
"""


def planned(source: str, mesh: str | None = None, settings: Settings = NOTHING, **options: object) -> Planned:
    function, grid = function_of(source, mesh, **options)
    return plan(function, grid, H100, settings)


def counts(found: Planned, axis: str, over: int = 64) -> Counter[str]:
    """``AR forward`` and the like, without scalars."""
    return Counter(f"{KINDS[c.kind]} {c.phase}" for c in found.collectives if c.axis == axis and c.bytes > over)


# ------------------------------------------------------------------------------------------------ golden counts


def test_listing_1_with_heads() -> None:
    """One forward all-reduce on tp, none backward, one bucket of gradients on dp."""
    found = planned(HEADS, shapes=SEED)
    assert counts(found, "tp", over=0) == {"AR forward": 1}
    assert [c.bytes for c in found.collectives if c.axis == "tp"] == [2 * 64 * 48 * 4]
    (bucket,) = (c for c in found.collectives if c.phase == "gradient")
    assert (bucket.axis, bucket.tensors) == ("dp", 4)
    assert bucket.bytes == (3 * 32 * 16 + 16 * 48) * 4
    assert counts(found, "dp") == {"AR gradient": 1}


def test_listing_1_with_one_head() -> None:
    """Keys and values are gathered and their cotangents scattered; weights that every rank has are reduced on tp."""
    found = planned(LISTING1, shapes=SEED)
    counted = counts(found, "tp")
    assert counted["RS backward"] == 2
    assert counted["AG forward"] == 3  # keys, values, and the scores for the loss
    assert counted["AR gradient"] == 1
    assert found.found.choice("tp", "attn").name == "s"


@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("layers", [1, 4])
def test_megatron_with_sequences_cut(layers: int, tp: int) -> None:
    """L layers: 2L scatters and 2L-1 gathers forward, the transposes backward; the input is data."""
    found = planned(LAYERS, f"tp={tp}", sets=(("L", str(layers)), *LARGE))
    counted = counts(found, "tp")
    del counted["AR gradient"]
    assert counted == {"RS forward": 2 * layers, "AG forward": 2 * layers - 1,
                       "AG backward": 2 * layers, "RS backward": 2 * layers - 1}
    size = 8 * 256 * 1024 * 4
    assert {c.bytes for c in found.collectives if c.phase != "gradient" and c.bytes > 64} == {size}
    assert compare(found, "megatron-sp").same
    assert not compare(found, "megatron").same


def test_twelve_layers_are_counted_like_the_paper() -> None:
    found = planned(LAYERS, "dp=2,tp=2", sets=(("L", "12"), *LARGE))
    counted = counts(found, "tp")
    assert (counted["RS forward"], counted["AG forward"]) == (24, 23)
    assert (counted["AG backward"], counted["RS backward"]) == (24, 23)
    assert compare(found, "megatron-sp").same


def test_classic_megatron_reduces_four_times_a_layer_but_one() -> None:
    roles = read_settings('[roles]\ntp = "megatron"\n', "plan.toml").roles
    found = planned(LAYERS, "tp=2", Settings(roles), sets=(("L", "4"), *LARGE))
    counted = counts(found, "tp")
    assert counted.pop("AR gradient") == 1  # of the first norm, whose cotangent stays a term: 8 kB instead of 8 MB
    assert counted == {"AR forward": 8, "AR backward": 7}
    assert compare(found, "megatron").same


@pytest.mark.parametrize("mesh", ["tp=4", "tp=2,dp=2"])
def test_the_gpt_of_the_examples_is_megatron_sp(mesh: str) -> None:
    """Its fused projection of queries, keys and values comes apart; a cut vocabulary adds three statistics."""
    found = planned((EXAMPLES / "gpt.py").read_text(), mesh, sets=(("L", "2"),))
    comparison = compare(found, "megatron-sp")
    assert comparison.same, comparison.lines()
    assert comparison.blocks == 4


def test_projections_that_come_apart_compute_the_same() -> None:
    source = (EXAMPLES / "gpt.py").read_text()
    function, _ = function_of(source, "tp=2", role="infer", sets=(("L", "1"), ("D", "8"), ("S", "4"), ("B", "2"),
                                                                   ("H", "2"), ("V", "16")))
    apart = split_projections(function)
    verify(apart)
    assert sum(e.op == "contract" for e in apart.equations) == sum(e.op == "contract" for e in function.equations) + 2
    rng = np.random.default_rng(0)
    values = [rng.integers(0, 16, i.var.type.sizes) if i.index_bound else rng.normal(size=i.var.type.sizes)
              for i in function.inputs]
    named = {item.path: value for item, value in zip(function.inputs, values, strict=True)}
    mine, other = (evaluate(f, named, dtype=np.float64) for f in (function, apart))
    for name, value in mine.items():
        np.testing.assert_allclose(value, other[name], rtol=1e-12)
    plain, _ = function_of(LAYERS, "tp=2")
    assert split_projections(plain) is plain


def test_points_of_a_physics_program() -> None:
    found = planned(PINN, "dp=8")
    assert counts(found, "dp") == {"AR gradient": 1}
    assert compare(found, "dp").same
    (bucket,) = (c for c in found.collectives if c.phase == "gradient")
    assert bucket.bytes == (3 * 256 + 256 + 256 * 256 + 256 + 256 + 1) * 4


def test_a_batch_of_transforms_gathers_nothing() -> None:
    found = planned(SPECTRAL, "dp=4", dims=(("B", 8),))
    assert counts(found, "dp") == {"AR gradient": 1}
    assert compare(found, "dp").same


def test_experts_have_rows_sent_to_them_and_back() -> None:
    """Per mixture two exchanges forward and two backward on ep; none on dp, where every rank has all experts."""
    source = (EXAMPLES / "moe_lm.py").read_text()
    found = planned(source, "ep=4", sets=(("L", "1"),))
    counted = counts(found, "ep")
    assert (counted["A2A forward"], counted["A2A backward"], counted["AR gradient"]) == (2, 2, 1)
    assert {"experts"} == {c.name for node, c in zip(found.found.nodes, found.found.plan["ep"], strict=True)
                           if node.equation is not None and node.equation.op in ("route", "dispatch", "combine")}
    data = planned(source, "dp=4", sets=(("L", "1"),))
    assert counts(data, "dp") == {"AR gradient": 1}
    experts = sum(i.var.type.bytes for i in found.function.parameters if ".experts." in i.path)
    assert data.memory.parameters - found.memory.parameters == experts * 3 // 4
    assert found.memory.moments == 2 * found.memory.parameters
    lies = {i.path: str(found.sharded.inputs[i.path][0]) for i in found.function.parameters if i.path.endswith(".w1")}
    assert list(lies.values()) == [f"O({e // 2})" for e in range(8)]


# ------------------------------------------------------------------------------------------------ templates, settings


@pytest.mark.parametrize("mesh", ["tp=2", "dp=2,tp=4", "dp=8"])
def test_a_plan_costs_no_more_than_its_templates(mesh: str) -> None:
    found = planned(LAYERS, mesh)
    assert found.templates
    for scored in found.templates:
        if scored.template.reachable or scored.template.name == "fsdp":
            assert found.found.cost.key <= scored.found.cost.key


def test_the_report_is_data() -> None:
    found = planned(HEADS, shapes=SEED)
    data = json.loads(json.dumps(described_plan(found, "TransformerLM", "train")))
    assert sum(item["count"] for item in data["totals"]) == len(data["collectives"]) == len(found.collectives)
    by_line = Counter(item["at"].rsplit(":", 1)[1] for item in data["collectives"])
    assert {row["line"]: sum(c["count"] for c in row["collectives"]) for row in data["lines"]} == {
        int(line): n for line, n in by_line.items()} | {9: by_line["9"], 10: by_line["10"], 16: by_line["16"]}
    weights = {item["name"]: (item["placements"], item["local"]) for item in data["parameters"]}
    assert weights["transformer.Wq"] == ({"tp": "S(1)", "dp": "R"}, [32, 16])
    assert data["memory"]["parameters"] == (3 * 32 * 16 + 16 * 48) * 4


def test_a_lock_file_gives_the_same_plan_back() -> None:
    first = planned(LAYERS, "dp=2,tp=2", sets=(("L", "1"),))
    text = lock_text(first.function, first.mesh, first.hardware, first.found)
    again = planned(LAYERS, "dp=2,tp=2", Settings(lock=("plan.lock.json", text)), sets=(("L", "1"),))
    assert again.sharded.function == first.sharded.function
    assert lock_text(again.function, again.mesh, again.hardware, again.found) == text
    changed = LAYERS.replace("op.gelu", "op.relu")
    with pytest.raises(CompileError, match=r"stale: relu .* was gelu ") as caught:
        planned(changed, "dp=2,tp=2", Settings(lock=("plan.lock.json", text)), sets=(("L", "1"),))
    (error,) = caught.value.diagnostics
    assert error.code == "T0710"
    assert error.span is not None
    assert "op.relu" in changed.splitlines()[error.span.line - 1]
    with pytest.raises(CompileError, match="for the mesh dp=2,tp=2"):
        planned(LAYERS, "dp=2", Settings(lock=("plan.lock.json", text)), sets=(("L", "1"),))
    with pytest.raises(CompileError, match="no lock file"):
        planned(LAYERS, "dp=2", Settings(lock=("plan.lock.json", "{}")), sets=(("L", "1"),))


@pytest.mark.parametrize("mesh", ["ep=2", "ep=2,dp=2"])
def test_a_lock_file_says_whose_experts_are_whose(mesh: str) -> None:
    source = (EXAMPLES / "moe_lm.py").read_text()
    first = planned(source, mesh, sets=(("L", "1"), ("E", "4")))
    text = lock_text(first.function, first.mesh, first.hardware, first.found)
    assert '"ep": "O(1)"' in text
    again = planned(source, mesh, Settings(lock=("plan.lock.json", text)), sets=(("L", "1"), ("E", "4")))
    assert again.sharded.function == first.sharded.function


def pinned(text: str, mesh: str = "tp=2") -> Planned:
    toml = read_settings(text, "plan.toml")
    return planned(HEADS, mesh, Settings(toml.roles, toml.pins, toml.memory, toml.zero), shapes=SEED)


def test_pins_are_kept() -> None:
    free, held = pinned(""), pinned('[pin]\n"transformer.Wq" = ["tp", "-"]\n"attn" = ["-", "-", "-"]\n')
    assert str(free.found.choice("tp", "Wq").results[0]) == "S(1)"
    assert str(held.found.choice("tp", "Wq").results[0]) == "S(0)"
    assert held.found.choice("tp", "out").operands[0].kind in ("R", "R*")
    assert held.found.cost.key >= free.found.cost.key
    assert str(pinned('[pin]\n"transformer.W?" = "tp"\n').found.choice("tp", "Wo").name).startswith("S(")


@pytest.mark.parametrize("spec", ['P(None, None, "tp")', 'dist.ShardSpec(partition=("col",), mesh_axes=("tp",))',
                                  'dist.ShardSpec(partition=(2,), mesh_axes=("tp",))'])
def test_the_source_pins_values(spec: str) -> None:
    """The result of the last product by columns instead of a sum over ranks: attention is gathered for it."""
    source = HEADS.replace("return attn @ Wo", f"return dist.shard(attn @ Wo, {spec})")
    function, grid = function_of(source, "tp=2", shapes=SEED)
    pins = entry_of(source, "tp=2", shapes=SEED).pins
    assert [(p.value, p.dims) for p in pins] == [("out", (("-",), ("-",), ("tp",)))]
    found = plan(function, grid, H100, with_pins(NOTHING, pins, function))
    assert str(found.found.choice("tp", "loss").operands[0]) == "S(2)"
    assert planned(source, "tp=2", shapes=SEED).found.choice("tp", "loss").name == "R"


def test_the_source_keeps_weights_whole() -> None:
    source = HEADS.replace("return attn @ Wo", "return attn @ dist.replicate(Wo)")
    pins = entry_of(source, "tp=2", shapes=SEED).pins
    function, grid = function_of(source, "tp=2", shapes=SEED)
    found = plan(function, grid, H100, with_pins(NOTHING, pins, function))
    assert found.found.choice("tp", "Wo").name == "R"
    assert entry_of(source, "none", shapes=SEED).pins == ()


@pytest.mark.parametrize(("spec", "message"), [
    ('P(None, None, None, "tp")', "this tensor has 3 dimensions, and the layout has 4"),
    ('P("zz")', "there is no mesh axis 'zz'"),
    ('"tp"', "a layout is P(...), a ShardSpec or Replicate(), not the string 'tp'"),
    ('dist.ShardSpec(partition=("diagonal",), mesh_axes=("tp",))', "as many dimensions"),
])
def test_pins_of_the_source_that_make_no_sense(spec: str, message: str) -> None:
    with pytest.raises(CompileError, match=re.escape(message)):
        entry_of(HEADS.replace("return attn @ Wo", f"return dist.shard(attn @ Wo, {spec})"), None, shapes=SEED)


@pytest.mark.parametrize(("text", "code", "message"), [
    ('[pin]\n"nothing" = "tp"\n', "T0706", "matches no parameter"),
    ('[pin]\n"transformer.Wq" = ["tp"]\n', "T0706", "has 1 dimensions"),
    ('[pin]\n"transformer.Wq" = ["zz", "-"]\n', "T0706", "names the axis zz"),
    ('[pin]\n"transformer.Wq" = 3\n', "T0705", "neither an axis"),
    ('[pin]\n"transformer.Wq" = ["tp tp", "-"]\n', "T0706", "names the axis tp twice"),
    ('[pin]\n"transformer.Wq" = ["tp", "-"]\n"*.W?" = ["?", "tp"]\n', "T0706",
     "two pins contradict each other about `Wq` on axis tp"),
    ("[mesh]\naxes = {tp = true}\n", "T0705", "a size above 0"),
    ('[mesh]\naxes = {"t p" = 2}\n', "T0705", "which is a name"),
    ("[roles]\ntp = {optional = 3}\n", "T0705", "optional is true or false"),
    ("[roles]\ntp = {collectives = []}\n", "T0709", "needs a collective that roles forbid"),
    ("[roles]\ntp = \"boss\"\n", "T0705", "no role 'boss'"),
    ("[roles]\ntp = {deny = [\"time\"]}\n", "T0705", "deny lists batch"),
    ("[zero]\nstage = 2\n", "T0705", "is not 0, 1 or 3"),
    ("[memory]\nlimit = \"a lot\"\n", "T0705", "is not a size"),
    ("[colour]\n", "T0705", "no table `colour`"),
    ("[mesh\n", "T0705", "cannot be read"),
])
def test_settings_that_make_no_sense(text: str, code: str, message: str) -> None:
    with pytest.raises(CompileError, match=message) as caught:
        pinned(text)
    assert caught.value.diagnostics[0].code == code


def test_zero_and_memory() -> None:
    plain, first, third = (pinned(f"[zero]\nstage = {stage}\n", "dp=4") for stage in (0, 1, 3))
    assert first.memory.moments * 4 == plain.memory.moments
    assert first.memory.parameters == plain.memory.parameters
    assert third.memory.parameters * 4 == plain.memory.parameters
    assert {c.kind for c in third.collectives if c.bytes > 64} >= {"all_gather", "reduce_scatter"}


def test_sizes() -> None:
    assert parse_bytes("25MB") == 25e6
    assert parse_bytes("1.5 GiB") == 1.5 * 2**30
    assert parse_bytes("4096") == 4096
    assert parse_bytes("many") is None
