"""A PyTorch peer on the GPU: `python -m bench.peers.on_gpu --program bench.peers.gpt_torch --size 124m`.

Peers make their tensors from NumPy's arrays; here those go to the device. Everything else is the peer's own program.
"""

from __future__ import annotations

import argparse
import contextlib
import runpy
import sys
from typing import Any

import torch


def main() -> None:
    """Runs the program as `__main__`, with the flags that are left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True, help="module of a PyTorch peer")
    parser.add_argument("--autocast", action="store_true", help="products in bf16, as PyTorch chooses them")
    parser.add_argument("--device", default="cuda")
    options, rest = parser.parse_known_args()
    torch.set_default_device(options.device)
    from_numpy = torch.from_numpy

    def on_device(array: Any) -> torch.Tensor:
        return from_numpy(array).to(options.device)

    torch.from_numpy = on_device  # type: ignore[assignment]
    sys.argv = [options.program, *rest]
    cast = torch.autocast(options.device, torch.bfloat16) if options.autocast else contextlib.nullcontext()
    with cast:
        runpy.run_module(options.program, run_name="__main__")


if __name__ == "__main__":
    main()
