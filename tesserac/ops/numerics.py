"""NumPy meaning of functions that NumPy does not offer, in double precision, with first-order complex steps.

``erf`` and ``erfc`` follow W. J. Cody, "Rational Chebyshev approximations for the error function",
Math. Comp. 23 (1969), 631-637; the relative error is below 1e-15.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tesserac.arrays import np
from tesserac.ops.base import Array

_SMALL = ((1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
           3.20937758913846947e3),
          (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3))
_MIDDLE = ((2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
            2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
            1.23033935479799725e3),
           (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
            3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3))
_LARGE = ((1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
           1.60837851487422766e-2, 6.58749161529837803e-4),
          (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
           2.33520497626869185e-3))
_INV_SQRT_PI = 0.56418958354775628695
TWO_OVER_SQRT_PI = 2.0 * _INV_SQRT_PI
INV_SQRT_2 = 0.70710678118654752440
INV_SQRT_2PI = 0.39894228040143267794
GELU_C = 0.79788456080286535588
GELU_A = 0.044715


def _horner(coefficients: Sequence[float], x: Array) -> Array:
    total: Array = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        total = total * x + c
    return total


def _ratio(pair: tuple[Sequence[float], Sequence[float]], x: Array) -> Array:
    return _horner(pair[0], x) / _horner(pair[1], x)


def _gauss(a: Array) -> Array:
    """exp(-a*a) with the square split so that its rounding error is not amplified."""
    high = np.trunc(a * 16.0) / 16.0
    with np.errstate(under="ignore"):
        result: Array = np.exp(-high * high) * np.exp(-(a - high) * (a + high))
    return result


def _erfc_positive(a: Array) -> Array:
    """erfc(a) for a >= 0.46875."""
    middle = np.clip(a, 0.0, 4.0)
    large = np.clip(a, 4.0, 28.0)
    inverse = 1.0 / (large * large)
    tail = (_INV_SQRT_PI - inverse * _ratio(_LARGE, inverse)) / large
    result: Array = _gauss(np.minimum(a, 28.0)) * np.where(a <= 4.0, _ratio(_MIDDLE, middle), tail)
    return result


def _real(function: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Lifts a function of float64 to any width, and to first order to complex numbers near the real axis."""

    def lifted(x: Array) -> Array:
        x = np.asarray(x)
        if np.iscomplexobj(x):
            real = x.real.astype(np.float64)
            return np.asarray(function(real) + 1j * x.imag * slope(real))
        return np.asarray(function(x.astype(np.float64)).astype(x.dtype))

    return lifted


def _erf(x: Array) -> Array:
    a = np.abs(x)
    small = x * _ratio(_SMALL, np.minimum(a, 0.46875) ** 2)
    return np.where(a <= 0.46875, small, np.sign(x) * (1.0 - _erfc_positive(np.maximum(a, 0.46875))))


def _erfc(x: Array) -> Array:
    a = np.abs(x)
    tail = _erfc_positive(np.maximum(a, 0.46875))
    return np.where(a <= 0.46875, 1.0 - _erf(x), np.where(x > 0, tail, 2.0 - tail))


def _slope_erf(x: Array) -> Array:
    return np.asarray(TWO_OVER_SQRT_PI * np.exp(-x * x))


erf = _real(_erf, _slope_erf)
erfc = _real(_erfc, lambda x: -_slope_erf(x))


def re(x: Array) -> Array:
    """The real part, by which complex steps are compared and ordered."""
    return x.real if np.iscomplexobj(x) else x


def atan2(y: Array, x: Array) -> Array:
    """The angle of the point (x, y)."""
    angle = np.arctan2(re(y), re(x))
    if not (np.iscomplexobj(y) or np.iscomplexobj(x)):
        return np.asarray(angle)
    return np.asarray(angle + 1j * (y.imag * x.real - x.imag * y.real) / (x.real**2 + y.real**2))


def gelu(x: Array) -> Array:
    """x times the normal distribution function, with full relative accuracy in the negative tail."""
    return np.asarray(0.5 * x * erfc(x * -INV_SQRT_2))


def gelu_grad(x: Array) -> Array:
    """Derivative of gelu."""
    density = INV_SQRT_2PI * np.exp(-0.5 * x * x)
    return np.asarray(0.5 * erfc(x * -INV_SQRT_2) + x * density)


def gelu_tanh(x: Array) -> Array:
    """The tanh form of gelu (Hendrycks and Gimpel 2016)."""
    inner = GELU_C * (x + GELU_A * x * x * x)
    return np.asarray(0.5 * x * (1.0 + np.tanh(inner)))


def gelu_tanh_grad(x: Array) -> Array:
    """Derivative of gelu_tanh."""
    t = np.tanh(GELU_C * (x + GELU_A * x * x * x))
    slope = GELU_C * (1.0 + 3 * GELU_A * x * x)
    return np.asarray(0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    positive = re(x) >= 0
    decayed = np.exp(np.where(positive, -x, x))
    return np.asarray(np.where(positive, 1.0, decayed) / (1.0 + decayed))


def silu(x: Array) -> Array:
    """x * sigmoid(x)."""
    return np.asarray(x * sigmoid(x))


def silu_grad(x: Array) -> Array:
    """Derivative of silu."""
    s = sigmoid(x)
    return np.asarray(s * (1.0 + x * (1.0 - s)))


def softplus(x: Array) -> Array:
    """log(1 + exp(x)) without overflow."""
    positive = re(x) >= 0
    decayed = np.exp(np.where(positive, -x, x))
    # log1p of a complex number loses its small imaginary part in NumPy; the real branch keeps full accuracy.
    grown = np.log(1.0 + decayed) if np.iscomplexobj(x) else np.log1p(decayed)
    return np.asarray(np.where(positive, x, 0.0) + grown)


def absolute(x: Array) -> Array:
    """|x|, continued analytically off the real axis."""
    return np.asarray(np.where(re(x) < 0, -x, x)) if np.iscomplexobj(x) else np.abs(x)


def to_bfloat16(x: Array) -> Array:
    """float32 values rounded to the nearest bfloat16 (ties to even), NaN kept."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, rounded.view(np.float32)).astype(np.float32).reshape(np.shape(x))
