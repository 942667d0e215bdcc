"""The op catalogue: importing this package registers every OpSpec, one family per module."""

from tesserac.ops import (  # noqa: F401  (imported for registration)
    arithmetic,
    attention,
    complex,
    contract,
    custom,
    elementwise,
    experts,
    fft,
    fft_pair,
    gather,
    grouped,
    layout,
    loss,
    norm,
    random,
    reduce,
    sort,
    source,
    transform,
    view,
)
