"""What the command line prints, and how: colour on a terminal, characters that cannot be shown escaped."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tesserac.diagnostics import Diagnostic, render

if TYPE_CHECKING:
    import click


@dataclass
class Console:
    """One run's output. ``sources`` are the texts that diagnostics quote; ``stage`` is what the compiler is doing.

    ``start``: the clock when the command line was read.
    """

    color: bool = False
    quiet: bool = False
    sources: dict[str, str] = field(default_factory=dict)
    stage: str = "the command line"
    start: float = field(default_factory=time.perf_counter)

    @classmethod
    def for_terminal(cls) -> Console:
        """Colour when standard error is a terminal and NO_COLOR is not set; no output can fail to encode."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
        return cls(color=sys.stderr.isatty() and not os.environ.get("NO_COLOR"))

    def say(self, text: str = "") -> None:
        """A line for the reader, dropped under ``--quiet``."""
        if not self.quiet:
            print(text)

    def show(self, text: str) -> None:
        """What the command was asked for, to standard output."""
        sys.stdout.write(text if text.endswith("\n") else text + "\n")

    def diagnostics(self, items: Iterable[Diagnostic]) -> None:
        """Renders findings on standard error; under ``--quiet`` only warnings and errors."""
        chosen = [d for d in items if not self.quiet or d.severity != "note"]
        if chosen:
            sys.stdout.flush()
            sys.stderr.write(render(chosen, self.sources, self.color))
            sys.stderr.flush()

    def error_line(self, message: str) -> None:
        """``error: message`` on standard error."""
        head = "\x1b[1;31merror\x1b[0m" if self.color else "error"
        print(f"{head}: {message}", file=sys.stderr)

    def usage_error(self, error: click.UsageError) -> None:
        """The message, then how to see the flags of the command it was meant for."""
        self.error_line(error.format_message())
        if error.ctx is not None:
            print(f"usage: {error.ctx.command.get_usage(error.ctx).removeprefix('Usage: ')}", file=sys.stderr)
            print(f"`{error.ctx.command_path} --help` lists all flags", file=sys.stderr)
