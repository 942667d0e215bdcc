"""Every user-facing op: name, signature, one line of documentation, and the rule that builds it from IR ops.

Each family module declares its ops with the `surface` decorator; importing this package fills `SURFACES`.
"""

from __future__ import annotations

from tesserac.elaborate.catalogue import (  # noqa: F401  (registration)
    calculus,
    complex,
    custom,
    experts,
    frames,
    language,
    layers,
    linear,
    loss,
    math,
    mesh,
    nn,
    random,
    reduce,
    shape,
    spectral,
    transforms,
    wavelets,
)
from tesserac.elaborate.catalogue.registry import PENDING, SURFACES, TENSOR_METHODS, Surface, documentation

__all__ = ["PENDING", "SURFACES", "TENSOR_METHODS", "Surface", "documentation"]
