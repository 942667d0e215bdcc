"""Checkpoints that several ranks wrote: one safetensors file per rank, and an index that says which file holds which
part of which tensor (runtime/stored.h reads and runtime/comm/parts.h writes them).

A part is a rectangle: where it begins in every dimension of the whole tensor, and how long it is. The parts of a
tensor are disjoint and cover it, whatever the mesh was.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tesserac.diagnostics import CompileError, Diagnostics
from tesserac.foreign import parse_json
from tesserac.replacing import replacing, unwritable

INDEX = "index.json"
FORMAT = "tesserac-checkpoint"
OPTIMIZER = "optimizer."
"""Prefix of the tensors that are no weights."""

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
WIDTHS |= {"U16": 2, "U32": 4, "U64": 8, "C64": 8, "C128": 16}


@dataclass(frozen=True, slots=True)
class Part:
    """A rectangle of a tensor, the file that holds it, and its name there."""

    file: str
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    key: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A whole tensor in parts; ``dtype`` by its safetensors name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """Size of the whole tensor."""
        return math.prod(self.shape) * WIDTHS[self.dtype]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What an index says, checked: the tensors in its order, and the run's own words (step, seed, ...)."""

    folder: Path
    metadata: dict[str, str]
    tensors: tuple[Stored, ...]


def unusable(path: Path, why: str) -> CompileError:
    """The error T0950 for a checkpoint in parts."""
    message = f"`{path}` is not a usable checkpoint: {why}"
    diagnostics = Diagnostics()
    help_ = "use the checkpoint of an earlier step: the folders step-* beside it"
    diagnostics.error("T0950", message, None, help=[help_])
    return CompileError(diagnostics.items)


def newest(folder: Path) -> Path:
    """`folder` itself if it holds an index, else its newest step-* folder that does. Raises T0950."""
    if (folder / INDEX).is_file():
        return folder
    found = sorted(path.parent for path in folder.glob(f"step-*/{INDEX}") if not path.parent.name.endswith(".tmp"))
    if not found:
        raise unusable(folder, f"there is no {INDEX}, neither in it nor in a folder step-* inside")
    return found[-1]


def read_index(folder: Path) -> Checkpoint:
    """Reads and checks the index of a checkpoint. Raises T0950 where it is damaged or parts are missing or overlap."""
    path = folder / INDEX
    try:
        content: dict[str, Any] = parse_json(path.read_bytes())
        if content["format"] != FORMAT or content["version"] != 1:
            raise unusable(path, f"it is no index of version 1 of {FORMAT}")
        metadata = {str(key): str(value) for key, value in content["metadata"].items()}
        tensors = tuple(_stored(name, entry) for name, entry in content["tensors"].items())
    except OSError as error:
        raise unusable(path, error.strerror or "it cannot be read") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise unusable(path, f"it is malformed ({type(error).__name__}: {error})") from error
    for tensor in tensors:
        problem = _uncovered(tensor)
        if problem:
            raise unusable(path, f"{problem} of `{tensor.name}`")
    return Checkpoint(folder, metadata, tensors)


def _stored(name: str, entry: dict[str, Any]) -> Stored:
    shape = tuple(int(n) for n in entry["shape"])
    parts = tuple(
        Part(str(p["file"]), tuple(int(n) for n in p["offsets"]), tuple(int(n) for n in p["lengths"]),
             str(p.get("key", name)))
        for p in entry["parts"]
    )
    if entry["dtype"] not in WIDTHS:
        raise ValueError(f"{name}: type {entry['dtype']!r}")
    if any(os.sep in part.file or part.file in ("", ".", "..") for part in parts):
        raise ValueError(f"{name}: a part outside the folder")
    return Stored(name, entry["dtype"], shape, parts)


def _uncovered(tensor: Stored) -> str:
    """What is wrong with the parts of a tensor; "" if they are disjoint and cover it."""
    rank = len(tensor.shape)
    for part in tensor.parts:
        if len(part.offsets) != rank or len(part.lengths) != rank:
            return "a part has another number of dimensions than the whole"
        if any(o < 0 or n < 0 or o + n > s for o, n, s in zip(part.offsets, part.lengths, tensor.shape, strict=True)):
            return "a part lies outside"
    for i, one in enumerate(tensor.parts):
        for other in tensor.parts[:i]:
            spans = zip(one.offsets, one.lengths, other.offsets, other.lengths, strict=True)
            if all(max(a, b) < min(a + n, b + m) for a, n, b, m in spans):
                return "two parts overlap"
    missing = math.prod(tensor.shape) - sum(math.prod(part.lengths) for part in tensor.parts)
    return f"{missing} numbers are in no part" if missing else ""


class _File:
    """One rank's safetensors file, mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.bytes = np.memmap(path, dtype=np.uint8, mode="r")
            length = struct.unpack("<Q", self.bytes[:8].tobytes())[0]
            self.header: dict[str, Any] = parse_json(self.bytes[8 : 8 + length].tobytes())
            self.start = 8 + length
        except OSError as error:
            raise unusable(path, error.strerror or "it cannot be read") from error
        except (ValueError, struct.error) as error:
            raise unusable(path, "it is no safetensors file, or truncated") from error

    def part(self, tensor: Stored, part: Part) -> NDArray[Any]:
        """The rectangle, its numbers as opaque items of their width."""
        try:
            entry = self.header[part.key]
            begin, end = (int(n) for n in entry["data_offsets"])
            if tuple(entry["shape"]) != part.lengths or entry["dtype"] != tensor.dtype:
                raise unusable(self.path, f"its `{part.key}` is not the part that the index names")
            flat = np.asarray(self.bytes[self.start + begin : self.start + end])
            return flat.view(f"V{WIDTHS[tensor.dtype]}").reshape(part.lengths)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise unusable(self.path, f"its `{part.key}` is missing or truncated") from error


def wholes(checkpoint: Checkpoint, optimizer: bool) -> Iterator[tuple[Stored, NDArray[Any]]]:
    """Every tensor put together, one at a time, numbers as opaque items; moments only if ``optimizer``."""
    files: dict[str, _File] = {}
    for tensor in checkpoint.tensors:
        if tensor.name.startswith(OPTIMIZER) and not optimizer:
            continue
        whole = np.empty(tensor.shape, f"V{WIDTHS[tensor.dtype]}")
        for part in tensor.parts:
            file = files.get(part.file) or files.setdefault(part.file, _File(checkpoint.folder / part.file))
            where = tuple(slice(o, o + n) for o, n in zip(part.offsets, part.lengths, strict=True))
            whole[where] = file.part(tensor, part)
        yield tensor, whole


def merge(checkpoint: Checkpoint, out: Path, optimizer: bool = False) -> int:
    """Writes one safetensors file with every tensor whole, in one step; returns its bytes.

    Needs the memory of the largest tensor. Raises T0950 for a damaged part and T0916 where it cannot write.
    """
    kept = [t for t in checkpoint.tensors if optimizer or not t.name.startswith(OPTIMIZER)]
    words = {**checkpoint.metadata, "format": "pt", "tesserac.kind": "weights"}
    header: dict[str, Any] = {"__metadata__": words}
    offset = 0
    for tensor in kept:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.bytes],
        }
        offset += tensor.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with replacing(out) as temporary, open(temporary, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            _write(file, checkpoint, optimizer)
    except OSError as error:
        raise unwritable(out, error) from error
    return 8 + len(text) + offset


def _write(file: BinaryIO, checkpoint: Checkpoint, optimizer: bool) -> None:
    for _, whole in wholes(checkpoint, optimizer):
        file.write(whole.tobytes())

