"""A plan and everything that is said about it: the search, the partitioned program, the templates beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tesserac.diagnostics import CompileError, Diagnostics
from tesserac.ir.mesh import Mesh, Pinned
from tesserac.ir.program import Function
from tesserac.passes.differentiate import expand_derivatives
from tesserac.passes.mesh.buckets import BUCKET_BYTES
from tesserac.passes.mesh.graph import OUTPUT
from tesserac.passes.mesh.hardware import Hardware
from tesserac.passes.mesh.lock import from_lock, locked_form
from tesserac.passes.mesh.nodes import Node
from tesserac.passes.mesh.partition import Assignment, AxisAssignment, Sharded
from tesserac.passes.mesh.pins import Fixed, matched
from tesserac.passes.mesh.placements import REPLICATED
from tesserac.passes.mesh.program import rank_program
from tesserac.passes.mesh.projections import split_projections
from tesserac.passes.mesh.roles import Role, role_of
from tesserac.passes.mesh.search import Found, Searcher, storing_weights, within_memory
from tesserac.passes.mesh.settings import Pin, PlanToml
from tesserac.passes.mesh.strategy import REQUESTS, strategies
from tesserac.passes.mesh.templates import Template, templates
from tesserac.passes.mesh.traffic import KINDS, Collective, Memory, collectives, memory_of

BETTER = 0.9
"""A tensor axis exchanges cuts (all-to-all) only where that saves a tenth: such plans hold more weights."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user settled: roles by axis (others go by name), pins, bytes of a device (None: the hardware's), ZeRO.

    ``zero``: 1 divides the optimizer's moments among the ranks of a data axis, 3 parameters among those of all.
    ``lock``: name and text of a lock file that has the plan. ``whole``: paths of experts' parameters that all need.
    ``bucket``: bytes of gradients that are sent together. ``fixed``: where inputs and outputs lie in any case, by the
    keys of their nodes; None where an axis is left open.
    """

    roles: Mapping[str, Role] = field(default_factory=dict)
    pins: tuple[Pin, ...] = ()
    memory: float | None = None
    zero: int = 0
    lock: tuple[str, str] | None = None
    whole: frozenset[str] = frozenset()
    bucket: int = BUCKET_BYTES
    fixed: Fixed = field(default_factory=dict)

    def shared(self, mesh: Mesh) -> str | None:
        """The axis whose ranks update parameters in shares (ZeRO-1): the longest of the data axes."""
        data = [axis for axis, size in mesh.sizes.items() if self.role(axis).name == "data" and size > 1]
        return max(data, key=lambda axis: mesh.sizes[axis]) if data and self.zero == 1 else None

    def limit(self, hardware: Hardware) -> float:
        """Bytes that one rank may hold."""
        return self.memory if self.memory is not None else hardware.memory

    def role(self, axis: str) -> Role:
        """The role of an axis."""
        return self.roles.get(axis) or role_of(axis)


NOTHING = Settings()
"""Roles by name, no pins, the machine's memory."""


def settings_of(toml: PlanToml | None, lock: tuple[str, str] | None = None, memory: float | None = None) -> Settings:
    """What plan.toml, a lock file and the command line say together."""
    toml = toml or PlanToml()
    return Settings(toml.roles, toml.pins, memory if memory is not None else toml.memory, toml.zero, lock,
                    bucket=int(toml.bucket or BUCKET_BYTES))


def with_pins(settings: Settings, pins: Sequence[Pinned], function: Function) -> Settings:
    """The settings with those pins of the source that are about values of a function."""
    there = {v.name for v in function.variables()}
    found = tuple(Pin(pin.value, pin.dims, "", pin.terms, pin.whole, pin.span) for pin in pins if pin.value in there)
    return replace(settings, pins=(*settings.pins, *found))


@dataclass(frozen=True, slots=True)
class Scored:
    """A template's plan; None where it cannot be had on this mesh."""

    template: Template
    found: Found


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan: what was chosen, one rank's program, what it sends and holds, and what the templates would cost."""

    function: Function
    mesh: Mesh
    hardware: Hardware
    settings: Settings
    searcher: Searcher
    found: Found
    sharded: Sharded
    joint: Function
    collectives: tuple[Collective, ...]
    memory: Memory
    templates: tuple[Scored, ...]
    seconds: float
    """Of processor time that the search took, templates included."""

    @property
    def limit(self) -> float:
        """Bytes that one rank may hold."""
        return self.settings.limit(self.hardware)


def plan(function: Function, mesh: Mesh, hardware: Hardware, settings: Settings = NOTHING) -> Planned:
    """The cheapest plan of a function on a mesh whose axes are all longer than 1.

    Products whose columns are taken apart are planned as they are and as several products (`split_projections`); the
    planned function is the cheaper of the two.
    """
    begin = time.process_time()
    forward = expand_derivatives(function)
    roles = {axis: settings.role(axis) for axis in mesh.axes}
    forms = [forward]
    if any(role.name in ("tensor", "free") for role in roles.values()):
        forms += [form for form in (split_projections(forward),) if form is not forward and
                  len(matched(settings.pins, form)) == len(matched(settings.pins, forward))]
    if settings.lock is not None:
        form = locked_form(settings.lock[1], forms)
        searcher = Searcher(form, mesh, hardware, roles, settings.pins, settings.whole, settings.fixed)
        found = searcher.priced(from_lock(settings.lock[1], settings.lock[0], form, mesh, searcher))
        return described(form, mesh, hardware, settings, searcher, found, (), 0.0)
    searchers = [_searcher(form, mesh, hardware, settings, roles) for form in forms]
    searcher, found, scored = _best(searchers, settings)
    if found.cost.impossible:
        raise _impossible(searcher)
    return described(searcher.function, mesh, hardware, settings, searcher, found, scored,
                     time.process_time() - begin)


def _impossible(searcher: Searcher) -> CompileError:
    """T0709 where every plan needs a collective that a role forbids."""
    allowed = {axis: ", ".join(sorted(KINDS[k] for k in role.collectives if k in KINDS)) or "none"
               for axis, role in searcher.roles.items()}
    bag = Diagnostics()
    bag.error("T0709", "every plan for this mesh needs a collective that roles forbid", searcher.mesh.span,
              notes=[f"axis {axis} may use {kinds}" for axis, kinds in allowed.items()],
              help=["allow more collectives in [roles] of plan.toml, or pin less"])
    return CompileError(bag.items)


def _searcher(form: Function, mesh: Mesh, hardware: Hardware, settings: Settings,
              roles: Mapping[str, Role]) -> Searcher:
    """A search of one form of the function."""
    if settings.zero == 3:
        roles = {axis: replace(role, must_cut_weights=role.stores_weights)
                 for axis, role in storing_weights(roles).items()}
    return Searcher(form, mesh, hardware, roles, settings.pins, settings.whole, settings.fixed)


def _best(searchers: Sequence[Searcher], settings: Settings) -> tuple[Searcher, Found, tuple[Scored, ...]]:
    """The cheapest plan of all forms with its search and the templates beside it.

    Searched first with equal layers as one. If letting them differ gains anything, all is searched again without that.
    """
    small = [searcher.folded() for searcher in searchers]
    best, searcher, found, scored = _of_forms(small, settings)
    if small[best] is searchers[best]:
        return searcher, found, scored
    whole = searchers[best].under(searcher.roles, searcher.pins)
    confirmed = whole.confirmed(found)
    if confirmed is not None:
        return whole, confirmed, scored
    _, searcher, found, scored = _of_forms(searchers, settings)
    return searcher, found, scored


def _of_forms(searchers: Sequence[Searcher],
              settings: Settings) -> tuple[int, Searcher, Found, tuple[Scored, ...]]:
    """The cheapest plan of all forms: which one, the search as it was in the end, the plan, and all templates."""
    limit = settings.limit(searchers[0].hardware)
    tried = [_cheapest(searcher, settings, limit) for searcher in searchers]
    best = min(range(len(tried)), key=lambda i: (tried[i][1].memory > limit, tried[i][1].cost.key, i))
    searcher, found, known = tried[best]
    mesh = searcher.mesh
    named = () if settings.fixed else templates(mesh, {axis: settings.role(axis) for axis in mesh.axes})
    return best, searcher, found, tuple(known.get(t.name) or _score(t, searcher) for t in named)


def _cheapest(searcher: Searcher, settings: Settings, limit: float) -> tuple[Searcher, Found, Mapping[str, Scored]]:
    """The plan of one form of the function, and the templates that it was started from."""
    scored: dict[str, Scored] = {}
    if len(searcher.mesh.axes) > 1 and not settings.pins and not settings.fixed:  # on one axis the search is exact
        scored = {t.name: _score(t, searcher) for t in templates(searcher.mesh, searcher.roles) if t.reachable}
    starts = [dict(s.found.plan) for s in scored.values() if not s.found.cost.impossible]
    searcher, found = _with_exchanges(searcher, searcher.run(starts=starts))
    if found.memory > limit:
        searcher = searcher.under(storing_weights(searcher.roles), settings.pins)
        found = within_memory(searcher, limit)
    return searcher, found, scored


def described(forward: Function, mesh: Mesh, hardware: Hardware, settings: Settings, searcher: Searcher, found: Found,
              scored: tuple[Scored, ...], seconds: float) -> Planned:
    """The partitioned program of a plan, with what it sends and holds."""
    program = rank_program(forward, mesh, assignment(found.nodes, found.plan, forward, mesh), settings.bucket,
                           settings.shared(mesh))
    sharded, joint = program.sharded, program.function
    return Planned(forward, mesh, hardware, settings, searcher, found, sharded, joint,
                   collectives(sharded.function, joint, mesh, hardware), memory_of(joint),
                   scored, seconds)


def _score(template: Template, searcher: Searcher) -> Scored:
    return Scored(template, searcher.under(template.roles).run())


def _with_exchanges(searcher: Searcher, found: Found) -> tuple[Searcher, Found]:
    """The plan with all-to-alls on tensor axes, if that is much better or the only one there is."""
    if not any(role.name == "tensor" and "all_to_all" not in role.collectives for role in searcher.roles.values()):
        return searcher, found
    roles = {axis: replace(role, collectives=role.collectives | {"all_to_all"}) if role.name == "tensor" else role
             for axis, role in searcher.roles.items()}
    other = searcher.under(roles, searcher.pins)
    tried = other.run(starts=[dict(found.plan)])
    much = tried.cost.nanoseconds < BETTER * found.cost.nanoseconds
    return (other, tried) if found.cost.impossible or much else (searcher, found)


def assignment(nodes: tuple[Node, ...], chosen: Mapping[str, tuple[object, ...]], function: Function,
               mesh: Mesh) -> Assignment:
    """A plan as partition takes it: strategies in the order of the equations, placements of inputs and outputs."""
    at = {node.key: i for i, node in enumerate(nodes)}
    found: dict[str, AxisAssignment] = {}
    for axis, choices in chosen.items():
        picked = []
        for equation in function.equations:
            if equation.op in REQUESTS:
                picked.append(strategies(equation, mesh.sizes[axis])[0])
                continue
            strategy = choices[at[equation.results[0].name]].strategy  # type: ignore[attr-defined]
            assert strategy is not None
            picked.append(strategy)
        inputs = {item.path: choices[at[item.var.name]].results[0]  # type: ignore[attr-defined]
                  for item in function.inputs}
        outputs = {o.name: choices[at[OUTPUT + o.name]].operands[0]  # type: ignore[attr-defined]
                   if OUTPUT + o.name in at else REPLICATED for o in function.outputs}
        found[axis] = AxisAssignment(tuple(picked), inputs,
                                     {name: place for name, place in outputs.items() if OUTPUT + name in at})
    return found
