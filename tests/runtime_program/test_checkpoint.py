"""Checkpoints: bitwise resume, kills at random moments, full disks, damaged files."""

# ruff: noqa: E501  (exact messages stay on one line)
from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from .conftest import Programs

SPECS = ("--data", "x=x.npy", "--data", "labels=labels.npy", "--schedule", "cosine", "--warmup", 5)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam", "adamw"])
def test_resume_is_bitwise(plain: Programs, data: Path, rule: str) -> None:
    flags = [*SPECS, "--optimizer", rule, "--clip", "0.5"]
    plain.run("Softmax", "train", *flags, "--steps", 40, "--checkpoint", "whole", "--log", "whole.jsonl", cwd=data)
    plain.run(
        "Softmax", "train", *flags, "--steps", 40, "--checkpoint", "parts", "--save-every", 13, "--keep", 0, cwd=data
    )
    for name in ("step-000000039", "step-000000040"):
        (data / "parts" / f"{name}.safetensors").unlink()
    done = plain.run("Softmax", "train", *flags, "--steps", 40, "--checkpoint", "parts", "--resume", cwd=data)
    assert done.stderr == "note: resumed from 'parts/step-000000026.safetensors' at step 26\n"
    last = "step-000000040.safetensors"
    assert (data / "whole" / last).read_bytes() == (data / "parts" / last).read_bytes()


def test_checkpoint_contents(plain: Programs, data: Path) -> None:
    plain.run("Softmax", "train", *SPECS, "--steps", 7, "--checkpoint", "ckpt", "--seed", 9, cwd=data)
    with safe_open(data / "ckpt" / "step-000000007.safetensors", "numpy") as file:
        assert sorted(file.keys()) == ["W", "b", "optimizer.m.W", "optimizer.m.b", "optimizer.v.W", "optimizer.v.b"]
        meta = file.metadata()
        assert (meta["step"], meta["seed"], meta["optimizer"], meta["tesserac.program"]) == (
            "7",
            "9",
            "adamw",
            "Softmax",
        )
        assert file.get_tensor("optimizer.m.W").shape == (5, 4)


def test_keep_deletes_the_oldest(plain: Programs, data: Path) -> None:
    plain.run(
        "Softmax", "train", *SPECS, "--steps", 10, "--checkpoint", "ckpt", "--save-every", 2, "--keep", 2, cwd=data
    )
    assert files(data / "ckpt") == ["step-000000008.safetensors", "step-000000010.safetensors"]


def test_folder_in_use(checked: Programs, data: Path) -> None:
    checked.run("Softmax", "train", *SPECS, "--steps", 2, "--checkpoint", "ckpt/", cwd=data)
    assert checked.fails("Softmax", "train", *SPECS, "--steps", 2, "--checkpoint", "ckpt", cwd=data, code=2) == (
        "error[T0923]: 'ckpt' already holds checkpoints up to step 2\n"
        "  = help: pass --resume to go on from there, or choose another --checkpoint folder\n"
    )
    error = checked.fails(
        "Softmax", "train", *SPECS, "--steps", 1, "--checkpoint", "ckpt", "--resume", cwd=data, code=2
    )
    assert "--steps 1 lies behind the checkpoint, which has done 2 steps" in error


def test_resume_without_a_checkpoint_starts(checked: Programs, data: Path) -> None:
    done = checked.run("Softmax", "train", *SPECS, "--steps", 2, "--checkpoint", "a/b/ckpt", "--resume", cwd=data)
    assert done.stderr == "note: no checkpoint in 'a/b/ckpt' yet; starting at step 1\n"
    done = checked.run("Softmax", "train", *SPECS, "--steps", 2, "--checkpoint", "a/b/ckpt", "--resume", cwd=data)
    assert done.stdout == "", "nothing left to do"


def test_changed_settings_are_named(checked: Programs, data: Path) -> None:
    checked.run("Softmax", "train", *SPECS, "--steps", 2, "--checkpoint", "ckpt", cwd=data)
    done = checked.run(
        "Softmax", "train", *SPECS, "--steps", 4, "--lr", "0.5", "--checkpoint", "ckpt", "--resume", cwd=data
    )
    assert (
        "note: lr is 0.5, the checkpoint was written with 0.001; the run continues, but not bit for bit\n"
        in done.stderr
    )
    error = checked.run(
        "Softmax", "train", *SPECS, "--steps", 9, "--optimizer", "sgd", "--checkpoint", "ckpt", "--resume", cwd=data, code=1
    ).stderr  # fmt: skip
    assert error.startswith(
        "error[T0919]: 'ckpt/step-000000004.safetensors' was written by optimizer 'adamw', this run uses 'sgd'\n"
    )


def test_checkpoint_of_another_program(checked: Programs, data: Path) -> None:
    checked.run("Bigram", "train", "--data", "input=text.txt", "--steps", 2, "--checkpoint", "ckpt", cwd=data)
    error = checked.fails("Softmax", "train", *SPECS, "--checkpoint", "ckpt", "--resume", cwd=data)
    assert error.startswith(
        "error[T0919]: 'ckpt/step-000000002.safetensors' belongs to program 'Bigram', not to 'Softmax'\n"
    )


def test_damaged_checkpoints_are_skipped(checked: Programs, data: Path) -> None:
    flags = [*SPECS, "--steps", 8, "--checkpoint", "ckpt", "--save-every", 2, "--keep", 0]
    checked.run("Softmax", "train", *flags, cwd=data)
    whole = (data / "ckpt" / "step-000000008.safetensors").read_bytes()
    broken = bytearray(whole)
    broken[-1] ^= 64
    (data / "ckpt" / "step-000000008.safetensors").write_bytes(broken)
    (data / "ckpt" / "step-000000006.safetensors").write_bytes(whole[:300])
    (data / "ckpt" / "step-000000007.safetensors.tmp-999999999").write_bytes(whole)  # left behind by a kill
    done = checked.run("Softmax", "train", *flags, "--resume", cwd=data)
    assert done.stderr.splitlines()[0] == (
        "warning: skipped a checkpoint: 'ckpt/step-000000008.safetensors' is not a usable safetensors file: its data does not match its checksum"
    )
    assert "note: resumed from 'ckpt/step-000000004.safetensors' at step 4" in done.stderr
    assert (data / "ckpt" / "step-000000008.safetensors").read_bytes() == whole
    assert not any(".tmp-" in name for name in files(data / "ckpt"))
    for path in (data / "ckpt").iterdir():
        path.write_bytes(b"nonsense" * 10)
    error = checked.fails("Softmax", "train", *flags, "--resume", cwd=data)
    assert error.startswith(
        "error[T0918]: no checkpoint in 'ckpt' can be used:\n  - 'ckpt/step-000000008.safetensors' is not "
    )


def test_kill_at_any_moment(plain: Programs, data: Path) -> None:
    """SIGKILL at random times, then resume, until done: the end equals the uninterrupted run in every bit."""
    flags = ["--data", "input=text.txt", "--steps", 400, "--lr", "0.01", "--save-every", 1, "--quiet"]
    plain.run("Bigram", "train", *flags, "--checkpoint", "whole", cwd=data)
    chance = random.Random(4)
    kills = 0
    last = data / "killed" / "step-000000400.safetensors"
    for _ in range(60):
        process = plain.start("Bigram", "train", *flags, "--checkpoint", "killed", "--resume", cwd=data)
        time.sleep(0.01 + 0.15 * chance.random())
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), out + err
        kills += process.returncode != 0
        if last.exists():
            break
    plain.run("Bigram", "train", *flags, "--checkpoint", "killed", "--resume", cwd=data)
    assert kills >= 3
    assert last.read_bytes() == (data / "whole" / last.name).read_bytes()
    assert len(files(data / "killed")) == 3


# One checkpoint of Softmax under Adam writes length, header and six tensors, patches its checksum, syncs the file,
# renames it and syncs the folder.
MOMENTS = [("write", 1), ("write", 2), ("write", 8), ("write", 8 + 8 + 5), ("pwrite64", 1), ("pwrite64", 3)]
MOMENTS += [("fsync", 1), ("fsync", 2), ("fsync", 5), ("fsync", 6), ("rename", 1), ("rename", 3)]


@pytest.mark.parametrize(("call", "when"), MOMENTS)
def test_kill_inside_a_checkpoint(plain: Programs, data: Path, call: str, when: int) -> None:
    """strace kills the program as it enters this system call."""
    if subprocess.run(["strace", "-f", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("strace cannot trace here")
    flags = [*SPECS, "--steps", 30, "--save-every", 5, "--keep", 0, "--quiet"]
    plain.run("Softmax", "train", *flags, "--checkpoint", "whole", cwd=data)
    trace = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}"]
    command = [*trace, str(plain.folder / "Softmax"), "train", *map(str, flags), "--checkpoint", "killed"]
    done = subprocess.run(command, cwd=data, check=False, capture_output=True)
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done
    complete = {"write": (when - 1) // 8, "pwrite64": when - 1, "fsync": when // 2, "rename": when - 1}[call]
    names = [f"step-{5 * k:09d}.safetensors" for k in range(1, complete + 1)]
    found = files(data / "killed")
    assert [name for name in found if ".tmp-" not in name] in (
        names,
        [*names, f"step-{5 * (complete + 1):09d}.safetensors"],
    )
    plain.run("Softmax", "train", *flags, "--checkpoint", "killed", "--resume", cwd=data)
    last = "step-000000030.safetensors"
    assert (data / "killed" / last).read_bytes() == (data / "whole" / last).read_bytes()
    assert not any(".tmp-" in name for name in files(data / "killed"))


def test_full_disk(plain: Programs, data: Path, tmp_path: Path) -> None:
    """A file system of 300 kB takes one checkpoint of the bigram model (197 kB); the second fails and harms nothing."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
        != 0
    ):
        pytest.skip("mounting is not allowed here")
    try:
        flags = ["--data", "input=text.txt", "--steps", 20, "--save-every", 10, "--checkpoint", disk]
        error = plain.fails("Bigram", "train", *flags, "--keep", 1, cwd=data)
        assert error.startswith(
            f"error[T0917]: cannot write '{disk}/step-000000020.safetensors': No space left on device ("
        )
        assert error.endswith(
            "  = help: free some space or choose another folder; files written before are complete and unharmed\n"
        )
        assert files(disk) == ["step-000000010.safetensors"]
        done = plain.run(
            "Bigram", "train", "--data", "input=text.txt", "--steps", 10, "--checkpoint", disk, "--resume", cwd=data
        )
        assert "at step 10" in done.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_file_size_limit(plain: Programs, data: Path) -> None:
    """RLIMIT_FSIZE, the full disk that every machine can have."""
    command = [
        str(plain.folder / "Bigram"),
        "train",
        "--data",
        "input=text.txt",
        "--steps",
        "2",
        "--checkpoint",
        "ckpt",
    ]
    done = subprocess.run(
        command, cwd=data, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error[T0917]: cannot write 'ckpt/step-000000002.safetensors': File too large\n")
    assert files(data / "ckpt") == []


def test_full_standard_output(plain: Programs, data: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [str(plain.folder / "Softmax"), "train", *map(str, SPECS), "--steps", "2"]
        done = subprocess.run(command, cwd=data, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error[T0917]: cannot write 'standard output': No space left on device")


def test_log_continues_where_the_checkpoint_is(plain: Programs, data: Path) -> None:
    flags = [*SPECS, "--log", "log.jsonl", "--checkpoint", "ckpt", "--quiet", "--save-every", 4, "--keep", 0]
    plain.run("Softmax", "train", *flags, "--steps", 10, cwd=data)
    (data / "ckpt" / "step-000000010.safetensors").unlink()
    with open(data / "log.jsonl", "a") as log:
        log.write('{"step":11,"loss"')  # a line cut by a kill
    plain.run("Softmax", "train", *flags, "--steps", 10, "--resume", cwd=data)
    steps = [int(line.split(":")[1].split(",")[0]) for line in (data / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 11))


def test_start_up_is_fast(plain: Programs, data: Path) -> None:
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        plain.run("Softmax", "describe", cwd=data, env={"LC_ALL": "C"})
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.05


def test_steps_allocate_nothing(plain: Programs, data: Path) -> None:
    """ltrace-free: a preloaded library counts calls of malloc; 200 more steps must not add any."""
    source = data / "count.c"
    source.write_text(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <stdio.h>\n#include <stdlib.h>\nstatic long calls;\n"
        "extern void *__libc_malloc(size_t);\nvoid *malloc(size_t n) { __atomic_add_fetch(&calls, 1, 0); return __libc_malloc(n); }\n"
        '__attribute__((destructor)) static void report(void) { fprintf(stderr, "malloc %ld\\n", calls); }\n'
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", str(source), "-o", str(data / "count.so")], check=True)

    def calls(steps: int) -> int:
        done = plain.run(
            "Softmax", "train", *SPECS, "--steps", steps, cwd=data, env={"LD_PRELOAD": str(data / "count.so")}
        )
        return int(done.stderr.split()[-1])

    assert calls(10) == calls(210)
    assert os.path.exists(data / "count.so")
