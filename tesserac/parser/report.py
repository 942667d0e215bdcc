"""Collects syntax findings of one parse, bounded in number."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.diagnostics import Diagnostic, Diagnostics, Label, Span

__all__ = ["MAX_ERRORS", "Report", "TooManyErrors"]

MAX_ERRORS = 20
"""Errors after which a parse gives up: what follows is rarely news, and a hostile file must not cost minutes."""


class TooManyErrors(Exception):
    """Unwinds a parse that has reached `MAX_ERRORS`."""


class Report:
    """A bag in which the findings of lexer, parser and checks meet before they are sorted by place."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._bag = Diagnostics()
        self._errors = 0

    @property
    def has_errors(self) -> bool:
        """Whether any error was reported."""
        return self._errors > 0

    def error(
        self,
        code: str,
        message: str,
        span: Span,
        *,
        labels: Sequence[Label] = (),
        notes: Sequence[str] = (),
        help: Sequence[str] = (),
    ) -> None:
        """Record an error; raises `TooManyErrors` when it is one too many."""
        self._errors += 1
        if self._errors > MAX_ERRORS:
            raise TooManyErrors
        self._bag.error(code, message, span, labels=labels, notes=notes, help=help)

    def warning(
        self,
        code: str,
        message: str,
        span: Span,
        *,
        labels: Sequence[Label] = (),
        notes: Sequence[str] = (),
        help: Sequence[str] = (),
    ) -> None:
        """Record a warning."""
        self._bag.warning(code, message, span, labels=labels, notes=notes, help=help)

    def flush(self, diagnostics: Diagnostics) -> None:
        """Append everything to ``diagnostics``, in the order of the source."""
        items = sorted(self._bag.items, key=_place)
        diagnostics.items.extend(items)
        if self._errors > MAX_ERRORS:
            last = next(d for d in reversed(items) if d.severity == "error")
            diagnostics.error(
                "T0199",
                f"more than {MAX_ERRORS} syntax errors; the rest of the file was not looked at",
                last.span,
                help=("correct the errors above and run again",),
            )


def _place(d: Diagnostic) -> tuple[int, int]:
    return (d.span.line, d.span.column) if d.span else (0, 0)
