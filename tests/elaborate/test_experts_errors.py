"""What is refused of mixtures of experts: the exact message for every mistake."""

from __future__ import annotations

import textwrap

import pytest

from tests.elaborate.support import EXAMPLES, HEADER, compile_source

MLPS = "experts = [op.mlp(8, [16], 8) for _ in range(4)]"


def refused(head: str, call: str = "router(x)", width: int = 8) -> str:
    """The errors of a unit whose module applies a mixture, with the source below its import."""
    source = textwrap.dedent(head) + f"\n\n@graph.module\ndef net(x: Tensor[5, {width}]):\n    return {call}\n"
    result = compile_source(source)
    assert result.program is None
    return result.text


CASES = {
    "experts of different widths": (
        "router = op.router([op.mlp(8, [16], 8), op.mlp(8, [16], 6)])",
        """\
        error[T0506]: expert 0 yields rows of 8 f32, but expert 1 yields rows of 6 f32
         --> model.py:6:12
          |
        2 | router = op.router([op.mlp(8, [16], 8), op.mlp(8, [16], 6)])
          |                     ------------------  ------------------ expert 1 yields rows of 6 f32
          |                     |
          |                     expert 0 yields rows of 8 f32
        ...
        6 |     return router(x)
          |            ^^^^^^^^^
          |
          = help: the results of all experts are added, so they have one width and one element type
        """,
    ),
    "k larger than the number of experts": (
        f'{MLPS}\nrouter = op.router(experts, "topk", k=5)',
        """\
        error[T0504]: strategy 'topk' with k=5 takes 5 experts per token, and there are 4
         --> model.py:3:10
          |
        3 | router = op.router(experts, "topk", k=5)
          |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: strategy="topk", k=4, or more experts
        """,
    ),
    "top2 of one expert": (
        "router = op.router([op.mlp(8, [16], 8)])",
        """\
        error[T0504]: strategy 'top2' with k=2 takes 2 experts per token, and there is 1
         --> model.py:2:10
          |
        2 | router = op.router([op.mlp(8, [16], 8)])
          |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: strategy="topk", k=1, or more experts
        """,
    ),
    "an empty list": (
        "router = op.router([])",
        """\
        error[T0504]: op.router needs at least one expert, and the list is empty
         --> model.py:2:10
          |
        2 | router = op.router([])
          |          ^^^^^^^^^^^^^
        """,
    ),
    "an unknown strategy": (
        f'{MLPS}\nrouter = op.router(experts, "hash")',
        """\
        error[T0504]: strategy must be one of 'top2', 'topk', 'switch', not the string 'hash'
         --> model.py:3:10
          |
        3 | router = op.router(experts, "hash")
          |          ^^^^^^^^^^^^^^^^^^^^^^^^^^
        """,
    ),
    "a strategy of fixed size with k": (
        f'{MLPS}\nrouter = op.router(experts, "switch", k=2)',
        """\
        error[T0504]: strategy 'switch' does not take k=2
         --> model.py:3:10
          |
        3 | router = op.router(experts, "switch", k=2)
          |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: strategy="topk", k=2
        """,
    ),
    "something that is no expert": (
        "router = op.router([op.mlp(8, [16], 8), 3])",
        """\
        error[T0503]: expert 1 must be a layer or a function of one tensor, not the integer 3
         --> model.py:2:10
          |
        2 | router = op.router([op.mlp(8, [16], 8), 3])
          |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: for example [op.mlp(64, [256], 64) for _ in range(8)]
        """,
    ),
    "an expert that mixes rows": (
        "router = op.router([lambda x: x - op.mean(x, axis=0) for _ in range(4)])",
        """\
        error[T0507]: expert 0 must treat every row alone, but `reduce_sum` combines rows or moves their axis
         --> model.py:2:35
          |
        2 | router = op.router([lambda x: x - op.mean(x, axis=0) for _ in range(4)])
          |                                   ^^^^^^^^^^^^^^^^^^
        ...
        6 |     return router(x)
          |            --------- the rows of all tokens that chose it pass through it here
          |
          = note: an expert gets the rows of the tokens that chose it, in any number and order
          = help: combine the features of a token only; what looks at several tokens belongs outside the experts
        """,
    ),
    "an expert that moves the axis of the rows": (
        "router = op.router([lambda x: x.reshape(5, 8) for _ in range(4)])",
        "error[T0507]: expert 0 must treat every row alone, but `reshape` combines rows or moves their axis",
    ),
    "an expert that yields a list": (
        "router = op.router([lambda x: [x, x] for _ in range(4)])",
        "error[T0506]: expert 0 must yield one tensor, not a list of 2",
    ),
    "an expert that forgets its rows": (
        "router = op.router([lambda x: op.random_normal((3, 8)) for _ in range(4)])",
        "error[T0506]: expert 0 must yield a row for every row it gets, not f32[3,8]",
    ),
    "a derivative inside an expert": (
        "router = op.router([lambda x: op.grad(op.mlp(x, [4], 1), x) for _ in range(3)])",
        "error[T0501]: expert 0 takes a derivative, which is not supported yet inside an expert",
    ),
    "a mixture that routes inside an expert": (
        f"{MLPS}\nrouter = op.router([op.router(experts), op.router(experts)])",
        "error[T0507]: expert 0 must treat every row alone, but `route` combines rows or moves their axis",
    ),
    "attention inside an expert": (
        "router = op.router([lambda x: op.flash_attention(x, x, x) for _ in range(3)])",
        "error[T0507]: expert 0 must treat every row alone, but `attention` combines rows or moves their axis",
    ),
    "a capacity of nothing": (
        f"{MLPS}\nrouter = op.router(experts, capacity_factor=0)",
        "error[T0504]: capacity_factor=0.0 does not fit strategy 'top2': it is positive, and limits how many of k*T/E "
        "tokens an expert takes",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_mistakes(case: str) -> None:
    head, message = CASES[case]
    text = refused(head)
    expected = textwrap.dedent(message)
    assert text == expected if "\n" in expected else text.startswith(expected + "\n"), text
    assert text.count("error[") == 1


def test_tokens_that_experts_were_not_made_for() -> None:
    assert refused(f"{MLPS}\nrouter = op.router(experts)", width=7) == textwrap.dedent("""\
    error[T0403]: the last axis of the operand and the input of expert 0: 7 and 8 differ
     --> model.py:7:12
      |
    2 | experts = [op.mlp(8, [16], 8) for _ in range(4)]
      |            ------------------ expert 0 takes rows of 8
    ...
    6 | def net(x: Tensor[5, 7]):
      |            ------------ `x` is f32[5,7]
    7 |     return router(x)
      |            ^^^^^^^^^
    """)


def test_a_literal_that_breaks_a_shape() -> None:
    text = (EXAMPLES / "chapter6" / "listing3.py").read_text()
    rescaled = {"shapes": (("x", "12x4096"),), "set_literals": ((8192, 64), (4096, 8))}
    result = compile_source(HEADER + text, header=False, **rescaled)
    assert result.program is None
    assert result.text == textwrap.dedent("""\
    error[T0403]: the last axis of the operand and the input of expert 0: 4096 and 8 differ
     --> model.py:6:26
      |
    2 | experts = [op.mlp(4096, [8192], 4096) for _ in range(16)]
      |            --------------------------
      |            |      |
      |            |      4096 is 8 by --set-literal 4096=8
      |            expert 0 takes rows of 8
    ...
    6 | def moe_layer(x): return router(x)
      |               -          ^^^^^^^^^
      |               |
      |               `x` is f32[12,4096]
      |
      = note: `x` is f32[12,4096], from --shape x=12x4096
    """)


def test_an_expert_that_meets_tensors_with_rows_of_their_own() -> None:
    assert refused("", "op.router([lambda r: r + x for _ in range(2)])(x)") == textwrap.dedent("""\
    error[T0507]: expert 0 must treat every row alone, but it fixes their number to 5
     --> model.py:6:12
      |
    6 |     return op.router([lambda r: r + x for _ in range(2)])(x)
      |            ^^^^^^^^^^^^^^^^^^^^^-----^^^^^^^^^^^^^^^^^^^^^^^
      |                                 |
      |                                 5 here: addition: axis -2 of the operands
      |
      = note: an expert gets the rows of the tokens that chose it, in any number
      = help: leave the first dimension of its argument open, and combine it with no tensor that has its own
    """)


MISUSED = {
    "op.moe(x, experts, router=op.router(experts))": "router takes a strategy or a policy, and this layer has its "
    "experts already",
    "op.router(policy='top2')(x)": "cannot be called",
    "op.moe(x, experts, mesh='tp')": "mesh must be a dist.Mesh, not the string 'tp'",
    "op.recursive_mixture(experts)(x)": "the argument `depth` is missing",
    "op.moe(x)": "op.moe takes a list of experts, not None",
    "op.moe_dispatch(x, 3)": "route must come from op.moe_route(indices, experts), not be the integer 3",
    "op.moe_experts(x, experts[:2], op.moe_route(op.topk(x, 2)[1], 8))": "2 experts for a route among 8",
    "op.recursive_mixture(experts, depth=0)(x)": "depth must be an integer of at least 1, not the integer 0",
    "op.recursive_mixture(experts, 2, 'hash')(x)": "strategy must be one of 'top2', 'topk', 'switch', 'dense'",
    "op.recursive(lambda x: [x], 2)(x)": "op.recursive takes a function that yields a tensor, not a list of 1",
    "op.router(experts)(x, metrics=1)": "metrics must be True or False",
    "op.recursive_mixture(experts, 2)(x, metrics=True)": "there is no argument `metrics`",
    "op.moe(x, experts, router=op.router('topk', k=2), k=3)": "says how tokens choose, and k is given beside it",
    "op.moe(x, experts, router=op.router('top2'), capacity_factor=1)": "and capacity_factor is given beside it",
    "op.router('switch', strategy='topk')": "takes a list of experts with a strategy, or a policy alone",
    "op.router(experts, k=op.router('topk'))": "k must be an integer of at least 1, not a policy of op.router",
    "op.recursive_mixture([op.mlp(8, [16], 6) for _ in range(2)], 2)(x)": "what the experts yield and what they take "
    "again, as depth is 2: 6 and 8 differ",
    "op.recursive(3, 2)(x)": "op.recursive takes a layer or a function of one tensor, not the integer 3",
}


@pytest.mark.parametrize("call", MISUSED)
def test_misuse(call: str) -> None:
    text = refused(MLPS, call)
    assert MISUSED[call] in text.splitlines()[0], text
