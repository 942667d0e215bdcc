"""The memory plan: values that live at the same time share no byte, unless a kernel may write where it reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesserac.codegen.in_place import in_place_pairs
from tesserac.codegen.records import Argument, ContractKernel, Launch, Matrix, Node, Origin, RowKernel, Slot, Store
from tesserac.codegen.views import View
from tesserac.driver import CompileOptions, plan_entry
from tesserac.ir.program import Entry, Function, Var
from tesserac.ir.text import parse_function
from tesserac.ir.types import DType, TensorType
from tesserac.passes.plan import ALIGNMENT, Plan, outer_view, storage_bytes
from tests.codegen.cuda_cases import embedding
from tests.strategies import programs


@dataclass
class Life:
    """A buffer: its bytes and the launches (numbered over the whole function) that use it."""

    var: Var
    start: int
    end: int
    uses: list[int]

    def meets(self, other: Life) -> bool:
        return self.start < other.end and other.start < self.end


def plan_of(function: Function, rows: int, target: str = "cpu", mixed: bool = False) -> Plan:
    trains = any(o.name.startswith("grad:") for o in function.outputs)
    entry = Entry("f", function if trains else None, None if trains else function, None, mixed)
    plans = plan_entry(entry, CompileOptions(tile_rows=rows, target=target))
    plan = plans.train if trains else plans.infer
    assert plan is not None
    return plan


def scratch_lives(plan: Plan) -> Iterator[tuple[list[Life], tuple[Launch, ...]]]:
    """The values of each stage of tiles; sums over tiles live from the first launch to the last."""
    for stage in plan.stages:
        values = stage.fused.values
        lives: dict[Var, Life] = {}
        for var, place in (*stage.places.items(), *stage.partial.items()):
            size = storage_bytes(values.storage(var), var.type.dtype.itemsize)
            uses = list(range(len(stage.launches))) if var in stage.partial else []
            lives[var] = Life(var, place.offset, place.offset + size, uses)
            assert place.kind == "scratch"
            assert place.offset % ALIGNMENT == 0
            assert place.offset + size <= plan.scratch_bytes
        for number, launch in enumerate(stage.launches):
            for argument in launch.arguments:
                if argument.var in lives:
                    lives[argument.var].uses.append(number)
        yield list(lives.values()), stage.launches


def shared_lives(plan: Plan) -> tuple[list[Life], list[Launch | None]]:
    """Values between stages: a stage of tiles uses all of them at once, so it counts as one launch."""
    lives: dict[Var, Life] = {}
    steps: list[Launch | None] = []
    for stage in plan.stages:
        values = stage.fused.values
        tiled = values.stage.tiles is not None
        for number, launch in enumerate(stage.launches):
            if not tiled or number == 0:
                steps.append(None if tiled else launch)
            for argument in launch.arguments:
                var = argument.var
                if tiled:
                    item = values.imports.get(var) or values.exports.get(var)
                    if item is None:
                        continue
                    var = item.outer
                place = plan.outer.get(var)
                if place is not None and place.kind == "shared":
                    crosses = tiled or var in values.imports
                    view = outer_view(plan.outer, var) if crosses else values.storage(argument.var)
                    size = storage_bytes(view, var.type.dtype.itemsize)
                    life = lives.setdefault(var, Life(var, place.offset, place.offset + size, []))
                    life.end = max(life.end, place.offset + size)
                    life.uses.append(len(steps) - 1)
                    assert life.end <= plan.shared_bytes
    return list(lives.values()), steps


def may_replace(launch: Launch | None, old: Var, new: Var) -> bool:
    """Whether the launch reads each element of ``old`` only at the moment it writes that element of ``new``."""
    if launch is None or not isinstance(launch.kernel, (RowKernel, ContractKernel)):
        return False
    kernel = launch.kernel
    reading = [i for i, a in enumerate(launch.arguments) if a.var == old]
    writing = [i for i, a in enumerate(launch.arguments) if a.var == new]
    if len(reading) != 1 or len(writing) != 1 or any(n.kind == "take" for n in kernel.nodes):
        return False
    if _read_later(kernel, reading[0], next(s for s in kernel.stores if s.slot == writing[0])):
        return False
    if isinstance(kernel, ContractKernel) and reading[0] in (kernel.a.slot, kernel.b.slot):
        return False
    loads = [n for n in kernel.nodes if n.slot == reading[0]]
    stores = [s for s in kernel.stores if s.slot == writing[0]]
    same = {(n.kind, n.strides) for n in loads} == {("load", s.strides) for s in stores}
    return same and all(s.mode == "set" for s in stores)


def _read_later(kernel: RowKernel | ContractKernel, slot: int, written: Store) -> bool:
    """Whether a pass over the columns that comes after the one that stores ``written`` reads the slot."""

    def passes(node: Node) -> int:
        return max((passes(kernel.nodes[i]) for i in node.args), default=0) + (node.kind == "reduce")

    def reads(number: int) -> bool:
        node = kernel.nodes[number]
        return node.kind != "reduce" and (node.slot == slot or any(reads(i) for i in node.args))

    at = passes(kernel.nodes[written.node])
    later = [s.node for s in kernel.stores if passes(kernel.nodes[s.node]) > at]
    later += [i for n in kernel.nodes if n.kind == "reduce" and passes(n) - 1 > at for i in n.args]
    return any(reads(number) for number in later)


def assert_disjoint(lives: Iterable[Life], launches: Iterable[Launch | None]) -> None:
    steps = list(launches)
    for a, b in itertools.combinations(lives, 2):
        first, second = (a, b) if min(a.uses) <= min(b.uses) else (b, a)
        if not a.meets(b) or max(first.uses) < min(second.uses):
            continue
        meeting = max(first.uses)
        assert meeting == min(second.uses), f"{first.var} and {second.var} live at the same time"
        assert may_replace(steps[meeting], first.var, second.var), f"{second.var} is written over {first.var}"


@pytest.mark.property
@given(programs(steps=10), st.sampled_from((0, 1, 128)))
def test_no_two_live_buffers_overlap(function: Function, rows: int) -> None:
    plan = plan_of(function, rows)
    for lives, launches in scratch_lives(plan):
        assert_disjoint(lives, launches)
    assert_disjoint(*shared_lives(plan))


@pytest.mark.property
@given(programs(steps=6))
def test_every_buffer_of_every_launch_has_one_place(function: Function) -> None:
    plan = plan_of(function, 1)
    for stage in plan.stages:
        values = stage.fused.values
        for argument in (a for launch in stage.launches for a in launch.arguments):
            item = values.imports.get(argument.var) or values.exports.get(argument.var)
            local = argument.var in stage.places or argument.var in stage.partial
            assert local or (item.outer if item is not None else argument.var) in plan.outer


# -- in-place pairs of single kernels ---------------------------------------------------------------------------

BF16, F32 = DType.BF16, DType.F32
SLOTS = (Slot("x", F32), Slot("y", F32, True))


def load(strides: tuple[int, ...] = (8, 1)) -> Node:
    return Node("load", "full", F32, slot=0, strides=strides)


def test_a_pointwise_kernel_may_write_over_what_it_reads() -> None:
    kernel = RowKernel(SLOTS, (4, 8), (load(),), (Store(0, 1, (8, 1)),))
    assert in_place_pairs(kernel) == [(0, 1)]


@pytest.mark.parametrize(
    ("nodes", "store"),
    [
        ((load((1, 4)),), Store(0, 1, (8, 1))),  # read transposed
        ((load((0, 1)),), Store(0, 1, (8, 1))),  # one row read by all
        ((load(), Node("reduce", "row", F32, op="sum", args=(0,))), Store(0, 1, (8, 1))),  # read again in a later pass
        ((load(),), Store(0, 1, (0, 1), "sum")),  # cleared first
        ((load(),), Store(0, 1, (8, 1), across_tiles=True)),  # holds what earlier tiles left
    ],
)
def test_kernels_that_may_not(nodes: tuple[Node, ...], store: Store) -> None:
    assert in_place_pairs(RowKernel(SLOTS, (4, 8), nodes, (store,))) == []


def test_a_result_never_takes_the_place_of_what_a_later_one_is_made_of() -> None:
    """Results are stored one after another, each read from memory as late as that."""
    slots = tuple(Slot(name, F32, name in "uv") for name in "xyuv")
    x, y = load(), Node("load", "full", F32, slot=1, strides=(8, 1))
    both = Node("op", "full", F32, op="add", args=(0, 1))
    apart = RowKernel(slots, (4, 8), (x, y), (Store(0, 2, (8, 1)), Store(1, 3, (8, 1))))
    assert in_place_pairs(apart) == [(0, 2), (0, 3), (1, 3)]
    joined = RowKernel(slots, (4, 8), (x, y, both), (Store(0, 2, (8, 1)), Store(2, 3, (8, 1))))
    assert in_place_pairs(joined) == [(0, 3), (1, 3)]


def scaled(*stores: Store) -> RowKernel:
    """A kernel that reads x, adds up its rows and reads it again. Nodes: x, the sums, x times the sums."""
    slots = tuple(Slot(name, F32, name in "uv") for name in "xyuv")
    sums = Node("reduce", "row", F32, op="sum", args=(0,))
    return RowKernel(slots, (4, 8), (load(), sums, Node("op", "full", F32, op="mul", args=(0, 1))), stores)


def test_what_the_last_pass_writes_may_lie_where_all_passes_read() -> None:
    last, row, early = Store(2, 2, (8, 1)), Store(1, 3, (1, 0)), Store(0, 3, (8, 1))
    assert in_place_pairs(scaled(last)) == [(0, 2)]
    assert in_place_pairs(scaled(last, row)) == [(0, 2)]
    assert in_place_pairs(scaled(last, early)) == [(0, 2)], "v is written while x is still wanted"
    assert in_place_pairs(scaled(last, Store(0, 3, (0, 1), "sum"))) == [], "x is added up from memory afterwards"


def test_values_that_a_row_shares_are_not_written_over() -> None:
    """Every lane reads the row's x when it comes to it, and one writes."""
    slots = tuple(Slot(name, F32, name in "uv") for name in "xyuv")
    nodes = (Node("load", "row", F32, slot=0, strides=(1, 0)), Node("load", "full", F32, slot=1, strides=(8, 1)))
    stores = (Store(0, 2, (1, 0)), Store(1, 3, (0, 1), "sum"))
    assert in_place_pairs(RowKernel(slots, (4, 8), nodes, stores)) == []


@pytest.mark.parametrize(("target", "mixed"), [("cpu", False), ("cuda", False), ("cuda", True)])
def test_the_gradient_of_a_cross_entropy_lies_where_the_logits_were(target: str, mixed: bool) -> None:
    plan, found = plan_of(embedding(9, 300, 8)[0], 1, target, mixed), set[tuple[DType, tuple[int, ...]]]()
    for stage in plan.stages:
        places = {**plan.outer, **stage.places}
        for launch in stage.launches:
            values = [a.var for a in launch.arguments]
            pairs = itertools.combinations(values, 2)
            same = [a for a, b in pairs if a != b and a in places and places[a] == places.get(b)]
            if any(v.name == "labels" for v in values):
                found |= {(v.type.dtype, v.type.sizes) for v in same}
    assert (BF16 if mixed else F32, (4 if target == "cuda" else 1, 9, 300)) in found


def test_a_product_may_write_over_an_operand_of_its_epilogue_but_not_over_a_matrix() -> None:
    slots = (Slot("a", F32), Slot("b", F32), Slot("x", F32), Slot("y", F32, True))
    nodes = (
        Node("sum_of_products", "full", F32),
        Node("load", "full", F32, slot=2, strides=(8, 1)),
        Node("op", "full", F32, op="add", args=(0, 1)),
    )
    kernel = ContractKernel(slots, (), 4, 8, 8, Matrix(0, 8), Matrix(1, 8), nodes, (Store(2, 3, (8, 1)),))
    assert in_place_pairs(kernel) == [(2, 3)]


def test_storage_ends_with_a_whole_row() -> None:
    assert storage_bytes(View((3, 4), (6, 1)), 4) == 3 * 6 * 4
    assert storage_bytes(View((3, 4), (4, 1)), 4) == 3 * 4 * 4
    assert storage_bytes(View((), ()), 8) == 8


def test_the_checker_of_this_file_refuses_an_operand_that_is_read_twice() -> None:
    """A residual x + x @ w: the epilogue's operand is the left matrix too."""
    x, w, y = (Var(n, t) for n, t in zip("xwy", _square_types(), strict=True))
    slots = (Slot("x", F32), Slot("w", F32), Slot("x", F32), Slot("y", F32, True))
    nodes = (
        Node("sum_of_products", "full", F32),
        Node("load", "full", F32, slot=2, strides=(8, 1)),
        Node("op", "full", F32, op="add", args=(0, 1)),
    )
    kernel = ContractKernel(slots, (), 8, 8, 8, Matrix(0, 8), Matrix(1, 8), nodes, (Store(2, 3, (8, 1)),))
    launch = Launch(kernel, tuple(Argument(v) for v in (x, w, x, y)), Origin(), 0.0, 0.0)
    assert not may_replace(launch, x, y)
    lives = [Life(x, 0, 256, [0, 1]), Life(y, 0, 256, [1, 2])]
    with pytest.raises(AssertionError, match="written over"):
        assert_disjoint(lives, [launch, launch, launch])


def _square_types() -> list[TensorType]:
    return [TensorType(F32, (8, 8))] * 3




@pytest.mark.parametrize("name", ["residual_of_a_product", "row_added_to_its_matrix"])
def test_programs_whose_results_once_overwrote_what_was_still_read(name: str) -> None:
    path = Path(__file__).parent.parent / "codegen" / "failed" / f"{name}.ir"
    plan = plan_of(parse_function(path.read_text(encoding="utf-8")), 128)
    for lives, launches in scratch_lives(plan):
        assert_disjoint(lives, launches)
