"""Spans, diagnostics and the bag that collects them.

Every fault in a user's input becomes a `Diagnostic` with a code from the catalogue. A stage adds as many as it can find
to a `Diagnostics` bag and then calls `Diagnostics.raise_if_errors`. `render` lays them out for a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "CompileError",
    "Diagnostic",
    "Diagnostics",
    "InternalError",
    "Label",
    "Span",
    "render",
]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of source text; lines and columns count code points from 1, the end is exclusive."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    @classmethod
    def point(cls, file: str, line: int, column: int) -> Span:
        """The span of the one character at ``line:column``."""
        return cls(file, line, column, line, column + 1)

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of ``other``."""
        return Span(self.file, self.line, self.column, other.end_line, other.end_column)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Label:
    """A text attached to a place in the source."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding; ``severity`` is ``error``, ``warning`` or ``note``. A label on ``span`` captions the carets."""

    code: str
    severity: str
    message: str
    span: Span | None
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    help: tuple[str, ...] = ()


def some(items: Sequence[object], most: int = 4) -> str:
    """A few of the items for a message: ``a, b, c, d and 3 more``."""
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + rest


class CompileError(Exception):
    """A fault in the user's input (exit status 1); carries everything that was found, warnings included."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__("; ".join(f"{d.code}: {d.message}" for d in self.diagnostics))


class InternalError(Exception):
    """A fault in the compiler itself (exit status 3)."""


class Diagnostics:
    """A bag of findings in the order in which they were made."""

    def __init__(self) -> None:
        self.items: list[Diagnostic] = []

    @property
    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return any(d.severity == "error" for d in self.items)

    def error(
        self,
        code: str,
        message: str,
        span: Span | None,
        *,
        labels: Sequence[Label] = (),
        notes: Sequence[str] = (),
        help: Sequence[str] = (),
    ) -> None:
        """Record an error."""
        self._add("error", code, message, span, labels, notes, help)

    def warning(
        self,
        code: str,
        message: str,
        span: Span | None,
        *,
        labels: Sequence[Label] = (),
        notes: Sequence[str] = (),
        help: Sequence[str] = (),
    ) -> None:
        """Record a warning."""
        self._add("warning", code, message, span, labels, notes, help)

    def note(
        self,
        code: str,
        message: str,
        span: Span | None,
        *,
        labels: Sequence[Label] = (),
        notes: Sequence[str] = (),
        help: Sequence[str] = (),
    ) -> None:
        """Record a remark that needs no action."""
        self._add("note", code, message, span, labels, notes, help)

    def raise_if_errors(self) -> None:
        """Raise `CompileError` with every finding when at least one is an error."""
        if self.has_errors:
            raise CompileError(self.items)

    def _add(
        self,
        severity: str,
        code: str,
        message: str,
        span: Span | None,
        labels: Sequence[Label],
        notes: Sequence[str],
        help_lines: Sequence[str],
    ) -> None:
        # The catalogue is text that a clean compilation never needs, so it is loaded with the first finding.
        from tesserac.diagnostics_catalogue import CATALOGUE

        if code not in CATALOGUE:
            raise InternalError(f"diagnostic code {code} is not in the catalogue (message: {message})")
        for name, value in (("labels", labels), ("notes", notes), ("help", help_lines)):
            if isinstance(value, str):
                raise InternalError(f"{code}: {name} must be a sequence, not a string")
        self.items.append(Diagnostic(code, severity, message, span, tuple(labels), tuple(notes), tuple(help_lines)))


def render(diagnostics: Iterable[Diagnostic], sources: Mapping[str, str], color: bool = False) -> str:
    """Lay out findings for a terminal, in the given order, separated by blank lines.

    ``sources`` maps a span's ``file`` to the whole text of that file; a file that is missing there is named without an
    excerpt. Control characters are shown escaped, tabs as spaces, and long lines are cut around what is marked.
    """
    from tesserac.diagnostics_render import Renderer

    renderer = Renderer(sources, color)
    return "\n".join(renderer.diagnostic(d) for d in diagnostics)
