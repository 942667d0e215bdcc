"""A signal without its noise, in two ways: frequencies cut off, and wavelet details shrunk (Donoho and Johnstone 1994).

The noise is estimated from the finest details, whose median magnitude it dominates; `spectral_report.py` makes the input.
"""
from tessera import graph, op

B, N = 8, 1024  # signals, samples of each
LOG_N = 6.931
LEVELS = 4
CUTOFF = 0.25  # of the highest frequency
COARSE = N // 2**LEVELS


def shrunk(details, threshold):
    return op.sign(details) * op.relu(op.abs(details) - threshold)


@graph.module
def spectral_denoise(x: Tensor[B, N]):
    packed = op.wavelet(x, "db4", LEVELS)
    finest = op.sort(op.abs(packed[:, N // 2 :]))
    noise = finest[:, N // 4 : N // 4 + 1] / 0.6745  # the median of a normal distribution's magnitudes
    threshold = 0.5 * noise * (2 * LOG_N) ** 0.5
    details = shrunk(packed[:, COARSE:], threshold)
    wavelet = op.iwavelet(op.concat([packed[:, :COARSE], details], axis=1), "db4", LEVELS)
    return {"fourier": op.spectral_filter(x, CUTOFF), "wavelet": wavelet}
