"""The constructs of CUDA that are rewritten for a host compiler, and the text that must stay as it is."""

from __future__ import annotations

import pytest

from tesserac.codegen.cuda.emulate import emulated, emulated_files
from tesserac.diagnostics import InternalError


def body(text: str) -> str:
    """The rewritten text without its first line, which names the file."""
    first, _, rest = emulated(text, "f.cu").partition("\n")
    assert first == '#line 1 "f.cu"'
    return rest


def test_launches_become_calls_and_keep_their_lines() -> None:
    text = "a::k<T, (N > 3), f<2>(1)>  <<<dim3(g(1, 2), 3),\n 256, n * sizeof(T), s>>>(x,\n y);\nnext<<<1, 32>>>();\n"
    new = body(text)
    assert new.count("\n") == text.count("\n")
    assert (
        '::tsr::emulation::launch(::tsr::emulation::Launch{"a::k<T, (N > 3), f<2>(1)>", __FILE__, __LINE__, '
        "dim3(g(1, 2), 3), 256, size_t(n * sizeof(T)), s}, [](auto... a) { a::k<T, (N > 3), f<2>(1)>(a...); }, " in new
    )
    assert '"next", __FILE__, __LINE__, 1, 32, size_t(0), nullptr}, [](auto... a) { next(a...); })' in new


def test_shared_variables_become_references() -> None:
    new = body("  __shared__ T<a, b> x[N][M + 1], y, z[f(1, 2)];\n  extern __shared__ __align__(16) float w[];\n")
    assert "T<a, b> (&x)[N][M + 1] = ::tsr::emulation::Shared{[] { static char key; return &key; }(), " in new
    assert "T<a, b> (&y) = " in new
    assert "T<a, b> (&z)[f(1, 2)] = " in new
    assert "float* const w = reinterpret_cast<float*>(::tsr::emulation::dynamic_shared());" in new


def test_comments_and_strings_stay() -> None:
    text = (
        '// k<<<1, 2>>>(x) and __shared__ float y;\nauto s = "k<<<1, 2>>>(x); asm";\n/* asm k<<< */\nint i = 1 << 2;\n'
    )
    assert body(text) == text


def test_assembly_is_refused() -> None:
    with pytest.raises(InternalError, match="inline assembly"):
        emulated('asm volatile("bar.sync 0;");\n', "x.cuh")


def test_files_move_below_a_folder_and_others_stay() -> None:
    found = emulated_files({"a.cu": "", "runtime/cuda/b.cuh": "", "runtime/c.h": "", "Makefile": ""})
    assert list(found) == ["emulation/a.cpp", "emulation/runtime/cuda/b.cuh"]
