"""Shapes of coordinates: a data input that nothing declares is a column [N, 1] of a module that is differentiated.

Coordinates are one number per point, and the inputs of one call of a module belong to the same points, so one shape
settles all of them. The assumption is made when an input is first used and must have proved right by the end: the
input, or an input of any call of its module, is a coordinate of some derivative, or has the name of one that another
entry takes. Otherwise the shape is unknown after all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesserac.diagnostics import Span
from tesserac.elaborate.provenance import Instance, listed, reaches, variable
from tesserac.elaborate.values import Slot, Value
from tesserac.ir.program import Var
from tesserac.ir.types import Dim, DType

if TYPE_CHECKING:
    from tesserac.elaborate.session import Session


class Columns:
    """What one session takes to be columns. ``names``: what the unit may take derivatives by; none if it takes none."""

    def __init__(self, session: Session) -> None:
        self.names: frozenset[str] = frozenset()
        self.coordinates: dict[str, Var] = {}
        self._session = session
        self._assumed: dict[Slot, Span] = {}

    @property
    def enabled(self) -> bool:
        """Whether the unit asks for derivatives by coordinates at all."""
        return bool(self.names)

    def assume(self, slot: Slot) -> tuple[tuple[Dim, ...] | None, DType | None]:
        """The shape to take for an input that declares none, and the dtype if another input of its call has one.

        None where nothing speaks for a column.
        """
        if not self.enabled or slot.is_parameter:
            return None, None
        instance = next((i for i in reversed(self._session.instances) if slot in i.inputs.values()), None)
        known = None if instance is None else self._sibling(instance)
        self._assumed[slot] = self._session.span
        if known is not None:
            shape, dtype = known
            return shape[:1] if len(shape) == 1 else (shape[0], 1), dtype
        return (self._session.open_dim(slot, 0), 1), None

    def _sibling(self, instance: Instance) -> tuple[tuple[Dim, ...], DType | None] | None:
        """Shape and dtype of another input of a call: declared before assumed ones, matrices before vectors."""
        values = sorted(instance.inputs.values(), key=lambda v: isinstance(v, Slot) and v in self._assumed)
        types = [(v.type.shape, v.type.dtype) if isinstance(v, Var) else (v.shape or (), v.dtype) for v in values]
        known = [(shape, dtype if dtype is not None and dtype.is_float else None) for shape, dtype in types if shape]
        return next((k for k in known if len(k[0]) > 1), next(iter(known), None))

    def stood_up(self, given: Sequence[Value], parts: Sequence[Var]) -> list[Var]:
        """Vectors [N] that are inputs of the running module as columns [N, 1], where inputs may be coordinates.

        Side by side they are the features of N points; end to end they would be one point with all of them.
        """
        session = self._session
        inputs = list(session.running.inputs.values()) if session.running is not None else []
        if not self.enabled or any(v.type.rank != 1 for v in parts) or any(v not in inputs for v in given):
            return list(parts)
        return [session.emit("reshape", v, shape=(*v.type.shape, 1)) for v in parts]

    def check(self) -> None:
        """Reports assumed shapes that no derivative bears out, and remarks on the others."""
        session = self._session
        groups: dict[str, list[Slot]] = {}
        for slot, span in self._assumed.items():
            modules = {i.label for i in session.instances if slot in i.inputs.values()}
            calls = [i for i in session.instances if i.label in modules]
            inputs = [v for i in calls for v in map(variable, i.inputs.values()) if v is not None]
            if slot.var is not None:
                inputs.append(slot.var)
            named = any(n in self.names for i in calls for n in i.inputs) or slot.name in self.names
            if named or any(reaches(session, c, v) for c in self.coordinates.values() for v in inputs):
                assert slot.shape is not None
                rows = session.solver.resolve(slot.shape[0])
                shape = f"[{rows}, 1]" if len(slot.shape) > 1 else f"[{rows}]"
                groups.setdefault(shape, []).append(slot)
                continue
            saved, session.span = session.span, span
            session.unknown_shape(slot)
            session.span = saved
        for shape, slots in groups.items():
            one = len(slots) == 1
            session.report.note(
                "T0412",
                f"the shape{'' if one else 's'} of {listed(s.path for s in slots)} "
                f"{'is' if one else 'are'} taken to be {shape}",
                slots[0].span,
                notes=["a coordinate of a derivative is a column with one row per point, like the others of its call"],
            )
