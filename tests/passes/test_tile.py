"""Tiling: what runs once and what tile by tile, and that the parts make up the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function, Initializer, Input, Output, Var
from tesserac.ir.text import parse_function, print_function
from tesserac.ir.types import DType, TensorType
from tesserac.passes.differentiate import differentiate
from tesserac.passes.pipeline import optimize, schedule
from tesserac.passes.placement import PARTIAL, Placed, Split, local_shape, place
from tesserac.passes.stages import Stage, Staged
from tesserac.passes.tile import Tile
from tests.passes.staged import run_staged
from tests.strategies import inputs_for, programs


def names(stage: Stage) -> list[str]:
    """What a stage leaves behind."""
    return [export.outer.name for export in stage.exports]


def operations(stage: Stage) -> list[str]:
    return [equation.op for equation in stage.equations]


def classifier(ignore: bool = False, batch: int = 16) -> Function:
    """tanh(x @ w) @ v with a cross-entropy loss, and its gradients."""
    b = Builder()
    x = b.add_input(Input(Var("x", TensorType(DType.F32, (batch, 4, 8))), "x"))
    labels = b.add_input(Input(Var("labels", TensorType(DType.I32, (batch, 4))), "labels", index_bound=5))
    made = []
    for name, shape in (("w", (8, 6)), ("v", (6, 5))):
        var = Var(name, TensorType(DType.F32, shape))
        made.append(b.add_input(Input(var, f"net.{name}", Initializer("uniform", -0.5, 0.5))))
    hidden = b.op("tanh", b.op("contract", x, made[0], spec="abk,kn->abn"), named="hidden")
    logits = b.op("contract", hidden, made[1], spec="abk,kn->abn", named="logits")
    loss = b.op("cross_entropy", logits, labels, ignore_index=3 if ignore else -1, named="loss")
    grads = b.ops("backward", (loss, *made))
    outputs = [Output("loss", loss), Output("grad:net.w", grads[0]), Output("grad:net.v", grads[1])]
    return b.finish("classifier.train", outputs)


def shared_weight() -> Function:
    """sum of (tanh(tanh(x w) w) w)^2: three products with one weight."""
    b = Builder()
    x = b.add_input(Input(Var("x", TensorType(DType.F32, (16, 8))), "x"))
    w = b.add_input(Input(Var("w", TensorType(DType.F32, (8, 8))), "net.w", Initializer("uniform", -0.5, 0.5)))
    h = b.op("tanh", b.op("contract", x, w, spec="mk,kn->mn"))
    h = b.op("tanh", b.op("contract", h, w, spec="mk,kn->mn"))
    y = b.op("contract", h, w, spec="mk,kn->mn", named="y")
    loss = b.op("reduce_sum", b.op("mul", y, y), axes=(0, 1), named="loss")
    (grad,) = b.ops("backward", (loss, w))
    return b.finish("shared.train", [Output("loss", loss), Output("grad:net.w", grad)])


def staged(function: Function, rows: int = 8) -> Staged:
    return Tile(rows=rows).run(optimize(function))


def assert_staged_equals_whole(function: Function, rows: int) -> None:
    values = {
        name: array.astype(np.float64) if array.dtype.kind == "f" else array
        for name, array in inputs_for(function).items()
    }
    wanted = evaluate(differentiate(function), values, dtype=np.float64)
    found = run_staged(staged(function, rows), values)
    for name, want in wanted.items():
        scale = max(1.0, float(np.abs(np.asarray(want, np.float64)).max(initial=0.0)))
        # Random and constant tensors keep their single precision in the staged run.
        assert np.allclose(found[name], want, rtol=1e-4, atol=1e-5 * scale), f"{name}:\n{print_function(function)}"


@pytest.mark.property
@given(programs(train=True, steps=6), st.sampled_from((1, 4, 16)))
def test_staged_training_programs_equal_the_whole(function: Function, rows: int) -> None:
    assert_staged_equals_whole(function, rows)


@pytest.mark.property
@given(programs(train=False, steps=6))
def test_staged_programs_without_gradients_equal_the_whole(function: Function) -> None:
    assert_staged_equals_whole(function, 4)


def test_forward_and_backward_meet_in_one_stage_of_tiles() -> None:
    stages = staged(classifier()).stages
    tiled = [s for s in stages if s.tiles is not None and "contract" in operations(s)]
    assert len(tiled) == 1
    assert operations(tiled[0]).count("contract") == 5  # two forward, one for d_hidden, two for the weights
    assert {"d_w", "d_v"} < set(names(tiled[0]))
    assert all(export.partial for export in tiled[0].exports)  # the third is the sum of the losses


def test_products_that_share_a_weight_add_to_one_gradient() -> None:
    function = shared_weight()
    found = staged(function)
    *_, last = [stage for stage in found.stages if stage.tiles]
    gradient = next(output.var for output in found.function.outputs if output.name == "grad:net.w")
    terms = [export for export in last.exports if export.outer == gradient]
    assert len(terms) == 3
    assert all(export.partial for export in terms)
    assert found.stages[-1] is last
    assert_staged_equals_whole(function, 8)


def test_without_tiles_too_products_that_share_a_weight_add_to_one_gradient() -> None:
    function = optimize(shared_weight())
    found = Tile(enabled=False).run(function)
    (stage,) = found.stages
    gradient = next(output.var for output in function.outputs if output.name == "grad:net.w")
    terms = [export for export in stage.exports if export.outer == gradient]
    assert len(terms) == 3
    assert all(export.partial for export in terms)
    assert not any(gradient in equation.results for equation in stage.equations)
    values = inputs_for(function)
    np.testing.assert_allclose(run_staged(found, values)["grad:net.w"], evaluate(function, values)["grad:net.w"], 1e-5)
    (apart,) = Tile(enabled=False, accumulate=False).run(function).stages
    assert not any(export.partial for export in apart.exports), "CUDA's products do not add"


def test_batches_of_several_sizes_are_cut_by_the_one_with_most_of_the_work() -> None:
    b = Builder()
    x = b.add_input(Input(Var("x", TensorType(DType.F32, (32, 8))), "x"))
    edge = b.add_input(Input(Var("edge", TensorType(DType.F32, (48, 2))), "edge"))
    w = b.add_input(Input(Var("w", TensorType(DType.F32, (8, 8))), "net.w", Initializer("uniform", -0.5, 0.5)))
    v = b.add_input(Input(Var("v", TensorType(DType.F32, (2, 8))), "net.v", Initializer("uniform", -0.5, 0.5)))
    terms = []
    for points, matrix in ((x, w), (edge, v)):
        h = b.op("tanh", b.op("contract", points, matrix, spec="mk,kn->mn"))
        terms.append(b.op("reduce_sum", b.op("square", h), axes=(0, 1)))
    loss = b.op("add", *terms, named="loss")
    grads = b.ops("backward", (loss, w, v))
    outputs = [Output("loss", loss), Output("grad:net.w", grads[0]), Output("grad:net.v", grads[1])]
    function = b.finish("sizes.train", outputs)
    found = staged(function)
    assert found.batch == 32
    assert {stage.tiles is None for stage in found.stages} == {True, False}
    assert_staged_equals_whole(function, 8)


def test_the_count_of_kept_labels_has_a_stage_of_its_own() -> None:
    counted = staged(classifier(ignore=True)).stages
    first, *others = [s for s in counted if s.tiles is not None]
    assert [e.op for e in first.equations if e.op.startswith("reduce")] == ["reduce_sum"]
    assert "contract" not in operations(first)
    assert len(others) == 1
    assert [i.outer.name for i in first.imports] == ["labels"]
    assert_staged_equals_whole(classifier(ignore=True), 8)


def test_a_gradient_may_be_cut_rather_than_summed() -> None:
    """The batch size is that of x4, a right operand: every tile owns its columns of the gradient of w3."""
    path = Path(__file__).parent.parent / "codegen" / "failed" / "part_of_a_gradient.ir"
    function = parse_function(path.read_text(encoding="utf-8"))
    exports = [e for stage in staged(function, 1).stages for e in stage.exports]
    assert ("d_w3", 1, False) in [(e.outer.name, e.axis, e.partial) for e in exports]
    assert_staged_equals_whole(function, 1)


def test_constants_are_repeated_rather_than_handed_over() -> None:
    for stage in staged(classifier(ignore=True)).stages:
        imported = {item.outer for item in stage.imports}
        produced = {v: e for e in optimize(classifier(ignore=True)).equations for v in e.results}
        assert not [v for v in imported if v in produced and produced[v].op == "full"]


def test_transposed_weights_are_made_once() -> None:
    stages = staged(classifier()).stages
    for stage in stages:
        assert stage.tiles is None or "relayout" not in operations(stage)
    assert sum(operations(stage).count("relayout") for stage in stages) == 1


def test_a_function_without_a_batch_is_one_stage() -> None:
    function = optimize(classifier(batch=1))
    (stage,) = Tile(rows=8).run(function).stages
    assert stage.tiles is None
    assert sorted(map(id, stage.equations)) == sorted(map(id, function.equations))
    (stage,) = Tile(enabled=False).run(optimize(classifier())).stages
    assert stage.tiles is None


def test_what_is_counted_of_labels_comes_first() -> None:
    """So that the gradient of a loss, which is divided by it, is computed where the row's statistics are."""
    plan = schedule(optimize(classifier(ignore=True)), ["net.w", "net.v"], Tile(enabled=False))
    groups = plan.stages[0].fused.groups
    place = {var.name: number for number, item in enumerate(groups) for e in item.roots for var in e.results}
    first_product = min(n for n, item in enumerate(groups) if item.kind == "contract")
    assert place["loss_kept"] <= place["loss_count"] < first_product
    assert place["loss_total"] == place["d_logits"]


@pytest.mark.parametrize(("batch", "rows", "tile"), [(16, 8, 2), (16, 1, 1), (64, 128, 8), (7, 128, 1), (48, 20, 4)])
def test_tiles_divide_the_batch_and_leave_several_per_thread(batch: int, rows: int, tile: int) -> None:
    result = staged(classifier(batch=batch), rows)
    found = {(s.tiles, s.tile) for s in result.stages if s.tiles is not None}
    assert found == {(batch // tile, tile)}


@pytest.mark.parametrize("batch", [31, 1009])
def test_a_batch_without_a_divisor_near_the_rows_wanted_is_not_cut_into_single_rows(batch: int) -> None:
    function = classifier(batch=batch)
    assert [s.tiles for s in staged(function, 128).stages] == [None]
    assert_staged_equals_whole(function, 128)


@pytest.mark.parametrize("batch", [3, 8])
def test_a_product_whose_columns_are_the_batch_is_laid_out(batch: int) -> None:
    function = parse_function(
        f"""func net(
  param %w: f32[12,12] "w" = uniform(-1.0, 1.0)
  input %x: f32[{batch},5,12] "x"
) -> (y: %y) {{
  %product: f32[{batch},5,12] = contract %x, %w {{spec="amk,kn->amn"}}
  %y: f32[12,5,{batch}] = transpose %product {{perm=[2, 1, 0]}}
}}
"""
    )
    plan = schedule(optimize(function), ["w"])  # once, fusion did not end
    assert [stage.tiles for stage in plan.staged.stages] == ([None] if batch == 3 else [4])


def test_a_constant_that_joins_axes_is_read_where_a_tile_has_no_whole_part_of_them() -> None:
    function = parse_function(
        """func net(
  param %w: f32[12,12] "w" = uniform(-1.0, 1.0)
  input %x: f32[8,5,12] "x"
) -> (d_w: %d_w) {
  %pair: f32[4,1,5,12] = full {dtype=f32, shape=[4, 1, 5, 12], value=0.5}
  %pairs: f32[4,2,5,12] = pad %pair {high=[0, 1, 0, 0], low=[0, 0, 0, 0], value=0.0}
  %d: f32[8,5,12] = reshape %pairs {shape=[8, 5, 12]}
  %d_w: f32[12,12] = contract %x, %d {spec="amk,amn->kn"}
}
"""
    )
    assert_staged_equals_whole(function, rows=1)


def equation_of(op: str, *shapes: tuple[int, ...], **attrs: object) -> tuple[Builder, list[Var]]:
    b = Builder()
    read = [b.add_input(Input(Var(f"x{i}", TensorType(DType.F32, s)), f"x{i}")) for i, s in enumerate(shapes)]
    b.op(op, *read, **attrs)  # type: ignore[arg-type]
    return b, read


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "incoming", "wanted"),
    [
        ("add", [(8, 3), (8, 3)], {}, (Split(0), Split(0)), Placed((Split(0), Split(0)), (Split(0),))),
        ("add", [(8, 3), (8, 3)], {}, (Split(0), None), Placed((Split(0), Split(0)), (Split(0),), ((1, 0),))),
        ("add", [(8, 8), (8, 8)], {}, (Split(0), Split(1)), Placed((None, None), (None,))),
        ("reduce_sum", [(8, 3)], {"axes": (0,)}, (Split(0),), Placed((Split(0),), (PARTIAL,))),
        ("reduce_sum", [(8, 3)], {"axes": (1,)}, (Split(0),), Placed((Split(0),), (Split(0),))),
        ("reduce_max", [(8, 3)], {"axes": (0,)}, (Split(0),), Placed((None,), (None,))),
        ("transpose", [(8, 3)], {"perm": (1, 0)}, (Split(0),), Placed((Split(0),), (Split(1),))),
        ("contract", [(8, 3), (3, 5)], {"spec": "ak,kn->an"}, (Split(0), None), Placed((Split(0), None), (Split(0),))),
        ("contract", [(8, 3), (8, 5)], {"spec": "ka,kn->an"}, (Split(0), Split(0)),
         Placed((Split(0), Split(0)), (PARTIAL,))),
        ("cumsum", [(8, 3)], {"axis": 0, "reverse": False}, (Split(0),), Placed((None,), (None,))),
        ("add", [(8, 3), (8, 3)], {}, (None, None), Placed((None, None), (None,))),
    ],
)
def test_placement_of_one_equation(
    op: str,
    shapes: list[tuple[int, ...]],
    attrs: dict[str, object],
    incoming: tuple[Split | None, ...],
    wanted: Placed,
) -> None:
    b, _ = equation_of(op, *shapes, **attrs)
    assert place(b.equations[-1], incoming) == wanted


def test_local_shapes_keep_a_tile_of_every_batch() -> None:
    assert local_shape(Var("x", TensorType(DType.F32, (16, 4, 8))), 0, 16, 2) == (2, 4, 8)
    assert local_shape(Var("x", TensorType(DType.F32, (4, 64))), 1, 16, 2) == (4, 8)
