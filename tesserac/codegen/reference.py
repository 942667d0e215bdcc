"""The emitted reference program: a function in plain double precision, one readable line per equation.

It is written against ``runtime/reference.h``, a small array library whose operations carry the names of the primitive
ops. Nothing is fused and nothing is optimised: what the real program is tested against (``selftest``) shares with it
neither rules nor kernels. The only liberties are that equations no output needs are left out, that constants and
broadcasts stand where they are used (kept, they would be most of the memory of a backward pass), and that memory is
given up at a value's last use.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from tesserac.codegen.jinja import environment
from tesserac.codegen.names import CppNames, comment_text, cpp_double, cpp_string, identifier
from tesserac.diagnostics import InternalError
from tesserac.ir.program import Attr, Equation, Function, Var
from tesserac.ir.types import DType, TensorType

_TEMPLATE = "cpu/reference.cpp.j2"
_COMMENT_COLUMN = 76
_EXCERPT = 88
_GRADIENT = "grad:"

_UNARY = frozenset((
    "neg", "exp", "log", "sin", "cos", "tanh", "sqrt", "rsqrt", "erf", "abs", "sign", "floor", "relu", "gelu",
    "gelu_grad", "gelu_tanh", "gelu_tanh_grad", "silu", "silu_grad", "sigmoid", "softplus", "square", "reciprocal",
    "logical_not", "stop_gradient", "sort",
))
_BINARY = frozenset((
    "add", "sub", "mul", "div", "pow", "atan2", "maximum", "minimum", "lt", "le", "gt", "ge", "eq", "ne", "logical_and",
    "logical_or", "quotient",
))

_ROUTING = frozenset(("dispatch", "combine", "gate_dot"))

# Ops that take any number of operands (a tensor per expert, a scalar per axis) as a list, and how many come before it.
_LISTS = {"grouped_contract": 2, "grouped_rows": 1, "random_uniform_part": 0, "random_normal_part": 0}

# Ops whose results are bound as an array, even a single one.
_SEVERAL = frozenset(("route", "grouped_outer", "grouped_sum"))

# How every other op is written; {0}, {1} are operands, names are attributes.
_CALLS: Mapping[str, str] = {
    "select": "select({0}, {1}, {2})",
    "cast": "cast({0}, {dtype})",
    "full": "full({shape}, {value})",
    "iota": "iota({shape}, {axis})",
    "broadcast": "broadcast({0}, {shape}, {axes})",
    "reshape": "reshape({0}, {shape})",
    "transpose": "transpose({0}, {perm})",
    "slice": "slice({0}, {starts}, {limits}, {strides})",
    "pad": "pad({0}, {low}, {high}, {value})",
    "take": "take({0}, {1})",
    "scatter_add": "scatter_add({0}, {1}, {rows})",
    "reduce_sum": "reduce_sum({0}, {axes})",
    "reduce_max": "reduce_max({0}, {axes})",
    "reduce_min": "reduce_min({0}, {axes})",
    "reduce_prod": "reduce_prod({0}, {axes})",
    "argmax": "argmax({0}, {axis})",
    "cumsum": "cumsum({0}, {axis}, {reverse})",
    "contract": "contract({spec}, {0}, {1})",
    "random_uniform": "random_uniform(call, {stream}, {shape}, {dtype})",
    "random_normal": "random_normal(call, {stream}, {shape}, {dtype})",
    "random_uniform_part": "random_uniform_part(call, {stream}, {shape}, {dtype}, {whole}, {dims}, {0})",
    "random_normal_part": "random_normal_part(call, {stream}, {shape}, {dtype}, {whole}, {dims}, {0})",
    "topk": "topk({0}, {k}{chosen})",
    "route": "route({0}, {experts})",
    "limit": "limit({0}, {1}, {experts}, {capacity}{chosen})",
    "grouped_contract": "grouped_contract({0}, {1}, {2}, {experts}, {transposed})",
    "grouped_outer": "grouped_outer({0}, {1}, {2}, {experts})",
    "grouped_rows": "grouped_rows({0}, {1}, {experts}, {rows})",
    "grouped_sum": "grouped_sum({0}, {1}, {experts})",
    "grouped_keep": "grouped_keep({0}, {1}, {experts})",
    "wavelet": "wavelet({0}, {axis}, {level}, {type})",
    "iwavelet": "iwavelet({0}, {axis}, {level}, {type})",
    "rfft_pair": "rfft_pair({0}, {axis}, {interior}, {norm})",
    "irfft_pair": "irfft_pair({0}, {1}, {axis}, {interior}, {n}, {norm})",
}

_TRANSFORMS = frozenset(("fft_pair", "ifft_pair"))
"""Written with one operand (real numbers) or two (real and imaginary parts)."""

_INLINE = frozenset(("full", "broadcast"))

#: Ops that the reference library has; every other one must have been expanded.
SUPPORTED_OPS = frozenset({*_UNARY, *_BINARY, *_ROUTING, *_CALLS, *_TRANSFORMS, "concat"})

#: Names that generated code uses and that variables must therefore not hide.
RESERVED = SUPPORTED_OPS | {
    "call", "params", "grads", "last", "release", "load", "store", "tsr", "std", "ref", "main",
    "DType", "Tensor", "TensorPair", "Sizes", "List", "Tensors", "Parameters", "Gradients", "chosen",
}

_CPP_DTYPES = {
    DType.F64: "f64", DType.F32: "f32", DType.BF16: "bf16", DType.F16: "f16", DType.I64: "i64", DType.I32: "i32",
    DType.I16: "i16", DType.I8: "i8", DType.U8: "u8", DType.BOOL: "boolean",
}


@dataclass(frozen=True, slots=True)
class _Text:
    """What the template shows of one function."""

    symbol: str
    title: str
    inputs: tuple[str, ...]
    equations: tuple[str, ...]
    outputs: tuple[str, ...]


_CHOICES = frozenset(("topk", "limit"))
"""Ops that may be told what the compiled program chose; the choice goes by the name of their last result."""


def render_reference(
    function: Function, *, name: str, sources: Mapping[str, str], choices: Sequence[str] = ()
) -> str:
    """The C++ text of ``void NAME_reference(const tsr::Call& call)``; see ``Function::reference`` in runtime/program.h.

    ``function`` consists of primitive ops (an op outside ``SUPPORTED_OPS`` or a complex value is an InternalError),
    ``name`` is a C++ identifier, ``sources`` maps file names to their text for the comments. Float inputs and all
    parameters, gradients and outputs are dense doubles; integer inputs keep their type. Outputs called ``grad:PATH``
    go to ``call.grads`` in the order of the parameters, with zeros where a parameter has none. ``choices`` are the
    names of values that the compiled program chose, in the order of its table: see ``Chosen`` in runtime/program.h.
    """
    template: Any = environment().get_template(_TEMPLATE).module
    return str(template.function(_Renderer(function, name, sources, choices).text()))


def render_reference_file(
    functions: Sequence[tuple[str, Function, Sequence[str]]], *, source: str, sources: Mapping[str, str]
) -> str:
    """The whole ``reference.cpp`` for ``(name, function, choices)`` that were compiled from the file ``source``."""
    texts = [_Renderer(function, name, sources, choices).text() for name, function, choices in functions]
    return environment().get_template(_TEMPLATE).render(functions=texts, source=PurePath(source).name)


class _Renderer:
    """Renders one function: what each line reads first, then a line per equation that an output needs."""

    def __init__(
        self, function: Function, name: str, sources: Mapping[str, str], choices: Sequence[str] = ()
    ) -> None:
        if identifier(name) != name:
            raise InternalError(f"{name!r} is not a C++ identifier")
        self._function = function
        self._name = name
        self._choices = {choice: number for number, choice in enumerate(choices)}
        self._lines = {file: text.splitlines() for file, text in sources.items()}
        self._names = CppNames(reserved=RESERVED)
        self._kept = {output.var for output in function.outputs}
        needed = self._needed()
        self._inline = {e.results[0]: e for e in needed if e.op in _INLINE and e.results[0] not in self._kept}
        self._equations = [e for e in needed if e.results[0] not in self._inline]
        self._reads = [[v for operand in e.operands for v in self._named(operand)] for e in self._equations]
        self._last_use = {v: i for i, reads in enumerate(self._reads) for v in reads}
        self._used = self._last_use.keys() | {v for output in self._kept for v in self._named(output)}
        self._shown: set[tuple[str, int]] = set()

    def text(self) -> _Text:
        """Everything that the template needs, in the order of emission."""
        inputs = self._inputs()
        equations = [self._equation(i, e) for i, e in enumerate(self._equations)]
        return _Text(self._name, comment_text(self._function.name), tuple(inputs), tuple(equations),
                     tuple(self._outputs()))

    def _needed(self) -> list[Equation]:
        """The equations that an output depends on."""
        needed, kept = set(self._kept), []
        for equation in reversed(self._function.equations):
            if needed.intersection(equation.results):
                needed.update(equation.operands)
                kept.append(equation)
        return kept[::-1]

    def _named(self, var: Var) -> list[Var]:
        """The variables of the C++ text that the text of ``var`` mentions, as often as it does."""
        if var not in self._inline:
            return [var]
        return [v for operand in self._inline[var].operands for v in self._named(operand)]

    # Inputs and outputs

    def _inputs(self) -> list[str]:
        lines = []
        left = sum(item.var in self._used for item in self._function.parameters)
        if left:
            lines.append("Parameters params(call.params);")
        for item in self._function.parameters:
            if left == 0:
                break
            shape, note = item.var.type.sizes, comment_text(item.path)
            if item.var in self._used:
                left -= 1
                lines.append(_aligned(f"Tensor {self._names.of(item.var.name)} = params.next({_list(shape)});", note))
            else:
                lines.append(_aligned(f"params.skip({item.var.type.size});", f"{note} is not used"))
        for position, item in enumerate(self._function.data):
            if item.var in self._used:
                call = f"load(call.inputs[{position}], {_dtype(item.var.type.dtype)}, {_list(item.var.type.sizes)})"
                lines.append(_aligned(f"Tensor {self._names.of(item.var.name)} = {call};", comment_text(item.path)))
        return lines

    def _outputs(self) -> list[str]:
        """Gradients in the order of the parameters, then the other outputs by number."""
        gradients = {o.name: o.var for o in self._function.outputs if o.name.startswith(_GRADIENT)}
        lines = ["Gradients grads(call.grads);"] if gradients else []
        for item in self._function.parameters if gradients else ():
            var = gradients.get(_GRADIENT + item.path)
            put = f"grads.put_zeros({item.var.type.size});" if var is None else f"grads.put({self._value(var)});"
            lines.append(_aligned(put, comment_text(item.path)))
        others = [o for o in self._function.outputs if not o.name.startswith(_GRADIENT)]
        lines += [_aligned(f"store(call.outputs[{i}], {self._value(o.var)});", comment_text(o.name))
                  for i, o in enumerate(others)]
        return lines

    # Equations

    def _equation(self, index: int, equation: Equation) -> str:
        names = [self._names.of(v.name) for v in equation.results]
        several = len(names) > 1 or equation.op in _SEVERAL
        left = f"auto [{', '.join(names)}]" if several else f"Tensor {names[0]}"
        reads = self._reads[index]
        freed = [v for v in dict.fromkeys(reads) if self._last_use[v] == index and v not in self._kept]
        once = {v for v in freed if reads.count(v) == 1}
        dead = [v for v in equation.results if v not in self._used]
        after = "".join(f" release({self._names.of(v.name)});" for v in [*freed, *dead] if v not in once)
        return _aligned(f"{left} = {self._call(equation, once)};{after}", self._origin(equation))

    def _call(self, equation: Equation, freed: Collection[Var]) -> str:
        op = equation.op
        operands = self._operands(equation, freed)
        if op in _UNARY or op in _BINARY or op in _ROUTING:
            return f"{op}({', '.join(operands)})"
        if op == "concat":
            return f"concat({{{', '.join(operands)}}}, {_attribute(equation.attr('axis'))})"
        if op in _LISTS:
            before = _LISTS[op]
            operands[before:] = [f"{{{', '.join(operands[before:])}}}"]
        if op in _TRANSFORMS:
            return f"{op}({', '.join([*operands, str(equation.attr('axis')), _attribute(equation.attr('norm'))])})"
        if op not in _CALLS:
            raise InternalError(f"the reference program cannot contain {op}: expand it first")
        attributes = {key: _attribute(value) for key, value in equation.attrs}
        if "stream" in attributes:
            attributes["stream"] = f"{int(attributes['stream']) % 2**64}u"
        if op in _CHOICES:
            number = self._choices.get(equation.results[-1].name)
            attributes["chosen"] = "" if number is None else f", chosen(call, {number})"
        if op == "full":
            attributes["value"] = _constant(equation.attr("value"), equation.result.type)
        return _CALLS[op].format(*operands, **attributes)

    def _operands(self, equation: Equation, freed: Collection[Var]) -> list[str]:
        """Operands as text; constants as numbers where the op takes them beside a tensor of the full shape."""
        first = 1 if equation.op == "select" else 0
        accepts = equation.op in _BINARY or equation.op == "select"
        beside = any(not self._is_constant(v) for v in equation.operands)
        return [self._value(v, freed, number=accepts and i >= first and (beside or i > 0))
                for i, v in enumerate(equation.operands)]

    def _is_constant(self, var: Var) -> bool:
        return var in self._inline and self._inline[var].op == "full"

    def _value(self, var: Var, freed: Collection[Var] = (), number: bool = False) -> str:
        """A variable's text: its name, a number, or the call that an inlined equation is."""
        if var in self._inline:
            equation = self._inline[var]
            if number and equation.op == "full":
                return _constant(equation.attr("value"), var.type)
            return self._call(equation, freed)
        name = self._names.of(var.name)
        return f"last({name})" if var in freed else name

    def _origin(self, equation: Equation) -> str:
        """``model.py:14``, with the text of that line where it appears for the first time."""
        span = equation.span
        if span.file.startswith("<"):
            return ""
        place = f"{_file_name(span.file)}:{span.line}"
        lines = self._lines.get(span.file, [])
        if (span.file, span.line) in self._shown or not 0 < span.line <= len(lines):
            return place
        self._shown.add((span.file, span.line))
        return f"{place}: {comment_text(lines[span.line - 1], _EXCERPT)}"


@lru_cache(maxsize=16)
def _file_name(path: str) -> str:
    """A file's name without its folder, as it may stand in a comment."""
    return comment_text(PurePath(path).name)


def _aligned(code: str, comment: str) -> str:
    return f"{code:<{_COMMENT_COLUMN}}  // {comment}" if comment else code


def _list(values: Sequence[Attr]) -> str:
    return "{" + ", ".join(_attribute(v) for v in values) + "}"


def _dtype(dtype: DType) -> str:
    if dtype not in _CPP_DTYPES:
        raise InternalError(f"the reference program has no {dtype} values")
    return f"DType::{_CPP_DTYPES[dtype]}"


def _attribute(value: Attr) -> str:
    """An attribute as a C++ expression."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return cpp_double(value)
    if isinstance(value, str):
        return cpp_string(value)
    if isinstance(value, DType):
        return _dtype(value)
    if isinstance(value, tuple):
        return _list(value)
    raise InternalError(f"attribute {value!r} has no meaning in the reference program")


def _constant(value: Attr, type_: TensorType) -> str:
    """The number a ``full`` holds, as a double: integers are truncated like NumPy's astype, bools are 0 or 1."""
    if not isinstance(value, int | float):
        raise InternalError(f"full needs a number, not {value!r}")
    if type_.dtype is DType.BOOL:
        return cpp_double(float(bool(value)))
    return cpp_double(float(int(value)) if type_.dtype.is_integer else float(value))
