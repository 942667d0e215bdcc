"""The chapter's listings, as one Markdown file and each alone."""

from __future__ import annotations

import pytest

from tesserac.diagnostics import Diagnostics, render
from tesserac.parser import dump, parse, syntax

LISTINGS = (
    """from tessera import dist, op, graph

# Define mesh
mesh = dist.Mesh(axes=["tp","dp"], devices=[[0,1,2,3],[4,5,6,7]])

# Model
@graph.module
def transformer(x, Wq, Wk, Wv, Wo):
    attn = op.flash_attention(x @ Wq, x @ Wk, x @ Wv)
    return attn @ Wo

# Loss and training loop
@graph.training_step(module="TransformerLM")
def step(batch):
    out = transformer(batch["input"])
    loss = op.cross_entropy(out, batch["labels"])
    grads = graph.backward(loss)
    return grads, {"loss": loss}
""",
    """@graph.module
def ns_pinn(x, y, t):
    psi = op.mlp([x,y,t], hidden=[256,256], out_dim=1)
    u = op.grad(psi, x)
    v = op.grad(psi, y)
    p = op.grad(psi, t)
    return u, v, p

@graph.loss
def ns_loss(u, v, p):
    continuity = op.div(u, "x") + op.div(v, "y")
    momentum = op.grad(u, "t") + u*op.grad(u,"x") + v*op.grad(u,"y") + op.grad(p,"x")
    return op.mse(continuity,0) + op.mse(momentum,0)
""",
    """experts = [op.mlp(4096, [8192], 4096) for _ in range(16)]
router = op.router(experts)

@graph.module
def moe_layer(x): return router(x)
""",
    """Xf = op.fft(batch["input"])
Yf = op.recursive_mixture([op.mlp(4096, [4096], 4096) for _ in range(4)], depth=3)(Xf)
Y = op.ifft(Yf)
""",
)
NAMES = (
    ["Import", "mesh", "transformer", "step"],
    ["ns_pinn", "ns_loss"],
    ["experts", "router", "moe_layer"],
    ["Xf", "Yf", "Y"],
)


def parsed(text: str, file: str) -> syntax.Unit:
    """The unit of a text without faults."""
    bag = Diagnostics()
    unit = parse(text, file, bag)
    assert unit is not None, render(bag.items, {file: text})
    assert not bag.items
    return unit


def names(unit: syntax.Unit) -> list[str]:
    """What each top-level statement defines."""
    out = []
    for stmt in unit.body:
        if isinstance(stmt, syntax.FunctionDef):
            out.append(stmt.name)
        elif isinstance(stmt, syntax.Assign):
            assert isinstance(stmt.targets[0], syntax.Name)
            out.append(stmt.targets[0].id)
        else:
            out.append(type(stmt).__name__)
    return out


@pytest.mark.parametrize(("text", "expected"), list(zip(LISTINGS, NAMES, strict=True)))
def test_each_listing(text: str, expected: list[str]) -> None:
    """A listing is a unit of its own."""
    assert names(parsed(text, "listing.py")) == expected


def test_as_markdown() -> None:
    """Blocks in order are one unit whose spans are the file's."""
    text = "# Title\n\n" + "\n\ntext\n\n".join(f"```python\n{listing}```" for listing in LISTINGS) + "\n"
    unit = parsed(text, "chapter.md")
    assert names(unit) == [name for group in NAMES for name in group]
    lines = text.split("\n")
    for stmt in unit.body:
        if isinstance(stmt, syntax.FunctionDef):
            assert lines[stmt.span.line - 1].startswith(f"def {stmt.name}(")
    assert [block.text for block in unit.sources] == list(LISTINGS)
    assert all(lines[b.first_line - 2] == "```python" for b in unit.sources)


def test_dump() -> None:
    """The readable tree of a small listing."""
    unit = parsed("router = op.router(experts, k=2)\n@graph.module\ndef moe(x): return router(x)\n", "m.py")
    assert dump(unit) == (
        "Unit m.py\n"
        "  Assign  @1:1\n"
        "    targets:\n"
        "      Name router  @1:1\n"
        "    value: Call  @1:10\n"
        "      func: Attribute router  @1:10\n"
        "        value: Name op  @1:10\n"
        "      args:\n"
        "        Name experts  @1:20\n"
        "      keywords:\n"
        "        Keyword k  @1:29\n"
        "          value: Number 2  @1:31\n"
        "  FunctionDef moe  @3:1\n"
        "    params:\n"
        "      Param x  @3:9\n"
        "    body:\n"
        "      Return  @3:13\n"
        "        value: Call  @3:20\n"
        "          func: Name router  @3:20\n"
        "          args:\n"
        "            Name x  @3:27\n"
        "    decorators:\n"
        "      Attribute module  @2:2\n"
        "        value: Name graph  @2:2\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\nx = 1\n```\n", ["x"]),
        ("~~~ python\nx = 1\n~~~\n", ["x"]),
        ("```py title='a'\nx = 1\n```\n", ["x"]),
        ("```{python}\nx = 1\n```\n", ["x"]),
        ("```text\nx = 1\n```\n```python\ny = 1\n```\n", ["y"]),
        ("````python\nx = '''\n```\n'''\n````\n", ["x"]),
        ("  ```python\n  x = 1\n  y = 2\n  ```\n", ["x", "y"]),
        ("```python\nx = 1\n", ["x"]),
        ("````text\n```python\nx = 1\n```\n````\n```python\ny = 1\n```\n", ["y"]),
        ("```pycon\n>>> x\n```\n```python\r\ny = 1\r\n```\r\n", ["y"]),
        ("```python\nif True:\n    x = 1\n```\n```python\ny = 2\n```\n", ["If", "y"]),
    ],
)
def test_fences(text: str, expected: list[str]) -> None:
    """Which blocks count, as CommonMark reads fences."""
    assert names(parsed(text, "a.md")) == expected


def test_indented_fence_columns() -> None:
    """Columns count from the line of the file, not of the block."""
    unit = parsed("  ```python\n  x = 1\n  ```\n", "a.md")
    assert (unit.body[0].span.line, unit.body[0].span.column) == (2, 3)


def test_unclosed_bracket_stays_in_its_block() -> None:
    """A fault in one block does not hide the next one's."""
    bag = Diagnostics()
    assert parse("```python\nx = (1\n```\n\n```python\nwhile x: pass\n```\n", "a.md", bag) is None
    assert [(d.code, d.span and d.span.line) for d in bag.items] == [("T0108", 2), ("T0120", 6)]
