"""Any call of any op with any arguments is compiled or refused with a diagnostic; nothing else ever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesserac.elaborate.catalogue import SURFACES, documentation
from tesserac.elaborate.signatures import parse_signature
from tests.elaborate.support import compile_source

OPS = sorted(name for name in SURFACES if not name.startswith(("optimizer.", "tessera.")))
TENSORS = ["x", "y", "n", "m", "s", "v", "x.T", "x[0]", "W"]
OTHERS = [
    "0",
    "1",
    "-1",
    "3",
    "4",
    "-7",
    "10**12",
    "2**80",
    "1.5",
    "0.0",
    "-0.5",
    "1e300",
    "float('nan')",
    "True",
    "None",
    "'x'",
    "'gelu'",
    "'bij,bjk->bik'",
    "[]",
    "()",
    "[1, 2]",
    "(0, -1)",
    "[x, y]",
    "[x, n]",
    "[x, [y]]",
    "{'a': x}",
    "range(3)",
    "...",
    "x > 0",
    "lambda t: t",
    "f",
    "f(x)",
    "f.weight",
    "op.exp",
    "op",
    "fp32",
    "'bf16'",
    "[(0, 0), (1, 1), (0, 2)]",
    "x.shape",
    "x.shape[0]",
    "batch",
    "net",
]
VALUES = st.one_of(st.sampled_from(TENSORS), st.sampled_from(OTHERS))
SUFFIXES = st.sampled_from(
    ["", "", "", "(x)", "[0]", ".T", ".shape", "[:, 1:]", "[n]", " @ W", " + x", " ** 2", " & (x > 0)", " // 2", " < y"]
)


@st.composite
def calls(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(OPS))
    arguments: list[str] = []
    for parameter in parse_signature(SURFACES[name].signature):
        if parameter.kind == "variadic":
            arguments += draw(st.lists(VALUES, max_size=3))
        elif parameter.kind == "keyword":
            if draw(st.integers(0, 3)) == 0:
                arguments.append(f"{parameter.name}={draw(VALUES)}")
        elif parameter.required or draw(st.booleans()):
            keyword = f"{parameter.name}=" if arguments and "=" in arguments[-1] else ""
            arguments.append(keyword + draw(VALUES))
    return f"{name}({', '.join(arguments)}){draw(SUFFIXES)}"


@pytest.mark.property
@given(st.lists(calls(), min_size=1, max_size=3), st.sampled_from(["2, 3, 4", "4, 4", '"B", 3, 4', "4", "()"]))
def test_every_call_compiles_or_explains(lines: list[str], shape: str) -> None:
    body = "".join(f"    {target} = {line}\n" for target, line in zip("yvy", lines, strict=False))
    source = f"""f = op.linear(4, 4)

@graph.module
def net(x, n, m, s, W):
    y, v = x * 2, f.bias
{body}    return op.mean(x) + op.mean(f.weight)

@graph.training_step(module="t")
def step(batch: {{"x": Tensor[{shape}], "n": Tensor[2, 3, int32], "m": Tensor[2, 3, bool], "s": Tensor[()]}}):
    return net(batch["x"], batch["n"], batch["m"], batch["s"])
"""
    result = compile_source(source)
    assert result.program is not None or result.codes, source


@pytest.mark.parametrize(
    "line", ["op.rope(x, theta=0)", "op.max(3, -0.5)", "op.linear(s, 3)", "op.linear(s, W)", "op.matmul(W, s)"]
)
def test_calls_that_once_failed(line: str) -> None:
    result = compile_source(f"""
    @graph.module
    def net(x: Tensor[2, 3, 4], s: Tensor[()], W):
        return {line}
    """)
    assert result.codes


def test_every_op_is_documented() -> None:
    rows = documentation()
    assert len(rows) > 100
    for family, name, signature, doc in rows:
        assert family
        assert doc
        assert parse_signature(signature) is not None, name
