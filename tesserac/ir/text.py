"""Text form of programs: what ``--print-after`` shows and golden tests compare.

One equation per line, ``%h: f32[4,256] = tanh %a   # model.py:14``. The text holds everything but the
columns of spans, so that ``parse_program(print_program(p)) == p`` (spans take no part in comparison).
"""

from __future__ import annotations

import json
import math
import re

from tesserac.diagnostics import Span
from tesserac.ir.program import Attr, Entry, Equation, Function, Input, Program, Var
from tesserac.ir.types import DType

_PLAIN = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*\Z")
_NO_FILE = "<none>"


def print_program(program: Program) -> str:
    """The whole compilation unit."""
    parts = [f"program {json.dumps(program.file)}\n"]
    parts += [print_entry(entry) for entry in program.entries]
    return "\n".join(parts)


def print_entry(entry: Entry) -> str:
    """One entry: its label, whether its products are mixed, its mesh and optimizer if there are any, its functions."""
    head = f"entry {_name(entry.label)}" + (" mixed" if entry.mixed else "")
    if entry.mesh is not None:
        sizes = ", ".join(f"{_name(axis)}={size}" for axis, size in entry.mesh.sizes.items())
        counted = entry.mesh.devices == tuple(range(len(entry.mesh.devices)))
        head += f" mesh({sizes})" + ("" if counted else f" on {print_attr(entry.mesh.devices)}")
    if entry.optimizer is not None:
        settings = ", ".join(f"{key}={print_attr(value)}" for key, value in entry.optimizer.settings)
        head += f" optimizer {_name(entry.optimizer.kind)}({settings})"
    text = head + "\n"
    for role, function in entry.roles():
        text += f"{role} {print_function(function)}"
    return text


def print_function(function: Function) -> str:
    """One function, ending in a newline."""
    inputs = "".join(f"  {print_input(item)}\n" for item in function.inputs)
    outputs = ", ".join(f"{_name(o.name)}: {o.var}" for o in function.outputs)
    body = "".join(f"  {print_equation(equation)}\n" for equation in function.equations)
    open_inputs = f"(\n{inputs})" if inputs else "()"
    return f"func {_name(function.name)}{open_inputs} -> ({outputs}) {{\n{body}}}\n"


def print_input(item: Input) -> str:
    """``param %Wq: f32[8,8] "transformer.Wq" = uniform(-0.1, 0.1)`` or ``input %x: i32[4] "x" bound=65``.

    Initializers without numbers (zeros, ones) stand alone.
    """
    words = ["param" if item.is_parameter else "input", _declared(item.var), json.dumps(item.path)]
    if item.init is not None:
        numbers = f"({print_attr(item.init.a)}, {print_attr(item.init.b)})" if item.init.a or item.init.b else ""
        words.append(f"= {_name(item.init.kind)}{numbers}")
    if not item.decay:
        words.append("nodecay")
    if item.index_bound:
        words.append(f"bound={item.index_bound}")
    if item.ignore_index is not None:
        words.append(f"ignore={item.ignore_index}")
    return " ".join(words) + _comment(item.span)


def print_equation(equation: Equation) -> str:
    """One equation with its source line."""
    text = ", ".join(_declared(v) for v in equation.results) + f" = {equation.op}"
    if equation.operands:
        text += " " + ", ".join(str(v) for v in equation.operands)
    if equation.attrs:
        text += " {" + ", ".join(f"{key}={print_attr(value)}" for key, value in equation.attrs) + "}"
    return text + _comment(equation.span)


def print_attr(value: Attr) -> str:
    """One attribute value."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, DType):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(print_attr(v) for v in value) + "]"
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    return repr(value)


def _declared(var: Var) -> str:
    return f"{var}: {var.type}"


def _name(name: str) -> str:
    return name if _PLAIN.match(name) and name not in ("inf", "nan") else json.dumps(name)


def _comment(span: Span) -> str:
    if span.file == _NO_FILE or not span.file.isprintable():
        return ""
    return f"   # {span.file}:{span.line}"


class TextError(ValueError):
    """IR text that does not parse; the message names the line."""


def parse_program(text: str) -> Program:
    """Reads what print_program wrote; TextError otherwise."""
    from tesserac.ir.text_parser import Reader

    return Reader(text).program()


def parse_function(text: str) -> Function:
    """Reads what print_function wrote; TextError otherwise."""
    from tesserac.ir.text_parser import Reader

    return Reader(text).lone_function()


__all__ = ["TextError", "parse_function", "parse_program", "print_attr", "print_entry", "print_equation",
           "print_function", "print_input", "print_program"]
