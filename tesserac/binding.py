"""Calls a compiled unit (``lib<unit>.so``) from Python on NumPy arrays, without copies.

>>> library = tesserac.binding.load("out/libgpt.so")            # doctest: +SKIP
>>> model = library["gpt"]                                      # doctest: +SKIP
>>> result = model.value_and_grad(input=tokens, labels=labels)  # doctest: +SKIP
>>> result.loss, result.grads["embedding"].shape                # doctest: +SKIP

Parameters and gradients are views into the library's own memory: writing to ``model.params["W"]`` changes the model.
Arrays passed in are used in place when they have the input's type and are C-contiguous; otherwise they are converted
once. The interface underneath is ``runtime/tessera.h``.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tesserac.binding_abi import API_VERSION, DTYPES, INFER, TRAIN, Options, Tensor, declare

__all__ = ["Evaluation", "Library", "LibraryError", "Model", "TensorInfo", "TrainStep", "load"]

Array = NDArray[Any]


class LibraryError(Exception):
    """A call failed. ``code`` is the number from ``tessera.h``, the text its message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message.rstrip("\n"))
        self.code = code


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input, output or parameter. ``shape`` has the compiled batch size on the first axis when ``batched``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    batched: bool
    index_bound: int

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The NumPy type of its elements (bf16: the raw 16 bits as uint16)."""
        return np.dtype(dict(DTYPES)[self.dtype])


class Evaluation(NamedTuple):
    """Loss, gradients (views, overwritten by the next call) and metrics of one batch."""

    loss: float
    grads: Mapping[str, Array]
    metrics: dict[str, float]


class TrainStep(NamedTuple):
    """Loss and metrics before an update, and the global gradient norm."""

    loss: float
    grad_norm: float
    metrics: dict[str, float]


class _Views(Mapping[str, Array]):
    """Name to array; assigning an item copies into the view.

    A complex parameter is stored as two planes, its real and its imaginary parts: reading it makes a complex array,
    which is read-only, because writing to a copy would change nothing.
    """

    def __init__(self, views: dict[str, tuple[Array, ...]]) -> None:
        self._views = views

    def __getitem__(self, name: str) -> Array:
        re, *im = self._views[name]
        if not im:
            return re
        array = np.empty(re.shape, np.result_type(re, np.complex64))
        array.real, array.imag = re, im[0]
        array.flags.writeable = False
        return array

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        re, *im = self._views[name]
        array = np.asarray(value)
        if array.shape != re.shape:
            raise ValueError(f"{name} has shape {re.shape}, the value has shape {array.shape}")
        if np.iscomplexobj(array) and not im:
            raise TypeError(f"{name} is real, the value is complex: give its real part")
        re[...] = array.real
        for plane in im:
            plane[...] = array.imag

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


class _Context:
    """The C context, destroyed with its last owner. Views own it beside the model: NumPy arrays take no part in the
    collection of cycles, so they must not own the model, which owns them."""

    def __init__(self, native: ctypes.CDLL) -> None:
        self.native = native
        self.pointer = ctypes.c_void_p()

    def __del__(self) -> None:
        if self.pointer:
            self.native.tessera_destroy(self.pointer)


class Model:
    """One program with its own parameters. Made by `Library.create` or ``library[name]``.

    Not for use by two threads at once; separate models are independent.
    """

    def __init__(self, native: ctypes.CDLL, name: str, options: Options) -> None:
        self._native = native
        self._owner = _Context(native)
        self._context = self._owner.pointer
        error = ctypes.create_string_buffer(4096)
        code = native.tessera_create(
            name.encode(), ctypes.byref(options), ctypes.byref(self._context), error, len(error)
        )
        if code:
            raise LibraryError(code, error.value.decode(errors="replace") or "out of memory")
        self.name = name
        self.parameters = self._infos("param", None)
        self.inputs = self._infos("input", TRAIN)
        self.values = self._infos("output", TRAIN)
        self.forward_inputs = self._infos("input", INFER)
        self.outputs = self._infos("output", INFER)
        raw = [self._raw("param", None, index) for index in range(len(self.parameters))]
        self.params = _Views(
            {
                info.name: self._view(info, tensor, tensor.data)
                for info, tensor in zip(self.parameters, raw, strict=True)
            }
        )
        self.grads = _Views(
            {
                info.name: self._view(info, tensor, tensor.grad)
                for info, tensor in zip(self.parameters, raw, strict=True)
                if tensor.grad
            }
        )

    def __repr__(self) -> str:
        return f"<tesserac model {self.name}: {sum(math.prod(p.shape) for p in self.parameters)} parameters>"

    def value_and_grad(self, /, **inputs: ArrayLike) -> Evaluation:
        """Loss, metrics and the gradient of every parameter for one batch, given by input name."""
        pointers, _keep = self._arguments(self.inputs, inputs)
        values = (ctypes.c_double * max(1, len(self.values)))()
        self._check(self._native.tessera_value_and_grad(self._context, pointers, values))
        return Evaluation(values[0], self.grads, self._metrics(list(values)))

    def train_step(self, lr: float, /, **inputs: ArrayLike) -> TrainStep:
        """One optimizer update at learning rate ``lr``."""
        pointers, _keep = self._arguments(self.inputs, inputs)
        values = (ctypes.c_double * max(1, len(self.values)))()
        norm = ctypes.c_double()
        self._check(self._native.tessera_train_step(self._context, pointers, lr, values, ctypes.byref(norm)))
        return TrainStep(values[0], norm.value, self._metrics(list(values)))

    def infer(self, /, **inputs: ArrayLike) -> dict[str, Array]:
        """Outputs by name for any number of samples; the last, partial batch is computed as such."""
        arrays = [self._array(info, inputs, any_samples=True) for info in self._named(self.forward_inputs, inputs)]
        counts = {
            info.name: len(array) for info, array in zip(self.forward_inputs, arrays, strict=True) if info.batched
        }
        if len(set(counts.values())) > 1:
            raise ValueError(f"inputs hold different numbers of samples: {counts}")
        batch = next((info.shape[0] for info in self.forward_inputs if info.batched), 1)
        total = next(iter(counts.values()), batch)
        outputs = [
            np.empty((total, *info.shape[1:]) if info.batched else info.shape, info.numpy_dtype)
            for info in self.outputs
        ]
        for first in range(0, total, batch):
            count = min(batch, total - first) if counts else 0
            into = _pointers([a[first:] if i.batched else a for i, a in zip(self.outputs, outputs, strict=True)])
            from_ = _pointers([a[first:] if i.batched else a for i, a in zip(self.forward_inputs, arrays, strict=True)])
            self._check(self._native.tessera_infer(self._context, from_, into, count))
        return {info.name: array for info, array in zip(self.outputs, outputs, strict=True)}

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Reads a safetensors file or a checkpoint into the parameters."""
        self._check(self._native.tessera_load_weights(self._context, os.fsencode(path)))

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Writes the parameters as safetensors, atomically."""
        self._check(self._native.tessera_save_weights(self._context, os.fsencode(path)))

    @property
    def step_count(self) -> int:
        """Updates done by `train_step`."""
        return int(self._native.tessera_step_count(self._context))

    def _check(self, code: int) -> None:
        if code:
            raise LibraryError(code, self._native.tessera_last_error(self._context).decode(errors="replace"))

    def _raw(self, kind: str, function: int | None, index: int) -> Tensor:
        out = Tensor()
        where = (index,) if function is None else (function, index)
        self._check(getattr(self._native, f"tessera_{kind}_info")(self._context, *where, ctypes.byref(out)))
        return out

    def _infos(self, kind: str, function: int | None) -> tuple[TensorInfo, ...]:
        where = () if function is None else (function,)
        count = getattr(self._native, f"tessera_{kind}_count")(self._context, *where)
        raw = [self._raw(kind, function, index) for index in range(count)]
        return tuple(
            TensorInfo(t.name.decode(), DTYPES[t.dtype][0], tuple(t.shape[: t.rank]), bool(t.batched), t.index_bound)
            for t in raw
        )

    def _view(self, info: TensorInfo, raw: Tensor, address: int) -> tuple[Array, ...]:
        """The parameter's memory; of a complex one its two planes."""
        if info.numpy_dtype.kind != "c":
            return (self._plane(info, info.numpy_dtype, raw, address),)
        part = np.empty(0, info.numpy_dtype).real.dtype
        return tuple(self._plane(info, part, raw, address + offset) for offset in (0, raw.plane_bytes))

    def _plane(self, info: TensorInfo, dtype: np.dtype[Any], raw: Tensor, address: int) -> Array:
        item = dtype.itemsize
        strides = [item] * len(info.shape)
        if len(info.shape) > 1:
            strides[-2] = raw.row_stride * item
            for axis in range(len(info.shape) - 3, -1, -1):
                strides[axis] = strides[axis + 1] * info.shape[axis + 1]
        last = sum((extent - 1) * stride for extent, stride in zip(info.shape, strides, strict=True)) + item
        memory = (ctypes.c_char * (last if math.prod(info.shape) else 0)).from_address(address)
        memory._owner = self._owner  # type: ignore[attr-defined]  # a view keeps its memory alive
        return np.ndarray(info.shape, dtype, memoryview(memory), strides=tuple(strides))

    def _metrics(self, values: Sequence[float]) -> dict[str, float]:
        return {info.name: values[index] for index, info in enumerate(self.values) if index > 0}

    def _named(self, infos: tuple[TensorInfo, ...], inputs: Mapping[str, ArrayLike]) -> tuple[TensorInfo, ...]:
        names = [info.name for info in infos]
        if not infos:
            raise LibraryError(2, f"{self.name} has no such function in this model")
        missing = [name for name in names if name not in inputs]
        extra = [name for name in inputs if name not in names]
        if missing or extra:
            raise TypeError(f"{self.name} takes the inputs {names}; missing: {missing}, unknown: {extra}")
        return infos

    def _array(self, info: TensorInfo, inputs: Mapping[str, ArrayLike], any_samples: bool) -> Array:
        given = np.asarray(inputs[info.name])
        shape = (len(given), *info.shape[1:]) if any_samples and info.batched and given.ndim else info.shape
        if given.shape != shape:
            wanted = ("N", *info.shape[1:]) if any_samples and info.batched else info.shape
            text = ", ".join(map(str, wanted))
            raise ValueError(f"input {info.name} takes shape ({text}), the array has {given.shape}")
        if not _converts(given, info.numpy_dtype):
            raise TypeError(f"input {info.name} takes {info.dtype}, the array has {given.dtype}")
        return np.ascontiguousarray(given, info.numpy_dtype).reshape(shape)

    def _arguments(self, infos: tuple[TensorInfo, ...], inputs: Mapping[str, ArrayLike]) -> tuple[Any, list[Array]]:
        arrays = [self._array(info, inputs, any_samples=False) for info in self._named(infos, inputs)]
        return _pointers(arrays), arrays


class Library(Mapping[str, Model]):
    """A loaded unit: program name to model. ``library[name]`` makes a model with default options once."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        try:
            self._native = ctypes.CDLL(self.path)
            version = self._native.tessera_api_version()
        except (OSError, AttributeError) as reason:
            raise LibraryError(1, f"{self.path} is not a library built by tesserac: {reason}") from None
        if version != API_VERSION:
            text = f"{self.path} has version {version} of the C interface, this tesserac has {API_VERSION}"
            raise LibraryError(1, text)
        declare(self._native)
        count = self._native.tessera_program_count()
        self.names = tuple(self._native.tessera_program_name(index).decode() for index in range(count))
        self._models: dict[str, Model] = {}

    def create(
        self,
        name: str,
        *,
        threads: int = 0,
        seed: int = 0,
        forward_only: bool = False,
        optimizer: str | None = None,
        clip: float = 0.0,
        **settings: float,
    ) -> Model:
        """A new, independent model. ``settings``: momentum, beta1, beta2, eps, weight_decay of the optimizer."""
        options = Options()
        self._native.tessera_default_options(ctypes.byref(options))
        options.threads, options.seed, options.forward_only, options.clip = threads, seed, int(forward_only), clip
        options.optimizer = optimizer.encode() if optimizer is not None else None
        known = ("momentum", "beta1", "beta2", "eps", "weight_decay")
        for key, value in settings.items():
            if key not in known:
                raise TypeError(f"unknown optimizer setting {key}; known: {', '.join(known)}")
            setattr(options, key, value)
        return Model(self._native, name, options)

    def __getitem__(self, name: str) -> Model:
        if name not in self.names:
            raise KeyError(f"{name}; programs of {os.path.basename(self.path)}: {', '.join(self.names)}")
        if name not in self._models:
            self._models[name] = self.create(name)
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def load(path: str | os.PathLike[str]) -> Library:
    """Loads ``lib<unit>.so``. Raises `LibraryError` when it is no library built by tesserac."""
    return Library(path)


def _converts(given: Array, wanted: np.dtype[Any]) -> bool:
    """Floats take any float or integer type; integers take integers whose values all survive."""
    if wanted.kind in "iub":
        return given.dtype.kind in "iub" and bool(np.array_equal(given, given.astype(wanted)))
    return given.dtype.kind in "iub" or np.can_cast(given.dtype, wanted, "same_kind")


def _pointers(arrays: Sequence[Array]) -> Any:
    return (ctypes.c_void_p * max(1, len(arrays)))(*(array.ctypes.data for array in arrays))
