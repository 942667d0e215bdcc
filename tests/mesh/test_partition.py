"""What partition makes: shared versions, collectives in number and kind, buckets, errors, and nothing on one rank."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tesserac.diagnostics import CompileError
from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Equation, Function, Initializer, Input, Output, Var
from tesserac.ir.text import print_function
from tesserac.ir.types import DType, TensorType
from tesserac.ir.verify import verify
from tesserac.passes.differentiate import differentiate
from tesserac.passes.mesh.exchanges import Exchange, exchanges
from tesserac.passes.mesh.partition import AxisAssignment
from tesserac.passes.mesh.placements import PARTIAL, REPLICATED, VARYING, Placement, Shard
from tesserac.passes.mesh.program import RankProgram, rank_program
from tesserac.passes.mesh.simulate import simulate
from tesserac.passes.mesh.strategy import Strategy, strategies
from tesserac.passes.planar import planar
from tests.mesh.drawing import difference, mesh_of
from tests.models import Model
from tests.strategies import inputs_for


def attention_block(heads: int = 4) -> Function:
    """Megatron's self-attention: x Wq, x Wk, x Wv, attention, Wo, a residual and a loss."""
    m = Model()
    x = m.op(1, "tanh", m.op(1, "contract", m.data("x", 4, 8, 8), m.weight("W0", 8, 8), spec="abk,kn->abn"), named="h")
    q, k, v = (m.linear(n, x, m.weight(f"W{name}", 8, 8), None, name) for n, name in ((2, "q"), (3, "k"), (4, "v")))
    attrs = {"heads": heads, "kv_heads": heads, "causal": True, "scale": 0.5}
    o, _ = m.b.ops("attention", (q, k, v), attrs, "o")
    return m.train(m.mean_square(6, m.linear(5, o, m.weight("Wo", 8, 8), None, "y")))


def chosen(function: Function, wanted: dict[str, str], size: int) -> tuple[Strategy, ...]:
    """Strategies by the name of an equation's result; R, or as it lies, where none is named."""
    found = []
    for e in function.equations:
        name = wanted.get(e.results[0].name, "") if e.results else ""
        legal = strategies(e, size)
        found.append(next((s for s in legal if s.name == name), legal[0]))
        assert not name or found[-1].name == name, (name, [s.name for s in legal])
    return tuple(found)


MEGATRON = {"q": "n", "k": "n", "v": "n", "o": "h", "y": "k"}
COLUMNS = {"net.Wq": Shard(1), "net.Wk": Shard(1), "net.Wv": Shard(1), "net.Wo": Shard(0)}


def sent_by(program: RankProgram) -> tuple[Exchange, ...]:
    return exchanges(program.sharded.function, program.function)


def check(function: Function, program: RankProgram) -> None:
    inputs = inputs_for(function, 1)
    expected = evaluate(differentiate(function), inputs, dtype=np.float64)
    found = simulate(program.sharded, inputs, function=program.function)
    assert max(difference(found[name], value) for name, value in expected.items()) < 1e-10


@pytest.mark.parametrize("size", [2, 4])
def test_megatron_attention_sends_two_all_reduces(size: int):
    """One forward (P -> R of the output), one backward: q, k and v share the cotangent of their input."""
    function = attention_block()
    program = rank_program(function, mesh_of(f"tp={size}"),
                           {"tp": AxisAssignment(chosen(function, MEGATRON, size), COLUMNS)})
    check(function, program)
    sent = [(c.kind, c.phase, c.bytes) for c in sent_by(program)]
    assert sent == [("all_reduce", "forward", 4 * 8 * 8 * 4), ("all_reduce", "backward", 4 * 8 * 8 * 4)]
    assert program.sharded.outputs["grad:net.Wq"] == (Shard(1),)
    assert program.sharded.outputs["grad:net.Wo"] == (Shard(0),)


def test_data_parallel_sends_the_loss_and_one_bucket():
    function = attention_block()
    batch = {e.results[0].name: "a" for e in function.equations if e.op in ("contract", "tanh", "square", "reduce_sum")}
    batch |= {"o": "b", "loss": "lin0"}
    program = rank_program(function, mesh_of("dp=4"),
                           {"dp": AxisAssignment(chosen(function, batch, 4), {"x": Shard(0)})})
    check(function, program)
    assert [(c.kind, c.phase, c.bytes) for c in sent_by(program)] == [
        ("all_reduce", "forward", 4), ("all_reduce", "gradient", 5 * 8 * 8 * 4)]
    assignment = {"dp": AxisAssignment(chosen(function, batch, 4), {"x": Shard(0)})}
    small = rank_program(function, mesh_of("dp=4"), assignment, bucket_bytes=2 * 8 * 8 * 4)
    check(function, small)
    assert [c.bytes for c in sent_by(small) if c.phase == "gradient"] == [512, 512, 256]


def test_two_axes_reduce_gradients_over_both():
    """Data parallel, and one weight repeated on every rank of the other axis with partial cotangents."""
    function = attention_block()
    batch = {e.results[0].name: "a" for e in function.equations if e.op in ("contract", "tanh", "square", "reduce_sum")}
    batch |= {"o": "b", "loss": "lin0"}
    rows = {"h": "b", "contract": "b", "q": "b", "o": "s", "k": "R*", "v": "R*", "y": "b"}
    first = chosen(function, batch, 2)
    program = rank_program(function, mesh_of("dp=2,sp=2"), {
        "dp": AxisAssignment(first, {"x": Shard(0)}), "sp": AxisAssignment(chosen(function, rows, 2), {"x": Shard(1)})})
    check(function, program)
    phases = {(c.axis, c.phase) for c in sent_by(program) if c.kind == "all_reduce"}
    assert {("dp", "gradient"), ("sp", "gradient")} <= phases


def test_slabs_of_a_transform_in_two_dimensions_are_turned_twice():
    """A transform needs its axis whole: the slab is cut along the other one for it, then back; forward and backward."""
    b = Builder()
    kind = TensorType(DType.F64, (4, 8))
    w = b.add_input(Input(Var("w", kind), "w", Initializer("zeros")))
    z = b.op("fft", b.op("complex", w, b.constant(0.0, kind)), axis=1, norm="ortho", named="rows")
    z = b.op("fft", z, axis=0, norm="ortho", named="columns")
    z = b.op("ifft", b.op("mul", z, z, named="square"), axis=0, norm="ortho", named="back")
    y = b.op("real", b.op("ifft", z, axis=1, norm="ortho", named="all"))
    loss = b.op("reduce_sum", b.op("square", y, named="power"), axes=(0, 1), named="loss")
    (grad,) = b.ops("backward", (loss, w))
    function = b.finish("slabs", [Output("loss", loss), Output("grad:w", grad)])
    names = {e.results[0].name: "a" for e in function.equations if e.op not in ("backward", "full")}
    names |= {"columns": "b", "square": "b", "back": "b"}
    program = rank_program(function, mesh_of("tp=2"),
                           {"tp": AxisAssignment(chosen(function, names, 2), {"w": Shard(0)})})
    check(function, program)
    turned = [(c.phase, c.bytes) for c in sent_by(program) if c.kind == "all_to_all"]
    assert turned == [("forward", 4 * 8 * 16)] * 2 + [("backward", 4 * 8 * 16)] * 2
    emitted = planar(program.function)  # both planes go in one exchange
    verify(emitted)
    check(function, replace(program, function=emitted))
    sent = [e.operands[0].type for e in emitted.equations if e.op == "all_to_all"]
    assert sorted(t.bytes for t in sent) == sorted(size // 2 for _, size in turned)
    assert not any(t.dtype.is_complex for t in sent)


def test_an_axis_of_one_rank_changes_nothing():
    function = attention_block()
    program = rank_program(function, mesh_of("tp=1,dp=1"), {})
    assert program.function is function
    assert sent_by(program) == ()
    one = chosen(function, MEGATRON, 2)
    with_one = rank_program(function, mesh_of("one=1,tp=2"), {"tp": AxisAssignment(one, COLUMNS)})
    without = rank_program(function, mesh_of("tp=2"), {"tp": AxisAssignment(one, COLUMNS)})
    assert print_function(with_one.function) == print_function(without.function)


def refused(strategy: Strategy, op: str, lies: dict[str, Placement] | None = None) -> str:
    m = Model()
    x, y = m.weight("x", 4, 6), m.weight("y", 4, 6)
    m.op(7, op, *((x, y) if op == "add" else (x,)), named="z")
    function = m.infer(m.b.equations[-1].results[0])
    assert isinstance(function.equations[0], Equation)
    with pytest.raises(CompileError) as caught:
        rank_program(function, mesh_of("tp=4"), {"tp": AxisAssignment((strategy,), lies or {})})
    (item,) = caught.value.diagnostics
    assert item.span is not None
    if item.code != "T0704":
        assert item.span.line == 7
    return f"{item.code}: {item.message}"


def test_terms_of_sums_are_no_values():
    """P into a function that is not linear, P + R, a strategy that is not there, and an input that is not even."""
    assert refused(Strategy("mine", (PARTIAL,), (PARTIAL,)), "tanh") == (
        "T0717: %x is a term of a sum on axis tp, and `tanh` is not linear in it")
    assert refused(Strategy("mine", (PARTIAL, REPLICATED), (PARTIAL,)), "add") == (
        "T0718: `add` joins %x, a term of a sum on axis tp, and %y, which is R")
    assert refused(Strategy("b", (Shard(1),), (Shard(1),)), "tanh") == (
        "T0703: `tanh` cannot run as b on the 4 ranks of axis tp")
    whole = Strategy("R*", (VARYING,), (VARYING,))
    assert refused(whole, "tanh", {"net.x": Shard(1)}).startswith("T0704: `net.x` does not come apart evenly")
