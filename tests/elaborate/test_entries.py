"""Entries, modules, parameters, gradients, losses, optimizers: what a program consists of."""

from __future__ import annotations

import numpy as np
import pytest

from tesserac.ir.evaluate import evaluate
from tests.elaborate.support import EXAMPLES, LINEAR, LISTING1, SIZES, compile_source, infer_of, paths, train_of


def test_listing_1() -> None:
    result = compile_source(LISTING1, header=False, **SIZES)
    train, infer = train_of(result), infer_of(result)
    assert result.entry.label == "TransformerLM"
    assert paths(train) == paths(infer) == [f"transformer.W{c}" for c in "qkvo"]
    assert [(i.path, str(i.var.type), i.index_bound, i.ignore_index) for i in train.data] == [
        ("input", "f32[4,64,32]", 0, None),
        ("labels", "i32[4,64]", 48, -100),
    ]
    assert [i.path for i in infer.data] == ["input"]
    assert [o.name for o in train.outputs] == ["loss", *(f"grad:{p}" for p in paths(train))]
    assert [(o.name, str(o.var.type)) for o in infer.outputs] == [("out", "f32[4,64,48]")]
    widths = [p.var.type.sizes for p in train.parameters]
    assert widths == [(32, 32), (32, 32), (32, 32), (32, 48)]


def test_listing_1_inside_the_whole_chapter() -> None:
    text = (EXAMPLES / "chapter6.md").read_text()
    result = compile_source(text, header=False, file="chapter6.md", entry="TransformerLM", **SIZES)
    alone = compile_source(LISTING1, header=False, **SIZES)
    assert result.entry == alone.entry
    assert train_of(result).equations[0].span.line == 20


def test_gradients_of_a_linear_fit() -> None:
    train = train_of(compile_source(LINEAR))
    rng = np.random.default_rng(0)
    x, y, w, b = rng.normal(size=(6, 3)), rng.normal(size=(6, 2)), rng.normal(size=(3, 2)), rng.normal(size=2)
    found = evaluate(train, {"x": x, "y": y, "net.W": w, "net.b": b}, dtype=np.float64)
    residual = x @ w + b - y
    assert list(found) == ["loss", "size", "grad:net.W", "grad:net.b"]
    np.testing.assert_allclose(found["loss"], (residual**2).mean())
    np.testing.assert_allclose(found["grad:net.W"], x.T @ residual / 6, rtol=1e-9)
    np.testing.assert_allclose(found["grad:net.b"], residual.sum(0) / 6, rtol=1e-9)


def test_first_values_follow_use() -> None:
    train = train_of(compile_source(LINEAR.replace("x @ W + b", "x @ W * g + b").replace("W, b", "W, g, b")))
    kinds = {p.path: (p.init.kind, p.decay) for p in train.parameters if p.init is not None}
    assert kinds == {"net.W": ("uniform", True), "net.g": ("ones", False), "net.b": ("zeros", False)}
    weight = train.parameters[0].init
    assert weight is not None
    assert weight.b == pytest.approx(3**-0.5)


@pytest.mark.parametrize(
    ("ending", "outputs"),
    [
        ("return graph.backward(loss)", ["loss"]),
        ("return loss", ["loss"]),
        ("grads = graph.backward(loss)\n    return grads, {'n': op.norm(out)}", ["loss", "n"]),
        ("grads = graph.backward(loss)\n    return loss, grads", ["loss"]),
        ("graph.backward(loss)", ["loss"]),
    ],
)
def test_what_a_step_may_return(ending: str, outputs: list[str]) -> None:
    source = LINEAR[: LINEAR.index("    return graph")] + f"    {ending}\n"
    names = [o.name for o in train_of(compile_source(source)).outputs]
    assert names == [*outputs, "grad:net.W", "grad:net.b"]


def test_wrt_restricts_the_gradients() -> None:
    source = """
    first = op.linear(3, 4)
    second = op.linear(4, 1)

    @graph.training_step(module="t")
    def step(batch: {"x": Tensor[6, 3]}):
        loss = op.mean(second(first(batch["x"])))
        return graph.backward(loss, wrt=[second])
    """
    train = train_of(compile_source(source))
    assert paths(train) == ["t.first.weight", "t.first.bias", "t.second.weight", "t.second.bias"]
    assert [o.name for o in train.outputs] == ["loss", "grad:t.second.weight", "grad:t.second.bias"]


def test_module_parameters_are_created_once_and_shared() -> None:
    source = """
    @graph.module
    def layer(x, W):
        return x @ W + op.linear(4, 4)(x)

    @graph.training_step(module="t")
    def step(batch: {"x": Tensor[6, 4]}):
        return op.mean(layer(layer(batch["x"])))
    """
    assert paths(train_of(compile_source(source))) == ["layer.W", "layer.linear.weight", "layer.linear.bias"]


def test_a_bound_parameter_is_an_input_of_the_call() -> None:
    source = """
    @graph.module
    def net(x, W, V):
        return (x @ W) @ V

    @graph.training_step(module="t")
    def step(batch: {"x": Tensor[6, 4], "w": Tensor[4, 5], "y": Tensor[6, 2]}):
        return op.mse(net(batch["x"], W=batch["w"]), batch["y"])
    """
    train = train_of(compile_source(source))
    assert paths(train) == ["net.V"]
    assert [i.path for i in train.data] == ["x", "w", "y"]


@pytest.mark.parametrize(
    ("layers", "use", "expected"),
    [
        ("f = op.linear(4, 4)", "f(x)", ["f.weight", "f.bias"]),
        (
            "fs = [op.linear(4, 4, bias=False) for _ in range(3)]",
            "fs[2](fs[1](fs[0](x)))",
            [f"fs.{i}.weight" for i in range(3)],
        ),
        (
            "fs = {'a': op.linear(4, 4, False), 'b': op.rmsnorm(4)}",
            "fs['b'](fs['a'](x))",
            ["fs.a.weight", "fs.b.weight"],
        ),
        (
            "pair = (op.linear(4, 4, False), op.rmsnorm(4))",
            "use(x, pair)",
            ["pair.project.weight", "pair.scale.weight"],
        ),
        (
            "def make():\n    inner = op.linear(4, 4, False)\n    return lambda x: inner(x)\n"
            "fs = [make() for _ in range(2)]",
            "fs[1](fs[0](x))",
            ["fs.0.inner.weight", "fs.1.inner.weight"],
        ),
        (
            "fs = [(op.linear(4, 4, False), op.rmsnorm(4)) for _ in range(2)]\ngs = [op.rmsnorm(4) for _ in range(2)]\n"
            "def both(x):\n    for layers, g in zip(fs, gs):\n        x = g(use(x, layers))\n    return x",
            "both(x)",
            [*(f"fs.{i}.{n}.weight" for i in range(2) for n in ("project", "scale")), "gs.0.weight", "gs.1.weight"],
        ),
        ("a, b = op.rmsnorm(4), op.rmsnorm(4)", "a(b(x))", ["a.weight", "b.weight"]),
        ("", "op.mlp(op.mlp(x, out_dim=4), [5], 4, bias=False)", ["mlp.0.w1", "mlp.0.b1", "mlp.1.w1", "mlp.1.w2"]),
        ("f = op.linear(4, 4, False, name='proj')", "f(x)", ["proj.weight"]),
        ("h = op.linear(4, 4, False)\ng = h\nh = op.linear(4, 4, False)", "h(g(x))", ["h.0.weight", "h.1.weight"]),
    ],
)
def test_parameter_paths_say_where_the_source_keeps_a_layer(layers: str, use: str, expected: list[str]) -> None:
    source = f"""
{layers}

def use(x, layers):
    project, scale = layers
    return scale(project(x))

@graph.module
def net(x):
    return {use}

@graph.training_step(module="t")
def step(batch):
    return op.mse(net(batch["x"]), batch["y"])
"""
    assert paths(train_of(compile_source(source, shapes=(("x", "6x4"),)))) == [f"net.{p}" for p in expected]


def test_tied_weights() -> None:
    source = """
    emb = op.embedding(11, 4)

    @graph.module
    def net(tokens):
        return emb(tokens) @ emb.weight.T

    @graph.training_step(module="t")
    def step(batch):
        return op.cross_entropy(net(batch["input"]), batch["labels"])
    """
    result = compile_source(source, shapes=(("input", "3x5"),))
    train = train_of(result)
    assert paths(train) == ["net.emb.weight"]
    assert [(str(i.var.type), i.index_bound) for i in train.data] == [("i32[3,5]", 11), ("i32[3,5]", 11)]


def test_a_late_use_as_ids_makes_the_input_integers() -> None:
    source = """
    emb = op.embedding(11, 4)

    @graph.training_step(module="t")
    def step(batch):
        text = batch["text"]
        inputs, targets = text[:, :-1], text[:, 1:]
        return op.cross_entropy(emb(inputs) @ emb.weight.T, targets)
    """
    train = train_of(compile_source(source, shapes=(("text", "3x9"),)))
    (text,) = train.data
    assert (str(text.var.type), text.index_bound, text.ignore_index) == ("i32[3,9]", 11, None)


def test_dropout_is_absent_from_inference() -> None:
    source = """
    @graph.module
    def net(x, W):
        return op.dropout(x @ W, 0.25) @ W

    @graph.training_step(module="t")
    def step(batch: {"x": Tensor[200, 50]}):
        return op.mean(net(batch["x"]))
    """
    result = compile_source(source)
    train, infer = train_of(result), infer_of(result)
    assert [e.op for e in infer.equations] == ["contract", "contract"]
    assert "random_uniform" in [e.op for e in train.equations]
    x, w = np.ones((200, 50)), np.eye(50)
    losses = [float(evaluate(train, {"x": x, "net.W": w}, seed=3, step=i)["loss"]) for i in range(2)]
    assert losses[0] != losses[1]
    assert abs(losses[0] - 1) < 0.03
    validate = result.entry.validate
    assert validate is not None
    assert [o.name for o in validate.outputs] == ["loss"]
    assert float(evaluate(validate, {"x": x, "net.W": w})["loss"]) == 1


def test_a_validation_function_only_where_dropout_reaches_the_loss() -> None:
    assert compile_source(LINEAR).entry.validate is None
    result = compile_source(LINEAR.replace("op.abs(out)", "op.dropout(op.abs(out), 0.5)"))
    validate = result.entry.validate
    assert validate is not None
    assert [o.name for o in validate.outputs] == [o.name for o in train_of(result).outputs][:2] == ["loss", "size"]
    assert all(e.op not in ("random_uniform", "select") for e in validate.equations)


def test_metric_called_loss_that_is_another_tensor_keeps_both() -> None:
    source = LINEAR.replace('{"loss": loss, ', '{"loss": loss * 2, ')
    assert [o.name for o in train_of(compile_source(source)).outputs][:3] == ["loss", "metric.loss", "size"]


def test_checkpoint_says_that_it_does_nothing_as_a_call_and_as_a_decorator() -> None:
    source = """
    @graph.checkpoint
    def block(x):
        return op.tanh(x)

    @graph.module
    def net(x: Tensor[2, 3]):
        return block(x) + graph.checkpoint(block)(x)
    """
    notes = [d for d in compile_source(source).items if d.code == "T0314"]
    assert [str(d.span) for d in notes] == ["model.py:3:2", "model.py:9:23"]


def test_all_tensors_that_a_module_returns_are_outputs_of_a_forward_program() -> None:
    source = """
    @graph.module
    def net(x: Tensor[2, 3], w: Tensor[3, 3]):
        h = x @ w
        return h, [op.tanh(h), {"deep": op.exp(h)}], w, {"load": {"sum": op.sum(h)}}, None
    """
    infer = compile_source(source).entry.infer
    assert infer is not None
    assert [o.name for o in infer.outputs] == ["net.0", "net.1.0", "net.1.1.deep", "net.2", "net.3.load.sum"]
