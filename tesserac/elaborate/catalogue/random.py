"""Random tensors: pure functions of the run's seed, the step, the place in the source and the element."""

from __future__ import annotations

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.catalogue.support import dimensions, element_type, number
from tesserac.elaborate.operands import weak
from tesserac.elaborate.session import Session
from tesserac.elaborate.values import Value
from tesserac.ir.program import Var


def stream(session: Session) -> int:
    """A stream of its own for every random op of an entry; the low half is left for the step number."""
    session.random_ops += 1
    # 64-bit FNV-1a, the hash that the run time uses for parameter paths.
    state = 0xCBF29CE484222325
    for byte in f"{session.label}.random.{session.random_ops}".encode():
        state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state & 0x7FFFFFFF_00000000


def _draw(site: Site, op: str, shape: tuple[Value, ...], dtype: Value) -> Var:
    session = site.session
    kind = session.float if dtype is None else element_type(site, dtype)
    if not kind.is_float:
        raise site.fail("T0406", f"random numbers have floating elements, not {kind}")
    return session.emit(op, shape=dimensions(site, shape), dtype=kind, stream=stream(session))


@surface(
    "random_normal(*shape, mean=0.0, std=1.0, dtype=None)", "Normal random numbers, new in every step", family="random"
)
def random_normal(site: Site, shape: tuple[Value, ...], mean: Value, std: Value, dtype: Value) -> Value:
    """N(mean, std^2)."""
    return _affine(
        site, _draw(site, "random_normal", shape, dtype), number(site, std, "std"), number(site, mean, "mean")
    )


@surface(
    "random_uniform(*shape, low=0.0, high=1.0, dtype=None)",
    "Uniform random numbers in [low, high), new in every step",
    family="random",
)
def random_uniform(site: Site, shape: tuple[Value, ...], low: Value, high: Value, dtype: Value) -> Value:
    """U[low, high)."""
    start, end = number(site, low, "low"), number(site, high, "high")
    return _affine(site, _draw(site, "random_uniform", shape, dtype), end - start, start)


def _affine(site: Site, x: Var, scale: float, shift: float) -> Var:
    session = site.session
    if scale != 1.0:
        x = session.emit("mul", x, weak(session, scale, x, "a random number"))
    return x if shift == 0.0 else session.emit("add", x, weak(session, shift, x, "a random number"))
