"""Programs that plans are tested on, with what they need to be read."""

from __future__ import annotations

from pathlib import Path

from tesserac.driver import CompileOptions, front_end
from tesserac.elaborate import Options
from tesserac.ir.mesh import Mesh, parse_mesh
from tesserac.ir.program import Entry, Function
from tesserac.passes.mesh.hardware import Hardware, load
from tesserac.passes.mesh.roles import Role, role_of
from tesserac.passes.mesh.search import Searcher

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LISTING1 = (EXAMPLES / "chapter6" / "listing1.py").read_text()
SEED = (("input", "8x64x32"), ("Wo", "32x48"))
H100 = load("h100-ib400")

LAYERS = """
from tessera import graph, op

L, D, H, F, S, B = 2, 64, 4, 256, 32, 8

layers = [(op.layernorm(D), op.linear(D, D), op.linear(D, D), op.linear(D, D), op.linear(D, D), op.layernorm(D),
           op.linear(D, F), op.linear(F, D)) for _ in range(L)]

@graph.module
def net(x: Tensor[B, S, D]):
    for norm1, q, k, v, project, norm2, up, down in layers:
        y = norm1(x)
        x = x + project(op.flash_attention(q(y), k(y), v(y), heads=H))
        x = x + down(op.gelu(up(norm2(x))))
    return x

@graph.training_step(module="net")
def step(batch):
    return graph.backward(op.mse(net(batch["x"]), batch["y"]))
"""


def function_of(text: str, mesh: str | None = None, role: str = "train", **options: object) -> tuple[Function, Mesh]:
    """One function of the only entry of a source, and its mesh."""
    entry = entry_of(text, mesh, **options)
    found = dict(entry.roles())[role]
    assert entry.mesh is not None
    return found, entry.mesh


def entry_of(text: str, mesh: str | None = None, **options: object) -> Entry:
    """The only entry of a source."""
    _, program, _ = front_end(text, "model.py", CompileOptions(Options(mesh=mesh, **options)))  # type: ignore[arg-type]
    (entry,) = program.entries
    return entry


def named_mesh(text: str) -> Mesh:
    """A mesh from its text."""
    found = parse_mesh(text)
    assert isinstance(found, Mesh), found
    return found


def searcher(function: Function, mesh: Mesh, hardware: Hardware = H100,
             roles: dict[str, Role] | None = None) -> Searcher:
    """A search with the roles that go with the axes' names."""
    return Searcher(function, mesh, hardware, roles or {axis: role_of(axis) for axis in mesh.axes})
