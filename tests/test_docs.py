"""The documentation is run: every command in a `console` block, every link, every unit of the language reference.

A `console` block holds commands after `$ ` and, if a command's output is shown, the output under it, where `...` stands
for any text. A command ends in `# exit N` where it is meant to fail. `<!-- long: make TARGET -->` before a block says
that the target runs it and CI does not. All blocks of a file run in order in one scratch copy of the checkout.

In docs/language.md every `python` block is compiled with `tesserac check`. A comment before it may say otherwise:
`<!-- flags: --dim B=8 -->` (checked with these), `<!-- error: T0401 -->` (it must be refused with that code), or
`<!-- fragment -->` (it cannot stand alone).
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from docs import generate
from tests.conftest import ROOT, Command, command_environment

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("README.md")),
]
LANGUAGE = ROOT / "docs" / "language.md"
_MARK = r"(?:^<!-- (?P<mark>[^\n]*) -->\n\n?)?"
_BLOCK = re.compile(_MARK + r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]\n]+\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it begins, the comment above it, its language and text."""

    page: Path
    line: int
    mark: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Shown:
    """A command as a page shows it: what is typed, the exit status, the output (None: not shown)."""

    command: str
    status: int
    output: str | None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start("kind")) + 1, match["mark"] or "", match["kind"], match["text"])
        for match in _BLOCK.finditer(text)
    ]


def commands(block: Block) -> list[Shown]:
    """The commands of a `console` block; a line that ends in a backslash goes on in the next."""
    found = []
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        match = re.match(r"((?:[^\n]*\\\n)*[^\n]*)\n(.*)", part, re.DOTALL)
        assert match, f"{block}: no command in {part!r}"
        typed, output = match[1], match[2]
        status = re.search(r"# exit (\d+)$", typed)
        found.append(Shown(typed, int(status[1]) if status else 0, output if output.strip() else None))
    return found


def matches(shown: str, printed: str) -> bool:
    """Whether the output shown, with `...` for any text, is the output printed."""
    pattern = ".*?".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def slug(heading: str) -> str:
    """The anchor that Markdown viewers give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder that looks like the checkout and whose commands may write what they like."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in {".git", ".venv", "build", "out"}:
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_do_what_the_page_shows(page: Path, scratch: Path, tmp_path: Path) -> None:
    environment = command_environment(tmp_path / "bin")
    for block in blocks(page):
        if block.kind != "console" or block.mark.startswith("long: "):
            continue
        assert commands(block), f"{block}: a console block without a `$ ` line"
        for shown in commands(block):
            done = subprocess.run(
                ["bash", "-c", shown.command], cwd=scratch, env=environment, capture_output=True, text=True, timeout=300
            )
            printed = done.stdout + done.stderr
            assert done.returncode == shown.status, f"{block}: `{shown.command}` gave {done.returncode}:\n{printed}"
            if shown.output is not None:
                assert matches(shown.output, printed), f"{block}: `{shown.command}` printed:\n{printed}"


def test_long_commands_name_the_target_that_runs_them() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        for block in blocks(page):
            if block.kind == "console" and block.mark.startswith("long: "):
                assert re.fullmatch(r"long: make ([a-z-]+).*", block.mark), f"{block}: {block.mark}"
                assert block.mark.split()[2] in targets, f"{block}: no such target"


def test_page_of_errors_is_the_catalogues() -> None:
    assert generate.PAGE.read_text(encoding="utf-8") == generate.page(), "`make docs` writes it anew"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for match in _LINK.finditer(page.read_text(encoding="utf-8")):
        target = (page.parent / match[1]).resolve() if match[1] else page
        assert target.exists(), f"{page.name}: {match[0]}"
        if match[2]:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert match[2] in map(slug, headings), f"{page.name}: {match[0]}"


@pytest.mark.parametrize("block", [b for b in blocks(LANGUAGE) if b.kind == "python" and b.mark != "fragment"], ids=str)
def test_units_of_the_language_reference_compile(block: Block, tesserac: Command, tmp_path: Path) -> None:
    unit = tmp_path / "unit.py"
    unit.write_text(block.text, encoding="utf-8")
    flags = block.mark.removeprefix("flags: ").split() if block.mark.startswith("flags: ") else []
    done = tesserac("check", unit, *flags)
    wanted = re.fullmatch(r"error: (T\d{4})", block.mark)
    if wanted:
        assert done.returncode == 1
        assert f"error[{wanted[1]}]" in done.stderr, f"{block}:\n{done.stderr}"
    else:
        assert done.returncode == 0, f"{block}:\n{done.stderr}"


def test_the_runner_notices_a_wrong_page(tmp_path: Path) -> None:
    """The checks above can fail: a wrong output, a wrong status and a missing prompt are each seen."""
    page = tmp_path / "page.md"
    text = "<!-- long: make demo -->\n```console\n$ false  # exit 1\n$ echo a \\\n  b\na ... c\n```\n"
    page.write_text(text, encoding="utf-8")
    (block,) = blocks(page)
    first, second = commands(block)
    assert (block.mark, block.line) == ("long: make demo", 2)
    assert (first.status, first.output) == (1, None)
    assert second.command == "echo a \\\n  b"
    assert second.output is not None
    assert matches(second.output, "a b c\n")
    assert not matches(second.output, "a b\n")
