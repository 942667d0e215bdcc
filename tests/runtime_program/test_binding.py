"""The C interface, through tesserac.binding and through a C program."""

# ruff: noqa: E501  (exact messages stay on one line)
from __future__ import annotations

import gc
import subprocess
import weakref
from pathlib import Path

import numpy as np
import pytest

from tesserac.binding import Library, LibraryError, load

from .conftest import FLAGS, HERE, ROOT, SANITIZE, Builds


@pytest.fixture(scope="module")
def library(builds: Builds) -> Library:
    return load(builds.library)


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(8, 5)).astype(np.float32), "labels": rng.integers(0, 4, 8).astype(np.int32)}


def test_library_lists_its_programs(library: Library) -> None:
    assert list(library) == ["Softmax", "Softmax64", "Bigram"]
    model = library["Softmax"]
    assert model is library["Softmax"]
    assert [(p.name, p.shape, p.dtype) for p in model.parameters] == [("W", (5, 4), "f32"), ("b", (4,), "f32")]
    assert [(i.name, i.index_bound) for i in model.inputs] == [("x", 0), ("labels", 4)]
    assert [o.name for o in model.outputs] == ["probabilities"]


@pytest.mark.parametrize("program", ["Softmax", "Softmax64"])
def test_gradients_equal_finite_differences(library: Library, program: str) -> None:
    model = library.create(program, seed=3)
    inputs = {"x": batch()["x"].astype(model.inputs[0].numpy_dtype), "labels": batch()["labels"]}
    result = model.value_and_grad(**inputs)
    grads = {name: grad.copy() for name, grad in result.grads.items()}
    assert 0 <= result.metrics["accuracy"] <= 1
    step, tolerance = (1e-6, 1e-8) if program == "Softmax64" else (1e-2, 1e-3)
    for name, grad in grads.items():
        for index in np.ndindex(grad.shape):
            original = model.params[name][index]
            model.params[name][index] = original + step  # the view writes into the library's memory
            above = model.value_and_grad(**inputs).loss
            model.params[name][index] = original - step
            below = model.value_and_grad(**inputs).loss
            model.params[name][index] = original
            assert grad[index] == pytest.approx((above - below) / (2 * step), abs=tolerance)


def test_arrays_are_used_in_place(library: Library) -> None:
    model = library.create("Softmax")
    inputs = batch()
    pointers, keep = model._arguments(model.inputs, inputs)
    assert [array.ctypes.data for array in keep] == [inputs["x"].ctypes.data, inputs["labels"].ctypes.data]
    assert pointers[0] == inputs["x"].ctypes.data
    assert not model.params["W"].flags["OWNDATA"]
    assert model.params["W"].strides == (64, 4)


def test_train_step_and_weights(library: Library, tmp_path: Path) -> None:
    model = library.create("Softmax", optimizer="adam", clip=1.0, beta1=0.8)
    first = model.train_step(0.1, **batch())
    for _ in range(30):
        last = model.train_step(0.1, **batch())
    assert model.step_count == 31
    assert last.loss < 0.3 * first.loss
    model.save_weights(tmp_path / "w.safetensors")
    other = library.create("Softmax", seed=9, forward_only=True)
    other.load_weights(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(other.params["W"], model.params["W"])
    assert dict(other.grads) == {}
    x = np.random.default_rng(5).normal(size=(19, 5))
    logits = x @ model.params["W"].astype(float) + model.params["b"]
    want = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(other.infer(x=x)["probabilities"], want, rtol=1e-4)


def test_views_keep_their_memory_alive(library: Library) -> None:
    model = library.create("Softmax")
    memory = weakref.ref(model._owner)
    weights = model.params["W"]
    total = weights.sum()
    del model
    gc.collect()
    assert memory() is not None
    assert weights.sum() == total
    del weights
    gc.collect()
    assert memory() is None


def test_parameters_are_checked_on_assignment(library: Library) -> None:
    model = library.create("Softmax")
    model.params["b"] = [1, 2, 3, 4]
    assert model.params["b"].tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"b has shape \(4,\), the value has shape \(5,\)"):
        model.params["b"] = np.zeros(5)


def test_errors(library: Library, tmp_path: Path) -> None:
    model = library["Softmax"]
    good = batch()
    bad = {**good, "labels": good["labels"] + 7}
    with pytest.raises(
        LibraryError, match=r"error\[T0908\]: input 'labels': value \d+ at sample 0, position 0"
    ) as caught:
        model.value_and_grad(**bad)
    assert caught.value.code == 1
    with pytest.raises(TypeError, match=r"missing: \['labels'\], unknown: \['label'\]"):
        model.value_and_grad(x=good["x"], label=good["labels"])
    with pytest.raises(ValueError, match=r"input x takes shape \(8, 5\), the array has \(8, 6\)"):
        model.value_and_grad(x=np.zeros((8, 6)), labels=good["labels"])
    with pytest.raises(TypeError, match="input labels takes i32, the array has float64"):
        model.value_and_grad(x=good["x"], labels=np.zeros(8))
    with pytest.raises(TypeError, match="input labels takes i32, the array has int64"):
        model.value_and_grad(x=good["x"], labels=np.full(8, 2**40))
    with pytest.raises(LibraryError, match="this library has no program 'Sotfmax'; it has Softmax, Softmax64, Bigram"):
        library.create("Sotfmax")
    with pytest.raises(KeyError, match=r"programs of libtoys\.so: Softmax, Softmax64, Bigram"):
        library["Sotfmax"]
    with pytest.raises(LibraryError, match="there is no optimizer 'adma'"):
        library.create("Softmax", optimizer="adma")
    with pytest.raises(LibraryError, match=r"error\[T0901\]: cannot read '.*none': No such file"):
        model.load_weights(tmp_path / "none")
    with pytest.raises(LibraryError, match=r"error\[T0916\]: cannot write"):
        model.save_weights(tmp_path / "no" / "w")
    (tmp_path / "libx.so").write_text("no library")
    with pytest.raises(LibraryError, match="is not a library built by tesserac"):
        load(tmp_path / "libx.so")
    with pytest.raises(LibraryError, match="has no such function"):
        library.create("Softmax", forward_only=True).value_and_grad(**good)


C_PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include "runtime/tessera.h"

int main(void) {
  char error[200];
  tessera_context* context = NULL;
  if (tessera_create("Nope", NULL, &context, error, sizeof error) != TESSERA_USAGE || context != NULL) return 1;
  if (strstr(error, "this library has no program 'Nope'") == NULL) return 2;
  if (tessera_create("Bigram", NULL, &context, error, sizeof error) != TESSERA_OK) return 3;
  int32_t tokens[64], labels[64];
  for (int i = 0; i < 64; ++i) tokens[i] = i % 7, labels[i] = (i + 1) % 7;
  const void* inputs[2] = {tokens, labels};
  double first = 0, loss = 0, norm = 0;
  if (tessera_value_and_grad(context, inputs, &first) != TESSERA_OK) return 4;
  for (int i = 0; i < 200; ++i)
    if (tessera_train_step(context, inputs, 0.1, &loss, &norm) != TESSERA_OK) return 5;
  if (!(loss < 0.1 * first)) return 6;
  const void* missing[2] = {tokens, NULL};
  if (tessera_value_and_grad(context, missing, &loss) != TESSERA_USAGE) return 7;
  if (strstr(tessera_last_error(context), "input 'labels' is a null pointer") == NULL) return 8;
  tessera_tensor info;
  if (tessera_param_info(context, 1, &info) != TESSERA_USAGE || tessera_param_info(context, 0, &info) != TESSERA_OK) return 9;
  if (strcmp(info.name, "table") != 0 || info.dtype != TESSERA_F32 || info.rank != 2 || info.shape[1] != 128) return 10;
  if (tessera_infer(context, inputs, NULL, 0) != TESSERA_USAGE || tessera_train_step(NULL, inputs, 1, NULL, NULL) != TESSERA_USAGE) return 11;
  tessera_destroy(context);
  tessera_destroy(NULL);
  puts("ok");
  return 0;
}
"""


def test_c_program(builds: Builds, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(C_PROGRAM)
    flags = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-I", str(ROOT)]
    link = ["-L", str(builds.library.parent), "-ltoys", f"-Wl,-rpath,{builds.library.parent}"]
    subprocess.run(["gcc", *flags, str(tmp_path / "main.c"), *link, "-o", str(tmp_path / "main")], check=True)
    done = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_c_program_under_sanitizers(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(C_PROGRAM)
    library = str(HERE / "programs" / "library.cpp")
    command = ["g++", *FLAGS, *SANITIZE, library, "-x", "c", str(tmp_path / "main.c"), "-o", str(tmp_path / "main")]
    subprocess.run([part for part in command if part != "-std=c++17"], check=True, capture_output=True)
    done = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
