"""Reader of IR text (see text.py)."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import NoReturn

from tesserac.diagnostics import Span
from tesserac.ir.mesh import Mesh
from tesserac.ir.program import Attr, Entry, Equation, Function, Initializer, Input, OptimizerSpec, Output, Program, Var
from tesserac.ir.text import TextError
from tesserac.ir.types import Dim, DType, TensorType

_TOKEN = re.compile(r"""
    (?P<space>[ \t\n]+)
  | (?P<comment>\#[^\n]*)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<var>%[^\s,:(){}="#\[\]]+)
  | (?P<number>-?(?:inf\b|nan\b|\d+(?:\.\d+)?(?:e[-+]?\d+)?))
  | (?P<name>[^\W\d][\w.]*)
  | (?P<sign>->|[(){}\[\],:=])
""", re.VERBOSE)
_COMMENT = re.compile(r"#\s+(?P<file>.*):(?P<line>\d+)\s*\Z")
_WORDS: dict[str, Attr] = {"true": True, "false": False, "none": None, "inf": float("inf"), "nan": float("nan"),
                           **{d.value: d for d in DType}}
_NO_SPAN = Span.point("<none>", 1, 1)


class Reader:
    """A recursive-descent reader over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str, int]] = []
        self._comments: dict[int, Span] = {}
        self._at = 0
        self._vars: dict[str, Var] = {}
        self._scan(text)

    def _scan(self, text: str) -> None:
        position, line = 0, 1
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise TextError(f"line {line}: unexpected character {text[position]!r}")
            kind, value = str(match.lastgroup), match.group()
            if kind == "comment":
                origin = _COMMENT.match(value)
                if origin is not None:
                    self._comments[line] = Span.point(origin["file"], int(origin["line"]), 1)
            elif kind != "space":
                self._tokens.append((kind, value, line))
            line += value.count("\n")
            position = match.end()
        self._tokens.append(("end", "end of text", line))

    def _fail(self, expected: str) -> NoReturn:
        _, value, line = self._tokens[self._at]
        raise TextError(f"line {line}: expected {expected}, found {value!r}")

    def _peek(self, value: str) -> bool:
        return self._tokens[self._at][1] == value and self._tokens[self._at][0] != "string"

    def _accept(self, value: str) -> bool:
        if self._peek(value):
            self._at += 1
            return True
        return False

    def _expect(self, value: str) -> None:
        if not self._accept(value):
            self._fail(repr(value))

    def _take(self, kind: str, what: str) -> str:
        found, value, _ = self._tokens[self._at]
        if found != kind:
            self._fail(what)
        self._at += 1
        return value

    def _string(self) -> str:
        return str(json.loads(self._take("string", "a quoted string")))

    def _name(self) -> str:
        return self._string() if self._tokens[self._at][0] == "string" else self._take("name", "a name")

    def _line_span(self) -> Span:
        """The span in the comment at the end of the line of the token read last."""
        return self._comments.get(self._tokens[self._at - 1][2], _NO_SPAN)

    def program(self) -> Program:
        """program FILE entry..."""
        self._expect("program")
        file = self._string()
        entries = []
        while self._accept("entry"):
            entries.append(self._entry())
        self._end()
        return Program(file, tuple(entries))

    def lone_function(self) -> Function:
        """One function and nothing else."""
        function = self._function()
        self._end()
        return function

    def _end(self) -> None:
        if self._tokens[self._at][0] != "end":
            self._fail("the end of the text")

    def _entry(self) -> Entry:
        label, optimizer = self._name(), None
        mixed = self._accept("mixed")
        mesh = self._mesh() if self._accept("mesh") else None
        if self._accept("optimizer"):
            kind = self._name()
            self._expect("(")
            settings = []
            while not self._accept(")"):
                key = self._name()
                self._expect("=")
                settings.append((key, self._float()))
                self._accept(",")
            optimizer = OptimizerSpec(kind, tuple(settings))
        train = self._function() if self._accept("train") else None
        infer = self._function() if self._accept("infer") else None
        validate = self._function() if self._accept("validate") else None
        return Entry(label, train, infer, optimizer, mixed, validate, mesh)

    def _mesh(self) -> Mesh:
        axes, shape = [], []
        self._expect("(")
        while not self._accept(")"):
            axes.append(self._name())
            self._expect("=")
            shape.append(self._integer())
            self._accept(",")
        devices = list(range(math.prod(shape)))
        if self._accept("on"):
            devices.clear()
            self._expect("[")
            while not self._accept("]"):
                devices.append(self._integer())
                self._accept(",")
        return Mesh(tuple(axes), tuple(shape), tuple(devices))

    def _float(self) -> float:
        value = self._attr()
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail("a number")
        return value

    def _integer(self) -> int:
        value = self._attr()
        if isinstance(value, bool) or not isinstance(value, int):
            self._fail("an integer")
        return value

    def _function(self) -> Function:
        self._expect("func")
        name = self._name()
        self._vars = {}
        self._expect("(")
        inputs = []
        while not self._accept(")"):
            inputs.append(self._input())
        self._expect("->")
        self._expect("(")
        outputs = []
        while not self._accept(")"):
            output = self._name()
            self._expect(":")
            outputs.append((output, self._take("var", "a variable")))
            self._accept(",")
        self._expect("{")
        equations = []
        while not self._accept("}"):
            equations.append(self._equation())
        return Function(name, tuple(inputs), tuple(equations), tuple(Output(n, self._lookup(v)) for n, v in outputs))

    def _lookup(self, text: str) -> Var:
        if text[1:] not in self._vars:
            raise TextError(f"line {self._tokens[self._at - 1][2]}: {text} is used but not defined above")
        return self._vars[text[1:]]

    def _declared(self) -> Var:
        name = self._take("var", "a variable")[1:]
        self._expect(":")
        dtype = self._take("name", "an element type")
        if dtype not in {d.value for d in DType}:
            self._at -= 1
            self._fail("an element type")
        self._expect("[")
        shape: list[Dim] = []
        while not self._accept("]"):
            shape.append(self._take("name", "a size") if self._tokens[self._at][0] == "name" else self._integer())
            self._accept(",")
        var = Var(name, TensorType(DType(dtype), tuple(shape)))
        self._vars[name] = var
        return var

    def _input(self) -> Input:
        parameter = self._accept("param")
        if not parameter:
            self._expect("input")
        item = Input(self._declared(), self._string())
        if parameter:
            self._expect("=")
            item = replace(item, init=self._initializer())
        if self._accept("nodecay"):
            item = replace(item, decay=False)
        if self._accept("bound"):
            self._expect("=")
            item = replace(item, index_bound=self._integer())
        if self._accept("ignore"):
            self._expect("=")
            item = replace(item, ignore_index=self._integer())
        return replace(item, span=self._line_span())

    def _initializer(self) -> Initializer:
        kind = self._name()
        if not self._accept("("):
            return Initializer(kind)
        low = self._float()
        self._expect(",")
        high = self._float()
        self._expect(")")
        return Initializer(kind, low, high)

    def _equation(self) -> Equation:
        results: list[Var] = []
        # Results become visible only after the operands are read.
        known = dict(self._vars)
        while not self._accept("="):
            results.append(self._declared())
            self._accept(",")
        defined, self._vars = self._vars, known
        op = self._take("name", "an op")
        operands = []
        while self._tokens[self._at][0] == "var" and not self._starts_line():
            operands.append(self._lookup(self._take("var", "a variable")))
            if not self._accept(","):
                break
        attrs = []
        if self._accept("{"):
            while not self._accept("}"):
                key = self._name()
                self._expect("=")
                attrs.append((key, self._attr()))
                self._accept(",")
        self._vars = defined
        return Equation(op, tuple(operands), tuple(results), tuple(attrs), self._line_span())

    def _starts_line(self) -> bool:
        return self._tokens[self._at][2] != self._tokens[self._at - 1][2]

    def _attr(self) -> Attr:
        kind, value, _ = self._tokens[self._at]
        if kind == "string":
            return self._string()
        if self._accept("["):
            items = []
            while not self._accept("]"):
                items.append(self._attr())
                self._accept(",")
            return tuple(items)
        self._at += 1
        if kind == "number":
            return int(value) if re.fullmatch(r"-?\d+", value) else float(value)
        if kind == "name" and value in _WORDS:
            return _WORDS[value]
        self._at -= 1
        return self._fail("a value")
