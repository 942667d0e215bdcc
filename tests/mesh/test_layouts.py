"""Every way in which the source says where tensors lie, and what plans make of it."""

from __future__ import annotations

import re

import pytest

from tesserac.diagnostics import CompileError
from tesserac.driver import CompileOptions, front_end
from tesserac.elaborate import Options
from tesserac.ir.mesh import Pinned
from tesserac.passes.mesh.entry import on_mesh
from tesserac.passes.mesh.planning import NOTHING, Planned, plan, with_pins
from tests.mesh.programs import H100, entry_of

MESH = 'mesh = dist.Mesh(axes=["dp", "tp"], devices=[[0, 1], [2, 3]])'
SOURCE = """
from tessera import op, graph, dist
import tessera as ts
{mesh}
B, D = 8, 4
@graph.module
def net(x: Tensor["N", D, float32]{x}, W: Tensor[4, 6]{w}):
    {body}
    return y
@graph.training_step(module="net")
def step(batch):
    return graph.backward(op.mse(net(batch["x"]), batch["y"]))
"""


def source(body: str = "y = x @ W", mesh: str = MESH, x: str = "", w: str = "") -> str:
    return SOURCE.format(body=body, mesh=mesh, x=x, w=w)


def pins_of(text: str) -> tuple[Pinned, ...]:
    return entry_of(text, dims=(("N", 8),)).pins


@pytest.mark.parametrize(("mesh", "wanted"), [
    ('dist.Mesh(axes=["dp", "tp"], devices=range(4), shape=(2, 2))', "dp=2,tp=2"),
    ('dist.Mesh(["dp"], [0, 1])', "dp=2"),
    ('dist.Mesh(axes=["dp", "tp"], shape={"dp": 2, "tp": 2}, devices=["GPU0", "GPU1", "GPU2", "GPU3"])', "dp=2,tp=2"),
    ("ts.mesh(devices=range(8), axes=dict(tp=2, dp=4))", "tp=2,dp=4"),
    ('dist.MeshSpec({"dp": 2, "tp": 2})', "dp=2,tp=2"),
])
def test_meshes(mesh: str, wanted: str) -> None:
    assert str(entry_of(source(mesh=f"m = {mesh}"), dims=(("N", 8),)).mesh) == wanted


@pytest.mark.parametrize(("mesh", "code", "message"), [
    ('dist.Mesh(axes=["dp"], devices=[])', "T0702", "a mesh has at least one device"),
    ('dist.Mesh(axes=["dp"], shape=(0,))', "T0702", "one size above 0 per axis"),
    ('dist.Mesh(axes=["dp"], devices=[0, 0])', "T0702", "2 places for 1 different devices"),
    ('dist.Mesh(axes=["dp", "tp"], devices=range(4))', "T0702", "or give shape=(...)"),
    ('dist.Mush(axes=["dp"], devices=[0, 1])', "T0202", "`dist` has no member `Mush`"),
])
def test_meshes_that_make_no_sense(mesh: str, code: str, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        entry_of(source(mesh=f"m = {mesh}"), dims=(("N", 8),))
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert message in f"{found.message} {found.help}"


CUT = (("dp",), ("tp",))
LAYOUTS = {
    'P("dp", "tp")': CUT,
    'dist.P("dp", "tp")': CUT,
    'ts.P("dp", "tp")': CUT,
    '["dp", "tp"]': CUT,
    'mesh_axes=("dp", "tp")': CUT,
    'P(dist.Block("dp"), "tp")': CUT,
    'layout=dist.ShardSpec(partition=(0, 1), mesh_axes=("dp", "tp"))': CUT,
    'dist.ShardSpec(("row", "col"), ("dp", "tp"))': CUT,
    'dist.ShardSpec(("batch", "channel"), ("dp", "tp"), reduce="sum")': CUT,
    'ts.ShardSpec(partition=(-1,), mesh_axes=("tp",))': (("-",), ("tp",)),
    'P("dp", ...)': (("dp",), ("?",)),
    'P(("dp", "tp"), None)': (("dp", "tp"), ("-",)),
    "dist.ShardSpec(partition=None, replicate=True)": (("-",), ("-",)),
    "dist.ShardSpec.replicate()": (("-",), ("-",)),
    "dist.Replicate()": (("-",), ("-",)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    (pin,) = pins_of(source(f"y = dist.shard(x @ W, {layout})"))
    assert pin.dims == LAYOUTS[layout]


def test_layouts_of_inputs_and_parameters() -> None:
    """Behind a type, where names of dimensions may stand for their numbers, and where a parameter is made."""
    found = pins_of(source(x=' @ shard({"N": dp, D: None})', w=' @ dist.shard(None, "tp")'))
    assert {p.value: p.dims for p in found} == {"x": (("dp",), ("-",)), "W": (("-",), ("tp",))}
    made = 'W2 = dist.tensor((4, 6), layout=dist.ShardSpec(("col",), ("tp",)), mesh=mesh, dtype="fp32")'
    inside = 'b = op.param((6,), shard=P("tp"))\n    y = x @ W2 + b'
    entry = entry_of(source(inside, f"{MESH}\n{made}"), dims=(("N", 8),))
    assert {p.value: p.dims for p in entry.pins} == {"W2": (("-",), ("tp",)), "b": (("tp",),)}
    assert entry.train is not None
    assert [(i.path, str(i.var.type)) for i in entry.train.parameters] == [("net.W2", "f32[4,6]"), ("net.b", "f32[6]")]


@pytest.mark.parametrize(("body", "code", "message"), [
    ('y = dist.shard(x @ W, P("dp", "dp"))', "T0706", "the axis 'dp' cuts two dimensions"),
    ('y = dist.shard(x @ W, P("dp", None, None))', "T0706", "has 2 dimensions, and the layout has 3"),
    ('y = dist.partial(x @ W, "pp")', "T0706", "there is no mesh axis 'pp'"),
    ('y = dist.shard(x @ W, dist.ShardSpec(("row",), ("dp",), block=(4,)))', "T0501", "cyclic layouts"),
    ('y = dist.shard(x @ W, dist.ShardSpec(partition=("row",), reduce="sum"))', "T0504", "needs mesh_axes"),
    ('y = dist.all_reduce(x @ W, "dp", mesh="dp")', "T0504", "mesh must be a dist.Mesh"),
    ('y = x @ dist.tensor_like("W")', "T0503", "the operand of dist.tensor_like must be a tensor"),
    ("y = x @ dist.tensor([1.5], mesh=mesh)", "T0504", "the shape of a parameter"),
    ('y = x @ dist.tensor((4, 6), dtype="int32")', "T0504", "trained in fp32, fp64 or a complex type"),
    ('y = dist.all_to_all(x @ W, "dp", split=5)', "T0504", "there is no dimension 5"),
])
def test_layouts_that_make_no_sense(body: str, code: str, message: str) -> None:
    with pytest.raises(CompileError, match=re.escape(message)) as caught:
        pins_of(source(body))
    assert caught.value.diagnostics[0].code == code


def test_a_parameter_like_another() -> None:
    """Sizes, element type and pins are taken over; a layout of its own, terms of a sum and later pins are not."""
    body = ('A = dist.tensor_like(W)\n    B2 = dist.tensor_like(dist.partial(x @ A, "tp"), init="zeros")\n    '
            'C = dist.tensor_like(W, layout=dist.Replicate("dp"))\n    y = x @ dist.shard(A + C, P("dp", None)) + B2')
    entry = entry_of(source(body, w=' @ shard(None, "tp")'), dims=(("N", 8),))
    assert entry.train is not None
    assert [(i.path, str(i.var.type)) for i in entry.train.parameters] == [
        ("net.A", "f32[4,6]"), ("net.B2", "f32[8,6]"), ("net.C", "f32[4,6]")]
    pins = {p.value: p.dims for p in entry.pins}
    assert (pins["A"], pins["C"], "B2" in pins) == ((("-",), ("tp",)), (("?",), ("?",)), False)


def planned(body: str, **parts: str) -> Planned:
    entry = entry_of(source(body, **parts), dims=(("N", 8),))
    assert entry.train is not None
    assert entry.mesh is not None
    return plan(entry.train, entry.mesh, H100, with_pins(NOTHING, entry.pins, entry.train))


def test_terms_of_a_sum_are_left_where_the_source_says() -> None:
    found = planned('z = dist.partial(x @ W, "tp")\n    y = z * 2')
    assert str(found.found.choice("tp", "z").results[0]) == "P"
    assert str(found.found.choice("tp", "W").results[0]) == "S(0)"
    with pytest.raises(CompileError, match="no way to run `gelu`") as caught:
        planned('y = dist.partial(op.gelu(x @ W), "tp")')
    assert caught.value.diagnostics[0].code == "T0706"
    assert "terms of a sum on tp" in caught.value.diagnostics[0].message


@pytest.mark.parametrize("spelling", [
    'dist.all_gather(z, axis="tp")', 'op.all_reduce(z, "tp", "sum", deterministic=True, algo="ring", mesh=mesh)',
    'dist.collective.broadcast(z, root=0, axis="tp")', 'dist.hierarchical_all_reduce(z, axis="tp")'])
def test_a_collective_is_a_pin_with_a_remark(spelling: str) -> None:
    text = source(f"z = op.gelu(x @ W)\n    dist.barrier()\n    z = {spelling}\n    y = z * 2")
    _, program, remarks = front_end(text, "m.py", CompileOptions(Options(dims=(("N", 8),))))
    assert [d.code for d in remarks] == ["T0719", "T0719"]
    (pin,) = program.entries[0].pins
    assert (pin.dims, pin.whole) == ((("?",), ("?",)), ("tp",))
    found = planned('z = dist.reduce_scatter(x @ W, "tp", dim=1)\n    w = z * 2\n    y = w')
    assert str(found.found.choice("tp", "w").operands[0]) == "S(1)"


ALONE = """
mesh = dist.Mesh(axes=["tp"], devices=[0, 1])
@graph.module
def net(x: Tensor[8, 4]):
    {body}
"""
UNKEPT = {
    'y = dist.shard(x * 2, P("tp", None))\n    return x * 3': "nothing that net computes needs the value",
    'return dist.shard(x * 3, P(None, "tp"))': "nothing but an output reads `mul`",
    'z = dist.shard(x * x, P(None, "tp"))\n    return op.grad(z, x)': "with derivatives written out",
}


@pytest.mark.parametrize("body", UNKEPT)
def test_a_pin_that_nothing_can_keep_is_a_warning(body: str) -> None:
    (warning,) = on_mesh(entry_of(ALONE.format(body=body)), H100).warnings
    assert warning.code == "T0721"
    assert UNKEPT[body] in warning.message
    assert warning.span is not None
    assert warning.span.line == 5


def test_pins_are_kept_where_nothing_is_trained() -> None:
    """Without a training step the forward function is planned as such, with the pins and the roles of axes."""
    text = ALONE.format(body='return op.sum(dist.shard(op.exp(x), P(None, "tp")), axis=1)')
    meshed = on_mesh(entry_of(text), H100)
    assert meshed.warnings == ()
    program = meshed.roles["infer"]
    (added,) = (e for e in program.function.equations if e.op == "reduce_sum")
    assert added.operands[0].type.sizes == (8, 2)


def test_a_product_with_a_pin_is_not_taken_apart() -> None:
    """Plans of q, k and v as three products have no value that the pin is about, so they are none."""
    text = ALONE.format(body='q, k, v = op.split(dist.replicate(op.linear(x, 12)), 3, axis=-1)\n    return q * k + v')
    equations = on_mesh(entry_of(text), H100).roles["infer"].function.equations
    assert len([e for e in equations if e.op == "contract"]) == 1


def test_on_one_device_layouts_mean_nothing() -> None:
    entry = entry_of(source('y = dist.partial(x @ W, "tp")', w=' @ shard(None, "tp")'), "none", dims=(("N", 8),))
    assert entry.pins == ()
