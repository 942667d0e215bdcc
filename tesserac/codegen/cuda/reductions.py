"""Second phases: partial results in memory become the stored ones, always added in the same order."""

from __future__ import annotations

from typing import Any

from tesserac.codegen.cuda.expressions import offset_text
from tesserac.codegen.cuda.layout import BLOCK, WARP, count
from tesserac.codegen.cuda.passes import LOOP_NAMES, row_indices

MANY_BLOCKS = 4096
MANY_TERMS = 64


def render_reduction(
    domain: tuple[int, ...], source: tuple[int, ...], target: tuple[int, ...], mode: str, real: str
) -> dict[str, Any]:
    """Values for templates/cuda/reduce.cu.j2: ``out[target] = mode of terms[source]``
    over the axes where the target stands still.

    One thread per result (eight for long sums) where neighbouring results lie side by side in the source,
    else one warp per result.
    """
    axes = [i for i, n in enumerate(domain) if n > 1]
    kept = [i for i in axes if target[i]]
    reduced = [i for i in axes if not target[i]]
    names = {axis: LOOP_NAMES[position] for position, axis in enumerate(axes)}
    warp = bool(reduced) and (not kept or source[kept[-1]] > min(source[i] for i in reduced))
    results, terms = count(tuple(domain[i] for i in kept)), count(tuple(domain[i] for i in reduced))
    whole = max(sum((n - 1) * s for n, s in zip(domain, strides, strict=True)) + 1 for strides in (source, target))
    index = "int" if max(whole, count(domain)) < 1 << 30 else "int64_t"
    sliced = not warp and terms >= MANY_TERMS
    spread = -(-results // WARP) if sliced else min(-(-results * (WARP if warp else 1) // BLOCK), MANY_BLOCKS)
    return {
        "warp": warp,
        "sliced": sliced,
        "results": results,
        "terms": terms,
        "mode": mode,
        "real": real,
        "index": index,
        "block": BLOCK,
        "identity": {"max": f"-infinity<{real}>()", "min": f"infinity<{real}>()"}.get(mode, "0"),
        "kept": row_indices(tuple(domain[i] for i in kept), [names[i] for i in kept], index, "at") if kept else [],
        "loops": [(names[i], domain[i]) for i in reduced],
        "spread": row_indices(tuple(domain[i] for i in reduced), [names[i] for i in reduced], index, "t")
        if reduced
        else [],
        "source": offset_text([source[i] for i in axes], [names[i] for i in axes]),
        "target": offset_text([target[i] for i in kept], [names[i] for i in kept]),
        "blocks": spread,
    }
