"""Strided views: how a value that is only another value seen differently reads the other one's memory."""

from __future__ import annotations

from tesserac.immutable import dataclass
from tesserac.ir.program import Equation


@dataclass(frozen=True, slots=True)
class View:
    """Element (i0, i1, ...) lies at ``offset + i0*strides[0] + i1*strides[1] + ...``, in elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    def normalized(self) -> View:
        """Stride 0 on axes of size 1, so that equal views compare equal."""
        return View(
            self.shape, tuple(s if n > 1 else 0 for n, s in zip(self.shape, self.strides, strict=True)), self.offset
        )


def dense_strides(shape: tuple[int, ...], row_stride: int | None = None) -> tuple[int, ...]:
    """Row-major strides; rows of the last axis lie ``row_stride`` elements apart."""
    strides, step = [1] * len(shape), 1
    for axis in range(len(shape) - 1, -1, -1):
        strides[axis] = step
        step *= (row_stride or shape[axis]) if axis == len(shape) - 1 else shape[axis]
    return tuple(strides)


def dense(shape: tuple[int, ...], row_stride: int | None = None) -> View:
    """The view of a whole buffer."""
    return View(shape, dense_strides(shape, row_stride))


def apply(equation: Equation, view: View) -> View | None:
    """The result of a view equation, given how its operand is stored; None when no strides can express it."""
    return _RULES[equation.op](equation, view)


def _broadcast(equation: Equation, view: View) -> View | None:
    shape = equation.result.type.sizes
    axes = equation.attr("axes")
    assert isinstance(axes, tuple)
    strides = [0] * len(shape)
    for source, target in enumerate(axes):
        assert isinstance(target, int)
        if view.shape[source] == shape[target] and view.shape[source] != 1:
            strides[target] = view.strides[source]
    return View(shape, tuple(strides), view.offset)


def _transpose(equation: Equation, view: View) -> View | None:
    perm = equation.attr("perm")
    assert isinstance(perm, tuple)
    order = [p for p in perm if isinstance(p, int)]
    return View(tuple(view.shape[p] for p in order), tuple(view.strides[p] for p in order), view.offset)


def _slice(equation: Equation, view: View) -> View | None:
    starts, steps = equation.attr("starts"), equation.attr("strides")
    assert isinstance(starts, tuple)
    assert isinstance(steps, tuple)
    offset, strides = view.offset, []
    for start, step, stride in zip(starts, steps, view.strides, strict=True):
        assert isinstance(start, int)
        assert isinstance(step, int)
        offset += start * stride
        strides.append(stride * step)
    return View(equation.result.type.sizes, tuple(strides), offset)


def _reshape(equation: Equation, view: View) -> View | None:
    return reshaped(view, equation.result.type.sizes)


def reshaped(view: View, target: tuple[int, ...]) -> View | None:
    """Splits and merges axes: a run of old axes and the run of new axes of equal product must be one stride chain."""
    old = [(n, s) for n, s in zip(view.shape, view.strides, strict=True) if n != 1]
    strides = [0] * len(target)
    position, axis = 0, 0
    while axis < len(target):
        if target[axis] == 1:
            axis += 1
            continue
        if position >= len(old):
            return None
        size, last = old[position][0], position
        wanted, end = target[axis], axis
        while size != wanted:
            if size < wanted:
                last += 1
                if last >= len(old) or old[last - 1][1] != old[last][1] * old[last][0]:
                    return None
                size *= old[last][0]
            else:
                end += 1
                if end >= len(target):
                    return None
                wanted *= target[end]
        step = old[last][1]
        for new in range(end, axis - 1, -1):
            strides[new] = step
            step *= target[new]
        position, axis = last + 1, end + 1
    return View(target, tuple(strides), view.offset)


def _same(equation: Equation, view: View) -> View | None:
    return view


_RULES = {
    "broadcast": _broadcast,
    "transpose": _transpose,
    "slice": _slice,
    "reshape": _reshape,
    "stop_gradient": _same,
}
VIEW_OPS = frozenset(_RULES)
