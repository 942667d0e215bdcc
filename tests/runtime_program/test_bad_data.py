"""Everything that can be wrong with data, weights and flags, with the exact message. Run under sanitizers."""

# ruff: noqa: E501  (exact messages stay on one line)
from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from .conftest import Programs

RunFails = Callable[..., str]
GOOD = {"W": np.zeros((5, 4), np.float32), "b": np.zeros(4, np.float32)}


@pytest.fixture
def train_fails(checked: Programs, data: Path) -> RunFails:
    """Trains Softmax with the given data specs; returns the message."""

    def run(x: str = "x.npy", labels: str = "labels.npy", code: int = 1, flags: tuple[object, ...] = ()) -> str:
        return checked.fails(
            "Softmax", "train", "--data", f"x={x}", "--data", f"labels={labels}", *flags, cwd=data, code=code
        )

    return run


def test_missing_file(train_fails: RunFails) -> None:
    assert train_fails(x="nope.npy") == (
        "error[T0901]: cannot read 'nope.npy': No such file or directory\n"
        "  = help: check the path; it is relative to the current folder\n"
    )
    assert train_fails(x="/") == "error[T0901]: cannot read '/': Is a directory\n"
    assert train_fails(x="/dev/null").startswith("error[T0901]: cannot read '/dev/null': it is not a regular file\n")


def test_foreign_npy(train_fails: RunFails, data: Path) -> None:
    (data / "text.npy").write_text("x,y\n1,2\n" * 20)
    assert train_fails(x="text.npy") == (
        "error[T0902]: 'text.npy' is not a .npy file\n"
        "  = help: write it with numpy.save(path, array); .npz archives and pickles are not read\n"
    )
    (data / "empty.npy").write_bytes(b"")
    assert train_fails(x="empty.npy").startswith("error[T0902]: 'empty.npy' is not a .npy file (it is empty)\n")
    raw = (data / "x.npy").read_bytes()
    (data / "tail.npy").write_bytes(raw + b"123")
    assert train_fails(x="tail.npy").startswith("error[T0902]: 'tail.npy' has 3 bytes behind its array\n")
    (data / "version.npy").write_bytes(raw[:6] + b"\x09" + raw[7:])
    assert train_fails(x="version.npy") == (
        "error[T0902]: 'version.npy' has .npy format version 9; versions 1 to 3 are known\n"
    )


@pytest.mark.parametrize(
    "header",
    [
        "", "{", "{'descr': '<f4'}", "{'descr': '<f4', 'fortran_order': False, 'shape': (3", "'descr' 'fortran_order' 'shape'",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 5)}", "{'descr': '<f4', 'fortran_order': False, 'shape': (x,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4611686018427387904)}", "{'descr':",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 5}", "{'descr': '', 'fortran_order': False, 'shape': (5,)}",
    ],
)  # fmt: skip
def test_malformed_npy_header(train_fails: RunFails, data: Path, header: str) -> None:
    text = header.encode()
    (data / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64))
    assert train_fails(x="bad.npy").startswith(("error[T0902]: 'bad.npy' has ", "error[T0904]: 'bad.npy' holds "))


def test_truncated_npy(train_fails: RunFails, data: Path) -> None:
    raw = (data / "x.npy").read_bytes()
    (data / "cut.npy").write_bytes(raw[:500])
    assert train_fails(x="cut.npy") == (
        "error[T0903]: 'cut.npy' is truncated: its header announces 928 bytes, the file has 500\n"
        "  = help: copy or write the file again\n"
    )
    for size in range(10, 128, 9):
        (data / "cut.npy").write_bytes(raw[:size])
        assert train_fails(x="cut.npy").startswith(
            f"error[T0903]: 'cut.npy' is truncated: its header announces 128 bytes, the file has {size}\n"
        )


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.asfortranarray(np.ones((40, 5), np.float32)), "is stored in Fortran order"),
        (np.ones((40, 5), ">f4"), "is big-endian (dtype '>f4')"),
        (np.full((40, 5), "a"), "holds dtype '<U1', which no input can take"),
        (np.zeros(40, [("a", "f4")]), "holds a structured dtype, which no input can take"),
    ],
)
def test_unsupported_npy(train_fails: RunFails, data: Path, array: Any, what: str) -> None:
    np.save(data / "a.npy", array)
    assert train_fails(x="a.npy").startswith(f"error[T0904]: 'a.npy' {what}\n")


def test_wrong_shape(train_fails: RunFails, data: Path) -> None:
    np.save(data / "a.npy", np.ones((40, 6), np.float32))
    assert train_fails(x="a.npy") == (
        "error[T0905]: input 'x' takes an array of shape N x 5, 'a.npy' has 40 x 6\n"
        "  = help: the first axis counts samples and may have any length; reshape the others\n"
    )
    np.save(data / "a.npy", np.float32(3))
    assert train_fails(x="a.npy").startswith(
        "error[T0905]: input 'x' takes an array of shape N x 5, 'a.npy' has scalar\n"
    )


def test_wrong_type(train_fails: RunFails, data: Path) -> None:
    np.save(data / "a.npy", np.zeros(40))
    assert train_fails(labels="a.npy") == (
        "error[T0906]: input 'labels' takes i32, 'a.npy' holds floating-point numbers\n"
        "  = help: save array.astype(numpy.int64)\n"
    )
    np.save(data / "c.npy", np.zeros((40, 5), complex))
    assert train_fails(x="c.npy").startswith("error[T0906]: input 'x' takes f32, 'c.npy' holds complex numbers\n")
    assert train_fails(x="text.txt").startswith(
        "error[T0906]: input 'x' (f32, 8 x 5) takes floating-point numbers, 'text.txt' is a stream of tokens\n"
    )
    assert train_fails(labels="normal()").startswith(
        "error[T0906]: input 'labels' (i32, 8) cannot be sampled by 'normal()'\n"
    )
    assert train_fails(x="randint(3)").startswith(
        "error[T0906]: input 'x' (f32, 8 x 5) cannot be sampled by 'randint(3)'\n"
    )


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "+infinity"), (-np.inf, "-infinity")])
def test_not_finite(train_fails: RunFails, data: Path, value: float, name: str) -> None:
    x = np.load(data / "x.npy")
    x[33, 2] = value
    np.save(data / "bad.npy", x)
    assert train_fails(x="bad.npy") == (
        f"error[T0907]: input 'x': {name} at sample 33, position 2 of 'bad.npy'\n"
        "  = help: clean the data first (numpy.isfinite finds all of them)\n"
    )
    np.save(data / "all.npy", np.full((8, 5), value))
    assert train_fails(x="all.npy").startswith(
        f"error[T0907]: input 'x': {name} at sample 0, position 0 of 'all.npy'\n"
    )


def test_label_out_of_range(train_fails: RunFails, data: Path) -> None:
    labels = np.load(data / "labels.npy")
    for value in (4, -1, 2**40, -(2**63)):
        labels[17] = value
        np.save(data / "bad.npy", labels)
        assert train_fails(labels="bad.npy") == (
            f"error[T0908]: input 'labels': value {value} at sample 17, position 0 of 'bad.npy' is outside 0 .. 3 (or -100, which is ignored)\n"
            "  = help: the number of classes or table rows in the source sets the bound; correct the data or the source\n"
        )
    assert train_fails(labels="randint(5)") == (
        "error[T0908]: input 'labels': 'randint(5)' draws values up to 4, valid ones are 0 .. 3\n  = help: use randint:4\n"
    )


def test_ignored_label_is_allowed(checked: Programs, data: Path) -> None:
    np.save(data / "ignored.npy", np.full(40, -100))
    done = checked.run("Softmax", "train", "--data", "x=x.npy", "--data", "labels=ignored.npy", "--steps", 2, cwd=data)
    assert '"loss":0,' in done.stdout


def test_token_out_of_range_and_short_text(checked: Programs, data: Path) -> None:
    (data / "latin.txt").write_bytes(b"a" * 100 + b"\xe9" + b"a" * 100)
    assert checked.fails("Bigram", "train", "--data", "input=latin.txt", cwd=data).startswith(
        "error[T0908]: input 'input': value 233 at token 100 of 'latin.txt' is outside 0 .. 127\n"
    )
    (data / "short.txt").write_bytes(b"0123456789abcdef")
    assert checked.fails("Bigram", "train", "--data", "input=short.txt", cwd=data) == (
        "error[T0909]: 'short.txt' holds 16 tokens, one window of input 'input' needs 17\n"
        "  = help: give a longer text, or compile with a shorter sequence\n"
    )
    (data / "just.txt").write_bytes(b"0123456789abcdefg")
    checked.run("Bigram", "train", "--data", "input=just.txt", "--steps", 2, cwd=data)
    (data / "empty.txt").write_bytes(b"")
    assert "'empty.txt' holds 0 tokens" in checked.fails("Bigram", "train", "--data", "input=empty.txt", cwd=data)
    (data / "odd.u16").write_bytes(b"a" * 101)
    assert checked.fails("Bigram", "train", "--data", "input=odd.u16", cwd=data).startswith(
        "error[T0903]: 'odd.u16' has 101 bytes, an odd number, and cannot hold 16-bit tokens\n"
    )


def test_missing_and_unknown_inputs(checked: Programs, data: Path) -> None:
    error = checked.fails("Softmax", "train", "--data", "x=x.npy", cwd=data, code=2)
    assert error.startswith(
        "error[T0910]: no data for input 'labels' (i32, 8)\n  = help: add --data KEY=SPEC for each; "
    )
    error = checked.fails("Softmax", "train", "--data", "x=x.npy", "--data", "lables=labels.npy", cwd=data, code=2)
    assert error == (
        "error[T0910]: --data: the program has no input 'lables'\n  = help: did you mean 'labels'? inputs: x, labels\n"
    )
    error = checked.fails("Softmax", "train", *["--data", "x=x.npy"] * 2, cwd=data, code=2)
    assert error.startswith("error[T0910]: --data: input 'x' is given twice\n")


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("unifrom(0,1)", "there is no sampler 'unifrom'"), ("uniform(0)", "wrong arguments of uniform"),
        ("uniform(a,b)", "wrong arguments of uniform"), ("normal(0,1,2)", "wrong arguments of normal"),
        ("normal(0,nan)", "wrong arguments of normal"), ("randint(0)", "wrong arguments of randint"),
        ("zeros(1)", "wrong arguments of zeros"), ("uniform(0,1,)", "wrong arguments of uniform"),
        ("uniform:0", "wrong arguments of uniform"), ("uniform:1:0", "wrong arguments of uniform"),
        ("uniform:0:inf", "wrong arguments of uniform"), ("uniform:0:1:", "wrong arguments of uniform"),
        ("normal:0:-1", "wrong arguments of normal"), ("const", "wrong arguments of const"),
        ("const:nan", "wrong arguments of const"), ("randint:1.5", "wrong arguments of randint"),
        ("grid:0:1", "wrong arguments of grid"), ("grid:0:1:0", "wrong arguments of grid"),
        ("grid:0:1:2.5", "wrong arguments of grid"), ("unifrom:0:1", "there is no sampler 'unifrom'"),
    ],
)  # fmt: skip
def test_bad_specification(train_fails: RunFails, spec: str, what: str) -> None:
    assert train_fails(x=spec, code=2).startswith(f"error[T0911]: --data 'x={spec}': {what}\n")


def test_specification_without_key(checked: Programs, data: Path) -> None:
    assert checked.fails("Softmax", "train", "--data", "x.npy", cwd=data, code=2) == (
        "error[T0911]: --data 'x.npy' is not of the form KEY=VALUE\n  = help: example: --data input=x.npy\n"
    )


def test_sample_counts(train_fails: RunFails, data: Path) -> None:
    np.save(data / "y39.npy", np.zeros(39, int))
    assert train_fails(labels="y39.npy").startswith("error[T0912]: 'x.npy' holds 40 samples, 'y39.npy' holds 39\n")
    np.save(data / "none.npy", np.zeros((0, 5)))
    assert train_fails(x="none.npy").startswith("error[T0912]: 'none.npy' holds 0 samples\n")


def infer_fails(checked: Programs, data: Path, weights: str) -> str:
    return checked.fails("Softmax", "infer", "--input", "x=x.npy", "--output", "p.npy", "--weights", weights, cwd=data)


def test_weights_that_do_not_fit_list_everything(checked: Programs, data: Path) -> None:
    wrong = {"w": np.zeros((5, 4), np.float32), "b": np.zeros(5, np.float32), "momentum": np.zeros(2, np.int64)}
    save_file(wrong, data / "wrong.safetensors")
    error = infer_fails(checked, data, "wrong.safetensors")
    assert error.splitlines()[0] == "error[T0914]: 'wrong.safetensors' does not fit Softmax:"
    assert set(error.splitlines()[1:-1]) == {
        "  - missing 'W' (5 x 4)",
        "  - wrong shape of 'b': the file has 5, the program takes 4",
        "  - extra 'w' (5 x 4); did you mean 'W'?",
        "  - extra 'momentum' (2)",
    }
    assert error.splitlines()[-1] == "  = help: `Softmax describe` lists the parameters of the program"


def test_weights_that_are_not_finite(checked: Programs, data: Path) -> None:
    weights = {name: value.copy() for name, value in GOOD.items()}
    weights["W"][3, 1] = np.nan
    save_file(weights, data / "nan.safetensors")
    assert infer_fails(checked, data, "nan.safetensors").startswith(
        "error[T0915]: 'nan.safetensors': 'W' holds NaN at position 13\n"
    )


def test_damaged_safetensors(checked: Programs, data: Path) -> None:
    save_file(GOOD, data / "good.safetensors")
    raw = (data / "good.safetensors").read_bytes()

    def error(content: bytes) -> str:
        (data / "bad.safetensors").write_bytes(content)
        text = infer_fails(checked, data, "bad.safetensors")
        start = "error[T0913]: 'bad.safetensors' is not a usable safetensors file: "
        assert text.startswith(start)
        return text[len(start) :].splitlines()[0]

    def with_header(header: str, body: bytes = b"") -> bytes:
        return struct.pack("<Q", len(header)) + header.encode() + body

    assert error(b"") == "it has only 0 bytes"
    assert error(b"PK\x03\x04" + bytes(range(200))) == "it does not start with the length of a header"
    assert error(raw[:-8]) == f"it is truncated, its header announces {len(raw)} bytes and the file has {len(raw) - 8}"
    assert error(raw[:40]).startswith("it is truncated, its header announces ")
    assert error(raw + b"12") == "2 bytes follow its last tensor"
    assert error(with_header("[1, 2]    ")) == "no JSON header follows its length"
    assert error(with_header('{"W": {"dtype": "F32"')).startswith(
        "its JSON header is malformed (expected ',' or '}' at byte "
    )
    assert error(with_header("{" * 60)).startswith("its JSON header is malformed (expected a key at byte 1)")
    assert error(with_header('{"W":' + "[" * 100000)).startswith(
        "its JSON header is malformed (nested too deeply at byte "
    )
    entry = '{"W":{"dtype":"F32","shape":%s,"data_offsets":%s}}'
    assert (
        error(with_header(entry % ("[5,4]", "[0,79]"), bytes(79)))
        == "the header entry of 'W' has offsets that do not fit its shape"
    )
    assert (
        error(with_header(entry % ("[-5,4]", "[0,80]"), bytes(80))) == "the header entry of 'W' has an impossible shape"
    )
    huge = "[9223372036854775807,9223372036854775807]"
    assert error(with_header(entry % (huge, "[0,80]"), bytes(80))) == "the header entry of 'W' has an impossible shape"
    assert (
        error(with_header(entry % ("[5,4]", "[-80,0]"), bytes(80)))
        == "the header entry of 'W' has offsets that do not fit its shape"
    )
    assert (
        error(with_header('{"W":{"shape":[1]}}   ', bytes(4)))
        == "the header entry of 'W' lacks dtype, shape or data_offsets"
    )


def test_flipped_bit_is_noticed(checked: Programs, data: Path) -> None:
    flags = ["--data", "x=normal()", "--data", "labels=randint", "--steps", 1, "--save", "w.safetensors"]
    checked.run("Softmax", "train", *flags, cwd=data)
    raw = bytearray((data / "w.safetensors").read_bytes())
    raw[-7] ^= 1
    (data / "w.safetensors").write_bytes(raw)
    assert infer_fails(checked, data, "w.safetensors").startswith(
        "error[T0913]: 'w.safetensors' is not a usable safetensors file: its data does not match its checksum\n"
    )


def test_unwritable_places(checked: Programs, data: Path) -> None:
    x = ["--data", "x=normal()", "--data", "labels=randint", "--steps", 1]
    assert checked.fails("Softmax", "train", *x, "--save", "no/such/w.safetensors", cwd=data) == (
        "error[T0916]: cannot write 'no/such/w.safetensors': No such file or directory\n"
        "  = help: choose a folder that exists and that you may write to\n"
    )
    (data / "file").write_text("")
    assert checked.fails("Softmax", "train", *x, "--checkpoint", "file/ckpt", cwd=data).startswith(
        "error[T0916]: cannot write 'file/ckpt': Not a directory\n"
    )
    assert checked.fails("Softmax", "train", *x, "--checkpoint", "/proc/ckpt", cwd=data).startswith(
        "error[T0916]: cannot write '/proc/ckpt': "
    )
    assert checked.fails("Softmax", "train", *x, "--log", "no/log.jsonl", cwd=data).startswith(
        "error[T0916]: cannot write 'no/log.jsonl': "
    )


def test_places_are_tried_before_the_first_step(checked: Programs, data: Path) -> None:
    x = ["--data", "x=normal()", "--data", "labels=randint", "--steps", 1, "--log", "steps.jsonl"]
    (data / "folder").mkdir()
    for place, why in (("no/w.safetensors", "No such file or directory"), ("folder", "Is a directory")):
        (data / "steps.jsonl").unlink(missing_ok=True)
        error = checked.fails("Softmax", "train", *x, "--save", place, cwd=data)
        assert error.startswith(f"error[T0916]: cannot write '{place}': {why}\n")
        assert not (data / "steps.jsonl").exists()


def test_links_and_devices_stay(checked: Programs, data: Path) -> None:
    x = ["--input", "x=x.npy", "--output"]
    (data / "elsewhere").mkdir()
    (data / "elsewhere" / "y.npy").write_bytes(b"old")
    (data / "link.npy").symlink_to("elsewhere/y.npy")
    (data / "null").symlink_to("/dev/null")
    for place in ("link.npy", "null"):
        checked.run("Softmax", "infer", *x, place, cwd=data)
        assert (data / place).is_symlink()
    assert np.load(data / "elsewhere" / "y.npy").shape == (40, 4)
    assert Path("/dev/null").is_char_device()
    assert sorted(p.name for p in (data / "elsewhere").iterdir()) == ["y.npy"]


def test_outputs_that_meet(checked: Programs, data: Path) -> None:
    flags = ["infer", "--input", "x=x.npy", "--output", "probabilities=p.npy", "--output", "probabilities=q.npy"]
    assert checked.fails("Softmax", *flags, cwd=data, code=2).startswith("error[T0910]: --output: ")


def test_numbers_too_large_for_their_type(train_fails: RunFails, checked: Programs, data: Path) -> None:
    values = np.zeros((40, 5))
    values[3, 2] = -1e39
    np.save(data / "large.npy", values)
    assert train_fails(x="large.npy").splitlines()[0] == (
        "error[T0907]: input 'x': -1e+39 at sample 3, position 2 of 'large.npy' is beyond the range of f32"
    )
    for spec in ("const:1e39", "uniform:-1e39:0", "normal:0:1e300"):
        assert train_fails(x=spec, code=2).splitlines()[0] == (
            f"error[T0906]: input 'x' cannot take '{spec}': its numbers are beyond the range of f32"
        )
    weights = {name: value.astype(np.float64) for name, value in GOOD.items()}
    weights["W"][3, 1] = 1e300
    save_file(weights, data / "large.safetensors")
    assert infer_fails(checked, data, "large.safetensors").startswith(
        "error[T0915]: 'large.safetensors': 'W' holds 1e+300 (too large for f32) at position 13\n"
    )
