"""Mixtures of experts on a mesh: cut by tokens, or rows sent to the ranks of their experts and back, none dropped."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from tesserac.diagnostics import InternalError
from tesserac.ir.builder import Builder
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Function, Input, Output, Var
from tesserac.ir.types import DType, TensorType
from tesserac.passes.differentiate import differentiate, expand_derivatives
from tesserac.passes.mesh.exchanges import Exchange, exchanges
from tesserac.passes.mesh.experts import EXPERTS, TOKENS, mixture_strategies
from tesserac.passes.mesh.owned import owned_experts
from tesserac.passes.mesh.partition import AxisAssignment
from tesserac.passes.mesh.placements import REPLICATED, Placement, Shard
from tesserac.passes.mesh.program import RankProgram, rank_program
from tesserac.passes.mesh.simulate import run_ranks, simulate
from tesserac.passes.mesh.strategy import strategies
from tests.mesh.drawing import difference, mesh_of, worst_difference
from tests.mixtures import Mixture, mixture
from tests.strategies import inputs_for

PLAIN = Mixture(tokens=16, experts=4)


def cut(function: Function, size: int, mode: str, owned: bool = False) -> RankProgram:
    """Mixtures in one way, everything else by tokens where its first operand is, or repeated."""
    function = expand_derivatives(function)
    own = mixture_strategies(function, size, mode)
    assert own
    held: dict[str, Placement] = {}
    if owned:
        own, held = owned_experts(function, own, size)
        assert held
    lies = {i.var.name: REPLICATED if i.is_parameter else Shard(0) for i in function.inputs}
    chosen = []
    for i, equation in enumerate(function.equations):
        legal = strategies(equation, size)
        first = lies[equation.operands[0].name] if equation.operands else REPLICATED
        strategy = own.get(i) or next((s for s in legal if s.operands[:1] == (first,) and first.is_cut), legal[0])
        chosen.append(strategy)
        lies.update((v.name, p) for v, p in zip(equation.results, strategy.results, strict=False))
    inputs = {i.path: lies[i.var.name] for i in function.inputs} | held
    return rank_program(function, mesh_of(f"ep={size}"), {"ep": AxisAssignment(tuple(chosen), inputs)})


def sent_by(program: RankProgram) -> tuple[Exchange, ...]:
    return exchanges(program.sharded.function, program.function)


def apart(function: Function, program: RankProgram, inputs: dict[str, np.ndarray]) -> float:
    expected = evaluate(differentiate(function), inputs, dtype=np.float64)
    found = simulate(program.sharded, inputs, function=program.function)
    return max(difference(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("size", [2, 4])
def test_rows_go_to_their_experts_and_back(size: int):
    """Two exchanges forward and two backward, and one of how many rows there are; the rest are gradients."""
    function = mixture(Mixture(tokens=16, experts=4, deep=True))
    program = cut(function, size, EXPERTS)
    assert apart(function, program, inputs_for(function, 3)) < 1e-12
    kinds = [(c.kind, c.phase) for c in sent_by(program) if c.phase != "gradient"]
    assert kinds.count(("exchange_rows", "forward")) == 2
    assert kinds.count(("exchange_rows", "backward")) == 2
    assert kinds.count(("all_gather", "forward")) == 1


@pytest.mark.parametrize("size", [2, 4])
def test_parameters_of_experts_lie_at_their_ranks(size: int):
    """A rank has the tensors of its experts alone, and nothing of them or of their gradients travels."""
    function = mixture(Mixture(tokens=16, experts=4, deep=True))
    program = cut(function, size, EXPERTS, owned=True)
    assert apart(function, program, inputs_for(function, 3)) < 1e-12
    held = [i.path for i in program.function.parameters if "experts." in i.path]
    assert held == [f"experts.{e}.{name}" for name in ("w1", "b1", "w2", "b2") for e in range(4 // size)]
    assert {o.name for o in program.function.outputs if "experts." in o.name} == {f"grad:{path}" for path in held}
    others = sum(i.var.type.bytes for i in program.function.parameters if "experts." not in i.path)
    assert sum(c.bytes for c in sent_by(program) if c.phase == "gradient") == others
    assert not any(e.op in ("own_experts", "spread_experts") for e in program.function.equations)


@pytest.mark.parametrize("size", [2, 4])
def test_experts_on_all_ranks_take_their_tokens(size: int):
    """No row travels: the loss and one bucket of gradients."""
    function = mixture(PLAIN)
    program = cut(function, size, TOKENS)
    assert apart(function, program, inputs_for(function, 3)) < 1e-12
    assert {c.kind for c in sent_by(program)} == {"all_reduce"}
    assert sum(c.phase == "gradient" for c in sent_by(program)) == 1


ROUTINGS = {
    "all to one expert": np.zeros((16, 2), np.int64),
    "all to the last": np.full((16, 2), 3, np.int64),
    "to nobody": np.full((16, 2), 4, np.int64),
    "uneven": np.array([[i % 3, 3 if i < 4 else 1] for i in range(16)]),
}


@pytest.mark.parametrize("name", ROUTINGS)
@pytest.mark.parametrize("mode", [TOKENS, EXPERTS])
def test_any_routing(name: str, mode: str):
    function = mixture(Mixture(tokens=16, experts=4, indices=True))
    inputs = inputs_for(function, 5)
    (path,) = (i.path for i in function.data if i.var.type.dtype.is_integer)
    inputs[path] = ROUTINGS[name].astype(inputs[path].dtype)
    assert apart(function, cut(function, 4, mode), inputs) < 1e-12
    assert mode == TOKENS or apart(function, cut(function, 4, mode, owned=True), inputs) < 1e-12


def test_random_meshes_and_strategies():
    rng = Random(11)
    cases = [Mixture(tokens=8, deep=True), Mixture(tokens=8, capacity=3), Mixture(tokens=8, linear=(1,)),
             Mixture(tokens=8, indices=True), Mixture(tokens=16, hidden=8)]
    for _ in range(40):
        function = mixture(rng.choice(cases))
        assert worst_difference(function, mesh_of(rng.choice(("a=2", "a=4", "a=2,b=2", "a=2,b=4"))), rng) < 1e-9


def test_what_is_not_closed_is_left_out():
    """Experts of different structure share rows by groups; sizes that do not divide; sorted rows that others read."""
    assert not mixture_strategies(mixture(Mixture(tokens=8, linear=(1,))), 2, EXPERTS)
    assert not mixture_strategies(mixture(Mixture(tokens=9)), 2, TOKENS)
    assert mixture_strategies(mixture(Mixture(tokens=9, experts=6)), 3, EXPERTS)
    assert not mixture_strategies(mixture(Mixture(tokens=8, experts=6)), 4, EXPERTS)
    function = mixture(PLAIN)
    rows = next(e.result for e in function.equations if e.op == "dispatch")
    shown = Function("f", function.inputs, function.equations, (*function.outputs, Output("rows", rows)))
    assert not mixture_strategies(shown, 2, TOKENS)


def test_own_rows_are_never_converted():
    """A strategy of a mixture for one of its equations alone has no meaning."""
    function = expand_derivatives(mixture(PLAIN))
    own = mixture_strategies(function, 2, TOKENS)
    last = max(own)
    chosen = tuple(own[i] if i in own and i != last else strategies(e, 2)[0] for i, e in enumerate(function.equations))
    with pytest.raises(InternalError, match="no conversion"):
        rank_program(function, mesh_of("ep=2"), {"ep": AxisAssignment(chosen)})


def test_an_exchange_and_the_way_back_are_transposes():
    """<E x, y> = <x, E^T y>, and there and back is the identity on the rows that travel."""
    size, experts, width, slots = 3, 6, 2, 5
    rng = np.random.default_rng(0)
    routed = [np.sort(rng.integers(0, experts + 1, slots)) for _ in range(size)]
    offsets = np.array([np.searchsorted(row, np.arange(experts + 1)) for row in routed], np.int32)
    b = Builder()
    x = b.add_input(Input(Var("x", TensorType(DType.F64, (slots, width))), "x"))
    y = b.add_input(Input(Var("y", TensorType(DType.F64, (slots * size, width))), "y"))
    o = b.add_input(Input(Var("o", TensorType(DType.I32, (size, experts + 1))), "o"))
    sent = b.op("exchange_rows", x, o, axis="ep", size=size, rows=slots * size)
    home = b.op("exchange_rows", sent, o, axis="ep", size=size, rows=slots, back=True)
    (back,) = b.ops("pullback", (sent, y, x))
    function = differentiate(b.finish("f", [Output("sent", sent), Output("home", home), Output("back", back)]))
    names = {v.name: v.var.name for v in function.outputs}
    given = [{"x": rng.normal(size=(slots, width)), "y": rng.normal(size=(slots * size, width)), "o": offsets}
             for _ in range(size)]
    values = run_ranks(function, mesh_of(f"ep={size}"), given)
    forward = sum((v[names["sent"]] * v["y"]).sum() for v in values)
    backward = sum((v["x"] * v[names["back"]]).sum() for v in values)
    assert forward == pytest.approx(backward, rel=1e-12)
    for row, v in zip(routed, values, strict=True):
        travel = row < experts
        np.testing.assert_array_equal(v[names["home"]][travel], v["x"][travel])
