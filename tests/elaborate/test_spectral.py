"""Spectral ops of the surface against NumPy and SciPy, and what they refuse."""

from __future__ import annotations

import textwrap
import warnings

import numpy as np
import pytest

from tesserac.ir.evaluate import evaluate
from tesserac.passes.simplify import simplify
from tests.elaborate.support import compile_source

RANDOM = np.random.default_rng(8)
N = 12


def values(body: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of a module in double precision; real inputs are declared fp64, complex ones complex128."""
    params = ", ".join(
        f'{k}: Tensor[{", ".join(map(str, v.shape))}, {"complex128" if np.iscomplexobj(v) else "fp64"}]'
        for k, v in inputs.items()
    )
    result = compile_source(f"@graph.module\ndef net({params}):\n" + textwrap.indent(textwrap.dedent(body), "    "))
    assert result.program is not None, result.text
    function = result.entry.infer
    assert function is not None
    return evaluate(function, {f"{i.path}": inputs[i.path.split(".")[-1]] for i in function.inputs}, dtype=None)


def value(expression: str, **inputs: np.ndarray) -> np.ndarray:
    (found,) = values(f"return {expression}", **inputs).values()
    return np.asarray(found)


def close(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


X = RANDOM.standard_normal((3, N))
Z = RANDOM.standard_normal((3, N)) + 1j * RANDOM.standard_normal((3, N))


@pytest.mark.parametrize("name", ["fft", "ifft"])
def test_complex_transforms(name: str) -> None:
    numpy = getattr(np.fft, name)
    close(value(f"op.{name}(x)", x=Z), numpy(Z, norm="ortho"))
    close(value(f"op.{name}(x)", x=X), numpy(X, norm="ortho"))
    close(value(f'op.{name}(x, axis=0, norm="backward")', x=Z), numpy(Z, axis=0))
    both = getattr(np.fft, f"{name}n")(Z, norm="forward")
    close(value(f'op.{name}(x, normalize="forward", axes=[0, -1])', x=Z), both)
    close(value(f"op.{name}2(x)", x=Z), getattr(np.fft, f"{name}2")(Z, norm="ortho"))


@pytest.mark.parametrize("n", [N, 7, 1])
def test_transforms_of_real_numbers(n: int) -> None:
    x = X[:, :n]
    close(value("op.rfft(x)", x=x), np.fft.rfft(x, norm="ortho"))
    close(value('op.rfft(x, 0, "backward")', x=x), np.fft.rfft(x, axis=0))
    close(value(f"op.irfft(op.rfft(x), {n})", x=x), x)


def test_irfft_takes_an_even_length_by_default() -> None:
    close(value("op.irfft(z)", z=Z[:, :7]), np.fft.irfft(Z[:, :7], norm="ortho"))


@pytest.mark.parametrize("n", [1, 2, 7, N])
def test_cosine_transforms(n: int) -> None:
    fft = pytest.importorskip("scipy.fft")
    x = X[:, :n]
    close(value("op.dct(x)", x=x), fft.dct(x, norm="ortho"))
    close(value("op.idct(x)", x=x), fft.idct(x, norm="ortho"))
    close(value("op.dct(x, axis=0)", x=x), fft.dct(x, axis=0, norm="ortho"))
    close(value("op.idct(op.dct(z))", z=Z[:, :n]), Z[:, :n])


@pytest.mark.parametrize("n", [N, 9])
def test_low_pass(n: int) -> None:
    x, kept = X[:, :n], np.fft.fftfreq(n) * 2
    wanted = np.fft.ifft(np.fft.fft(x) * (np.abs(kept) <= 0.5 + 1e-9))
    close(value("op.spectral_filter(x, 0.5)", x=x), wanted.real)
    close(value("op.spectral_filter(x, 0.5)", x=x + 0j), wanted)


def test_responses() -> None:
    h, g = RANDOM.standard_normal(N // 2 + 1), RANDOM.standard_normal(3) + 1j * RANDOM.standard_normal(3)
    close(value("op.spectral_filter(x, h)", x=X, h=h), np.fft.irfft(np.fft.rfft(X) * h, N))
    close(value("op.spectral_filter(z, g, axis=0)", z=Z, g=g), np.fft.ifft(np.fft.fft(Z, axis=0) * g[:, None], axis=0))


def test_convolutions() -> None:
    k = RANDOM.standard_normal(5)
    full = np.stack([np.convolve(row, k) for row in X])
    close(value("op.conv_fft(x, k, mode='full')", x=X, k=k), full)
    around = full[:, :N].copy()
    around[:, : full.shape[1] - N] += full[:, N:]
    close(value("op.conv_fft(x, k)", x=X, k=k), around)
    close(value("op.conv_fft(x, k)", x=X, k=k + 0j), around + 0j)
    close(value("op.conv_fft(x, k, axis=0)", x=X.T.copy(), k=k), around.T)


@pytest.mark.parametrize(("width", "hop"), [(8, 4), (6, 4), (5, 2), (4, 4)])
def test_frames(width: int, hop: int) -> None:
    x = RANDOM.standard_normal((2, 30))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)
    starts = range(0, 30 - width + 1, hop)
    wanted = np.stack([np.fft.rfft(x[:, s : s + width] * hann) for s in starts], axis=1)
    close(value(f'op.stft(x, {width}, {hop}, norm="backward")', x=x), wanted)
    back = value(f"op.istft(op.stft(x, {width}, {hop}), {width}, {hop})", x=x)
    covered = sum(np.where((np.arange(30) >= s) & (np.arange(30) < s + width), 1.0, 0.0)
                  * (hann[np.clip(np.arange(30) - s, 0, width - 1)] ** 2) for s in starts)[: back.shape[1]]
    close(back, np.where(covered > 1e-10, x[:, : back.shape[1]], 0.0))


@pytest.mark.parametrize("kind", ["haar", "db2", "db4"])
@pytest.mark.parametrize(("n", "level"), [(2, 1), (8, 3), (40, 2), (16, 4)])
def test_wavelets(kind: str, n: int, level: int) -> None:
    pywt = pytest.importorskip("pywt")
    x = RANDOM.standard_normal((3, n))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyWavelets warns where a filter is longer than the signal
        packed = np.concatenate(pywt.wavedec(x, kind, mode="periodization", level=level), axis=-1)
    close(value(f'op.wavelet(x, "{kind}", {level})', x=x), packed)
    close(value(f'op.wavelet(x, "{kind}", level={level}, axis=0)', x=(x + 2j * x).T.copy()), (packed + 2j * packed).T)
    close(value(f'op.iwavelet(op.wavelet(x, type="{kind}", level={level}), type="{kind}", level={level})', x=x), x)


def ops_left(expression: str, params: str) -> list[str]:
    result = compile_source(f"@graph.module\ndef net({params}):\n    return {expression}\n")
    function = result.entry.infer
    assert function is not None, result.text
    return [e.op for e in simplify(function).equations]


def test_transforms_that_undo_each_other_are_left_out() -> None:
    complex_, real = "x: Tensor[4, 9, complex64]", "x: Tensor[4, 9]"
    assert ops_left("op.ifft(op.fft(x))", complex_) == []
    assert ops_left("op.fft(op.ifft(x, 0), 0)", complex_) == []
    assert ops_left("op.ifft(op.fft(x))", real) == ["cast"]
    assert ops_left("op.irfft(op.rfft(x), 9)", real) == []
    assert ops_left("op.irfft(op.rfft(x), 8)", real) == ["rfft", "irfft"]
    assert ops_left("op.ifft(op.fft(x), 0)", complex_) == ["fft", "ifft"]
    assert ops_left('op.ifft(op.fft(x), norm="forward")', complex_) == ["fft", "ifft"]


def errors(expression: str, params: str = "x: Tensor[4, 9]") -> str:
    result = compile_source(f"@graph.module\ndef net({params}):\n    return {expression}\n")
    assert result.codes, result.text
    return next(line for line in result.text.splitlines() if line.startswith("error"))


@pytest.mark.parametrize(("expression", "params", "message"), [
    ("op.fft(x)", "x: Tensor[4, 9, int32]",
     "error[T0405]: the operand of op.fft needs floating-point elements, but `x` has i32"),
    ("op.fft(x, axis=2)", "x: Tensor[4, 9]", "error[T0404]: axis 2 is outside a tensor with 2 axes"),
    ('op.fft(x, norm="unitary")', "x: Tensor[4, 9]",
     "error[T0504]: norm must be one of 'backward', 'ortho', 'forward', not the string 'unitary'"),
    ("op.rfft(op.fft(x))", "x: Tensor[4, 9]", "error[T0403]: rfft needs real numbers, not c64"),
    ("op.rfft(x)", 'x: Tensor["B", "N"]',
     "error[T0402]: op.rfft needs the size of dimension `N`, which is not known yet"),
    ("op.fft(x)", "x: Tensor[4, 9, bf16]", "error[T0403]: fft: there are no complex numbers of bf16"),
    ("op.irfft(x, 20)", "x: Tensor[4, 9]", "error[T0403]: irfft: n=20 needs 11 bins, not 9"),
    ("op.fft2(x, axes=[0])", "x: Tensor[4, 9]", "error[T0504]: op.fft2 needs two axes, not 1"),
    ("op.fft(x, axes=[0, 0])", "x: Tensor[4, 9]", "error[T0504]: axes must name at least one axis, and each once"),
    ("op.fft(x, axis=0, axes=[1])", "x: Tensor[4, 9]",
     "error[T0504]: axis names one axis and axes several: give one of the two"),
    ('op.fft(x, norm="ortho", normalize="forward")', "x: Tensor[4, 9]",
     "error[T0504]: op.fft gets its norm twice: norm and normalize are two spellings of one argument"),
    ("op.istft(x, 4, 1)", "x: Tensor[4, 9]",
     "error[T0403]: the last axis of the spectra and the bins of a window of 4 numbers: 9 and 3 differ"),
    ("op.spectral_filter(x, 1.5)", "x: Tensor[4, 9]",
     "error[T0504]: a cutoff is a part of the highest frequency, in (0, 1], not 1.5"),
    ("op.conv_fft(x, k)", "x: Tensor[4, 9], k: Tensor[12]",
     "error[T0404]: a circular convolution of 9 numbers takes at most as many in its kernel, not 12"),
    ("op.wavelet(x)", "x: Tensor[4, 9]",
     "error[T0403]: wavelet: axis 1 of f32[4,9] cannot be halved once: 9 is not a multiple of 2"),
    ("op.iwavelet(x, level=3)", "x: Tensor[4, 12]",
     "error[T0403]: iwavelet: axis 1 of f32[4,12] cannot be halved 3 times: 12 is not a multiple of 8"),
    ('op.wavelet(x, "db3")', "x: Tensor[4, 8]",
     "error[T0504]: type must be one of 'haar', 'db2', 'db4', not the string 'db3'"),
    ("op.wavelet(x)", 'x: Tensor["B", "N"]',
     "error[T0402]: op.wavelet needs the size of dimension `N`, which is not known yet"),
    ("op.stft(x, 16, 4)", "x: Tensor[4, 9]",
     "error[T0404]: a window of 16 numbers is longer than the signal, which has 9"),
])
def test_what_is_refused(expression: str, params: str, message: str) -> None:
    assert errors(expression, params) == message


def test_the_norm_is_pointed_out_once() -> None:
    result = compile_source("@graph.module\ndef net(x: Tensor[8]):\n    return op.ifft(op.fft(x))\n")
    notes = [d for d in result.items if d.code == "T0510"]
    assert len(notes) == 1
    assert not [d for d in compile_source(
        '@graph.module\ndef net(x: Tensor[8]):\n    return op.fft(x, norm="ortho")\n').items if d.code == "T0510"]
