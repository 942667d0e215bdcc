"""The shipped automaton is the grammar's."""

from __future__ import annotations

import hashlib
import json
import logging

import pytest
from lark import Lark

from tesserac.parser.build import Builder
from tesserac.parser.generate import GRAMMAR, STARTS, TABLES, NoLexer, render_tables


def test_tables_match_the_grammar() -> None:
    """Regenerating gives the same bytes, and the hash names the grammar (run `python -m tesserac.parser.generate`)."""
    grammar = GRAMMAR.read_text(encoding="utf-8")
    shipped = TABLES.read_text(encoding="utf-8")
    assert render_tables(grammar) == shipped
    assert json.loads(shipped)["grammar"] == hashlib.sha256(grammar.encode()).hexdigest()


def test_grammar_has_no_conflicts(caplog: pytest.LogCaptureFixture) -> None:
    """lark settles a shift/reduce conflict in silence, unless asked; there must be none to settle."""
    with caplog.at_level(logging.DEBUG, logger="lark"):
        Lark(GRAMMAR.read_text(encoding="utf-8"), parser="lalr", lexer=NoLexer, start=STARTS, debug=True)
    assert [r.message for r in caplog.records if "conflict" in r.message.lower()] == []


def test_every_action_exists() -> None:
    """A rule that makes a node has a method in the builder."""
    for _, _, action, single, _ in json.loads(TABLES.read_text(encoding="utf-8"))["rules"]:
        if action and not single:
            assert callable(getattr(Builder, f"do_{action}")), action
