"""Mixed precision: products read bf16 and add in float32; everything else stays as it is.

A product here is a contraction with rows, columns and terms: sums of elementwise products (statistics and gradients of
norms) and products with a vector are bound by memory, gain nothing, and stay in float32 like all other reductions. Each
operand is rounded once, where it is stored: the cast goes in front of the views through which products read it, so that
what is only read by products lies in memory as bf16, and a weight is rounded once a step. Sums come out as float32, and
with them everything behind them: epilogues, residuals, softmax, norms, losses, gradients and the optimizer. A product
whose largest elements are chosen (the gate of a mixture of experts) stays in float32, or rounding would choose. On a
device, the scores of a softmax are rounded as well (_mix_scores).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from tesserac.ir.builder import Builder
from tesserac.ir.program import Equation, Function, Var
from tesserac.ir.types import DType
from tesserac.ops.contract import extents, parse_spec
from tesserac.ops.grouped_wide import OFFSETS_AT

_SEEN_THROUGH = frozenset(("broadcast", "reshape", "transpose", "stop_gradient"))
"""Views whose source is rounded in place of what they show (a slice may show little of a large value)."""


WIDEST_HEAD = 256
"""Columns of a head that attention on tensor cores takes (runtime/cuda/attention_mma.cuh), in units of 8."""


def mix(function: Function) -> Function:
    """The function with its float32 matrix products on bf16 operands. It must hold the gradients already."""
    return _Mixing(function).run()


def mix_for_device(function: Function) -> Function:
    """The same, and attention and the products of experts, too: for targets that have kernels for them."""
    return _Mixing(function, device=True).run()


def takes_bf16(equation: Equation) -> bool:
    """Whether an equation is attention, or its gradient, of a kind that tensor cores compute."""
    operands = {"attention": 3, "attention_grad": 6}.get(equation.op)  # and where the queries begin
    if operands is None or equation.operands[0].type.dtype is not DType.F32:
        return False
    heads, kv_heads, scale = (equation.attr(name) for name in ("heads", "kv_heads", "scale"))
    assert isinstance(heads, int)
    assert isinstance(kv_heads, int)
    widths = equation.operands[0].type.sizes[2] // heads, equation.operands[2].type.sizes[2] // kv_heads
    return isinstance(scale, (int, float)) and scale > 0 and all(w % 8 == 0 and w <= WIDEST_HEAD for w in widths)


def is_matrix_product(equation: Equation) -> bool:
    """Whether a float32 contraction has several rows, columns and terms."""
    if equation.op != "contract" or equation.result.type.dtype is not DType.F32:
        return False
    spec = str(equation.attr("spec"))
    first, second, result = parse_spec(spec)
    sizes = extents(spec, [v.type for v in equation.operands])
    rows = (c for c in first if c in result and c not in second)
    columns = (c for c in second if c in result and c not in first)
    terms = (c for c in first if c in second and c not in result)
    return all(prod(sizes[c] for c in letters) > 1 for letters in (rows, columns, terms))


@dataclass
class _Mixing:
    function: Function
    device: bool = False
    builder: Builder = field(default_factory=Builder)
    rounded: dict[Var, Var] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scores = {v for e in self.function.equations if e.op == "reduce_max" for v in e.operands}
        self.producer = {v: e for e in self.function.equations for v in e.results}
        self.builder.reserve(v.name for v in self.function.variables())

    def run(self) -> Function:
        """See mix."""
        chosen = {v for e in self.function.equations if e.op == "topk" for v in e.operands}
        for equation in self.function.equations:
            if self.device and takes_bf16(equation):
                self._mix_attention(equation)
                continue
            if self.device and equation.op in OFFSETS_AT and equation.results[0].type.dtype is DType.F32:
                self._mix_grouped(equation)
                continue
            if not is_matrix_product(equation) or equation.result in chosen:
                self.builder.append(equation)
                continue
            with self.builder.at(equation.span):
                operands = tuple(self._rounded(v) for v in equation.operands)
            wide = Equation("contract_wide", operands, equation.results, equation.attrs, equation.span)
            if self.device and equation.result in self.scores:
                self._mix_scores(wide)
            else:
                self.builder.append(wide)
        return Function(self.function.name, self.function.inputs, tuple(self.builder.equations), self.function.outputs)

    def _mix_scores(self, product: Equation) -> None:
        """Sums that are the scores of a softmax lie in memory as bf16; what reads them computes in float32.

        Those of a language model are its largest values by far, and their gradient, which products read in bf16, then
        takes their place.
        """
        (scores,) = product.results
        with self.builder.at(product.span):
            sums = Var(self.builder.fresh(f"{scores.name}_sums"), scores.type)
            self.builder.append(Equation(product.op, product.operands, (sums,), product.attrs, product.span))
            brief = self.builder.op("cast", sums, named=f"{scores.name}_bf16", dtype=DType.BF16)
        self.rounded[scores] = brief
        self.builder.append(Equation("cast", (brief,), (scores,), (("dtype", DType.F32),), product.span))

    def _mix_attention(self, equation: Equation) -> None:
        """q, k, v and the cotangent of the result are rounded; the result and the log-sum-exp stay as they are."""
        with self.builder.at(equation.span):
            operands = tuple(v if i in (3, 4, 6) else self._rounded(v) for i, v in enumerate(equation.operands))
        self.builder.append(Equation(equation.op, operands, equation.results, equation.attrs, equation.span))

    def _mix_grouped(self, equation: Equation) -> None:
        """Rows and matrices of experts are rounded like other factors; sums come out as they were."""
        offsets = OFFSETS_AT[equation.op]
        with self.builder.at(equation.span):
            operands = tuple(v if i == offsets else self._rounded(v) for i, v in enumerate(equation.operands))
        op = f"{equation.op}_wide"
        self.builder.append(Equation(op, operands, equation.results, equation.attrs, equation.span))

    def _rounded(self, var: Var) -> Var:
        """``var`` in bf16; made once, whatever the number of products that read it."""
        if var not in self.rounded:
            name, equation = f"{var.name}_bf16", self.producer.get(var)
            if equation is not None and equation.op in _SEEN_THROUGH:
                source = self._rounded(equation.operands[0])
                self.rounded[var] = self.builder.op(equation.op, source, named=name, **equation.attributes)
            else:
                self.rounded[var] = self.builder.op("cast", var, named=name, dtype=DType.BF16)
        return self.rounded[var]
