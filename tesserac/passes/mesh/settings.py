"""plan.toml: what a person settles about plans outside the source. Roles, pins of tensors, memory, ZeRO, buckets.

```toml
[mesh]
axes = {dp = 4, tp = 2}

[roles]
tp = {deny = ["sequence"], collectives = ["AR", "AG", "RS"]}
x = "data"

[pin]
"transformer.Wq" = ["-", "tp"]
"*.norm*" = "sp"

[zero]
stage = 1

[memory]
limit = "72GiB"

[gradients]
bucket = "25MiB"
```
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tesserac.diagnostics import Diagnostics, Span
from tesserac.foreign import parse_toml
from tesserac.passes.mesh.roles import COLLECTIVES, KINDS, Role, named_role, role_names, role_of

_UNITS = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30,
          "tib": 2**40}
_SHORT = {"AR": "all_reduce", "AG": "all_gather", "RS": "reduce_scatter", "A2A": "all_to_all"}


def parse_bytes(text: str) -> float | None:
    """``25MB``, ``1.5GiB``, ``4096``; None for anything else."""
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*", text)
    if found is None or found.group(2).lower() not in _UNITS:
        return None
    return float(found.group(1)) * _UNITS[found.group(2).lower()]


@dataclass(frozen=True, slots=True)
class Pin:
    """Where a tensor must lie. ``pattern``: a glob over names of parameters, inputs and values.

    ``dims``: per dimension the mesh axes that cut it, CLOSED or OPEN; None means "cut along ``axis`` somewhere".
    ``terms``: axes along which what makes it leaves terms of a sum. ``whole``: axes along which it is not cut.
    ``span``: where the source says so.
    """

    pattern: str
    dims: tuple[tuple[str, ...], ...] | None
    axis: str = ""
    terms: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    span: Span | None = None

    def __str__(self) -> str:
        if self.terms or self.whole:
            how = f"terms of a sum on {', '.join(self.terms)}" if self.terms else f"whole on {', '.join(self.whole)}"
            return f'"{self.pattern}": {how}'
        shown = repr(self.axis) if self.dims is None else str([" ".join(d) for d in self.dims])
        return f'"{self.pattern}" = {shown}'


@dataclass(frozen=True, slots=True)
class PlanToml:
    """The file's content; ``mesh`` as ``--mesh`` would say it; ``memory`` and ``bucket`` in bytes."""

    mesh: str | None = None
    roles: Mapping[str, Role] = field(default_factory=dict)
    pins: tuple[Pin, ...] = ()
    memory: float | None = None
    zero: int = 0
    bucket: float | None = None


def read_settings(text: str, name: str) -> PlanToml:
    """A plan.toml; CompileError T0705 with everything that is wrong in it."""
    found = Diagnostics()
    try:
        data = parse_toml(text)
    except ValueError as error:
        found.error("T0705", f"{name} cannot be read: {error}", None)
        data = {}
    reader = _Reader(name, found)
    settings = reader.settings(data)
    found.raise_if_errors()
    return settings


class _Reader:
    def __init__(self, name: str, found: Diagnostics) -> None:
        self._name, self._found = name, found

    def _wrong(self, what: str, help_: str) -> None:
        self._found.error("T0705", f"{self._name}: {what}", None, help=[help_])

    def settings(self, data: Mapping[str, Any]) -> PlanToml:
        known = ("mesh", "roles", "pin", "zero", "memory", "gradients")
        for key in data:
            if key not in known:
                self._wrong(f"there is no table `{key}`", f"the tables are {', '.join(known)}")
            elif not isinstance(data[key], dict):
                self._wrong(f"`{key}` is not a table", f"[{key}]")
        tables = {key: data[key] if isinstance(data.get(key), dict) else {} for key in known}
        return PlanToml(self._mesh(tables["mesh"]), self._roles(tables["roles"]), self._pins(tables["pin"]),
                        self._size(tables["memory"], "memory", "limit", "72GiB"), self._zero(tables["zero"]),
                        self._size(tables["gradients"], "gradients", "bucket", "25MiB"))

    def _only(self, table: Mapping[str, Any], name: str, *keys: str) -> None:
        for key in table:
            if key not in keys:
                self._wrong(f"{name}.{key} means nothing", f"{name} has {', '.join(keys)}")

    def _mesh(self, table: Mapping[str, Any]) -> str | None:
        self._only(table, "mesh", "axes")
        axes = table.get("axes")
        if axes is None:
            return None
        good = isinstance(axes, dict) and axes and all(axis.isidentifier() and type(n) is int and n > 0
                                                       for axis, n in axes.items())
        if not good:
            self._wrong("mesh.axes gives every axis, which is a name, a size above 0", "axes = {dp = 4, tp = 2}")
            return None
        return ",".join(f"{axis}={n}" for axis, n in axes.items())

    def _roles(self, table: Mapping[str, Any]) -> dict[str, Role]:
        return {axis: role for axis, value in table.items() if (role := self._role(axis, value)) is not None}

    def _role(self, axis: str, value: Any) -> Role | None:
        example = f'{axis} = {{deny = ["batch"], collectives = ["AR", "AG", "RS"]}}, or {axis} = "data"'
        if isinstance(value, str):
            value = {"role": value}
        if not isinstance(value, dict):
            self._wrong(f"roles.{axis} is neither a role nor a table", example)
            return None
        self._only(value, f"roles.{axis}", "role", "deny", "collectives", "optional")
        role = named_role(str(value["role"])) if "role" in value else role_of(axis)
        if role is None:
            self._wrong(f"roles.{axis}: there is no role {value['role']!r}", f"roles are {', '.join(role_names())}")
            return None
        deny, kinds = value.get("deny", []), value.get("collectives", [])
        if not isinstance(deny, list) or not set(map(str, deny)) <= set(KINDS):
            self._wrong(f"roles.{axis}.deny lists {', '.join(KINDS)}", example)
            return None
        if not isinstance(kinds, list) or not all(str(k) in _SHORT for k in kinds):
            self._wrong(f"roles.{axis}.collectives lists {', '.join(_SHORT)}", example)
            return None
        allowed = frozenset(_SHORT[k] for k in kinds) if "collectives" in value else role.collectives
        assert allowed <= set(COLLECTIVES)
        if not isinstance(value.get("optional", False), bool):
            self._wrong(f"roles.{axis}.optional is true or false", f"{axis} = {{optional = true}}")
        must = "none" if value.get("optional") is True else role.must_cut
        return replace(role, allow=role.allow - set(deny), collectives=allowed, must_cut=must)

    def _pins(self, table: Mapping[str, Any]) -> tuple[Pin, ...]:
        found = []
        for pattern, value in table.items():
            if isinstance(value, str):
                found.append(Pin(pattern, None, value))
            elif isinstance(value, list) and all(isinstance(d, str) and d.split() for d in value):
                found.append(Pin(pattern, tuple(tuple(d.split()) for d in value)))
            else:
                self._wrong(f'pin."{pattern}" is neither an axis nor a list of them',
                            f'"{pattern}" = ["-", "tp"], or "tp", or ["dp tp", "?"]')
        return tuple(found)

    def _size(self, table: Mapping[str, Any], name: str, key: str, example: str) -> float | None:
        """The only key of a table, whose value is a number of bytes."""
        self._only(table, name, key)
        if key not in table:
            return None
        found = parse_bytes(str(table[key]))
        if found is None or found <= 0:
            self._wrong(f"{name}.{key} = {table[key]!r} is not a size", f'{key} = "{example}"')
        return found

    def _zero(self, table: Mapping[str, Any]) -> int:
        self._only(table, "zero", "stage")
        stage = table.get("stage", 0)
        if stage not in (0, 1, 3) or isinstance(stage, bool):
            self._wrong(f"zero.stage = {stage!r} is not 0, 1 or 3", "stage = 1 divides the optimizer's moments among "
                        "data ranks, 3 the parameters as well")
            return 0
        return int(stage)
