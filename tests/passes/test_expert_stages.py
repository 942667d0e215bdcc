"""Tiles of rows of one expert: which stages a mixture of experts becomes, and what crosses between them."""

from __future__ import annotations

from dataclasses import replace

from tesserac.passes.pipeline import optimize
from tesserac.passes.stages import Stage, Staged
from tesserac.passes.tile import Tile
from tests.elaborate.support import compile_source, train_of
from tests.mixtures import Mixture, mixture

SMALL = Mixture(tokens=64, width=7, hidden=19, experts=4)


def staged(case: Mixture, **options: object) -> Staged:
    return Tile(rows=8, **options).run(optimize(mixture(case)))  # type: ignore[arg-type]


def form(stage: Stage) -> str:
    return "experts" if stage.experts is not None else "once" if stage.tiles is None else "tiles"


def operations(stage: Stage) -> list[str]:
    return [equation.op for equation in stage.equations]


def test_forward_and_backward_are_a_chain_each() -> None:
    """The gradient of the mixed output needs rows of other experts: two chains with the tokens' tiles between them."""
    stages = staged(SMALL).stages
    assert [form(s) for s in stages] == ["tiles", "once", "experts", "tiles", "experts", "once"]
    forward, backward = (s for s in stages if s.experts is not None)
    assert operations(forward).count("contract") == 2
    assert operations(backward).count("contract") == 3
    assert "gelu_tanh" in operations(backward), "the hidden activation is computed again rather than kept"
    assert "take" in operations(backward), "so are the rows of the tokens"
    kept = {e.outer.name for e in forward.exports}
    assert kept == {"pre", "ys.1"}, "of all rows, only the product before the activation and the result are kept"


def test_a_tile_reads_its_own_experts_parameters_and_adds_to_its_gradients() -> None:
    backward = staged(SMALL).stages[4]
    each = [len(e.each) for e in backward.exports if e.partial]
    assert each == [4, 4, 4, 4]
    assert all(item.axis is None for item in backward.imports if item.each)
    (relayout,) = (e for e in backward.equations if e.op == "relayout")
    assert relayout.operands[0] in {item.local for item in backward.imports if item.each}


def test_rows_are_a_size_of_their_own() -> None:
    """Kernels recognise axes of run-time length by their size."""
    for tokens in (1, 3, 64, 400):
        function = optimize(mixture(replace(SMALL, tokens=tokens)))
        sizes = {n for v in function.variables() for n in v.type.sizes}
        for stage in Tile(rows=8).run(function).stages:
            if stage.experts is not None:
                assert stage.tile == stage.experts.most
                assert stage.tile not in sizes
                assert stage.tile >= min(2 * tokens, 64)


def test_wide_rows_make_short_tiles() -> None:
    wide = staged(Mixture(tokens=4096, width=512, hidden=1024, experts=16))
    tiles = [s.tile for s in wide.stages if s.experts is not None]
    assert len(set(tiles)) == 1
    assert 256 <= tiles[0] < 1024


def test_experts_of_unequal_structure_are_stages_of_their_own() -> None:
    stages = [s for s in staged(replace(SMALL, linear=(1, 3), gradients=False)).stages if s.experts is not None]
    assert [s.experts.ids for s in stages if s.experts] == [(0, 2), (1, 3)]
    assert operations(stages[0]).count("contract") == 2
    assert operations(stages[1]).count("contract") == 1


def test_rows_of_no_expert_are_written_as_well() -> None:
    """With a capacity, rows are left behind those of all experts, and the sum over choices reads them."""
    stages = [s for s in staged(replace(SMALL, capacity=3, gradients=False)).stages if s.experts is not None]
    assert [s.experts.ids for s in stages if s.experts] == [(0, 1, 2, 3), (4,)]
    assert "contract" not in operations(stages[1])
    (export,) = stages[1].exports
    assert export.axis == 0


def test_without_a_batch_to_cut_only_the_experts_are_cut() -> None:
    stages = staged(SMALL, enabled=False).stages
    assert [form(s) for s in stages] == ["once", "experts", "once", "experts", "once"]


def test_inside_a_model_a_sum_is_kept_rather_than_what_it_adds() -> None:
    """The residual sum behind the experts is read again by the backward pass; the rows it adds up are not kept."""
    tokens = [s for s in staged(replace(SMALL, deep=True)).stages if s.tiles is not None]
    kept = {e.outer.name for stage in tokens for e in stage.exports}
    assert not any("mixed_rows" in name for name in kept), kept


def test_a_target_without_tiles_has_one_stage() -> None:
    """Rows of all experts are one array; what reads an expert's own vector reads a row of a table."""
    function = optimize(mixture(replace(SMALL, linear=(1,))), whole=True)
    (stage,) = Tile(enabled=False, experts=False).run(function).stages
    ops = {e.op for e in stage.equations}
    assert {"route", "grouped_contract", "grouped_outer", "grouped_sum", "grouped_number", "take"} <= ops
    assert not ops & {"dispatch", "grouped_rows", "grouped_keep"}


def test_sums_for_a_shared_gate_stay_in_one_stage() -> None:
    """A router's gate gets gradients of both calls and of their metrics: some could be made earlier than others."""
    source = """
    router = op.router([op.mlp(6, [5], 6) for _ in range(3)])

    @graph.module
    def net(x):
        y, first = router(x, metrics=True)
        z, second = router(y, metrics=True)
        return z + first["z_loss"] + second["aux_loss"]

    @graph.training_step(module="t")
    def step(batch: {"x": Tensor[24, 6]}):
        return op.mean(op.square(net(batch["x"])))
    """
    stages = Tile(rows=4).run(optimize(train_of(compile_source(source)))).stages
    terms = [[e for e in s.exports if e.partial and "gate" in e.outer.name] for s in stages]
    (made,) = (found for found in terms if found)
    assert len(made) == 2
    assert len({e.outer for e in made}) == 1
