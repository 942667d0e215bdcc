"""`verify` and `tune` as they go through cupy on a machine with a GPU: a stand-in for it over the emulation."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tesserac.diagnostics import CompileError
from tesserac.verification import check, gpu, library, program, tune
from tests.cli.conftest import SIZES, Cli
from tests.cli.cupy_stand_in import StandIn
from tests.cli.test_verify import rows


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, fast_compiler: Path) -> StandIn:
    """In place of the emulation's own memory and stream, for what ``--emulate`` builds."""
    found = StandIn()
    monkeypatch.setenv("CXX", str(fast_compiler))
    monkeypatch.setattr(check, "COPIED", 1 << 20)
    for module in (program, tune):
        monkeypatch.setattr(module, "Kernels", found.kernels)
        monkeypatch.setattr(module, "opened", lambda emulate: gpu.Gpu(found.cupy))
    return found


def test_kernels_are_right_and_timed(model: Path, cli: Cli, stand_in: StandIn) -> None:
    """An event is a millisecond behind the one before it: 20 launches of a kernel take 50 us each."""
    done = cli("verify", model, "--emulate", *SIZES)
    assert (done.code, done.err) == (0, "")
    verdicts = rows(done.out)
    assert len(verdicts) > 5
    assert set(verdicts.values()) == {"ok"}
    assert done.out.count(" 50.0 us ") == len(verdicts)
    assert re.search(r"time +GB/s +TFLOP/s +of roofline\n", done.out)
    assert stand_in.copies > len(verdicts)


def test_schedules_are_timed(model: Path, cli: Cli, stand_in: StandIn) -> None:
    done = cli("tune", model, "--emulate", *SIZES, "--kernel", "rows_loss")
    assert (done.code, done.err) == (0, "")
    assert "  50.0 us instead of 50.0\n" in done.out
    assert json.loads(Path("tuning.json").read_text())["device"] == "Stand-in (sm_90)"


def test_rates_of_a_device() -> None:
    """An H200's: 132 multiprocessors of 128 lanes, and of 2048 multiply-adds on tensor cores, at 1.98 GHz."""
    found = gpu.Gpu(StandIn().cupy)
    assert found.peak(tensor_cores=False) == pytest.approx(66.9e12, rel=1e-3)
    assert found.peak(tensor_cores=True) == pytest.approx(1070e12, rel=1e-3)


def test_a_gpu_without_room() -> None:
    with pytest.raises(CompileError) as error:
        gpu.Gpu(StandIn(room=1 << 20).cupy).allocate(1 << 21)
    (found,) = error.value.diagnostics
    assert (found.code, found.message) == ("T0816", "this machine's GPU has no room for 2 MiB")


@pytest.fixture
def with_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver with a device, and an nvcc."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("NVCC", str(nvcc))
    monkeypatch.setattr(library, "has_device", lambda: True)


@pytest.mark.parametrize("command", ["verify", "tune"])
def test_a_gpu_without_cupy(
    command: str, model: Path, cli: Cli, with_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    done = cli(command, model, *SIZES)
    assert done.code == 4
    assert done.err.startswith("error[T0816]: there is no cupy, which brings kernels to this machine's GPU\n")
    assert "pip install 'tesserac[cuda]'" in done.err
    assert "--emulate" in done.err


def test_a_cupy_that_does_not_fit_the_driver(
    model: Path, cli: Cli, with_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> int:
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDevice=refused)))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    done = cli("verify", model, *SIZES)
    assert done.code == 4
    assert done.err.startswith("error[T0816]: cupy cannot use this machine's GPU\n")
    assert "cudaErrorInsufficientDriver" in done.err


def test_the_stand_in_is_like_cupy() -> None:
    """Where cupy is installed (it needs no GPU for this): it has everything that is used, called as it is."""
    cuda, stand_in = pytest.importorskip("cupy").cuda, StandIn().cupy.cuda
    used = {
        "Memory": ("ptr",),
        "MemoryPointer": ("ptr", "__add__", "copy_from_host_async", "copy_to_host_async", "copy_from_device_async"),
        "Stream": ("synchronize",),
        "Event": ("record", "synchronize"),
        "runtime": ("getDevice", "getDeviceProperties"),
    }
    for owner, names in used.items():
        assert hasattr(stand_in, owner)
        for name in names:
            assert hasattr(getattr(cuda, owner), name), (owner, name)
    heads = [
        ("MemoryPointer.copy_from_host_async", "(self, mem, size_t size, stream=None)"),
        ("MemoryPointer.copy_to_host_async", "(self, mem, size_t size, stream=None)"),
        ("MemoryPointer.copy_from_device_async", "(self, MemoryPointer src, size_t size, stream=None)"),
        ("Event.record", "(self, stream=None)"),
        ("get_elapsed_time", "(start_event, end_event)"),
        ("runtime.getDeviceProperties", "(int device)"),
    ]
    for path, head in heads:
        found = cuda
        for part in path.split("."):
            found = getattr(found, part)
        assert found.__doc__.splitlines()[0].endswith(head)
    assert issubclass(cuda.memory.OutOfMemoryError, MemoryError)
    assert issubclass(importlib.import_module("cupy_backends.cuda.api.runtime").CUDARuntimeError, RuntimeError)
