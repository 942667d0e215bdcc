"""NumPy, imported when something of it is first used: few compilations compute with arrays, and its import takes 0.1 s.

Modules that every command loads write ``from tesserac.arrays import np``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["np"]

if TYPE_CHECKING:
    import numpy as np
else:

    class _OnUse:
        """Stands for the module until it is there."""

        def __getattr__(self, name: str) -> Any:
            value = getattr(importlib.import_module("numpy"), name)
            setattr(self, name, value)
            return value

    np = _OnUse()
