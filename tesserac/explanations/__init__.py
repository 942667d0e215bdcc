"""Long-form explanations of diagnostic codes, one module per range of codes.

Every module here exports ``EXPLANATIONS: tuple[Explanation, ...]``; `tesserac.diagnostics_catalogue` collects them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Explanation"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What ``tesserac explain CODE`` prints for one code.

    ``example`` is Tessera source that produces the code, or a command line where no source can; ``fix`` says what to
    write instead.
    """

    code: str
    title: str
    cause: str
    example: str
    fix: str
