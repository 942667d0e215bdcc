"""Schedules of CUDA kernels: whatever is chosen, results are the same bits; and what may be chosen is right."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tesserac.codegen.cuda.project import rendered
from tesserac.codegen.cuda.schedule import Choice, Schedule, schedules, unfit
from tesserac.diagnostics import CompileError
from tesserac.driver import plan_entry
from tesserac.ir.program import Entry, Function
from tests.codegen.cuda_cases import CASES, attention
from tests.codegen.cuda_support import WHOLE, build_functions, call
from tests.codegen.test_cuda_mixed import CASES as MIXED
from tests.codegen.test_cuda_transforms import values_for
from tests.codegen.test_fft import one_op

NAMES = ("norm_short", "norm_warp", "norm_block", "embedding", "attention_groups", "moved", "pointwise_four", "lines")
FUNCTIONS = {
    False: [*(CASES[name]() for name in NAMES), (one_op("fft_pair", (20, 128), 1, "backward"), {})],
    True: [MIXED["dropped"][0](), MIXED["transposed"][0](), attention(1, 40, 40, 2, 2, 8, True)],
}
"""In float32, and with operands of bf16: on tensor cores."""


def entry_of(function: Function, mixed: bool = False) -> Entry:
    """As tests/codegen/cuda_support.py makes it."""
    trains = any(o.name.startswith("grad:") for o in function.outputs)
    return Entry("f", function if trains else None, None if trains else function, None, mixed)


def variants(function: Function, mixed: bool) -> list[dict[str, Schedule]]:
    """The second schedule of every kernel, then the third and so on, by digest."""
    found = rendered(plan_entry(entry_of(function, mixed), WHOLE), {}).kernels.functions
    lists = {f.digest: schedules(f.choices) for f in found if f.choices}
    most = max(map(len, lists.values()))
    return [{d: own[n] for d, own in lists.items() if n < len(own)} for n in range(1, most)]


@pytest.mark.parametrize("mixed", [False, True])
def test_every_schedule_computes_the_same_bits(mixed: bool, tmp_path: Path) -> None:
    functions: list[Function] = []
    chosen: list[Mapping[str, Schedule]] = []
    data = []
    for function, values in FUNCTIONS[mixed]:
        # The usual one last: it must not bring the headers that another one forgot to include.
        for own in [*variants(function, mixed), {}]:
            functions.append(function)
            chosen.append(own)
            data.append(values or values_for(function))
    library = ctypes.CDLL(str(build_functions(functions, tmp_path, mixed=mixed, schedules=chosen)))
    usual: dict[str, np.ndarray] = {}
    for number, (function, own) in reversed(list(enumerate(zip(functions, chosen, strict=True)))):
        found = call(library, number, function, data[number], seed=5, step=3)
        usual = usual if own else found
        assert found.keys() == usual.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, usual[name], err_msg=f"{name} with {own}")
    assert len(functions) >= 2 * len(FUNCTIONS[mixed])
    texts = [(tmp_path / f"f{i}.kernels.cuh").read_text() for i in range(len(functions))]
    assert len(set(texts)) == len(texts)  # each was emitted as chosen


def test_what_is_added_up_by_a_block_has_no_choice() -> None:
    function, _ = CASES["norm_long"]()
    found = rendered(plan_entry(entry_of(function), WHOLE), {}).kernels.functions
    whole_blocks = [f for f in found if "block_sum<256>" in f.emitted.text]
    assert whole_blocks
    assert not [f.name for f in whole_blocks if f.choices]


def test_schedules_begin_with_the_usual_one() -> None:
    choices = (Choice("block", 256, (128, 256)), Choice("lines", 2, (1, 2, 4)))
    found = schedules(choices)
    assert found[0] == {"block": 256, "lines": 2}
    assert len({tuple(s.items()) for s in found}) == len(found) == 6
    assert not any(unfit(s, choices) for s in found)
    assert unfit({"block": 64}, choices) == "`block` is one of 128, 256, not 64"
    assert unfit({"warps": 4}, choices) == "it has no choice `warps`"


def test_a_kernel_is_known_by_what_it_computes() -> None:
    digests = []
    for name in ("pointwise_four", "pointwise_four", "pointwise_one"):
        function, _ = CASES[name]()
        digests.append([f.digest for f in rendered(plan_entry(entry_of(function), WHOLE), {}).kernels.functions])
    assert digests[0] == digests[1]
    assert not set(digests[0]) & set(digests[2])


def test_a_schedule_that_a_kernel_cannot_have_is_refused() -> None:
    function, _ = CASES["pointwise_four"]()
    plans = plan_entry(entry_of(function), WHOLE)
    kernel = rendered(plans, {}).kernels.functions[0]
    with pytest.raises(CompileError) as error:
        rendered(plans, {}, {kernel.digest: {"block": 100}})
    assert error.value.diagnostics[0].code == "T0813"
    assert "`block` is one of 128, 256, 512, not 100" in error.value.diagnostics[0].message
