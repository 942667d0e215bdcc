"""Short-time Fourier transforms: a signal cut into overlapping frames, and put together from them."""

from __future__ import annotations

import math

from tesserac.elaborate.calls import Site
from tesserac.elaborate.catalogue.registry import surface
from tesserac.elaborate.catalogue.spectral import angles, as_complex, norm_argument, operand_of, padded, part_of
from tesserac.elaborate.catalogue.support import constant_like, integer
from tesserac.elaborate.operands import broadcast_to, cast, floating, is_tensor
from tesserac.elaborate.session import Session
from tesserac.elaborate.values import Value
from tesserac.ir.program import Var
from tesserac.ir.types import Dim, DType


@surface(
    "stft(x, window, hop, *, norm=None)",
    "Transforms of overlapping frames, [..., frames, window/2+1]; window: a length (of a Hann window) or a tensor",
    family="spectral",
)
def stft(site: Site, x: Value, window: Value, hop: Value, norm: Value) -> Value:
    """Frames start every ``hop`` numbers, the first at the first; what no whole frame covers is left out."""
    session, signal = site.session, operand_of(site, x, "stft")
    if signal.type.rank == 0 or signal.type.dtype.is_complex:
        raise site.fail("T0404", f"op.stft needs real numbers along an axis, not {session.type_text(signal.type)}")
    n = session.known(signal.type.shape[-1], "op.stft")
    weights, width = _window(site, window, signal.type.dtype)
    step = integer(site, hop, "hop")
    if width > n:
        raise site.fail("T0404", f"a window of {width} numbers is longer than the signal, which has {n}")
    frames = _frames(session, signal, n, width, step)
    windowed = session.emit("mul", frames, broadcast_to(session, weights, frames.type.shape))
    return session.emit("rfft", windowed, axis=signal.type.rank, norm=norm_argument(site, "stft", norm))


def _window(site: Site, window: Value, dtype: DType) -> tuple[Var, int]:
    """The weights of a frame; a length stands for a periodic Hann window."""
    session = site.session
    if is_tensor(window):
        given = floating(session, window, "the window of op.stft")
        if given.type.rank != 1:
            raise site.fail("T0404", f"a window has one axis, not {given.type.rank}")
        return cast(session, given, dtype), session.known(given.type.shape[0], "the window of op.stft")
    width = integer(site, window, "window", 2)
    cosine = session.emit("cos", angles(session, width, 2 * math.pi / width, dtype))
    half = session.emit("mul", cosine, constant_like(session, cosine, -0.5))
    return session.emit("add", half, constant_like(session, cosine, 0.5)), width


def _frames(session: Session, x: Var, n: int, width: int, hop: int) -> Var:
    """[..., n] as [..., frames, width]: slices of blocks, of which frames consist."""
    lead, count = x.type.shape[:-1], 1 + (n - width) // hop
    block = math.gcd(width, hop)
    step, pieces = hop // block, width // block
    used = (count - 1) * hop + width
    blocks = session.emit("reshape", part_of(session, x, x.type.rank - 1, 0, used), shape=(*lead, used // block, block))
    axis = x.type.rank - 1
    found = [part_of(session, blocks, axis, i, i + (count - 1) * step + 1, step) for i in range(pieces)]
    return found[0] if pieces == 1 else session.emit("concat", *found, axis=axis + 1)


def _overlapped(session: Session, frames: Var, count: int, width: int, hop: int) -> Var:
    """The transpose of _frames: [..., frames, width] added up to [..., (frames - 1) * hop + width]."""
    lead: tuple[Dim, ...] = frames.type.shape[:-2]
    rank, block = len(lead) + 2, math.gcd(width, hop)
    step, pieces = hop // block, width // block
    total = (count - 1) * step + pieces
    result: Var | None = None
    for i in range(pieces):
        piece = part_of(session, frames, rank - 1, i * block, (i + 1) * block)
        if step > 1:
            spread = session.emit("reshape", piece, shape=(*lead, count, 1, block))
            spread = padded(session, spread, rank - 1, step - 1)
            spread = session.emit("reshape", spread, shape=(*lead, count * step, block))
            piece = part_of(session, spread, rank - 2, 0, (count - 1) * step + 1)
        behind = total - i - ((count - 1) * step + 1)
        low, high = ((0,) * (rank - 2) + (k, 0) for k in (i, behind))
        placed = session.emit("pad", piece, low=low, high=high, value=0.0) if i or behind else piece
        result = placed if result is None else session.emit("add", result, placed)
    assert result is not None
    return session.emit("reshape", result, shape=(*lead, total * block))


@surface(
    "istft(x, window, hop, *, norm=None)",
    "The signal of op.stft: frames times the window, added up and divided by the sum of squared windows",
    family="spectral",
)
def istft(site: Site, x: Value, window: Value, hop: Value, norm: Value) -> Value:
    """Exact where the windows of the frames that cover a number do not vanish together; zero there."""
    session, spectra = site.session, operand_of(site, x, "istft")
    if spectra.type.rank < 2:
        raise site.fail("T0404", f"op.istft needs [..., frames, bins], not {session.type_text(spectra.type)}")
    weights, width = _window(site, window, spectra.type.dtype.real)
    count, step = session.known(spectra.type.shape[-2], "op.istft"), integer(site, hop, "hop")
    what = f"the last axis of the spectra and the bins of a window of {width} numbers"
    session.unify(spectra.type.shape[-1], width // 2 + 1, what, (spectra,))
    spectra = as_complex(session, spectra)
    kind = norm_argument(site, "istft", norm)
    frames = session.emit("irfft", spectra, axis=spectra.type.rank - 1, n=width, norm=kind)
    windowed = session.emit("mul", frames, broadcast_to(session, weights, frames.type.shape))
    signal = _overlapped(session, windowed, count, width, step)
    squares = session.emit("square", broadcast_to(session, weights, (count, width)))
    total = _overlapped(session, squares, count, width, step)
    enough = session.emit("gt", total, constant_like(session, total, 1e-10))
    safe = session.emit("select", enough, total, constant_like(session, total, 1.0))
    return session.emit("div", signal, broadcast_to(session, safe, signal.type.shape))
