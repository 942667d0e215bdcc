"""Random tensors as pure functions of (run seed, step, stream, row-major index).

Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011) keyed by the seed; the counter holds half the index
and stream + step. Element i takes words 0 and 1 (i even) or 2 and 3 (i odd): the bits of runtime/philox.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.types import DType, TensorType
from tesserac.ops.attributes import dims_of, element_type, integer, sizes_of
from tesserac.ops.base import REQUIRED, Array, Attrs, Factors, OpSpec, Sample, as_tuple, register
from tesserac.ops.rules import LETTERS

Types = Sequence[TensorType]
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)


def philox(block: Array, stream: int, seed: int) -> tuple[Array, Array, Array, Array]:
    """Four 32-bit words (held in 64) for every 64-bit block number."""
    c0, c1 = block & _LOW, block >> _WORD
    c2, c3 = (np.full_like(block, word) for word in (stream & 0xFFFFFFFF, stream >> 32 & 0xFFFFFFFF))
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> _WORD) ^ c1 ^ np.uint64(k0), b & _LOW, (a >> _WORD) ^ c3 ^ np.uint64(k1), a & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def words(count: int, stream: int, seed: int) -> tuple[Array, Array]:
    """The two words of each of the first ``count`` elements of a stream."""
    index = np.arange(count, dtype=np.uint64)
    w0, w1, w2, w3 = philox(index >> np.uint64(1), stream, seed)
    odd = (index & np.uint64(1)).astype(bool)
    return np.where(odd, w2, w0), np.where(odd, w3, w1)


def _uniform(a: Array, b: Array, wide: bool) -> Array:
    """A multiple of 2^-53 (f64) or 2^-24 (narrower types) in [0, 1)."""
    if wide:
        return np.asarray(((a << np.uint64(21)) | (b >> np.uint64(11))).astype(np.float64) * 2.0**-53)
    return np.asarray((a >> np.uint64(8)).astype(np.float64) * 2.0**-24)


def _normal(a: Array, b: Array, wide: bool) -> Array:
    """Box and Muller's transform (1958)."""
    radius = np.sqrt(-2.0 * np.log((a.astype(np.float64) + 0.5) * 2.0**-32))
    return np.asarray(radius * np.cos(6.283185307179586477 * (b.astype(np.float64) * 2.0**-32)))


def _register(name: str, doc: str, draw: Callable[[Array, Array, bool], Array]) -> None:
    def infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        dtype = element_type(attrs)
        if not dtype.is_float:
            raise ShapeError(f"{name} makes floating-point numbers, not {dtype}")
        return (TensorType(dtype, dims_of(attrs, "shape")),)

    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
        shape, dtype = sizes_of(attrs, "shape"), element_type(attrs)
        stream = integer(attrs, "stream") + integer({"step": attrs.get("step", 0)}, "step")
        a, b = words(int(np.prod(shape, dtype=int)), stream, integer({"seed": attrs.get("seed", 0)}, "seed"))
        return as_tuple(draw(a, b, dtype is DType.F64).astype(dtype.numpy).reshape(shape))

    def factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
        # Slices pass, because every element depends on its global index alone.
        return Factors((), (tuple(LETTERS[: outs[0].rank]),))

    def flops(ins: Types, outs: Types, attrs: Attrs) -> float:
        return 40.0 * outs[0].size

    def samples() -> tuple[Sample, ...]:
        return tuple(Sample((), (("dtype", dtype), ("shape", (3, 5)), ("stream", 7)))
                     for dtype in (DType.F64, DType.F32))

    register(OpSpec(name, doc, "random", 0, infer, evaluate,
                    attrs=(("shape", REQUIRED), ("dtype", REQUIRED), ("stream", REQUIRED)), factors=factors,
                    flops=flops, samples=samples))


_register("random_uniform", "uniform numbers in [0, 1)", _uniform)
_register("random_normal", "standard normal numbers", _normal)
