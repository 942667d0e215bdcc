"""Small functions for pass tests: a line of inputs, then equations, the last of which is the output."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tesserac.ir.program import Function
from tesserac.ir.text import parse_function, print_equation

_INPUT = re.compile(r"%(\w+): (\S+)(?: (\d+))?")


def function_of(inputs: str, equations: list[str]) -> Function:
    """A function from ``%x: f32[3] %i: i32[5] 7`` (a number is an index bound) and equations in IR text."""
    declared = [f'  input %{name}: {kind} "{name}"' + (f" bound={bound}" if bound else "")
                for name, kind, bound in _INPUT.findall(inputs)]
    output = equations[-1].partition(":")[0].strip()
    head = "func f(\n" + "\n".join(declared) + "\n)" if declared else "func f()"
    return parse_function(f"{head} -> (y: {output}) {{\n" + "\n".join(f"  {line}" for line in equations) + "\n}\n")


def equations_of(function: Function) -> list[str]:
    """The equations in IR text."""
    return [print_equation(equation) for equation in function.equations]


@dataclass(frozen=True)
class Case:
    """A rule, a function before it and the equations after it."""

    rule: str
    function: Function
    after: list[str]


def read_cases(path: Path) -> list[Case]:
    """The cases of a file of ``rule NAME``, ``in INPUTS``, equations, ``gives``, equations."""
    cases = []
    for block in re.split(r"\n\s*\n", path.read_text()):
        lines = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith("#")]
        if not lines:
            continue
        rule, inputs = lines[0].removeprefix("rule "), lines[1].removeprefix("in")
        cut = lines.index("gives") if "gives" in lines else len(lines)
        cases.append(Case(rule, function_of(inputs, lines[2:cut]), lines[cut + 1:]))
    return cases
