"""The LALR(1) automaton at work: shifts, reductions and recovery from errors."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tesserac.parser import friendly
from tesserac.parser.report import Report
from tesserac.parser.tokens import Token

__all__ = ["MAX_DEPTH", "Actions", "Parser", "Tables", "load_tables"]

MAX_DEPTH = 200
"""Deepest syntax tree, so that every later stage may recurse over it."""

_FLAT = frozenset(
    ["arguments", "expression", "file", "keyword", "parenthesised", "params", "simple_line", "stmt", "suite"]
)
"""Actions whose result adds no level to the tree."""
_LINE_START = frozenset(["NEWLINE", "INDENT", "DEDENT"])


class Rule(NamedTuple):
    """One production: see `tesserac.parser.generate.grammar_tables`."""

    symbol: str
    length: int
    action: str | None
    single: bool
    take: tuple[tuple[int, bool], ...]
    passes: bool


class Tables(NamedTuple):
    """The automaton."""

    starts: dict[str, int]
    accept: dict[str, int]
    states: list[dict[str, int]]
    rules: list[Rule]
    shortcuts: dict[tuple[int, int, str], int]


class Actions(Protocol):
    """Makes nodes: one method per action name, called with the children and the first and last token."""

    def act(self, name: str, children: list[Any], first: Token | None, last: Token | None) -> Any:
        """The value of a reduction."""


@cache
def load_tables() -> Tables:
    """The tables shipped with the package."""
    data = json.loads(Path(__file__).with_name("tables.json").read_bytes())
    rules = []
    for symbol, length, action, single, take in data["rules"]:
        passes = bool(single) and take == [[0, 0]] and length == 1
        rules.append(Rule(symbol, length, action, bool(single), tuple((i, bool(s)) for i, s in take), passes))
    return Tables(data["starts"], data["accept"], data["states"], rules, {})


class Parser:
    """One parse of one token list."""

    def __init__(self, tables: Tables, actions: Actions, report: Report) -> None:
        self._tables = tables
        self._actions = actions
        self._report = report
        self._states: list[int] = []
        self._values: list[Any] = []
        self._extents: list[tuple[Token | None, Token | None]] = []
        self._depths: list[int] = []
        self._tokens: list[Token] = []
        self._resumed = -1

    def parse(self, tokens: list[Token], start: str) -> Any:
        """The value of the start symbol; None when an inline expression is malformed.

        ``tokens`` ends with ``$END`` and may be extended during recovery. Errors go to the report.
        """
        self._tokens = tokens
        self._states = [self._tables.starts[start]]
        rows, rules = self._tables.states, self._tables.rules
        accept = self._tables.accept[start]
        index = 0
        while True:
            token = tokens[index]
            action = rows[self._states[-1]].get(token.type)
            if action is None:
                if token.type == "$END" and self._states[-1] == accept:
                    return self._values[-1]
                resume = self._recover(index)
                if resume is None:
                    return None
                index = resume
            elif action >= 0:
                self._push(action, token, token, token, 0)
                index += 1
            elif rules[-1 - action].passes:
                self._states[-1] = self._pass_on(self._states[-2], self._states[-1], token.type)
            elif not self._reduce(rules[-1 - action]):
                self._too_deep(token)
                resume = self._resume(index, False)
                if resume is None:
                    return None
                index = resume

    def accepts(self, kind: str) -> bool:
        """Whether a token of this type could come next."""
        states = list(self._states)
        rows, rules = self._tables.states, self._tables.rules
        while True:
            action = rows[states[-1]].get(kind)
            if action is None:
                return False
            if action >= 0:
                return True
            rule = rules[-1 - action]
            if rule.length:
                del states[-rule.length :]
            states.append(rows[states[-1]][rule.symbol])

    def _push(self, state: int, value: Any, first: Token | None, last: Token | None, depth: int) -> None:
        self._states.append(state)
        self._values.append(value)
        self._extents.append((first, last))
        self._depths.append(depth)

    def _pass_on(self, below: int, top: int, kind: str) -> int:
        """The state that a run of reductions leads to in which one child stands for its parent.

        Each replaces the top state only, by one that depends on the state below, so the run's end can be remembered;
        an operand climbs a dozen levels of precedence this way.
        """
        key = (below, top, kind)
        known = self._tables.shortcuts.get(key)
        if known is not None:
            return known
        rows, rules = self._tables.states, self._tables.rules
        while True:
            action = rows[top].get(kind, 0)
            if action >= 0 or not rules[-1 - action].passes:
                break
            top = rows[below][rules[-1 - action].symbol]
        self._tables.shortcuts[key] = top
        return top

    def _reduce(self, rule: Rule) -> bool:
        """Apply a rule; returns False when the tree became too deep."""
        states = self._states
        length = rule.length
        first = last = None
        depth = 0
        values: list[Any] = []
        if length:
            values = self._values[-length:]
            extents = self._extents[-length:]
            first, last = extents[0][0], extents[-1][1]
            if first is None or last is None:  # only a statement dropped during recovery has no extent
                first = next((e[0] for e in extents if e[0] is not None), None)
                last = next((e[1] for e in reversed(extents) if e[1] is not None), None)
            depth = max(self._depths[-length:])
            del states[-length:], self._values[-length:], self._extents[-length:], self._depths[-length:]
        children = _children(rule, values)
        value: Any = children
        if rule.action is not None:
            if rule.single and len(children) == 1:
                value = children[0]
            else:
                value = self._actions.act(rule.action, children, first, last)
                depth += rule.action not in _FLAT
        self._push(self._tables.states[states[-1]][rule.symbol], value, first, last, depth)
        return depth <= MAX_DEPTH

    # ---------------------------------------------------------------------------------------------- recovery

    def _recover(self, index: int) -> int | None:
        """Report the error at a token and return where to go on; None for an inline expression."""
        tokens = self._tokens
        token = tokens[index]
        at_start = index == 0 or tokens[index - 1].type in _LINE_START
        if token.type != "ERROR":
            friendly.report(friendly.Site(tokens, index, self.accepts, self._report))
        if token.type == "$END":
            return None
        # A line that fails at its first token may still be a statement, if what failed is the line above: a header
        # without its block, or a decorator without its function.
        complete = self.accepts("pass")
        if complete:
            self._settle()
        return self._resume(index, at_start and not complete and index != self._resumed)

    def _settle(self) -> None:
        """Finish the statement above, whose reductions wait for a token that starts another."""
        while True:
            action = self._tables.states[self._states[-1]]["pass"]
            if action >= 0:
                return
            self._reduce(self._tables.rules[-1 - action])

    def _resume(self, index: int, retry: bool) -> int | None:
        """Drop the statement under way; ``retry`` reads the token again, else the rest of its line is skipped."""
        tokens, rows = self._tokens, self._tables.states
        while self._states and "stmt" not in rows[self._states[-1]]:
            self._states.pop()
            if not self._states:
                return None
            self._values.pop()
            self._extents.pop()
            self._depths.pop()
        skipped = friendly.skips_block(tokens, index)
        if not retry and tokens[index].type != "INDENT":
            while tokens[index].type not in ("NEWLINE", "$END", "DEDENT"):
                index += 1
            index += tokens[index].type == "NEWLINE"
        if tokens[index].type == "INDENT":
            if not skipped:
                tokens[index:index] = _header(tokens[index])
                return index
            index = _after_block(tokens, index)
        self._resumed = index
        self._push(rows[self._states[-1]]["stmt"], [], None, None, 0)
        return index

    def _too_deep(self, token: Token) -> None:
        self._report.error(
            "T0141",
            f"expression or block is nested more than {MAX_DEPTH} levels deep",
            token.span(self._report.file),
            notes=("every operator of a chain such as a + b + c is a level",),
            help=("name parts of it in assignments of their own, or use sum([...])",),
        )


def _children(rule: Rule, values: list[Any]) -> list[Any]:
    take = rule.take
    if take and take[0] == (0, True):
        # A growing list: its head is owned by the stack alone, so it is extended in place.
        children: list[Any] = values[0]
        take = take[1:]
    else:
        children = []
    for index, splice in take:
        if index < 0:
            children.append(None)
        elif splice:
            children.extend(values[index])
        else:
            children.append(values[index])
    return children


def _header(indent: Token) -> list[Token]:
    """Tokens that make an orphaned block the body of something, so that it is still checked."""
    return [
        Token(kind, "", indent.line, indent.column, indent.line, indent.column)
        for kind in ("if", "NAME", ":", "NEWLINE")
    ]


def _after_block(tokens: list[Token], index: int) -> int:
    """Index behind the block that opens at ``index``."""
    depth = 0
    while True:
        kind = tokens[index].type
        depth += (kind == "INDENT") - (kind == "DEDENT")
        index += 1
        if depth == 0:
            return index
