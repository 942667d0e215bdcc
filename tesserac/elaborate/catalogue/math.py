"""Elementwise functions and selections."""

from __future__ import annotations

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.catalogue.support import element_type
from tesserac.elaborate.operands import align, floating, is_number, tensor
from tesserac.elaborate.operands import cast as convert
from tesserac.elaborate.tensors import (
    arithmetic,
    comparison,
    elementwise,
    logic,
    magnitude,
    negate,
    power,
    squared,
    stretched,
)
from tesserac.elaborate.tensors import matmul as multiply
from tesserac.elaborate.values import Value
from tesserac.ir.types import DType

_UNARY = {
    "exp": "e^x",
    "log": "Natural logarithm",
    "sin": "Sine",
    "cos": "Cosine",
    "tanh": "Hyperbolic tangent",
    "sqrt": "Square root",
    "rsqrt": "1 / sqrt(x)",
    "erf": "Error function",
    "reciprocal": "1 / x",
    "floor": "Largest integer below",
}
_ANY = {"sign": "-1, 0 or 1"}
_BINARY = {"add": ("+", "a + b"), "sub": ("-", "a - b"), "mul": ("*", "a * b")}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LOGIC = {"logical_and": "&", "logical_or": "|", "logical_xor": "^"}


def _declare_unary(name: str, doc: str, floats: bool) -> None:
    @surface(f"{name}(x)", doc, family="math")
    def build(site: Site, x: Value) -> Value:
        what = f"the operand of op.{name}"
        return site.session.emit(name, floating(site.session, x, what) if floats else tensor(site.session, x, what))


def _declare_binary(name: str, op: str, doc: str) -> None:
    @surface(f"{name}(a, b)", doc, family="math", aliases=("pointwise_mul",) if name == "mul" else ())
    def build(site: Site, a: Value, b: Value) -> Value:
        _need_tensor(site, name, a, b)
        return arithmetic(site.session, op, a, b)


def _declare_compare(name: str, op: str) -> None:
    @surface(f"{name}(a, b)", f"a {op} b elementwise; the result is bool", family="math")
    def build(site: Site, a: Value, b: Value) -> Value:
        _need_tensor(site, name, a, b)
        return comparison(site.session, op, a, b)


def _declare_logic(name: str, op: str) -> None:
    @surface(f"{name}(a, b)", f"a {op} b of bool tensors", family="math")
    def build(site: Site, a: Value, b: Value) -> Value:
        _need_tensor(site, name, a, b)
        return logic(site.session, op, a, b)


def _need_tensor(site: Site, name: str, *values: Value) -> None:
    if all(map(is_number, values)):
        raise site.fail(
            "T0503", f"op.{name} needs at least one tensor", help=("numbers are computed with Python's own operators",)
        )


for _name, _doc in _UNARY.items():
    _declare_unary(_name, _doc, True)
for _name, _doc in _ANY.items():
    _declare_unary(_name, _doc, False)
for _name, (_op, _doc) in _BINARY.items():
    _declare_binary(_name, _op, _doc)
for _name, _op in _COMPARE.items():
    _declare_compare(_name, _op)
for _name, _op in _LOGIC.items():
    _declare_logic(_name, _op)


@surface("abs(x)", "Absolute value, of complex numbers, too", family="math")
def absolute(site: Site, x: Value) -> Value:
    """|x|; the derivative at 0 is 0."""
    return magnitude(site.session, tensor(site.session, x, "the operand of op.abs"))


@surface("square(x)", "x * x", family="math")
def square(site: Site, x: Value) -> Value:
    """x * x."""
    return squared(site.session, floating(site.session, x, "the operand of op.square"))


@surface("neg(x)", "-x", family="math")
def neg(site: Site, x: Value) -> Value:
    """Negation."""
    return negate(site.session, "-", x)


@surface("logical_not(x)", "Inverts a mask", family="math")
def logical_not(site: Site, x: Value) -> Value:
    """Inversion of a bool tensor."""
    return negate(site.session, "~", x)


@surface("pow(x, exponent)", "x to a power; small integer powers are products", family="math")
def pow_(site: Site, x: Value, exponent: Value) -> Value:
    """x ** exponent."""
    _need_tensor(site, "pow", x, exponent)
    return power(site.session, x, exponent)


@surface("minimum(a, b)", "The smaller of two elements", family="math")
def minimum(site: Site, a: Value, b: Value) -> Value:
    """Elementwise minimum."""
    _need_tensor(site, "minimum", a, b)
    return elementwise(site.session, "minimum", "op.minimum", a, b)


@surface("maximum(a, b)", "The larger of two elements", family="math")
def maximum(site: Site, a: Value, b: Value) -> Value:
    """Elementwise maximum."""
    _need_tensor(site, "maximum", a, b)
    return elementwise(site.session, "maximum", "op.maximum", a, b)


@surface(
    "where(condition, a, b)", "a where the condition holds, else b", family="math", aliases=("select", "if_then_else")
)
def where(site: Site, condition: Value, a: Value, b: Value) -> Value:
    """Elementwise choice."""
    session = site.session
    mask = tensor(session, condition, "the condition of op.where")
    if mask.type.dtype != DType.BOOL:
        raise site.fail(
            "T0407",
            f"the condition of op.where must be bool, not {mask.type.dtype}",
            help=("compare it, as in x != 0",),
        )
    if isinstance(a, int | float) and is_number(b):
        # Two numbers have no tensor to take a type from: they are of the default float, shaped like the mask.
        a = session.emit("full", value=a, shape=mask.type.shape, dtype=session.float)
    first, second = align(session, (a, b), "op.where")
    mask, first, second = stretched(session, (mask, first, second), "op.where")
    return session.emit("select", mask, first, second)


@surface("clip(x, low=None, high=None)", "x held between two bounds", family="math", aliases=("clamp",))
def clip(site: Site, x: Value, low: Value, high: Value) -> Value:
    """minimum(maximum(x, low), high)."""
    value = tensor(site.session, x, "the operand of op.clip")
    if low is None and high is None:
        raise site.fail("T0504", "op.clip needs low, high or both")
    if low is not None:
        value = elementwise(site.session, "maximum", "op.clip", value, low)
    return value if high is None else elementwise(site.session, "minimum", "op.clip", value, high)


@surface("cast(x, dtype)", "x with another element type", family="math")
def cast(site: Site, x: Value, dtype: Value) -> Value:
    """Conversion of the element type."""
    target = element_type(site, dtype)
    return convert(site.session, tensor(site.session, x, "the operand of op.cast"), target)


@surface("stop_gradient(x)", "x, through which no gradient flows", family="math", aliases=("detach",))
def stop_gradient(site: Site, x: Value) -> Value:
    """Blocks derivatives."""
    return site.session.emit("stop_gradient", tensor(site.session, x, "the operand of op.stop_gradient"))


@surface("matmul(a, b)", "a @ b, as NumPy's", family="math", aliases=("gemm", "batched_gemm"))
def matmul(site: Site, a: Value, b: Value) -> Value:
    """Matrix product with broadcast leading axes."""
    return multiply(site.session, a, b)
