"""Wavelet transforms."""

from __future__ import annotations

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.catalogue.spectral import operand_of
from tesserac.elaborate.catalogue.support import choice, integer
from tesserac.elaborate.tensors import one_axis
from tesserac.elaborate.values import Value
from tesserac.ops.wavelet import TAPS

MOST_LEVELS = 40


def _declare(name: str, doc: str) -> None:
    @surface(f"{name}(x, type='haar', level=1, *, axis=-1)", doc, family="spectral")
    def build(site: Site, x: Value, type: Value, level: Value, axis: Value) -> Value:
        operand = operand_of(site, x, name)
        at, times = one_axis(site.session, operand.type.rank, axis), integer(site, level, "level")
        kind = choice(site, type, "type", tuple(TAPS))
        if times > MOST_LEVELS:
            raise site.fail("T0504", f"level must be at most {MOST_LEVELS}, not {times}")
        site.session.known(operand.type.shape[at], f"op.{name}")
        return site.session.emit(name, operand, axis=at, level=times, type=kind)


_declare("wavelet", "Orthonormal periodic wavelet transform, packed [approximation, details]: haar, db2 or db4")
_declare("iwavelet", "The inverse of op.wavelet, and its transpose")
