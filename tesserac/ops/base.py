"""OpSpec: everything the compiler knows about one op, in one place.

A family file (``elementwise.py``, ``reduce.py``...) defines its specs and registers them; shape rules,
evaluation, differentiation, sharding, cost, lowering, documentation and tests are all read from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from tesserac.arrays import np
from tesserac.diagnostics import InternalError
from tesserac.ir.dims import Dims
from tesserac.ir.program import Attr, Equation, Var
from tesserac.ir.types import TensorType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tesserac.ir.builder import Builder
    from tesserac.ops.planes import PlanarRule

Array: TypeAlias = "NDArray[Any]"
Attrs = Mapping[str, Attr]
InferRule = Callable[[Sequence[TensorType], Attrs, Dims], tuple[TensorType, ...]]
EvaluateRule = Callable[[Sequence[Array], Attrs], tuple[Array, ...]]
JvpRule = Callable[["Builder", Equation, Sequence[Var | None]], tuple[Var | None, ...]]
TransposeRule = Callable[["Builder", Equation, Sequence[Var | None], Sequence[bool]], tuple[Var | None, ...]]
VjpRule = Callable[["Builder", Equation, Sequence[Var | None]], tuple[Var | None, ...] | None]
ExpandRule = Callable[["Builder", Equation], tuple[Var, ...]]
FactorRule = Callable[[Sequence[TensorType], Sequence[TensorType], Attrs], "Factors"]
FlopRule = Callable[[Sequence[TensorType], Sequence[TensorType], Attrs], float]
LinearRule = Callable[[Equation], tuple[tuple[int, ...], ...]]
Cuts = Mapping[str, tuple[tuple[str, int], ...]]
"""Which mesh axes (name, size) cut a factor, the first one first."""


@dataclass(frozen=True, slots=True)
class Factors:
    """An einsum-like sharding rule (Shardy's factor rules; GSPMD, Xu et al. 2021).

    One letter per axis of every operand and result; equal letters are one factor. ``kinds`` says what
    cutting along a factor means: ``pass`` (every result carries it), ``sum``/``max``/``min`` (results are
    partial and reduce so), ``blocked`` (the whole extent is needed in one place). Letters missing from
    ``kinds`` are ``pass``. ``None`` marks an axis of size 1 or one that no other axis corresponds to and
    that must not be cut.
    """

    operands: tuple[tuple[str | None, ...], ...]
    results: tuple[tuple[str | None, ...], ...]
    kinds: tuple[tuple[str, str], ...] = ()
    units: tuple[tuple[str, int], ...] = ()

    def unit(self, letter: str) -> int | None:
        """A number that pieces along the factor must divide evenly besides the axes themselves (heads, say)."""
        return dict(self.units).get(letter)

    def kind(self, letter: str) -> str:
        """pass, sum, max, min or blocked."""
        return dict(self.kinds).get(letter, "pass")


@dataclass(frozen=True, slots=True)
class MeshRule:
    """What a rank of a mesh can do because it knows its coordinate, beyond the op's own factor rule.

    ``factors`` are all ways to cut the equation among so many ranks. ``local`` adds the equations of one rank, from the
    equation over whole tensors, this rank's operands, its attributes with local sizes, and what cuts the factors.
    """

    factors: Callable[[Sequence[TensorType], Sequence[TensorType], Attrs, int], tuple[Factors, ...]]
    local: Callable[[Builder, Equation, Sequence[Var], dict[str, Attr], Cuts], tuple[Var, ...]]


@dataclass(frozen=True, slots=True)
class Scalar:
    """How an elementwise op reads in emitted code: an expression over ``{0}``, ``{1}``... per target.

    ``cpu`` is over tsr::Vec values (and scalars, by overloading), ``cuda`` over CUDA scalars; ``formula`` is
    what comments show; ``flops`` the work per element by convention (a transcendental counts as 10).
    The texts carry no outer parentheses: ``precedence`` is that of their outermost C operator (0 a call,
    3 unary, 5 product, 6 sum, 9 relation, 10 equality, 11 to 15 logic), so a renderer that nests them knows
    where to add some; an operand with a precedence at or above that of its context needs them.
    """

    cpu: str
    cuda: str
    formula: str
    flops: float = 1.0
    precedence: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs on which an op is tested: arrays (float64 where floating) and attributes."""

    arrays: tuple[Array, ...]
    attrs: tuple[tuple[str, Attr], ...] = ()


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One op.

    kind        how it lowers: elementwise, reduce, contract, view, gather, scatter, random, source, fused, spectral,
                line, transform; complex: gone after the planar pass
    infer       result types from operand types; raises ShapeError
    evaluate    NumPy meaning, in the operands' own precision; floating operands may be complex, for complex steps
                (random ops find the run's ``seed`` and ``step`` among the attributes)
    jvp         tangent equations (linear in the tangents, None = zero); every differentiable op has jvp or vjp
    transpose   for ops linear in some operands: cotangents of the operands flagged linear
    vjp         reverse rule of a fused op; None for cotangents that it has no closed form for (then: expand)
    expand      the same function in primitives (fused and composite ops)
    planar      the same on pairs of real values; None: no operand or result is ever complex
    linear      groups of operands in which the op is jointly linear while the others stay fixed
    mesh        further ways to cut it among the ranks of a mesh
    factors     sharding rule; flops: floating-point operations of one call
    scalar      elementwise ops: text per target
    attrs       attribute names with defaults (REQUIRED where there is none)
    samples     inputs for the derived tests
    """

    name: str
    doc: str
    kind: str
    arity: int | None
    infer: InferRule
    evaluate: EvaluateRule
    attrs: tuple[tuple[str, Attr], ...] = ()
    jvp: JvpRule | None = None
    transpose: TransposeRule | None = None
    vjp: VjpRule | None = None
    expand: ExpandRule | None = None
    planar: PlanarRule | None = None
    factors: FactorRule | None = None
    linear: LinearRule | None = None
    mesh: MeshRule | None = None
    flops: FlopRule | None = None
    scalar: Scalar | None = None
    samples: Callable[[], tuple[Sample, ...]] | None = None
    differentiable: bool = True


REQUIRED: Attr = "<required>"
_REGISTRY: dict[str, OpSpec] = {}


def register(spec: OpSpec) -> OpSpec:
    """Adds a spec to the catalogue; a second one of the same name is an internal error."""
    if spec.name in _REGISTRY:
        raise InternalError(f"op {spec.name} is registered twice")
    _REGISTRY[spec.name] = spec
    return spec


def spec_of(name: str) -> OpSpec:
    """The spec of an IR op."""
    try:
        return _REGISTRY[name]
    except KeyError:
        raise InternalError(f"no OpSpec is registered for {name!r}") from None


def flops_of(equation: Equation) -> float:
    """Floating-point operations of one equation by its op's own count; zero where the op states none."""
    rule = spec_of(equation.op).flops
    types = [v.type for v in equation.operands], [v.type for v in equation.results]
    return rule(*types, equation.attributes) if rule is not None else 0.0


def all_specs() -> tuple[OpSpec, ...]:
    """Every registered spec by name."""
    return tuple(_REGISTRY[name] for name in sorted(_REGISTRY))


def as_tuple(array: Any) -> tuple[Array, ...]:
    """One result as the tuple an evaluate rule returns."""
    return (np.asarray(array),)


def by_numpy(name: str) -> Callable[..., Array]:
    """NumPy's function of this name, found when it is first called: compilations do not wait for NumPy's import."""

    def call(*arrays: Array, **options: Any) -> Array:
        result: Array = getattr(np, name)(*arrays, **options)
        return result

    return call
