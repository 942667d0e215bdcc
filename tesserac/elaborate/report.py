"""Recording diagnostics without repeating them, and abandoning a statement after one."""

from __future__ import annotations

from collections.abc import Sequence

from tesserac.diagnostics import Diagnostics, Label, Span


class Failed(Exception):
    """A diagnostic has been recorded; the enclosing statement is abandoned and its targets are poisoned."""


class Abandoned(Exception):
    """A diagnostic has been recorded after which the whole entry cannot go on."""


class Report:
    """A diagnostics bag that drops repetitions.

    Entries of a unit share top-level statements and loops are unrolled, so the same fault is met many times; it is
    reported once per place and message.
    """

    def __init__(self, diagnostics: Diagnostics) -> None:
        self._diagnostics = diagnostics
        self._seen: set[tuple[str, str, Span | None]] = set()

    def mark(self) -> tuple[int, frozenset[tuple[str, str, Span | None]]]:
        """A state to which `rewind` can return."""
        return len(self._diagnostics.items), frozenset(self._seen)

    def rewind(self, mark: tuple[int, frozenset[tuple[str, str, Span | None]]]) -> None:
        """Forgets what was recorded since ``mark``, in an attempt that is about to be repeated."""
        del self._diagnostics.items[mark[0] :]
        self._seen = set(mark[1])

    def once(self, key: str) -> bool:
        """True the first time a remark of this kind is about to be made in the unit."""
        return self._first("", key, None)

    @property
    def has_errors(self) -> bool:
        """Whether an error has been recorded (by any stage)."""
        return self._diagnostics.has_errors

    def fail(
        self,
        code: str,
        message: str,
        span: Span | None,
        *,
        labels: Sequence[Label] = (),
        notes: Sequence[str] = (),
        help: Sequence[str] = (),
    ) -> Failed:
        """Records an error and returns the exception to raise."""
        self.error(code, message, span, labels=labels, notes=notes, help=help)
        return Failed()

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
        """Records an error."""
        if self._first(code, message, span):
            self._diagnostics.error(code, message, span, labels=labels, notes=notes, help=help)

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
        """Records a warning."""
        if self._first(code, message, span):
            self._diagnostics.warning(code, message, span, labels=labels, notes=notes, help=help)

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
        """Records a remark."""
        if self._first(code, message, span):
            self._diagnostics.note(code, message, span, labels=labels, notes=notes, help=help)

    def _first(self, code: str, message: str, span: Span | None) -> bool:
        key = (code, message, span)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True
