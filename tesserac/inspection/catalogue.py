"""``tesserac ops``: the operators of the language and the primitives of the IR, from their own declarations."""

from __future__ import annotations

import difflib
from itertools import groupby

import tesserac.ops  # noqa: F401  (registers the primitives)
from tesserac.diagnostics import CompileError, Diagnostics
from tesserac.elaborate.catalogue import PENDING, SURFACES, TENSOR_METHODS, documentation
from tesserac.ops.base import REQUIRED, OpSpec, all_specs


def list_ops() -> str:
    """Every operator by family, one line each; then the primitives and what is planned."""
    lines = []
    for family, rows in groupby(documentation(), key=lambda row: row[0]):
        lines.append(f"{family}")
        lines += [f"  {_call(key, signature):<62} {doc}" for _, key, signature, doc in rows]
        lines.append("")
    lines.append("primitives of the IR (`tesserac inspect --stage graph` shows them)")
    lines += [f"  {spec.name:<20} {spec.doc}" for spec in all_specs()]
    lines += ["", "planned, and refused by name until then", f"  {', '.join(sorted(PENDING))}"]
    return "\n".join(lines) + "\n"


def describe_op(name: str) -> str | None:
    """One operator or primitive, whatever space it is in; None when there is none of that name."""
    parts = []
    for key in sorted(SURFACES):
        if name in (key, key.rpartition(".")[2]) and not key.startswith("optimizer."):
            surface = SURFACES[key]
            method = name.rpartition(".")[2] in TENSOR_METHODS and key.startswith("op.")
            parts.append(
                f"{_call(key, surface.signature)}\n  {surface.doc}"
                + (f"\n  also a method of tensors: x.{name.rpartition('.')[2]}(...)" if method else "")
            )
    parts += [_primitive(spec) for spec in all_specs() if spec.name == name.rpartition(".")[2]]
    for key in sorted(PENDING):
        if name in (key, key.rpartition(".")[2]):
            parts.append(f"{key}\n  not supported yet" + (f": {PENDING[key]}" if PENDING[key] else ""))
    return "\n\n".join(parts) + "\n" if parts else None


def unknown_op(name: str) -> CompileError:
    """T0809 with the nearest names."""
    known = {key.rpartition(".")[2] for key in (*SURFACES, *PENDING)} | {spec.name for spec in all_specs()}
    near = difflib.get_close_matches(name.rpartition(".")[2], sorted(known), 3)
    diagnostics = Diagnostics()
    diagnostics.error(
        "T0809",
        f"there is no operator `{name}`",
        None,
        help=[f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else "`tesserac ops` lists all"],
    )
    return CompileError(diagnostics.items)


def _call(key: str, signature: str) -> str:
    return key + signature[signature.index("(") :]


def _primitive(spec: OpSpec) -> str:
    attributes = ", ".join(k if v == REQUIRED else f"{k}={v}" for k, v in spec.attrs) or "none"
    rules = [name for name, rule in (("jvp", spec.jvp), ("transpose", spec.transpose), ("vjp", spec.vjp)) if rule]
    derivative = ", ".join(rules) or ("by expansion" if spec.expand and spec.differentiable else "none")
    lines = [
        f"{spec.name}   (primitive of the IR, {spec.kind})",
        f"  {spec.doc}",
        f"  attributes: {attributes}",
        f"  derivative rules: {derivative}",
    ]
    if spec.scalar is not None:
        lines.append(
            f"  per element: {spec.scalar.formula.format('x', 'y', 'z', **_shown(spec))}, {spec.scalar.flops:g} FLOP"
        )
    return "\n".join(lines)


def _shown(spec: OpSpec) -> dict[str, str]:
    return {key: key for key, _ in spec.attrs}
