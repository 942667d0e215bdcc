"""The emulation itself: kernels that are right pass in every mode and order, and every planted mistake is found."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.emulation.building import SELECTED, build, write_emulated

RIGHT = ("product", "softmax", "total", "host", "graph", "collectives")

# Case, mistake, and what each mode says of it (a part of the message; "wrong": only the numbers; "": nothing).
MISTAKES = {
    ("product", 1): {"fast": "wrong", "asan": "wrong", "race": "uninitialised read of shared memory: read by block 0"},
    ("product", 2): {"fast": "wrong", "asan": "wrong", "race": "at matrix.cu:47; write by block 0"},
    ("product", 3): dict.fromkeys(("fast", "asan", "race"), "divergence: __syncthreads at matrix.cu:48 while other"),
    ("product", 4): {"fast": "wrong", "asan": "AddressSanitizer: use-after-poison", "race": "wrong"},
    ("product", 5): {"fast": "", "asan": "AddressSanitizer: use-after-poison", "race": ""},
    ("product", 6): dict.fromkeys(("fast", "asan", "race"), "the thread returns while 128 threads of its block wait"),
    ("softmax", 1): {"fast": "", "asan": "", "race": "data race of shared memory: write by block 0 thread 0"},
    ("softmax", 2): dict.fromkeys(("fast", "asan", "race"), "deadlock: no thread can go on\n  64 threads"),
    ("softmax", 3): dict.fromkeys(("fast", "asan", "race"), "lane 1 is in __shfl_down_sync at matrix.cu:79, others"),
    ("softmax", 4): dict.fromkeys(("fast", "asan", "race"), "reads lane 16, which takes no part (mask 0000ffff)"),
    ("softmax", 5): {"fast": "wrong", "asan": "wrong", "race": "uninitialised read of shared memory"},
    ("softmax", 6): {"fast": "", "asan": "", "race": "uninitialised read of shared memory"},
    ("total", 1): {"fast": "", "asan": "", "race": "data race of global memory: read by block 1 thread 0"},
    ("total", 2): {"fast": "", "asan": "", "race": "data race of global memory: read by block 1 thread 0"},
    ("total", 3): {"fast": "", "asan": "", "race": "at matrix.cu:148; write by block 0 thread 0 at matrix.cu:139"},
    ("total", 4): {"fast": "", "asan": "AddressSanitizer: use-after-poison", "race": ""},
    ("host", 1): dict.fromkeys(("fast", "asan", "race"), "wrong"),
    ("host", 2): dict.fromkeys(("fast", "asan", "race"), "wrong"),
    ("host", 3): dict.fromkeys(("fast", "asan", "race"), "404 bytes at"),
    ("host", 4): dict.fromkeys(("fast", "asan", "race"), "a block of 2048 threads; 1024 are the most"),
    ("host", 5): dict.fromkeys(("fast", "asan", "race"), "is not device memory"),
    ("host", 6): dict.fromkeys(("fast", "asan", "race"), "not permitted when stream is capturing"),
    ("host", 7): dict.fromkeys(("fast", "asan", "race"), "not permitted when stream is capturing"),
    ("graph", 1): dict.fromkeys(("fast", "asan", "race"), "dependency created on uncaptured work in another stream"),
    ("graph", 2): dict.fromkeys(("fast", "asan", "race"), "capturing stream has unjoined work"),
    ("graph", 3): dict.fromkeys(("fast", "asan", "race"), "capturing stream has unjoined work"),
    ("graph", 4): dict.fromkeys(("fast", "asan", "race"), "the capture was not initiated in this stream"),
    ("graph", 5): dict.fromkeys(("fast", "asan", "race"), "wrong"),
}


@pytest.fixture(scope="module", params=SELECTED)
def matrix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("matrix")
    write_emulated(folder, {"matrix.cu": Path(__file__).with_name("matrix.cu").read_text(encoding="utf-8")})
    return request.param, build(folder, "matrix.cpp", request.param, program=True)


def run(program: Path, case: str, bug: int, **choices: str) -> tuple[int, str]:
    """Exit status and everything printed."""
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    environment.update({f"TSR_EMULATION_{key.upper()}": value for key, value in choices.items()})
    done = subprocess.run(
        [str(program), case, str(bug)], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_right_passes_in_every_order(case: str, matrix: tuple[str, Path]) -> None:
    mode, program = matrix
    orders = [("rising", 1), ("falling", 1), *(("random", seed) for seed in range(5))]
    for order, seed in orders:
        asynchrony = "random" if order == "random" else "early" if order == "falling" else "late"
        status, text = run(program, case, 0, order=order, seed=str(seed), **{"async": asynchrony})
        assert status == 0, (mode, order, seed, text)


@pytest.mark.parametrize(("case", "bug"), MISTAKES)
def test_what_is_wrong_is_found(case: str, bug: int, matrix: tuple[str, Path]) -> None:
    mode, program = matrix
    expected = MISTAKES[case, bug][mode]
    status, text = run(program, case, bug)
    if not expected:
        assert status == 0, "this mode finds more than it is known to: say so in the table"
    elif expected == "wrong":
        assert status == 1
        assert "no error" in text or mode == "race"
    else:
        assert status != 0
        assert expected in text


def test_every_mistake_is_found_in_some_mode() -> None:
    assert all(any(found.values()) for found in MISTAKES.values())


def test_an_unlucky_order_shows_a_race_that_the_usual_one_hides(matrix: tuple[str, Path]) -> None:
    if matrix[0] == "race":
        pytest.skip("found there in any order")
    assert run(matrix[1], "softmax", 1)[0] == 0
    found = [
        run(matrix[1], "softmax", 1, order=order, seed=str(s))[0] for order in ("falling", "random") for s in range(8)
    ]
    assert any(found)


def test_blocks_may_run_on_several_host_threads(matrix: tuple[str, Path]) -> None:
    for case in ("product", "softmax", "total", "collectives"):
        assert run(matrix[1], case, 0, threads="3")[0] == 0
