"""Arithmetic on compile-time values, and Python's own functions, with limits that keep hostile sources harmless."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence

from tesserac.elaborate.values import Value, describe

MAX_BITS = 4096
"""Longest compile-time integer."""
MAX_LENGTH = 100_000
"""Longest compile-time sequence or string."""


class Refused(Exception):
    """The operation is not possible; the text says why."""


Operation = Callable[[Value, Value], Value]

_PLAIN: dict[str, Callable[..., Value]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
    ">>": operator.rshift,
}
_COMPARE: dict[str, Callable[..., Value]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda a, b: a in b,
    "not in": lambda a, b: a not in b,
    "is": operator.is_,
    "is not": operator.is_not,
}
PLAIN_TYPES = (int, float, complex, str, bool, tuple, list, dict, range, type(None))
"""Types of compile-time values."""


def is_plain(value: Value) -> bool:
    """Whether a value is a Python value that the compiler computes with."""
    return isinstance(value, PLAIN_TYPES)


def binary(op: str, left: Value, right: Value) -> Value:
    """``left op right`` on compile-time values; raises Refused."""
    _check_growth(op, left, right)
    try:
        if op == "**":
            return _checked(_power(left, right))
        if op == "<<":
            return _checked(operator.lshift(left, right))
        if op not in _PLAIN or (op == "%" and isinstance(left, str)):
            raise Refused(f"`{op}` is not possible on {describe(left)} and {describe(right)}")
        return _checked(_PLAIN[op](left, right))
    except ZeroDivisionError:
        raise Refused("division by zero") from None
    except (TypeError, ValueError, OverflowError):
        raise Refused(f"`{op}` is not possible on {describe(left)} and {describe(right)}") from None


def _check_growth(op: str, left: Value, right: Value) -> None:
    if op == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, list | tuple | str) and isinstance(times, int) and len(many) * times > MAX_LENGTH:
                raise Refused(f"the result would have {len(many) * times} elements; the limit is {MAX_LENGTH}")
    elif op == "<<" and isinstance(right, int) and right > MAX_BITS:
        raise Refused(f"the result would be longer than {MAX_BITS} bits")


def _power(base: Value, exponent: Value) -> Value:
    if not isinstance(base, int | float | complex) or not isinstance(exponent, int | float):
        raise Refused(f"`**` is not possible on {describe(base)} and {describe(exponent)}")
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * max(exponent, 0) > MAX_BITS:
        raise Refused(f"the result would be longer than {MAX_BITS} bits")
    result = base**exponent
    if isinstance(result, complex) and not isinstance(base, complex):
        raise Refused("a fractional power of a negative number is complex")
    return result


def _checked(value: Value) -> Value:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise Refused(f"the result is longer than {MAX_BITS} bits")
    if isinstance(value, list | tuple | str) and len(value) > MAX_LENGTH:
        raise Refused(f"the result would have {len(value)} elements; the limit is {MAX_LENGTH}")
    return value


def compare(op: str, left: Value, right: Value) -> bool:
    """``left op right`` on compile-time values; raises Refused."""
    try:
        return bool(_COMPARE[op](left, right))
    except TypeError:
        raise Refused(f"`{op}` is not possible on {describe(left)} and {describe(right)}") from None


def unary(op: str, value: Value) -> Value:
    """``-x``, ``+x``, ``~x`` on a number; raises Refused."""
    if not isinstance(value, int | float | complex) or (op == "~" and not isinstance(value, int)):
        raise Refused(f"`{op}` is not possible on {describe(value)}")
    return -value if op == "-" else +value if op == "+" else ~value  # type: ignore[operator]


def items(value: Value) -> Sequence[Value]:
    """What a loop runs over; raises Refused."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, range | dict | str):
        if len(value) > MAX_LENGTH:
            raise Refused(f"{len(value)} iterations; the limit is {MAX_LENGTH}")
        return list(value)
    raise Refused(f"a loop runs over a list, tuple, dict, string or range, not {describe(value)}")


def text(value: Value, spec: str = "") -> str:
    """A compile-time value in an f-string."""
    if not is_plain(value):
        raise Refused(f"an f-string takes compile-time values, not {describe(value)}")
    result = format(value, spec)
    if len(result) > MAX_LENGTH:
        raise Refused("the string is too long")
    return result


# ------------------------------------------------------------------------------------------------ Python's functions


def _numbers(values: Sequence[Value]) -> list[int | float]:
    found = items(values[0]) if len(values) == 1 else values
    numbers = [v for v in found if isinstance(v, int | float)]
    if len(numbers) != len(found) or not numbers:
        raise Refused("needs numbers that are known at compile time (tensors: op.minimum, op.maximum, op.sum)")
    return numbers


def _sum(values: Iterable[Value], start: Value = 0) -> Value:
    total = start
    for value in items(values):
        total = binary("+", total, value)
    return total


def _range(*args: Value) -> Value:
    if not 1 <= len(args) <= 3 or not all(isinstance(a, int) for a in args):
        raise Refused("range takes one to three integers known at compile time")
    if len(args) == 3 and args[2] == 0:
        raise Refused("range step must not be zero")
    found = range(*args)  # type: ignore[call-overload]
    if max(abs(found.start), abs(found.stop)) >> 62:  # no longer one has a length that Python can count
        raise Refused("range takes integers below 2^62")
    return found


def _len(value: Value) -> int:
    if not isinstance(value, list | tuple | dict | range | str):
        raise Refused(f"len of {describe(value)}" + " (the size of an axis is x.shape[axis])")
    return len(value)


def _int(value: Value = 0) -> int:
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused("int of a number that is not finite")
    if isinstance(value, int | float):
        return int(value)
    if isinstance(value, str) and len(value) <= 1000:
        try:
            return int(value)
        except ValueError:
            pass
    raise Refused(f"int of {describe(value)}")


def _float(value: Value = 0.0) -> float:
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise Refused(f"float of {describe(value)}")


def _round(value: Value, digits: Value = None) -> Value:
    if isinstance(value, int | float) and (digits is None or isinstance(digits, int)) and math.isfinite(value):
        return round(value, digits)
    raise Refused(f"round of {describe(value)}")


def _abs(value: Value) -> Value:
    if isinstance(value, int | float | complex):
        return abs(value)
    raise Refused(f"abs of {describe(value)}" + " (tensors: op.abs)")


def _dict(**entries: Value) -> dict[str, Value]:
    return entries


def _zip(*sequences: Value) -> Value:
    return list(zip(*map(items, sequences), strict=False))


def _enumerate(values: Value, start: Value = 0) -> Value:
    if not isinstance(start, int):
        raise Refused("enumerate starts at an integer")
    return list(enumerate(items(values), start))


def _sorted(values: Value) -> Value:
    found = items(values)
    if all(isinstance(v, int | float) for v in found) or all(isinstance(v, str) for v in found):
        return sorted(found)  # type: ignore[type-var]
    raise Refused("sorted takes numbers or strings")


FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "range": _range,
    "len": _len,
    "int": _int,
    "float": _float,
    "round": _round,
    "abs": _abs,
    "min": lambda *v: min(_numbers(v)),
    "max": lambda *v: max(_numbers(v)),
    "sum": _sum,
    "str": lambda v="": text(v),
    "bool": lambda v=False: truth(v),
    "dict": _dict,
    "zip": _zip,
    "list": lambda v=(): list(items(v)),
    "tuple": lambda v=(): tuple(items(v)),
    "enumerate": _enumerate,
    "reversed": lambda v: list(reversed(items(v))),
    "sorted": _sorted,
    "any": lambda v: any(truth(i) for i in items(v)),
    "all": lambda v: all(truth(i) for i in items(v)),
}
"""Python's built-in functions on compile-time values; Refused says why not, TypeError is a wrong argument count."""


def truth(value: Value) -> bool:
    """The truth of a compile-time value; raises Refused for others."""
    if is_plain(value):
        return bool(value)
    raise Refused(f"the condition must be known at compile time, and {describe(value)} is not")


Methods = dict[str, Callable[..., Value]]


def method(value: Value, name: str) -> Callable[..., Value] | None:
    """A method of a list, dict or string that the compiler evaluates."""
    if isinstance(value, list):
        return _list_methods(value).get(name)
    if isinstance(value, dict):
        return _dict_methods(value).get(name)
    if isinstance(value, str):
        text_methods: Methods = {
            "upper": value.upper,
            "lower": value.lower,
            "split": value.split,
            "strip": value.strip,
            "startswith": value.startswith,
            "endswith": value.endswith,
        }
        return text_methods.get(name)
    return None


def _list_methods(value: list[Value]) -> Methods:
    def append(item: Value) -> None:
        if len(value) >= MAX_LENGTH:
            raise Refused("the list is too long")
        value.append(item)

    def extend(more: Value) -> None:
        for item in list(items(more)):
            append(item)

    return {"append": append, "extend": extend}


def _dict_methods(value: dict[Value, Value]) -> Methods:
    return {
        "items": lambda: list(value.items()),
        "keys": lambda: list(value),
        "values": lambda: list(value.values()),
        "get": lambda key, default=None: value.get(key, default),
    }
