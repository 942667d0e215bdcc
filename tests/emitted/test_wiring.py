"""Bad input to emitted programs: their tables give the runtime the right names, shapes and bounds to complain about."""

# ruff: noqa: E501  (exact messages stay on one line)
from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from .conftest import Project

TEXT = ("--data", "input=text.txt", "--quiet")


def trained(gpt: Project, data: Path) -> dict[str, np.ndarray]:
    """Weights as one step leaves them."""
    gpt.run("gpt", "train", *TEXT, "--steps", 1, "--save", "good.safetensors", cwd=data)
    return load_file(data / "good.safetensors")


def infer_fails(gpt: Project, data: Path, weights: str, tokens: str = "tokens.npy") -> str:
    if not (data / "tokens.npy").exists():
        np.save(data / "tokens.npy", np.zeros((3, 17), np.int32))
    flags = ("--input", f"input={tokens}", "--output", "y.npy", "--weights", weights)
    return gpt.fails("gpt", "infer", *flags, cwd=data)


def test_weights_that_do_not_fit(gpt: Project, data: Path) -> None:
    weights = trained(gpt, data)
    weights["gpt.position"] = weights.pop("gpt.positions")
    weights["gpt.blocks.0.mlp.w1"] = weights["gpt.blocks.0.mlp.w1"].T.copy()
    save_file(weights, data / "bad.safetensors")
    lines = infer_fails(gpt, data, "bad.safetensors").splitlines()
    assert lines[0] == "error[T0914]: 'bad.safetensors' does not fit gpt:"
    assert set(lines[1:-1]) == {
        "  - missing 'gpt.positions' (17 x 24)",
        "  - wrong shape of 'gpt.blocks.0.mlp.w1': the file has 96 x 24, the program takes 24 x 96",
        "  - extra 'gpt.position' (17 x 24); did you mean 'gpt.positions'?",
    }


def test_weights_that_are_not_finite_or_cut_off(gpt: Project, data: Path) -> None:
    weights = trained(gpt, data)
    raw = (data / "good.safetensors").read_bytes()
    weights["gpt.table"][2, 3] = np.nan
    save_file(weights, data / "nan.safetensors")
    assert infer_fails(gpt, data, "nan.safetensors").startswith(
        "error[T0915]: 'nan.safetensors': 'gpt.table' holds NaN at position 51\n"
    )
    (data / "cut.safetensors").write_bytes(raw[:-4])
    assert infer_fails(gpt, data, "cut.safetensors").startswith(
        f"error[T0913]: 'cut.safetensors' is not a usable safetensors file: it is truncated, its header announces {len(raw)} bytes and the file has {len(raw) - 4}\n"
    )


def test_tokens(gpt: Project, data: Path) -> None:
    """Bounds are the rows of the table, for tokens and for labels; a window is as long as the input, and one more."""
    (data / "latin.txt").write_bytes(b"a" * 30 + b"\xe9" + b"a" * 30)
    assert gpt.fails("gpt", "train", "--data", "input=latin.txt", cwd=data).startswith(
        "error[T0908]: input 'input': value 233 at token 30 of 'latin.txt' is outside 0 .. 122\n"
    )
    (data / "short.txt").write_bytes(b"a" * 17)
    assert gpt.fails("gpt", "train", "--data", "input=short.txt", cwd=data) == (
        "error[T0909]: 'short.txt' holds 17 tokens, one window of input 'input' needs 18\n"
        "  = help: give a longer text, or compile with a shorter sequence\n"
    )
    rows = np.zeros((3, 17), np.int64)
    rows[2, 5] = 123
    np.save(data / "rows.npy", rows)
    np.save(data / "zeros.npy", np.zeros((3, 17), np.int32))
    assert gpt.fails("gpt", "train", "--data", "input=zeros.npy", "--data", "labels=rows.npy", cwd=data).startswith(
        "error[T0908]: input 'labels': value 123 at sample 2, position 5 of 'rows.npy' is outside 0 .. 122 (or -100, which is ignored)\n"
    )
    rows[2, 5] = -100
    np.save(data / "rows.npy", rows)
    gpt.run("gpt", "train", "--data", "input=zeros.npy", "--data", "labels=rows.npy", "--steps", 1, cwd=data)
    assert gpt.fails("gpt", "train", "--data", "input=rows.npy", "--data", "labels=zeros.npy", cwd=data).startswith(
        "error[T0908]: input 'input': value -100 at sample 2, position 5 of 'rows.npy' is outside 0 .. 122\n"
    )
    trained(gpt, data)
    prompt = ("generate", "--weights", "good.safetensors", "--prompt", "ab~")
    assert gpt.fails("gpt", *prompt, cwd=data).startswith(
        "error[T0908]: input 'input': value 126 at token 2 of '--prompt' is outside 0 .. 122\n"
    )


def test_arrays(zoo: Project, data: Path) -> None:
    """Truncated, foreign, misshapen and NaN-filled arrays for an input [1000, 9] of floats."""
    raw = (data / "x1000.npy").read_bytes()
    (data / "cut.npy").write_bytes(raw[:1000])
    (data / "foreign.npy").write_bytes(b"PK\x03\x04" + bytes(200))
    np.save(data / "wide.npy", np.zeros((1000, 10), np.float32))
    np.save(data / "nan.npy", np.where(np.arange(9000).reshape(1000, 9) == 4321, np.nan, 1.0))

    def message(x: str) -> str:
        return zoo.fails("rows1000", "train", "--data", f"x={x}", "--data", "target=zeros", cwd=data).splitlines()[0]

    assert message("cut.npy") == (
        f"error[T0903]: 'cut.npy' is truncated: its header announces {len(raw)} bytes, the file has 1000"
    )
    assert message("foreign.npy") == "error[T0902]: 'foreign.npy' is not a .npy file"
    assert message("wide.npy") == "error[T0905]: input 'x' takes an array of shape N x 9, 'wide.npy' has 1000 x 10"
    assert message("nan.npy") == "error[T0907]: input 'x': NaN at sample 480, position 1 of 'nan.npy'"


def test_a_full_disk_leaves_the_last_checkpoint_whole(gpt: Project, data: Path) -> None:
    """A limit on the size of files stands for the full disk: the write fails half-way."""
    flags = (*TEXT, "--checkpoint", "ckpt", "--save-every", 2)
    gpt.run("gpt", "train", *flags, "--steps", 2, cwd=data)
    size = (data / "ckpt" / "step-000000002.safetensors").stat().st_size

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    command = [str(gpt.folder / "gpt"), "train", *map(str, flags), "--steps", "4", "--resume"]
    done = subprocess.run(command, cwd=data, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert done.returncode == 1
    assert done.stderr.startswith("error[T0917]: ")
    assert "ckpt/step-000000004.safetensors" in done.stderr
    assert [path.name for path in (data / "ckpt").iterdir()] == ["step-000000002.safetensors"]
    whole = gpt.run("gpt", "train", *flags, "--steps", 4, "--resume", cwd=data)
    assert whole.returncode == 0


def test_a_folder_that_cannot_be_written(gpt: Project, data: Path) -> None:
    (data / "file").write_text("in the way", encoding="utf-8")
    error = gpt.fails("gpt", "train", *TEXT, "--steps", 1, "--checkpoint", "file/ckpt", cwd=data)
    assert error.splitlines()[0] == "error[T0916]: cannot write 'file/ckpt': Not a directory"
    error = gpt.fails("gpt", "train", *TEXT, "--steps", 1, "--save", "none/w.safetensors", cwd=data)
    assert error.splitlines()[0] == "error[T0916]: cannot write 'none/w.safetensors': No such file or directory"
