"""The library of a unit with several entries, from Python and from C."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tesserac.binding import Library, LibraryError, load

from .conftest import Project


@pytest.fixture(scope="module")
def library(zoo: Project) -> Library:
    return load(zoo.folder / "libzoo.so")


def test_every_entry_of_the_unit_is_there(library: Library) -> None:
    assert list(library) == ["decoder", "drops", "rows1000", "rows997", "single"]
    names = [p.name for p in library["decoder"].parameters]
    assert names[-1] == "decoder.table"
    assert [(i.name, i.shape, i.index_bound) for i in library["decoder"].inputs] == [
        ("tokens", (3, 7), 11),
        ("labels", (3, 7), 11),
    ]
    assert [v.name for v in library["decoder"].values] == ["loss", "largest", "size"]


def test_arrays_are_passed_and_returned_without_copies(library: Library) -> None:
    model = library.create("rows1000", seed=2)
    x, target = np.ones((1000, 9), np.float32), np.zeros((1000, 5), np.float32)
    pointers, keep = model._arguments(model.inputs, {"x": x, "target": target})
    assert [pointers[0], pointers[1]] == [x.ctypes.data, target.ctypes.data]
    assert all(np.shares_memory(a, b) for a, b in zip(keep, (x, target), strict=True))
    grads = model.value_and_grad(x=x, target=target).grads
    before = {name: (grad.ctypes.data, grad.copy()) for name, grad in grads.items()}
    model.value_and_grad(x=2 * x, target=target)
    for name, (address, values) in before.items():
        assert model.grads[name].ctypes.data == address
        assert not np.array_equal(model.grads[name], values), "the views show what the last call computed"
    path = model.parameters[0].name
    model.params[path][:] = 0
    assert np.array(library.create("rows1000", seed=2).params[path]).flat[0] != 0, "models do not share parameters"


def test_part_of_a_batch_writes_nothing_behind_its_samples(library: Library) -> None:
    """Failed once: tiles were computed whole, straight into arrays of fewer samples."""
    model = library.create("rows1000", seed=2)
    whole = np.random.default_rng(0).normal(size=(1000, 9)).astype(np.float32)
    want = model.infer(x=whole)["regress"]
    for samples in (1, 7, 999):
        guarded = np.full((samples + 64, 5), 7.0, np.float32)
        inputs = (ctypes.c_void_p * 1)(whole.ctypes.data)
        outputs = (ctypes.c_void_p * 1)(guarded.ctypes.data)
        assert model._native.tessera_infer(model._context, inputs, outputs, ctypes.c_int64(samples)) == 0
        np.testing.assert_array_equal(guarded[:samples], want[:samples])
        assert (guarded[samples:] == 7.0).all()


def test_a_label_out_of_range_is_named(library: Library) -> None:
    model = library.create("decoder")
    tokens, labels = np.zeros((3, 7), np.int32), np.zeros((3, 7), np.int32)
    labels[1, 4] = 11
    with pytest.raises(LibraryError) as caught:
        model.value_and_grad(tokens=tokens, labels=labels)
    assert str(caught.value).splitlines()[0] == (
        "error[T0908]: input 'labels': value 11 at sample 1, position 4 of the array is outside 0 .. 10 "
        "(or -100, which is ignored)"
    )


C_PROGRAM = r"""
#include <stdio.h>
#include "tessera.h"

int main(void) {
  char error[200];
  tessera_context *decoder = NULL, *single = NULL;
  int32_t tokens[3 * 7], labels[3 * 7];
  float x[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, target[1] = {3}, y[1];
  const void *text[2] = {tokens, labels}, *row[2] = {x, target};
  void* out[1] = {y};
  double values[3], first = 0, loss = 0, norm = 0;
  int i;
  if (tessera_create("decoder", NULL, &decoder, error, sizeof error) != TESSERA_OK) return 1;
  if (tessera_create("single", NULL, &single, error, sizeof error) != TESSERA_OK) return 2;
  for (i = 0; i < 3 * 7; ++i) tokens[i] = i % 11, labels[i] = (i + 1) % 11;
  for (i = 0; i < 60; ++i) {
    if (tessera_train_step(decoder, text, 0.02, values, &norm) != TESSERA_OK) return 3;
    if (i == 0) first = values[0];
    if (tessera_train_step(single, row, 0.02, &loss, NULL) != TESSERA_OK) return 4;
  }
  if (!(values[0] < 0.5 * first) || !(norm > 0)) return 5;
  if (!(loss < 0.1)) return 6;
  if (tessera_infer(single, row, out, 0) != TESSERA_OK || !(y[0] > 2.5f && y[0] < 3.5f)) return 7;
  tokens[5] = 11;
  if (tessera_train_step(decoder, text, 0.02, values, &norm) == TESSERA_OK) return 8;
  puts(tessera_last_error(decoder));
  tessera_destroy(decoder);
  tessera_destroy(single);
  return 0;
}
"""


def test_a_c_program_trains_two_entries(zoo: Project, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(C_PROGRAM, encoding="utf-8")
    flags = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{zoo.folder}"]
    link = [f"-L{zoo.folder}", "-lzoo", f"-Wl,-rpath,{zoo.folder}", "-o", "main"]
    built = subprocess.run(["gcc", *flags, "main.c", *link], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith(
        "error[T0908]: input 'tokens': value 11 at sample 0, position 5 of the array is outside 0 .. 10\n"
    )
