"""What is refused, where the message points, and what it says."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from tesserac.diagnostics_catalogue import CATALOGUE, Explanation
from tests.elaborate.support import compile_source

CHAPTER = Path(__file__).resolve().parents[2] / "examples" / "chapter6"
OWN = ("T02", "T03", "T04", "T05", "T061", "T07")


def module(body: str, params: str = "x: Tensor[4, 8, fp32]") -> str:
    return f"@graph.module\ndef net({params}):\n" + textwrap.indent(textwrap.dedent(body), "    ")


@pytest.mark.parametrize(
    "explanation",
    [e for c, e in CATALOGUE.items() if c.startswith(OWN) and not e.example.startswith("$")],
    ids=lambda e: e.code,
)
def test_every_explained_example_produces_its_code(explanation: Explanation) -> None:
    result = compile_source(explanation.example, header=False)
    assert explanation.code in [d.code for d in result.items], result.text


def test_a_contradiction_shows_both_places() -> None:
    result = compile_source("""
    @graph.module
    def net(x, W: Tensor["D", 16], V: Tensor["D", 20]):
        h = x @ W
        return h @ V

    @graph.training_step(module="t")
    def step(batch: {"x": Tensor[4, 8]}):
        return op.mean(net(batch["x"]))
    """)
    assert result.text == textwrap.dedent("""\
    error[T0403]: the inner dimensions of `@`: 16 and 8 differ
     --> model.py:6:12
      |
    4 | def net(x, W: Tensor["D", 16], V: Tensor["D", 20]):
      |                                   --------------- `net.V` is f32[8,20]
    5 |     h = x @ W
      |         ----- 8 here: the inner dimensions of `@`; `h` is f32[4,16]
    6 |     return h @ V
      |            ^^^^^
    """)


def test_a_contradiction_with_a_flag_names_the_flag() -> None:
    source = (CHAPTER / "listing1.py").read_text()
    result = compile_source(
        source, header=False, mesh="none", shapes=(("input", "4x64x32"), ("Wo", "31x48"), ("Wv", "_x30"))
    )
    assert result.codes == ["T0403"]
    assert "`transformer.Wo` is f32[31,48], from --shape Wo=31x48" in result.text
    assert "`attn` is f32[4,64,30]" in result.text


def test_an_unresolved_dimension_names_the_flag() -> None:
    source = (CHAPTER / "listing1.py").read_text()
    result = compile_source(source, header=False, mesh="none", shapes=(("input", "4x64x32"),))
    assert result.codes == ["T0402"]
    assert "dimension 1 of parameter `transformer.Wo` is not settled by anything in the program" in result.text
    assert "--shape transformer.Wo=_xSIZE" in result.text
    named = compile_source(
        source, header=False, mesh="none", shapes=(("input", "B,S,32"), ("Wo", "_x48")), dims=(("B", 4),)
    )
    assert "dimension 1 (`S`) of input `input`" in named.text
    assert "--dim S=SIZE" in named.text


def test_a_unit_has_one_mesh() -> None:
    meshes = """a = dist.Mesh(axes=["dp"], devices=[0, 1])\nb = dist.Mesh(axes=["tp"], devices=[0, 1])\n"""
    result = compile_source(meshes + module("return x"))
    assert result.codes == ["T0702"]
    assert "this one (tp=2) is another than the first (dp=2)" in result.text


def test_every_missing_op_is_named_at_once() -> None:
    result = compile_source(module("u, s, v = op.svd(op.conv2d(x, x))\nreturn op.qr(u)"))
    errors = [d for d in result.items if d.severity == "error"]
    assert [d.message for d in errors] == [f"op.{n} is not supported yet" for n in ("svd", "conv2d", "qr")]
    assert all(d.span is not None for d in errors)


def test_unknown_op() -> None:
    result = compile_source(module("return op.sofmax(x)"))
    assert result.text == textwrap.dedent("""\
    error[T0502]: there is no op `op.sofmax`
     --> model.py:4:12
      |
    4 |     return op.sofmax(x)
      |            ^^^^^^^^^
      |
      = note: `tesserac ops` lists every op
      = help: did you mean `softmax`?
    """)


def test_wrong_arity_shows_the_signature() -> None:
    result = compile_source(module("return op.flash_attention(x)"))
    assert result.codes == ["T0504"]
    assert "op.flash_attention: the argument `k` is missing" in result.text
    assert "op.flash_attention(q, k, v, *, causal=False, heads=1, scale=None, kv_heads=None)" in result.text


def test_a_linear_layer_on_ids_suggests_the_cast() -> None:
    result = compile_source(module("return op.linear(8, 2)(x)", "x: Tensor[4, 8, int32]"))
    assert result.codes == ["T0405"]
    assert "op.cast(x, float32)" in result.text


def test_losses_do_not_broadcast() -> None:
    result = compile_source(module("return op.mse(x[:, 0], x[:, :1])"))
    assert result.codes == ["T0403"]
    assert "losses do not broadcast" in result.text


def test_several_errors_in_one_run_and_no_cascades() -> None:
    result = compile_source(
        module("""
    a = x @ missing
    b = op.nothing(a)
    c = op.sofmax(x)
    d = c + b
    e = x[9]
    return d + e
    """)
    )
    assert result.codes == ["T0212", "T0502", "T0502", "T0404"]


CASES: list[tuple[str, str, str]] = [
    ("return x + y", "T0212", "the name `y` is not defined"),
    ("return x.shap", "T0202", "did you mean `shape`?"),
    ("return x @ 3", "T0503", "`@` takes tensors, not the integer 3"),
    ("return x + 'a'", "T0503", "`+` takes tensors and numbers, not the string 'a'"),
    ("return x + None", "T0503", "not None"),
    ("return x if x.shape[0] > 3 and x > 0 else x", "T0205", "tensors combine elementwise"),
    ("while_ = 3\nfor i in x:\n    pass\nreturn x", "T0205", "a loop runs over a list"),
    ("return x[0, 0, 0]", "T0404", "3 indices for a tensor with 2 axes (f32[4,8])"),
    ("return x[4:]", "T0404", "the slice of axis 0 is empty"),
    ("return x[::-1]", "T0404", "a slice step must be positive"),
    ("return x[x]", "T0406", "an index must be integers"),
    ("return x.reshape(5, -1)", "T0403", "not divisible by 5"),
    ("return x.reshape(-1, -1)", "T0404", "only one size may be -1"),
    ("return x.reshape(4, 9)", "T0403", "32 and 36 differ"),
    ("return op.transpose(x, 0, 0)", "T0404", "not a permutation"),
    ("return op.concat([x, x.T], axis=0)", "T0403", "axis 1 of the joined tensors: 8 and 4 differ"),
    ("return op.concat(x)", "T0503", "op.concat takes a list of tensors"),
    ("return op.split(x, 3, axis=1)", "T0404", "does not split into 3 equal parts"),
    ("return op.softmax(x, axis=2)", "T0404", "axis 2 is outside a tensor with 2 axes"),
    ("return op.sum(x, axis=(0, 0))", "T0404", "an axis is named twice"),
    ("return op.cast(x, 'float33')", "T0504", "dtype must be an element type"),
    ("return op.where(x, x, x)", "T0407", "must be bool, not f32"),
    ("return (x > 0) * x", "T0407", "multiplication of bool and f32 needs a cast"),
    ("return (x > 0) + (x > 1)", "T0407", "addition of bool elements"),
    ("return op.iota(4) / 2", "T0407", "division of i32 elements would need floats"),
    ("return op.iota(4) + 0.5", "T0407", "fractional number 0.5"),
    ("return op.exp(op.iota(4))", "T0405", "op.exp needs floating-point elements"),
    ("return op.embedding(x, x)", "T0406", "the ids of op.embedding must be integers"),
    ("return op.cross_entropy(x, x[0])", "T0406", "the labels of op.cross_entropy must be integers"),
    (
        "return op.cross_entropy(x, op.iota((4, 8)))",
        "T0403",
        "have 2 axes (i32[4,8]); class ids for logits f32[4,8] have 1",
    ),
    (
        "return op.cross_entropy(x, op.iota(5))",
        "T0403",
        "axis 0 of the logits and labels of op.cross_entropy: 4 and 5 differ",
    ),
    ("return op.mlp(x, hidden=4)", "T0504", "op.mlp needs out_dim"),
    ("return op.mlp(x, hidden=4, out_dim=2, activation='swish')", "T0504", "'gelu', 'gelu_tanh', 'relu'"),
    ("return op.mlp(8, [0], 2)(x)", "T0504", "an integer of at least 1, not the integer 0"),
    ("return op.mlp(9, [4], 2)(x)", "T0403", "8 and 9 differ"),
    ("return op.linear(8, 4, init='xavier')(x)", "T0504", "init must be one of 'uniform', 'glorot'"),
    ("return op.flash_attention(x, x, x, heads=3)", "T0403", "8 is not divisible by 3"),
    ("return op.flash_attention(x, x, x[0])", "T0404", "q, k and v must all have rank 3"),
    ("return op.rope(x)", "T0404", "op.rope takes [B,S,n] or [B,H,S,Dh], not f32[4,8]"),
    ("return op.dropout(x, 1.5)", "T0504", "p must lie in [0, 1)"),
    ("return op.einsum('ab,bc->ad', x, x.T)", "T0504", "the result has a letter that no operand has"),
    ("return op.einsum('aa,ab->ab', x, x)", "T0504", "a letter occurs twice"),
    ("return op.topk(x, 9)", "T0403", "topk: k=9"),
    ("return dist.shard(x, P(dist.Cyclic(\"dp\")))", "T0501", "cyclic layouts are not supported yet"),
    ("return net(x)", "T0209", "calls nest more than 64 deep at `net`"),
    ("return x(3)", "T0503", "cannot be called"),
    ("x[0] = 1\nreturn x", "T0142", "cannot assign to an element"),
    ("a, b = x\nreturn a", "T0206", "op.split(x, n, axis=-1) cuts a tensor into n"),
    ("return x * sum([x, x])[0]", "T0204", "`+` is not possible on the integer 0 and the input `x`"),
    ("return x * len(x)", "T0204", "the size of an axis is x.shape[axis]"),
    ("return x * 10 ** 10 ** 10", "T0204", "longer than 4096 bits"),
    ("return x * len('a' * 10 ** 9)", "T0204", "the limit is 100000"),
    ("return x * [1, 2][5]", "T0204", "a list of 2 has no element 5"),
    ("return x * {'a': 1}['b']", "T0204", "has no element 'b'; it has 'a'"),
    ("return x * {[1]: 2}[1]", "T0204", "a dict key is a string or a number"),
    ("return x * int('seven')", "T0204", "int of the string 'seven'"),
    ("return print(x)", "T0212", "`print` has no meaning"),
    ("y: Tensor[4, 9] = x\nreturn y", "T0403", "axis 1 of this annotation: 9 and 8 differ"),
    ("y: Tensor[4] = x\nreturn y", "T0403", "`x` has 2 axes and is annotated with 1"),
    ("y: Tensor[4, 8, bf16] = x * 2\nreturn y", "T0407", "has f32 and is annotated with bf16"),
    ("y: Tensor['4D-', 8] = x\nreturn y", "T0408", "is not a dimension"),
    ("return 'text'", "T0305", "returns the string 'text', not a tensor"),
    ("with op.exp(x):\n    return x", "T0123", "only supported for numerics"),
    ("with numerics.policy('mixed'):\n    return x", "T0501", "mixed precision for a part of a program"),
    ("return f'{x}'", "T0204", "an f-string takes compile-time values"),
    ("return op.full((2, 2), 1j, dtype=float32)", "T0504", "value must be a real number for f32, not 1j"),
]


@pytest.mark.parametrize(("body", "code", "message"), CASES, ids=[c[0].splitlines()[0][:50] for c in CASES])
def test_refused(body: str, code: str, message: str) -> None:
    result = compile_source(module(body))
    assert result.codes == [code], result.text
    assert message in result.text


UNITS: list[tuple[str, dict[str, Any], list[str], str]] = [
    (module("return x"), {"entry": "nett"}, ["T0313"], "did you mean `net`?"),
    (module("return x"), {"shapes": (("y", "4x8"),)}, ["T0411"], "--shape y=... names nothing in this program"),
    (module("return x"), {"shapes": (("x", "4x-8"),)}, ["T0411"], "--shape x=4x-8 is not a shape"),
    (module("return x"), {"dims": (("Q", 4),)}, ["T0411"], "names the dimension `Q`"),
    (module("return x"), {"dims": (("Q", 0),)}, ["T0411"], "a positive size"),
    (module("return x"), {"sets": (("D", "4"),)}, ["T0211"], "no top-level constant `D`"),
    (module("return x"), {"set_literals": ((4096, 4),)}, ["T0211"], "the source has no literal 4096"),
    (f"D = 4\n{module('return x')}", {"sets": (("WIDTH", "4"),)}, ["T0211"], "top-level constants: D"),
    (module("return x"), {"loss": "mse"}, ["T0311"], "KIND:OUTPUT,KEY"),
    (module("return x"), {"loss": "mse:q,t"}, ["T0311"], "its outputs are"),
    (module("return x"), {"loss": "softmax:x,t"}, ["T0311"], "KIND:OUTPUT,KEY"),
    (module("return x"), {"precision": "fp16"}, ["T0501"], "--precision fp16 is not supported yet"),
    (module("return x"), {"mesh": "tp=2,tp=2"}, ["T0702"], "--mesh tp=2,tp=2 is not a mesh"),
    (module("return x"), {"mesh": "tp2"}, ["T0702"], "--mesh tp2 is not a mesh"),
    (module("return x"), {"model_toml": "[shapes"}, ["T0411"], "model.toml cannot be read"),
    (module("return x"), {"model_toml": "shapes = 3"}, ["T0411"], "`shapes` is not a table"),
    (module("return x"), {"shapes": (("x", "5x8"),)}, ["T0403"], "`x` has the shape [5, 8] from --shape x=5x8"),
    (
        '@graph.training_step(module="../up")\ndef step(batch):\n    return 1\n',
        {},
        ["T0303"],
        "takes a label of letters",
    ),
    (
        '@graph.training_step(module="t")\ndef step(batch):\n    return op.mean(batch["../x"])\n',
        {},
        ["T0304"],
        "cannot name a batch input",
    ),
    (
        '@graph.training_step(module="t")\ndef step(batch: {"a=b": Tensor[2]}):\n    return op.mean(batch["a=b"])\n',
        {},
        ["T0304"],
        "'a=b' cannot name a batch input",
    ),
    (module('return {"a=b": op.exp(x)}'), {}, ["T0305"], "'a=b' cannot name an output of the module"),
    (
        '@graph.training_step(module="t")\ndef a(batch):\n    return 1\n\n'
        '@graph.training_step(module="t")\ndef b(batch):\n    return 1\n',
        {},
        ["T0313"],
        "two entries are called `t`",
    ),
    ("mesh = dist.Mesh(axes=['a', 'a'], devices=[[0], [1]])\n" + module("return x"), {}, ["T0702"], "different names"),
    (
        "mesh = dist.Mesh(axes=['a', 'b'], devices=[[0], [1, 2]])\n" + module("return x"),
        {},
        ["T0702"],
        "differ in length",
    ),
    (
        "mesh = dist.Mesh(axes=['a'], devices=[0, 0])\n" + module("return x"),
        {},
        ["T0702"],
        "2 places for 1 different devices",
    ),
    ("D = {3: 4}\nassert D[3] == 5, 'four'\n" + module("return x * D[3]"), {}, ["T0207"], "assertion failed: four"),
    ("numerics.policy('fp8')\n" + module("return x"), {}, ["T0501"], "numerics.policy('fp8')"),
    ("W = 3\n" + module("return x * W") + "\nnet = 4\n", {}, ["T0303"], "`net` is assigned again"),
]


@pytest.mark.parametrize(
    ("source", "options", "codes", "message"), UNITS, ids=[f"{i}-{u[2][0]}" for i, u in enumerate(UNITS)]
)
def test_refused_units(source: str, options: dict[str, Any], codes: list[str], message: str) -> None:
    result = compile_source(source, **options)
    assert result.codes == codes, result.text
    assert message in result.text


def test_a_short_flag_that_fits_two_parameters_is_refused() -> None:
    source = """
    @graph.module
    def a(x, W):
        return x @ W

    @graph.module
    def b(x, W):
        return x @ W

    @graph.training_step(module="t")
    def step(batch: {"x": Tensor[4, 8]}):
        return op.mean(b(a(batch["x"])))
    """
    result = compile_source(source, shapes=(("W", "8x8"),))
    assert result.codes == ["T0411"]
    assert "--shape W=... could mean `a.W` or `b.W`" in result.text
    assert compile_source(source, shapes=(("a.W", "_x5"), ("b.W", "_x3"))).codes == []


def test_hostile_sources_end_quickly() -> None:
    started = time.perf_counter()
    sources = [
        "xs = [0]\nfor i in range(100000):\n    for j in range(100000):\n        xs.append(1)\n"
        + module("return x * xs[0]"),
        "f = lambda n: f(n + 1)\n" + module("return x * f(0)"),
        "s = 'ab'\nfor i in range(60):\n    s = s + s\n" + module("return x * len(s)"),
        "n = 3\nfor i in range(60):\n    n = n * n\n" + module("return x * n"),
        "x0 = [i for i in range(10 ** 12)]\n" + module("return x * x0[0]"),
        "x0 = [i for i in range(10 ** 30)]\n" + module("return x * x0[0]"),
        module("return x * len(range(10 ** 30))"),
        "d = [{}]\nd.append(d)\n" + module("return x * d"),
        "xs = []\nxs.append(xs)\n" + module("return x * xs[0]"),
        module("return " + "-" * 3000 + "x"),
        module("return " + " + ".join(["x"] * 3000)),
    ]
    for source in sources:
        compile_source(source)
    assert time.perf_counter() - started < 60


def test_a_size_needed_early_names_its_parameter() -> None:
    source = """
    @graph.module
    def net(x, W):
        q, k = op.split(x @ W, 2, axis=-1)
        return q - k

    @graph.training_step(module="t")
    def step(batch: {"x": Tensor[4, 8]}):
        return op.mean(net(batch["x"]))
    """
    result = compile_source(source)
    assert result.codes == ["T0402"]
    assert "op.split needs the size of dimension 1 of `net.W`, which is not known yet" in result.text
    assert "--shape net.W=_xSIZE" in result.text
    assert compile_source(source, shapes=(("W", "_x6"),)).codes == []


def test_a_missing_import_is_noted_once() -> None:
    source = "".join(f"@graph.module\ndef {n}(x: Tensor[3]):\n    return op.exp(x)\n\n" for n in "ab")
    result = compile_source(source, header=False)
    assert [d.code for d in result.items] == ["T0203"]
