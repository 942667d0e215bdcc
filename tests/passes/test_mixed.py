"""Mixed precision: which contractions it touches, where it rounds, and that it changes nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from tesserac.diagnostics import CompileError
from tesserac.driver import CompileOptions, check_source, compile_source, front_end
from tesserac.elaborate import Options
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function, Program
from tesserac.ir.text import parse_program, print_program
from tesserac.ir.types import DType
from tesserac.ops.numerics import to_bfloat16
from tesserac.passes.mixed import mix, mix_for_device
from tesserac.passes.pipeline import optimize
from tesserac.passes.simplify import simplify
from tests.codegen.cuda_cases import late_queries
from tests.passes.cases import equations_of, function_of
from tests.strategies import inputs_for

MODEL = """
from tessera import graph, op

norm, mlp = op.layernorm(16), op.mlp(16, [32], 16)

@graph.module
def net(x: Tensor[4, 8, 16], Wq: Tensor[16, 16], Wo: Tensor[16, 12]):
    h = norm(x)
    h = x + op.flash_attention(h @ Wq, h, h, heads=2, causal=True)
    return (h + mlp(h)) @ Wo

@graph.training_step(module="net")
def step(batch):
    loss = op.cross_entropy(net(batch["input"]), batch["labels"])
    return graph.backward(loss), {"loss": loss}
"""


def elaborated(source: str, precision: str = "fp32") -> Program:
    return front_end(source, "net.py", CompileOptions(Options(mesh="none", precision=precision)))[1]


def train_function(precision: str = "fp32") -> Function:
    function = elaborated(MODEL, precision).entries[0].train
    assert function is not None
    return function


def test_operands_are_rounded_once_and_sums_come_out_in_float32() -> None:
    function = function_of(
        "%x: f32[4,8] %w: f32[8,6]",
        [
            '%y: f32[4,6] = contract %x, %w {spec="ab,bc->ac"}',
            "%h: f32[4,6] = tanh %y",
            '%g: f32[8,6] = contract %x, %h {spec="ab,ac->bc"}',
        ],
    )
    assert equations_of(mix(function)) == [
        "%x_bf16: bf16[4,8] = cast %x {dtype=bf16}",
        "%w_bf16: bf16[8,6] = cast %w {dtype=bf16}",
        '%y: f32[4,6] = contract_wide %x_bf16, %w_bf16 {spec="ab,bc->ac"}',
        "%h: f32[4,6] = tanh %y",
        "%h_bf16: bf16[4,6] = cast %h {dtype=bf16}",
        '%g: f32[8,6] = contract_wide %x_bf16, %h_bf16 {spec="ab,ac->bc"}',
    ]


def attention_of(width: int, scale: float) -> Function:
    """Attention of two heads and its gradient."""
    attrs = f"{{causal=true, heads=2, kv_heads=2, scale={scale}}}"
    shape = f"f32[1,4,{2 * width}]"
    return function_of(
        f"%q: {shape} %k: {shape} %d: {shape}",
        [
            f"%o: {shape}, %lse: f32[1,2,4] = attention %q, %k, %k {attrs}",
            f"%dq: {shape}, %dk: {shape}, %dv: {shape} = attention_grad %q, %k, %k, %o, %lse, %d {attrs}",
        ],
    )


def test_attention_is_rounded_where_the_target_asks_for_it() -> None:
    """Its operands and the cotangent, each once; results and the log-sum-exp stay float32."""
    function = attention_of(8, 0.5)
    assert mix(function) == function
    attrs = "{causal=true, heads=2, kv_heads=2, scale=0.5}"
    shape = "f32[1,4,16]"
    assert equations_of(mix_for_device(function)) == [
        "%q_bf16: bf16[1,4,16] = cast %q {dtype=bf16}",
        "%k_bf16: bf16[1,4,16] = cast %k {dtype=bf16}",
        f"%o: {shape}, %lse: f32[1,2,4] = attention %q_bf16, %k_bf16, %k_bf16 {attrs}",
        "%d_bf16: bf16[1,4,16] = cast %d {dtype=bf16}",
        f"%dq: {shape}, %dk: {shape}, %dv: {shape} = "
        f"attention_grad %q_bf16, %k_bf16, %k_bf16, %o, %lse, %d_bf16 {attrs}",
    ]


def test_attention_of_queries_that_begin_somewhere_is_rounded_too() -> None:
    function = optimize(late_queries(8)[0], mixed=True, whole=True)
    found = [[v.type.dtype.value for v in e.operands] for e in function.equations if e.op.startswith("attention")]
    assert found == [["bf16"] * 3 + ["i32"], ["bf16"] * 3 + ["f32"] * 2 + ["bf16", "i32"]]


@pytest.mark.parametrize(("width", "scale"), [(12, 0.5), (264, 0.5), (8, -0.5)])
def test_attention_that_tensor_cores_do_not_take_stays(width: int, scale: float) -> None:
    function = attention_of(width, scale)
    assert mix_for_device(function) == function


def test_scores_lie_in_memory_rounded_on_a_device() -> None:
    body = [
        '%s: f32[4,6] = contract %x, %w {spec="ab,bc->ac"}',
        "%top: f32[4] = reduce_max %s {axes=[1]}",
        "%tops: f32[4,6] = broadcast %top {axes=[0], shape=[4, 6]}",
        "%y: f32[4,6] = sub %s, %tops",
    ]
    function = function_of("%x: f32[4,8] %w: f32[8,6]", body)
    assert equations_of(mix_for_device(function)) == [
        "%x_bf16: bf16[4,8] = cast %x {dtype=bf16}",
        "%w_bf16: bf16[8,6] = cast %w {dtype=bf16}",
        '%s_sums: f32[4,6] = contract_wide %x_bf16, %w_bf16 {spec="ab,bc->ac"}',
        "%s_bf16: bf16[4,6] = cast %s_sums {dtype=bf16}",
        "%s: f32[4,6] = cast %s_bf16 {dtype=f32}",
        *body[1:],
    ]
    assert not any("s_bf16" in text for text in equations_of(mix(function)))


def test_rounding_comes_before_views() -> None:
    function = function_of(
        "%x: f32[4,8] %w: f32[6,8]",
        [
            "%t: f32[8,6] = transpose %w {perm=[1, 0]}",
            "%r: f32[2,2,8] = reshape %x {shape=[2, 2, 8]}",
            '%y: f32[2,2,6] = contract %r, %t {spec="abk,kc->abc"}',
        ],
    )
    assert equations_of(mix(function)) == [
        "%t: f32[8,6] = transpose %w {perm=[1, 0]}",
        "%r: f32[2,2,8] = reshape %x {shape=[2, 2, 8]}",
        "%x_bf16: bf16[4,8] = cast %x {dtype=bf16}",
        "%r_bf16: bf16[2,2,8] = reshape %x_bf16 {shape=[2, 2, 8]}",
        "%w_bf16: bf16[6,8] = cast %w {dtype=bf16}",
        "%t_bf16: bf16[8,6] = transpose %w_bf16 {perm=[1, 0]}",
        '%y: f32[2,2,6] = contract_wide %r_bf16, %t_bf16 {spec="abk,kc->abc"}',
    ]


@pytest.mark.parametrize(
    ("inputs", "equation"),
    [
        ("%x: f32[4,8] %y: f32[4,8]", '%z: f32[8] = contract %x, %y {spec="ab,ab->b"}'),  # a sum of products
        ("%x: f32[4,8] %y: f32[8]", '%z: f32[4] = contract %x, %y {spec="ab,b->a"}'),  # with a vector
        ("%x: f32[4,8] %y: f32[8,1]", '%z: f32[4,1] = contract %x, %y {spec="ab,bc->ac"}'),  # one column
        ("%x: f32[4] %y: f32[5]", '%z: f32[4,5] = contract %x, %y {spec="a,b->ab"}'),  # nothing is summed
        ("%x: f64[4,8] %y: f64[8,3]", '%z: f64[4,3] = contract %x, %y {spec="ab,bc->ac"}'),
    ],
)
def test_all_other_contractions_stay(inputs: str, equation: str) -> None:
    function = function_of(inputs, [equation])
    assert mix(function) == function


def test_a_whole_model() -> None:
    function = train_function()
    plain, mixed = optimize(function, stop_after="simplify2"), optimize(function, stop_after="mixed", mixed=True)
    casts = [e for e in mixed.equations if e.op == "cast" and e.result.type.dtype is DType.BF16]
    assert len({e.operands[0] for e in casts}) == len(casts) > 8
    assert [e.op for e in casts if e.operands[0].name == "Wq"] == ["cast"]  # forward and backward share it
    # Only casts, views and products deal in bf16, and nothing but products reads it.
    for equation in mixed.equations:
        if any(v.type.dtype is DType.BF16 for v in equation.operands):
            assert equation.op in ("contract_wide", "reshape", "transpose", "broadcast"), equation
    assert all(o.var.type.dtype is DType.F32 for o in mixed.outputs)
    products = [e for e in plain.equations if e.op == "contract"]
    assert sum(e.op == "contract_wide" for e in mixed.equations) == len(products) > 10
    assert [e.op for e in mixed.equations if e.op.startswith("attention")] == ["attention", "attention_grad"]
    # In double precision nothing is rounded, and so nothing changes.
    values = inputs_for(function)
    wanted, found = (evaluate(f, values, dtype=np.float64) for f in (plain, mixed))
    for name, want in wanted.items():
        np.testing.assert_array_equal(found[name], want, err_msg=name)


def test_the_evaluator_rounds_to_nearest_even() -> None:
    function = function_of("%x: f32[4]", ["%y: bf16[4] = cast %x {dtype=bf16}", "%z: f32[4] = cast %y {dtype=f32}"])
    x = np.array([1.00390625, 1.01171875, -3.1415927, 3.4e38], np.float32)
    found = evaluate(function, {"x": x})["y"]
    np.testing.assert_array_equal(found, np.array([1.0, 1.015625, -3.140625, np.inf], np.float32))
    np.testing.assert_array_equal(found, to_bfloat16(x))


def test_a_cast_that_rounds_is_not_removed() -> None:
    rounding = function_of("%x: f32[4]", ["%y: bf16[4] = cast %x {dtype=bf16}", "%z: f32[4] = cast %y {dtype=f32}"])
    assert simplify(rounding) == rounding
    there = function_of("%x: bf16[4]", ["%y: f32[4] = cast %x {dtype=f32}", "%z: bf16[4] = cast %y {dtype=bf16}"])
    assert simplify(there).equations == ()
    assert simplify(there).outputs[0].var.name == "x"


def test_precision_and_policy_turn_it_on_and_text_keeps_it() -> None:
    for program in (elaborated(MODEL, "bf16"), elaborated('numerics.policy("mixed")\n' + MODEL)):
        (entry,) = program.entries
        assert entry.mixed
        assert parse_program(print_program(program)) == program
        assert all(v.type.dtype is not DType.BF16 for f in program.functions() for v in f.variables())
    assert not elaborated(MODEL).entries[0].mixed


def test_what_is_refused() -> None:
    half = CompileOptions(Options(mesh="none", precision="fp16"))
    with pytest.raises(CompileError) as caught:
        check_source(MODEL, "net.py", half)
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == ("T0501", "--precision fp16 is not supported yet")
    assert "gradients scaled" in found.notes[0]
    source = "@graph.module\ndef net(x: Tensor[4, 8, bf16], w: Tensor[8, 4, bf16]):\n    return x @ w\n"
    with pytest.raises(CompileError) as caught:
        compile_source(source, "net.py")
    assert [d.message.partition(":")[0] for d in caught.value.diagnostics] == ["`net.w` is bf16", "`x` is bf16"]


def test_the_gate_of_a_mixture_stays_in_float32() -> None:
    function = function_of(
        "%x: f32[4,8] %gate: f32[8,6] %w: f32[8,6]",
        [
            '%logits: f32[4,6] = contract %x, %gate {spec="ab,bc->ac"}',
            "%best: f32[4,2], %who: i64[4,2] = topk %logits {k=2}",
            '%y: f32[4,6] = contract %x, %w {spec="ab,bc->ac"}',
        ],
    )
    assert [e.op for e in mix(function).equations] == ["contract", "topk", "cast", "cast", "contract_wide"]
