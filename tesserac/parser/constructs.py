"""Python constructs that Tessera leaves out: the code, what to say, and what to write instead."""

from __future__ import annotations

__all__ = ["CONSTRUCTS", "SOFT"]

_ASYNC = (
    "T0125",
    "`async` and `await` are not supported",
    ("write an ordinary `def`; the compiler overlaps work and communication by itself",),
)
_TRY = (
    "T0122",
    "exceptions are not supported",
    ("check the condition with `assert`, or choose with `if` on a compile-time value",),
)
_SCOPE = (
    "T0124",
    "a function cannot rebind outer names",
    ("pass the value as a parameter and return the new one",),
)
_LOOP = (
    "T0132",
    "loops run to their end: there is no `break` or `continue`",
    ("choose what to loop over, for example with a comprehension's `if`",),
)

CONSTRUCTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "while": (
        "T0120",
        "`while` loops are not supported",
        (
            "use `for i in range(n)` with a compile-time n; it is unrolled",
            "training steps repeat at run time: see `train --steps`",
        ),
    ),
    "class": (
        "T0121",
        "classes are not supported",
        ("write a function with `@graph.module`; parameters a call leaves unbound belong to the module",),
    ),
    "try": _TRY,
    "except": _TRY,
    "finally": _TRY,
    "raise": (
        "T0131",
        "`raise` is not supported",
        ("write `assert condition, message`; it is checked while compiling",),
    ),
    "global": _SCOPE,
    "nonlocal": _SCOPE,
    "async": _ASYNC,
    "await": _ASYNC,
    "yield": (
        "T0127",
        "generators (`yield`) are not supported",
        ("return a tuple or a list",),
    ),
    "del": (
        "T0130",
        "`del` is not supported",
        ("remove the line; memory is planned from what is used later",),
    ),
    "break": _LOOP,
    "continue": _LOOP,
}
"""By the type of the offending token."""

_MATCH = (
    "T0129",
    "`match` is not supported",
    ("choose with `if`/`elif` on a compile-time value, or look up a dict",),
)

SOFT: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "print": (
        "T0133",
        "this is Python 2's `print` statement, and a compiled program prints nothing",
        ('return the value as a metric: `return grads, {"loss": loss}`', "to look at shapes, use `tesserac inspect`"),
    ),
    "exec": (
        "T0133",
        "this is Python 2's `exec` statement, and nothing is executed while compiling",
        ("write the statements themselves",),
    ),
    "match": _MATCH,
    "case": _MATCH,
    "type": (
        "T0129",
        "`type` statements are not supported",
        ("use the annotation where it is needed",),
    ),
}
"""By the text of a first word that is followed by an operand, where that makes no expression."""
