"""What a pass is: a value with a name, a reason and options, that maps a function to an equivalent one."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from tesserac.ir.program import Function


@runtime_checkable
class Pass(Protocol):
    """One step of the pipeline.

    Implementations are frozen dataclasses whose fields are the pass's options; ``name`` is what
    ``--print-after`` takes and ``reason`` is the one line that the pipeline listing shows.
    """

    name: ClassVar[str]
    reason: ClassVar[str]

    def run(self, function: Function) -> Function:
        """The function after the pass; the argument is left as it was."""
