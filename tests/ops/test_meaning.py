"""Shape rules against evaluation, evaluation against independent formulas, expansion against evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from tesserac.ir.builder import Builder
from tesserac.ir.dims import STATIC, ShapeError
from tesserac.ir.evaluate import evaluate
from tesserac.ir.program import Output
from tesserac.ir.types import DType, TensorType
from tesserac.ir.verify import verify
from tesserac.ops.base import Array, all_specs, spec_of
from tesserac.ops.numerics import erf, erfc, to_bfloat16
from tesserac.ops.random import philox
from tesserac.passes.expand import expand
from tests.ops.support import Case, cases, fed, operands, type_of

CASES = cases()


def one_op(case: Case):
    b = Builder()
    results = b.ops(case.spec.name, operands(b, case.sample.arrays), dict(case.sample.attrs))
    return b.finish("f", [Output(f"y{i}", v) for i, v in enumerate(results)])


def test_every_spec_is_complete():
    for spec in all_specs():
        if spec.kind in ("transform", "layout", "collective", "rank"):  # the last two: tests/mesh
            continue
        assert spec.samples is not None, spec.name
        assert spec.factors is not None, spec.name
        assert spec.flops is not None, spec.name
        assert spec.doc, spec.name
        assert (spec.scalar is not None) == (spec.kind == "elementwise" or spec.name == "full"), spec.name
        if spec.kind == "fused":
            assert spec.expand is not None, spec.name


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_inferred_types_are_those_of_the_values(case: Case):
    inferred = case.spec.infer(case.types, case.attrs, STATIC)
    assert inferred == tuple(type_of(a) for a in case.spec.evaluate(case.sample.arrays, case.attrs))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_single_precision_stays_single(case: Case):
    halves = {np.dtype(np.float64): np.float32, np.dtype(np.complex128): np.complex64}
    arrays = [a.astype(halves.get(a.dtype, a.dtype)) for a in case.sample.arrays]
    attrs = {k: {DType.F64: DType.F32, DType.C128: DType.C64}.get(v, v) if isinstance(v, DType) else v
             for k, v in case.attrs.items()}
    narrow, wide = case.spec.evaluate(arrays, attrs), case.spec.evaluate(case.sample.arrays, case.attrs)
    for small, large in zip(narrow, wide, strict=True):
        if large.dtype in halves:
            assert small.dtype == halves[large.dtype]
            if case.spec.kind != "random":
                np.testing.assert_allclose(small, large, rtol=2e-5, atol=2e-6)
        else:
            np.testing.assert_array_equal(small, large)


@pytest.mark.parametrize("case", [c for c in CASES if c.spec.expand], ids=lambda c: c.id)
def test_expansion_computes_the_same(case: Case):
    function = one_op(case)
    primitive = expand(function)
    verify(primitive)
    assert all(spec_of(e.op).expand is None for e in primitive.equations)
    whole, parts = (evaluate(f, fed(case.sample.arrays)) for f in (function, primitive))
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-12, atol=1e-14)


def _cross_entropy(logits: Array, labels: Array) -> float:
    kept = [(row, label) for row, label in zip(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), strict=True)
            if label != -100]
    return sum(math.log(sum(math.exp(v) for v in row)) - row[label] for row, label in kept) / len(kept)


def _attention(q: Array, k: Array, v: Array, *first: Array, heads: int, kv_heads: int, causal: bool, scale: float):
    groups = kv_heads
    rows, keys, width, value = q.shape[1], k.shape[1], q.shape[2] // heads, v.shape[2] // groups
    before = int(first[0]) if first else keys - rows
    o, lse = np.zeros((len(q), rows, heads * value)), np.zeros((len(q), heads, rows))
    for b in range(len(q)):
        for h in range(heads):
            g = h // (heads // groups)
            for i in range(rows):
                seen = range(i + before + 1) if causal else range(keys)
                query = q[b, i, h * width:(h + 1) * width]
                scores = [math.exp(scale * query @ k[b, j, g * width:(g + 1) * width]) for j in seen]
                lse[b, h, i] = math.log(sum(scores))
                for s, j in zip(scores, seen, strict=True):
                    o[b, i, h * value:(h + 1) * value] += s / sum(scores) * v[b, j, g * value:(g + 1) * value]
    return o, lse


def _route(chosen: Array, experts: int) -> tuple[Array, Array, Array]:
    slots = sorted(range(chosen.size), key=lambda s: (chosen.reshape(-1)[s], s))
    inverse = np.array([slots.index(s) for s in range(chosen.size)]).reshape(chosen.shape)
    return np.array(slots), np.array([sum(chosen.reshape(-1) < e) for e in range(experts + 1)]), inverse


def _limit(chosen: Array, gates: Array, experts: int, capacity: int) -> Array:
    flat, weight = chosen.reshape(-1), gates.reshape(-1)
    better = [[weight[a] > weight[s] or (weight[a] == weight[s] and a < s) for a in range(flat.size) if flat[a] == e]
              for s, e in enumerate(flat)]
    return np.array([e if sum(b) < capacity else experts for e, b in zip(flat, better, strict=True)]).reshape(
        chosen.shape)


def _of_rows(offsets: Array, rows: int) -> list[int]:
    """The expert of every row; the number of experts for rows of nobody."""
    return [int(np.searchsorted(offsets[1:], row, side="right")) for row in range(rows)]


def _by_row(offsets: Array, rows: int, experts: tuple[int, ...], of: Callable[[int, int], Array]) -> Array:
    """of(row, number in the group) for rows of the group, zeros for others."""
    found = [of(r, experts.index(e)) if e in experts else None for r, e in enumerate(_of_rows(offsets, rows))]
    like = next(f for f in found if f is not None)
    return np.stack([np.zeros_like(like) if f is None else f for f in found])


def _sums(offsets: Array, experts: tuple[int, ...], terms: Array) -> tuple[Array, ...]:
    owner = np.array(_of_rows(offsets, len(terms)))
    return tuple(np.tensordot((owner == e).astype(float), terms, 1) for e in experts)


FORMULAS: dict[str, Callable[..., object]] = {
    "route": _route,
    "limit": _limit,
    "dispatch": lambda x, order, inverse, gates=None: np.stack(
        [x[s // inverse.shape[1]] * (1.0 if gates is None else gates.flat[s]) for s in order]),
    "combine": lambda ys, order, inverse, gates=None: np.einsum(
        "tk,tkh->th", np.ones(inverse.shape) if gates is None else gates, ys[inverse]),
    "gate_dot": lambda x, ys, order, inverse: np.einsum("th,tkh->tk", x, ys[inverse]),
    "grouped_contract": lambda x, offsets, *ws, experts, transposed: _by_row(
        offsets, len(x), experts, lambda r, i: x[r] @ (ws[i].T if transposed else ws[i])),
    "grouped_outer": lambda x, y, offsets, experts: _sums(offsets, experts, np.einsum("md,mh->mdh", x, y)),
    "grouped_rows": lambda offsets, *bs, experts, rows: _by_row(offsets, rows, experts, lambda r, i: bs[i]),
    "grouped_sum": lambda x, offsets, experts: _sums(offsets, experts, x),
    "grouped_keep": lambda x, offsets, experts: _by_row(offsets, len(x), experts, lambda r, i: x[r]),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))))(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: x * (x > 0),
    "rsqrt": lambda x: x**-0.5,
    "erf": np.vectorize(math.erf),
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "log_softmax": lambda x: np.log(np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    "layernorm": lambda x, g, b, eps: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * g + b,
    "rmsnorm": lambda x, g, eps: x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * g,
    "contract": lambda x, y, spec: np.einsum(spec, x, y),
    "cumsum": lambda x, axis, reverse: np.cumsum(x[::-1] if reverse else x, axis)[:: -1 if reverse else 1],
    "cross_entropy_soft": lambda x, p: -np.mean((p * np.log(np.exp(x) / np.exp(x).sum(-1, keepdims=True))).sum(-1)),
    "attention": _attention,
    "broadcast": lambda x, shape, axes: np.einsum(  # ones carry the new axes
        np.ones(shape), list(range(len(shape))), np.broadcast_to(x, [shape[a] for a in axes]), list(axes),
        list(range(len(shape)))),
    "scatter_add": lambda i, u, rows: sum(
        np.eye(rows)[i[at]][:, None] * u[at][None] for at in np.ndindex(i.shape)),
    "sort": lambda x: np.sort(x, -1),
    "topk": lambda x, k: (-np.sort(-x, -1)[..., :k], np.argsort(-x, -1, kind="stable")[..., :k]),
}


@pytest.mark.parametrize("case", [c for c in CASES if c.spec.name in FORMULAS], ids=lambda c: c.id)
def test_against_an_independent_formula(case: Case):
    expected = FORMULAS[case.spec.name](*case.sample.arrays, **case.attrs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for found, wanted in zip(case.spec.evaluate(case.sample.arrays, case.attrs), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-14)


def test_cross_entropy_counts_kept_positions_only():
    for case in CASES:
        if case.spec.name == "cross_entropy":
            logits, labels = case.sample.arrays
            (found,) = case.spec.evaluate((logits, labels), case.attrs)
            if np.all(labels == case.attrs["ignore_index"]):
                assert found == 0.0
            else:
                assert found == pytest.approx(_cross_entropy(logits, labels), rel=1e-13)


def test_error_functions_to_the_last_digits():
    x = np.concatenate([np.linspace(-7, 7, 4001), np.geomspace(1e-300, 30, 500), [0.46875, 4.0, -4.0, 0.0]])
    for ours, theirs in ((erf, math.erf), (erfc, math.erfc)):
        exact = np.array([theirs(v) for v in x])
        normal = np.abs(exact) > 1e-290
        assert np.max(np.abs(ours(x) - exact)[normal] / np.abs(exact)[normal]) < 2e-15
        assert np.all(np.abs(ours(x) - exact)[~normal] <= 1e-290)
    assert np.array_equal(erf(np.array([np.inf, -np.inf])), [1.0, -1.0])
    assert np.isnan(erf(np.array(np.nan)))


def test_gelu_keeps_digits_in_the_negative_tail():
    (found,) = spec_of("gelu").evaluate((np.array([-12.0]),), {})
    assert found[0] == pytest.approx(-12.0 * 0.5 * math.erfc(12.0 / math.sqrt(2)), rel=1e-14)


def test_activations_survive_large_arguments():
    x = np.array([-800.0, 800.0])
    with np.errstate(all="raise", under="ignore"):
        for name, limits in (("sigmoid", (0, 1)), ("silu", (0, 800)), ("softplus", (0, 800)), ("silu_grad", (0, 1))):
            np.testing.assert_allclose(spec_of(name).evaluate((x,), {})[0], limits, atol=1e-300)


def test_ties_go_to_the_lowest_position():
    x = np.array([1.0, 3.0, 3.0, 0.0, 3.0])
    values, positions = spec_of("topk").evaluate((x,), {"k": 4})
    assert positions.tolist() == [1, 2, 4, 0]
    assert values.tolist() == [3.0, 3.0, 3.0, 1.0]
    assert spec_of("argmax").evaluate((x,), {"axis": 0})[0] == 1


def test_philox_known_answers():
    # Known-answer vectors of the Random123 distribution (kat_vectors, philox4x32-10).
    def block(counter: tuple[int, int, int, int], key: tuple[int, int]) -> list[int]:
        low = np.array([counter[0] | counter[1] << 32], dtype=np.uint64)
        return [int(w[0]) for w in philox(low, counter[2] | counter[3] << 32, key[0] | key[1] << 32)]

    ones = 0xFFFFFFFF
    assert block((0, 0, 0, 0), (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert block((ones,) * 4, (ones, ones)) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_random_numbers_depend_on_seed_step_and_stream_only():
    attrs = {"shape": (1000,), "dtype": DType.F64, "stream": 5}
    uniform, normal = spec_of("random_uniform").evaluate, spec_of("random_normal").evaluate
    base = uniform((), attrs | {"seed": 1, "step": 0})[0]
    assert base.min() >= 0
    assert base.max() < 1
    assert abs(base.mean() - 0.5) < 0.04
    assert np.array_equal(base, uniform((), attrs | {"seed": 1, "step": 0})[0])
    for other in ({"seed": 2, "step": 0}, {"seed": 1, "step": 1}, {"seed": 1, "step": 0, "stream": 9}):
        assert abs(np.corrcoef(base, uniform((), attrs | other)[0])[0, 1]) < 0.12
    shaped = uniform((), attrs | {"shape": (10, 100), "seed": 1, "step": 0})[0]
    assert np.array_equal(shaped.reshape(-1), base)
    z = normal((), attrs | {"seed": 3, "step": 0})[0]
    assert abs(z.mean()) < 0.12
    assert abs(z.std() - 1) < 0.08


def test_bfloat16_rounds_to_even():
    halfway = np.array([1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, 1.0 + 2.0**-8 + 2.0**-20, -1.0, np.inf], dtype=np.float32)
    assert to_bfloat16(halfway).tolist() == [1.0, 1.0 + 2.0**-6, 1.0 + 2.0**-7, -1.0, np.inf]
    assert np.isnan(to_bfloat16(np.array([np.nan], dtype=np.float32))[0])


F, INT = DType.F64, DType.I32
BAD = [
    ("add", [TensorType(F, (2, 3)), TensorType(F, (2, 4))], {}, "add, axis 1: 3 and 4 differ"),
    ("add", [TensorType(F, (2,)), TensorType(DType.F32, (2,))], {}, "element types f64 and f32 differ"),
    ("exp", [TensorType(INT, (2,))], {}, "exp needs a floating-point operand, not i32"),
    ("div", [TensorType(INT, (2,)), TensorType(INT, (2,))], {}, "div needs a floating-point operand"),
    ("select", [TensorType(F, (2,))] * 3, {}, "select needs a bool condition"),
    ("logical_and", [TensorType(F, (2,))] * 2, {}, "logical_and needs bool operands"),
    ("contract", [TensorType(F, (2, 3)), TensorType(F, (4, 5))], {"spec": "ab,bc->ac"}, "contraction over b"),
    ("contract", [TensorType(F, (2, 2)), TensorType(F, (2, 5))], {"spec": "aa,ac->c"}, "repeats a letter"),
    ("contract", [TensorType(F, (2, 2)), TensorType(F, (2, 5))], {"spec": "ab,bc->ad"}, "not of the form"),
    ("reshape", [TensorType(F, (2, 3))], {"shape": (4,)}, "number of elements: 6 and 4 differ"),
    ("broadcast", [TensorType(F, (3,))], {"shape": (2, 4), "axes": (1,)}, "broadcast, axis 0: 3 and 4 differ"),
    ("broadcast", [TensorType(F, (3,))], {"shape": (2, 3), "axes": (2,)}, "do not place"),
    ("transpose", [TensorType(F, (2, 3))], {"perm": (0, 0)}, "not a permutation"),
    ("slice", [TensorType(F, (4,))], {"starts": (1,), "limits": (5,), "strides": (1,)}, "outside axis 0"),
    ("concat", [TensorType(F, (4, 2)), TensorType(F, (4, 3))], {"axis": 0}, "concat, axis 1"),
    ("pad", [TensorType(F, (4,))], {"low": (-1,), "high": (0,), "value": 0.0}, "do not fit"),
    ("reduce_sum", [TensorType(F, (4,))], {"axes": (1,)}, "axis 1 does not exist"),
    ("take", [TensorType(F, (4, 2)), TensorType(F, (3,))], {}, "needs an integer operand"),
    ("topk", [TensorType(F, (4,))], {"k": 5}, "not between 1 and the last axis"),
    ("attention", [TensorType(F, (1, 2, 6))] * 3, {"heads": 4, "kv_heads": 4, "causal": False, "scale": 1.0},
     "not divisible by 4"),
    ("attention", [TensorType(F, (1, 2, 6))] * 3, {"heads": 3, "kv_heads": 2, "causal": False, "scale": 1.0},
     "not a multiple of kv_heads=2"),
    ("cross_entropy", [TensorType(F, (2, 3)), TensorType(INT, (3,))], {"ignore_index": None}, "cross_entropy, axis 0"),
    ("backward", [TensorType(F, (2,)), TensorType(F, (2,))], {}, "needs a scalar loss"),
    ("route", [TensorType(F, (4, 2))], {"experts": 3}, "route needs an integer operand"),
    ("route", [TensorType(INT, (4,))], {"experts": 3}, "route needs a matrix"),
    ("dispatch", [TensorType(F, (4, 3)), TensorType(INT, (8,)), TensorType(INT, (5, 2))], {}, "number of slots"),
    ("combine", [TensorType(F, (6, 3)), TensorType(INT, (8,)), TensorType(INT, (4, 2))], {}, "combine, rows"),
    ("gate_dot", [TensorType(F, (4, 3)), TensorType(F, (8, 2)), TensorType(INT, (8,)), TensorType(INT, (4, 2))], {},
     "gate_dot, width"),
    ("grouped_contract", [TensorType(F, (8, 3)), TensorType(INT, (3,)), TensorType(F, (4, 2))],
     {"experts": (0,), "transposed": False}, "width of the rows: 3 and 4 differ"),
    ("grouped_contract", [TensorType(F, (8, 3)), TensorType(INT, (3,)), TensorType(F, (3, 2))],
     {"experts": (2,), "transposed": False}, "there is no expert 2 among 2"),
    ("grouped_contract", [TensorType(F, (8, 3)), TensorType(INT, (3,)), TensorType(F, (3, 2))],
     {"experts": (0, 1), "transposed": False}, "1 tensors for 2 experts"),
    ("grouped_sum", [TensorType(F, (8, 3)), TensorType(INT, (3,))], {"experts": (1, 0)}, "not distinct and ascending"),
    ("layernorm", [TensorType(F, (2, 3)), TensorType(F, (2,)), TensorType(F, (3,))], {"eps": 1e-5}, "last axis"),
]


@pytest.mark.parametrize(("name", "types", "attrs", "message"), BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)])
def test_shape_rules_reject(name, types, attrs, message):
    with pytest.raises(ShapeError) as found:
        spec_of(name).infer(types, attrs, STATIC)
    assert message in found.value.message
