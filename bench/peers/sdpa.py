"""PyTorch's scaled_dot_product_attention in bf16, forward and backward, at the sizes of bench/micro/attention_mma.cu.

`python -m bench.peers.sdpa BATCH LENGTH HEADS WIDTH CAUSAL ...`, five numbers per size; a line of JSON for each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F


def milliseconds(work: Callable[[], object], repeats: int = 20) -> float:
    """The mean time of `work` on the device, behind one call that is not counted."""
    work()
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(repeats):
        work()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / repeats


def main() -> None:
    """Times every size that the command line lists."""
    numbers = [int(text) for text in sys.argv[1:]]
    for start in range(0, len(numbers), 5):
        batch, length, heads, width, causal = numbers[start : start + 5]
        shape = (batch, heads, length, width)
        q, k, v, d_o = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=i < 3) for i in range(4))

        def forward() -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=bool(causal))  # noqa: B023

        out = forward()
        times = {
            "forward_ms": milliseconds(forward),
            "backward_ms": milliseconds(lambda: torch.autograd.grad(out, (q, k, v), d_o, retain_graph=True)),  # noqa: B023
        }
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
