"""Element types and tensor types of the IR."""

from __future__ import annotations

import enum
from typing import cast

from tesserac.arrays import np
from tesserac.immutable import dataclass

Dim = int | str
"""A dimension: a size, or the name of a symbol that shape unification has yet to resolve."""


class DType(enum.Enum):
    """Element type; the value is the spelling in IR text."""

    F64 = "f64"
    F32 = "f32"
    BF16 = "bf16"
    F16 = "f16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    BOOL = "bool"
    C64 = "c64"
    C128 = "c128"

    __hash__ = object.__hash__  # members are singletons, and Enum's own is written in Python

    @property
    def is_float(self) -> bool:
        """Real floating point of any width."""
        return self in (DType.F64, DType.F32, DType.BF16, DType.F16)

    @property
    def is_complex(self) -> bool:
        """Complex of any width."""
        return self in (DType.C64, DType.C128)

    @property
    def is_integer(self) -> bool:
        """Signed or unsigned integer (not bool)."""
        return self in (DType.I64, DType.I32, DType.I16, DType.I8, DType.U8)

    @property
    def is_differentiable(self) -> bool:
        """Whether values of this type carry tangents."""
        return self.is_float or self.is_complex

    @property
    def real(self) -> DType:
        """The type of the real and the imaginary part of a complex type; any other type itself."""
        return {DType.C64: DType.F32, DType.C128: DType.F64}.get(self, self)

    @property
    def complex(self) -> DType:
        """The narrowest complex type that holds every number of a floating type; a complex type itself."""
        if self.is_complex:
            return self
        return DType.C128 if self is DType.F64 else DType.C64

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return _ITEMSIZE[self]

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy type that holds it (bf16 has none of its own and is held in float32)."""
        return np.dtype(_NUMPY[self])

    def __str__(self) -> str:
        return self.value


_ITEMSIZE = {DType.F64: 8, DType.F32: 4, DType.BF16: 2, DType.F16: 2, DType.I64: 8, DType.I32: 4, DType.I16: 2,
             DType.I8: 1, DType.U8: 1, DType.BOOL: 1, DType.C64: 8, DType.C128: 16}
_NUMPY = {DType.F64: "f8", DType.F32: "f4", DType.BF16: "f4", DType.F16: "f2", DType.I64: "i8", DType.I32: "i4",
          DType.I16: "i2", DType.I8: "i1", DType.U8: "u1", DType.BOOL: "?", DType.C64: "c8", DType.C128: "c16"}


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape; prints as ``f32[8,128]``, a scalar as ``f32[]``."""

    dtype: DType
    shape: tuple[Dim, ...] = ()

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape, once every dimension is a number (an internal error before that)."""
        for dim in self.shape:
            if not isinstance(dim, int):
                raise TypeError(f"dimension {dim} of {self} is not resolved")
        return cast(tuple[int, ...], self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for dim in self.sizes:
            count *= dim
        return count

    @property
    def bytes(self) -> int:
        """Bytes of a dense array of this type."""
        return self.size * self.dtype.itemsize

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        """The same element type with another shape."""
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape with another element type."""
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"
