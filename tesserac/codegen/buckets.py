"""What kernels know of buckets of gradients in place; ``passes.bucket_layout`` decides it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tesserac.ir.program import Var


@dataclass(frozen=True, slots=True)
class Run:
    """Where the tensors of an exchange lie: the first element of each in the range, and whether it is there itself.

    ``memory``: the value that stands for the range.
    """

    memory: Var
    tensors: Mapping[Var, tuple[int, bool]]


@dataclass(frozen=True, slots=True)
class BucketLayout:
    """Runs by the first result of their equation, and the values that lie in one: dense, whatever their rows."""

    runs: Mapping[Var, Run] = field(default_factory=dict)
    values: frozenset[Var] = frozenset()


NO_BUCKETS = BucketLayout()
