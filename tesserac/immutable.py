"""Dataclasses that are frozen for the type checker alone.

A compilation makes some 100,000 small values that nothing changes once they are made. At run time a frozen dataclass
sets every field through ``object.__setattr__``, which takes five times as long as an assignment; so here only mypy sees
to it that nobody assigns. Values compare and hash by their fields, or by the ``__hash__`` of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    T = TypeVar("T")

    def dataclass(*, frozen: bool, slots: bool, eq: bool = True) -> Callable[[type[T]], type[T]]:
        """``dataclasses.dataclass`` with these flags, for values that are made very often."""

        def made(cls: type[T]) -> type[T]:
            hashed = frozen and eq and "__hash__" not in cls.__dict__
            return dataclasses.dataclass(slots=slots, eq=eq, unsafe_hash=hashed)(cls)

        return made
