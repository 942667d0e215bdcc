"""Random tensors as pure functions of (run seed, step, stream, row-major index).

Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011) keyed by the seed; the counter holds half the index
and stream + step. Element i takes words 0 and 1 (i even) or 2 and 3 (i odd): the bits of runtime/philox.h.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tesserac.arrays import np
from tesserac.ir.dims import Dims, ShapeError
from tesserac.ir.program import Attr, Equation, Var
from tesserac.ir.types import DType, TensorType
from tesserac.ops.attributes import dims_of, element_type, integer, integers, sizes_of
from tesserac.ops.base import REQUIRED, Array, Attrs, Cuts, Factors, MeshRule, OpSpec, Sample, as_tuple, register
from tesserac.ops.mesh import start_of
from tesserac.ops.rules import LETTERS

if TYPE_CHECKING:
    from tesserac.ir.builder import Builder

Types = Sequence[TensorType]


def philox(block: Array, stream: int, seed: int) -> tuple[Array, Array, Array, Array]:
    """Four 32-bit words (held in 64) for every 64-bit block number."""
    low, word = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1 = block & low, block >> word
    c2, c3 = (np.full_like(block, part) for part in (stream & 0xFFFFFFFF, stream >> 32 & 0xFFFFFFFF))
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> word) ^ c1 ^ np.uint64(k0), b & low, (a >> word) ^ c3 ^ np.uint64(k1), a & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def words(index: Array, stream: int, seed: int) -> tuple[Array, Array]:
    """The two words of the elements of a stream with these (unsigned, 64 bits) numbers."""
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


def _cut(ins: Types, outs: Types, attrs: Attrs, size: int) -> tuple[Factors, ...]:
    return (_factors(ins, outs, attrs),)


def _local(b: Builder, e: Equation, operands: Sequence[Var], attrs: dict[str, Attr], cuts: Cuts) -> tuple[Var, ...]:
    """A rank draws the numbers that its part of the whole tensor has; a part may be cut again."""
    shape = sizes_of(attrs, "shape")
    starts = dict(zip(integers(attrs, "dims") if operands else (), operands, strict=True))
    for i in range(len(shape)):
        if cuts.get(LETTERS[i]):
            start = start_of(b, cuts[LETTERS[i]], shape[i])
            starts[i] = b.op("add", starts[i], start, named="first") if i in starts else start
    if not starts:
        return b.ops(e.op, (), attrs)
    whole = attrs.get("whole", e.result.type.shape)
    return b.ops(f"{e.op.removesuffix('_part')}_part", tuple(starts.values()),
                 {**attrs, "whole": whole, "dims": tuple(starts)})


def _factors(ins: Types, outs: Types, attrs: Attrs) -> Factors:
    # Slices pass, because every element depends on its global index alone.
    return Factors(tuple(() for _ in ins), (tuple(LETTERS[: outs[0].rank]),))


def whole_strides(attrs: Attrs) -> tuple[int, ...]:
    """How far apart the numbers of neighbouring elements of a part are in the whole tensor, axis by axis."""
    sizes = sizes_of(attrs, "whole")
    return tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))


def _numbers_of_part(shape: Sequence[int], whole: Sequence[int], starts: Mapping[int, int]) -> Array:
    """Row-major numbers in the whole tensor of the elements of a part that begins at ``starts``."""
    number = np.zeros(tuple(shape), np.uint64)
    for axis, extent in enumerate(whole):
        place = np.arange(shape[axis], dtype=np.uint64) + np.uint64(starts.get(axis, 0))
        number = number * np.uint64(extent) + place.reshape([-1 if i == axis else 1 for i in range(len(whole))])
    return number


def _flops(ins: Types, outs: Types, attrs: Attrs) -> float:
    return 40.0 * outs[0].size


def _register(name: str, doc: str, draw: Callable[[Array, Array, bool], Array]) -> None:
    def infer(types: Types, attrs: Attrs, dims: Dims) -> tuple[TensorType, ...]:
        dtype = element_type(attrs)
        if not dtype.is_float:
            raise ShapeError(f"{name} makes floating-point numbers, not {dtype}")
        if len(types) != len(integers(attrs, "dims") if "dims" in attrs else ()):
            raise ShapeError(f"{name} has as many operands as axes that start somewhere")
        return (TensorType(dtype, dims_of(attrs, "shape")),)

    def evaluate(arrays: Sequence[Array], attrs: Attrs) -> tuple[Array, ...]:
        shape, dtype = sizes_of(attrs, "shape"), element_type(attrs)
        whole = sizes_of(attrs, "whole") if "whole" in attrs else shape
        starts = dict(zip(integers(attrs, "dims") if "dims" in attrs else (), map(int, arrays), strict=True))
        stream = integer(attrs, "stream") + integer({"step": attrs.get("step", 0)}, "step")
        seed = integer({"seed": attrs.get("seed", 0)}, "seed")
        a, b = words(_numbers_of_part(shape, whole, starts), stream, seed)
        return as_tuple(draw(a, b, dtype is DType.F64).astype(dtype.numpy))

    def samples() -> tuple[Sample, ...]:
        return tuple(Sample((), (("dtype", dtype), ("shape", (3, 5)), ("stream", 7)))
                     for dtype in (DType.F64, DType.F32))

    def part_samples() -> tuple[Sample, ...]:
        starts = (np.array(1, np.int32), np.array(2, np.int32))
        return (Sample(starts, (("dtype", DType.F64), ("shape", (2, 5, 2)), ("stream", 7), ("whole", (3, 5, 4)),
                                ("dims", (0, 2)))),)

    attrs: tuple[tuple[str, Attr], ...] = (("shape", REQUIRED), ("dtype", REQUIRED), ("stream", REQUIRED))
    register(OpSpec(name, doc, "random", 0, infer, evaluate, attrs=attrs, factors=_factors,
                    mesh=MeshRule(_cut, _local), flops=_flops, samples=samples))
    register(OpSpec(f"{name}_part", f"the part of {name} of the shape `whole` that begins at the operands on the axes "
                    "`dims`", "random", None, infer, evaluate,
                    attrs=(*attrs, ("whole", REQUIRED), ("dims", REQUIRED)), factors=_factors,
                    mesh=MeshRule(_cut, _local), flops=_flops, samples=part_samples))


_register("random_uniform", "uniform numbers in [0, 1)", _uniform)
_register("random_normal", "standard normal numbers", _normal)
