"""The registry of user-facing ops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tesserac.elaborate.values import Value

BuildRule = Callable[..., Value]


@dataclass(frozen=True, slots=True)
class Surface:
    """One user-facing op. ``build(site, *values)`` gets the arguments in the order of ``signature``."""

    name: str
    signature: str
    doc: str
    family: str
    build: BuildRule

    def bound(self, first: Value) -> Surface:
        """The op as a method of ``first``."""
        build = self.build
        inner = self.signature[self.signature.index("(") + 1 :]
        depth = 0
        cut = len(inner) - 1
        for index, char in enumerate(inner):
            depth += (char in "([") - (char in ")]")
            if depth == 0 and char == ",":
                cut = index + 1
                break
        return Surface(
            self.name,
            f"{self.name}({inner[cut:].strip()}",
            self.doc,
            self.family,
            lambda site, *values: build(site, first, *values),
        )


SURFACES: dict[str, Surface] = {}
"""Ops by qualified name (``op.softmax``, ``graph.backward``)."""

PENDING: dict[str, str] = {
    **{
        f"op.{name}": ""
        for name in (
            "conv1d",
            "conv2d",
            "conv3d",
            "kernel",
            "extern",
            "custom",
            "batch_norm",
            "tensor",
            "placeholder",
            "spmm",
            "cholesky",
            "qr",
            "svd",
            "solve",
            "fixed_point",
            "quantize",
            "autotunable",
        )
    },
    "dist.inspect": "`tesserac plan` shows where every tensor lies and what is sent",
    "dist.zero_optim": "plan.toml asks for it: `[zero] stage = 1` divides the optimizer's moments, `stage = 3` stores "
    "parameters in parts",
    "graph.stage": "pipelines arrive with a later stage of tesserac",
    "graph.pipeline": "pipelines arrive with a later stage of tesserac",
    "optim.Adafactor": "",
    "optim.Lion": "",
    "optim.Muon": "",
}
"""Documented names of later stages, with what to tell the user."""

TENSOR_METHODS: dict[str, str] = {
    name: name
    for name in (
        "reshape",
        "transpose",
        "sum",
        "mean",
        "max",
        "min",
        "prod",
        "exp",
        "log",
        "sqrt",
        "tanh",
        "abs",
        "cast",
        "take",
        "argmax",
        "cumsum",
        "split",
        "softmax",
        "norm",
        "conj",
        "angle",
    )
} | {"astype": "cast", "view": "reshape", "permute": "transpose", "to": "cast"}
"""Methods of tensors and the ops they stand for."""


def surface(
    signature: str, doc: str, *, family: str, space: str = "op", aliases: tuple[str, ...] = ()
) -> Callable[[BuildRule], BuildRule]:
    """Declares an op: ``signature`` is ``name(a, b=1, *, c=None)``, ``doc`` one line for ``tesserac ops``."""

    def declare(build: BuildRule) -> BuildRule:
        name = signature[: signature.index("(")]
        for spelling in (name, *aliases):
            key = f"{space}.{spelling}" if space else spelling
            if key in SURFACES:
                raise ValueError(f"{key} is declared twice")
            SURFACES[key] = Surface(name, signature, doc, family, build)
        return build

    return declare


def documentation() -> tuple[tuple[str, str, str, str], ...]:
    """(family, qualified name, signature, doc) of every op, sorted; what ``tesserac ops`` prints."""
    rows = ((s.family, key, s.signature, s.doc) for key, s in SURFACES.items() if not key.startswith("optimizer."))
    return tuple(sorted(rows))
