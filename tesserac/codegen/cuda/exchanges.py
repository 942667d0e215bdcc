"""Ops of a mesh on a GPU: calls of the runtime that pack, exchange and unpack on the program's stream, or beside it."""

from __future__ import annotations

from tesserac.codegen.cpu.products import render_exchange
from tesserac.codegen.cuda.steps import Emitted, pointer_type, wrapped
from tesserac.codegen.jinja import render_template
from tesserac.codegen.names import CppNames
from tesserac.codegen.records import ExchangeKernel


def emit_exchange(kernel: ExchangeKernel, name: str, scope: CppNames) -> Emitted:
    """A function with the grids of operands and results. What a call passes first takes the first place of its step."""
    names = [scope.fresh(slot.name) for slot in kernel.slots]
    passed = [(kernel.slots[i], names[i]) for i in kernel.passed]
    where = [] if kernel.op == "all_reduce_end" else ["int axis"]
    parameters = ["OnStream& ranks", *where, *(["int number"] if kernel.talks else [])]
    parameters += [f"{pointer_type(s)} {n}" for s, n in passed]
    values = render_exchange(kernel, names)
    text = render_template("cuda/exchange.cu.j2", **values, name=name, parameters=wrapped(parameters))
    places = ", ".join(f"{{{i}}}" for i in range(len(passed) + 1))
    return Emitted(text, [f"{name}({places});"], headers=("exchange",))
