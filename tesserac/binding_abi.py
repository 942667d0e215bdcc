"""The C side of `tesserac.binding`: structures, constants and signatures of ``runtime/tessera.h``."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

__all__ = ["API_VERSION", "DTYPES", "INFER", "TRAIN", "Options", "Tensor", "declare"]

API_VERSION = 2
MAX_RANK = 8
TRAIN, INFER = 0, 1
DTYPES: tuple[tuple[str, type[np.generic]], ...] = (
    ("f32", np.float32),
    ("f64", np.float64),
    ("bf16", np.uint16),
    ("f16", np.float16),
    ("i8", np.int8),
    ("i16", np.int16),
    ("i32", np.int32),
    ("i64", np.int64),
    ("u8", np.uint8),
    ("bool", np.bool_),
    ("c64", np.complex64),
    ("c128", np.complex128),
)


class Options(ctypes.Structure):
    """``tessera_options``."""

    _fields_ = [
        ("threads", ctypes.c_int32),
        ("forward_only", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
        ("optimizer", ctypes.c_char_p),
        ("momentum", ctypes.c_double),
        ("beta1", ctypes.c_double),
        ("beta2", ctypes.c_double),
        ("eps", ctypes.c_double),
        ("weight_decay", ctypes.c_double),
        ("clip", ctypes.c_double),
    ]


class Tensor(ctypes.Structure):
    """``tessera_tensor``."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_RANK),
        ("row_stride", ctypes.c_int64),
        ("plane_bytes", ctypes.c_int64),
        ("data", ctypes.c_void_p),
        ("grad", ctypes.c_void_p),
        ("index_bound", ctypes.c_int64),
        ("ignore_index", ctypes.c_int64),
        ("batched", ctypes.c_int32),
    ]


def declare(native: ctypes.CDLL) -> None:
    """Sets argument and result types of every function."""
    context, text, integer = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    pointers, doubles, tensor = (
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.POINTER(ctypes.c_double),
        ctypes.POINTER(Tensor),
    )
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "program_count": (integer, []),
        "program_name": (text, [integer]),
        "default_options": (None, [ctypes.POINTER(Options)]),
        "create": (integer, [text, ctypes.POINTER(Options), pointers, text, ctypes.c_size_t]),
        "destroy": (None, [context]),
        "last_error": (text, [context]),
        "param_count": (integer, [context]),
        "param_info": (integer, [context, integer, tensor]),
        "input_count": (integer, [context, integer]),
        "input_info": (integer, [context, integer, integer, tensor]),
        "output_count": (integer, [context, integer]),
        "output_info": (integer, [context, integer, integer, tensor]),
        "value_and_grad": (integer, [context, pointers, doubles]),
        "train_step": (integer, [context, pointers, ctypes.c_double, doubles, doubles]),
        "step_count": (ctypes.c_int64, [context]),
        "infer": (integer, [context, pointers, pointers, ctypes.c_int64]),
        "load_weights": (integer, [context, text]),
        "save_weights": (integer, [context, text]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(native, f"tessera_{name}")
        function.restype, function.argtypes = result, arguments
