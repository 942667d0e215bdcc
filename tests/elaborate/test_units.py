"""Which entries a unit has, what attaches to what, and what flags and the sidecar change."""

from __future__ import annotations

from tesserac.ir.program import OptimizerSpec
from tests.elaborate.support import EXAMPLES, LINEAR, LISTING1, compile_source, infer_of, paths, train_of


def test_several_modules_in_one_step_are_all_outputs() -> None:
    source = """
    @graph.module
    def encode(x, W):
        code = x @ W
        return code

    @graph.module
    def decode(code, V):
        return code @ V

    @graph.training_step(module="t")
    def step(batch: {"x": Tensor[6, 4]}):
        back = decode(encode(batch["x"]))
        return op.mse(back, batch["x"])
    """
    result = compile_source(source, shapes=(("encode.W", "_x2"),))
    assert [(o.name, str(o.var.type)) for o in infer_of(result).outputs] == [("code", "f32[6,2]"), ("back", "f32[6,4]")]


def test_a_step_without_modules_predicts_what_its_loss_compares() -> None:
    source = """
    f = op.linear(4, 2)

    @graph.training_step(module="t")
    def step(batch: {"x": Tensor[6, 4], "y": Tensor[6, 2]}):
        guess = f(batch["x"])
        return op.mse(guess, batch["y"])
    """
    infer = infer_of(compile_source(source))
    assert ([o.name for o in infer.outputs], [i.path for i in infer.data]) == (["guess"], ["x"])


def test_forward_module_and_loss_from_the_command_line() -> None:
    source = """
    @graph.module
    def net(x: Tensor[6, 4]):
        y = op.linear(4, 2)(x)
        return y
    """
    plain = compile_source(source)
    assert plain.entry.train is None
    trained = compile_source(source, loss="mse:y,target")
    assert [i.path for i in train_of(trained).data] == ["x", "target"]
    assert str(train_of(trained).data[1].var.type) == "f32[6,2]"
    labelled = compile_source(source, loss="cross_entropy:y,labels")
    assert train_of(labelled).data[1].index_bound == 2


def test_main_collects_the_top_level() -> None:
    source = """
    f = op.linear(4, 2)
    hidden = f(batch["input"])
    Y = op.tanh(hidden)
    """
    result = compile_source(source, shapes=(("main.input", "6x4"),))
    assert result.entry.label == "main"
    assert [o.name for o in infer_of(result).outputs] == ["Y"]
    assert paths(infer_of(result)) == ["main.f.weight", "main.f.bias"]
    trained = compile_source(source, shapes=(("input", "6x4"),), loss="mse:Y,target")
    assert train_of(trained).outputs[0].name == "loss"


def test_a_loss_attaches_to_the_module_that_returns_its_names() -> None:
    source = """
    @graph.module
    def other(x: Tensor[5, 1], W):
        p = x @ W
        q = x * 2
        return p, q

    @graph.module
    def field(x: Tensor[5, 1], t: Tensor[5, 1]):
        both = op.mlp([x, t], hidden=8, out_dim=2)
        u, v = both[:, :1], both[:, 1:]
        return u, v

    @graph.loss
    def energy(u, v):
        return op.mse(u, 0) + op.mean(op.abs(v))
    """
    result = compile_source(source, entry="energy")
    train = train_of(result)
    assert paths(train) == ["field.both.w1", "field.both.b1", "field.both.w2", "field.both.b2"]
    assert [i.path for i in train.data] == ["x", "t"]
    assert [o.name for o in infer_of(result).outputs] == ["u", "v"]
    every = compile_source(source, shapes=(("W", "_x1"),))
    assert every.program is not None, every.text
    assert [e.label for e in every.program.entries] == ["other", "field", "energy"]


def test_optimizer_in_the_source() -> None:
    source = LINEAR.replace(
        "return graph.backward(loss)", "grads = graph.backward(loss)\n    opt.apply(grads)\n    return grads"
    )
    source = "opt = optim.AdamW(lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)\n" + source
    expected = (("lr", 3e-4), ("beta1", 0.9), ("beta2", 0.95), ("weight_decay", 0.1))
    assert compile_source(source).entry.optimizer == OptimizerSpec("adamw", expected)


def test_set_and_set_literal() -> None:
    source = """
    WIDTH, DEPTH = 64, 2
    layers = [op.linear(4096, 4096) for _ in range(DEPTH)]

    @graph.module
    def net(x: Tensor[WIDTH, 4096]):
        for f in layers:
            x = f(x)
        return x
    """
    infer = infer_of(compile_source(source, sets=(("WIDTH", "8"), ("DEPTH", "3")), set_literals=((4096, 16),)))
    assert str(infer.data[0].var.type) == "f32[8,16]"
    assert len(infer.parameters) == 6


def test_sidecar_and_flags() -> None:
    toml = '[shapes]\ninput = "B,S,D"\nWo = ["_", 48]\n[dims]\nB = 2\nS = 8\nD = 16\n'
    train = train_of(compile_source(LISTING1, header=False, mesh="none", model_toml=toml, dims=(("B", 4),)))
    assert [str(i.var.type) for i in train.data] == ["f32[4,8,16]", "i32[4,8]"]


def test_gpt_example() -> None:
    result = compile_source((EXAMPLES / "gpt.py").read_text(), header=False)
    train = train_of(result)
    assert result.codes == []
    assert paths(train)[:4] == [f"gpt.blocks.0.{n}" for n in ("norm1.weight", "norm1.bias", "qkv.weight", "qkv.bias")]
    assert {i.path: (str(i.var.type.dtype), i.index_bound) for i in train.data} == {
        "input": ("i32", 256),
        "labels": ("i32", 256),
    }
    assert len(train.outputs) == 1 + len(train.parameters)
    assert [i.path for i in infer_of(result).data] == ["input"]


def test_precision_fp64() -> None:
    train = train_of(compile_source(LINEAR, precision="fp64"))
    assert {str(v.type.dtype) for v in train.variables()} == {"f64"}


def test_elaboration_does_not_depend_on_the_hash_seed_or_run() -> None:
    first, second = (compile_source((EXAMPLES / "gpt.py").read_text(), header=False).program for _ in range(2))
    assert first == second


def test_dimension_symbols_and_return_annotations() -> None:
    source = """
    import tessera as ts
    B, N = ts.sym("B N")

    @ts.check_shapes
    def double(x: ts.Tensor[B, N]) -> ts.Tensor[B, N]:
        return x * 2

    @graph.module
    def net(x: ts.Tensor[B, N], y: Tensor["B", "2*N"] @ shard({B: dp})) -> ts.Tensor[B, 9]:
        return op.concat([double(x), x], axis=1) + y
    """
    result = compile_source(source, dims=(("B", 3),))
    assert result.codes == ["T0403"]
    good = compile_source(source.replace("B, 9]", "B, 8]"), dims=(("B", 3),))
    assert [str(i.var.type) for i in infer_of(good).data] == ["f32[3,4]", "f32[3,8]"]


def test_a_repeated_attempt_forgets_what_the_first_one_said() -> None:
    source = """
    emb = op.embedding(11, 4)

    @graph.module
    def net(tokens):
        mask = tokens == 3
        shifted = op.where(mask, 0, tokens)
        return emb(shifted)
    """
    result = compile_source(source, shapes=(("tokens", "3x5"),))
    assert [d.severity for d in result.items] == []
    assert str(infer_of(result).data[0].var.type) == "i32[3,5]"
