"""Regenerate tables.json from tessera.lark: ``python -m tesserac.parser.generate``.

lark computes the LALR(1) table; what is stored is the bare automaton, so that a compilation need neither import lark
nor rebuild the table. The output depends on the grammar only (states are numbered in the order of a breadth-first walk,
rules and keys are sorted), and carries the grammar's hash, which a test compares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lark import Lark
from lark.grammar import Rule
from lark.lexer import Lexer, LexerState, TerminalDef, Token

GRAMMAR = Path(__file__).with_name("tessera.lark")
TABLES = Path(__file__).with_name("tables.json")
STARTS = ["file", "expression"]

_SHIFT = 0


class NoLexer(Lexer):
    """Stands in for the lexer; lark only builds the table here."""

    def __init__(self, conf: object) -> None:
        del conf

    def lex(self, lexer_state: LexerState, parser_state: object) -> Iterator[Token]:
        """Read nothing."""
        del lexer_state, parser_state
        return iter(())


def grammar_tables(grammar: str) -> dict[str, Any]:
    """The automaton of a grammar as plain data.

    ``starts`` maps a start symbol to its first state, ``accept`` to the state in which the end of input completes it.
    ``states`` holds one row per state: symbol to action, where an
    action n >= 0 is "go to state n" and n < 0 is "reduce by rule -n - 1". ``rules`` holds
    ``[symbol, length, action, single, take]``: ``action`` names the builder's method, ``single`` means that one child
    stands for the node, and ``take`` lists the children as ``[index, splice]``; an index of -1 is an absent optional
    part. Raises lark's GrammarError when the grammar is not LALR(1).
    """
    lark = Lark(grammar, parser="lalr", lexer=NoLexer, start=STARTS, maybe_placeholders=True)
    data, memo = lark.memo_serialize([TerminalDef, Rule])
    names = {}
    for entry in memo.values():
        if entry["__type__"] == "TerminalDef":
            names[entry["name"]] = entry["pattern"]["value"]
    return _automaton(data["parser"]["parser"], memo, names)


def _automaton(table: dict[str, Any], memo: dict[int, Any], names: dict[str, str]) -> dict[str, Any]:
    symbols = {key: names.get(name, name) for key, name in table["tokens"].items()}
    old_rows = {state: {symbols[key]: action for key, action in row.items()} for state, row in table["states"].items()}
    order: list[int] = [table["start_states"][start] for start in STARTS]
    number = {state: i for i, state in enumerate(order)}
    for state in order:
        for _, (kind, target) in sorted(old_rows[state].items(), key=lambda item: item[0]):
            if kind == _SHIFT and target not in number:
                number[target] = len(order)
                order.append(target)
    rules: list[list[Any]] = []
    rule_number: dict[str, int] = {}
    rows = []
    for state in order:
        row = {}
        for symbol, (kind, target) in sorted(old_rows[state].items(), key=lambda item: item[0]):
            if kind == _SHIFT:
                row[symbol] = number[target]
                continue
            rule = _rule(memo[target["@"]])
            key = json.dumps(rule) + json.dumps(memo[target["@"]]["expansion"])
            if key not in rule_number:
                rule_number[key] = len(rules)
                rules.append(rule)
            row[symbol] = -1 - rule_number[key]
        rows.append(row)
    return {
        "accept": {start: number[table["end_states"][start]] for start in STARTS},
        "rules": rules,
        "starts": {start: number[table["start_states"][start]] for start in STARTS},
        "states": rows,
    }


def _rule(rule: dict[str, Any]) -> list[Any]:
    """``[symbol, length, action, single, take]`` of one of lark's rules, as lark's own tree builder would treat it."""
    options, expansion = rule["options"], rule["expansion"]
    symbol = rule["origin"]["name"]
    absent = [0] * (len(expansion) + 1)
    if options["empty_indices"]:
        flags = "".join(str(int(flag)) for flag in options["empty_indices"])
        absent = [len(run) for run in flags.split("0")]
    take: list[list[int]] = []
    for index, part in enumerate(expansion):
        take.extend([-1, 0] for _ in range(absent[index]))
        terminal = part["__type__"] == "Terminal"
        if terminal and part["filter_out"] and not options["keep_all_tokens"]:
            continue
        take.append([index, int(not terminal and part["name"].startswith("_"))])
    take.extend([-1, 0] for _ in range(absent[-1]))
    splice = symbol.startswith("_")
    single = bool(options["expand1"]) and not rule["alias"]
    return [symbol, len(expansion), None if splice else rule["alias"] or symbol, int(single), take]


def render_tables(grammar: str) -> str:
    """The text of tables.json for a grammar."""
    tables = {"grammar": hashlib.sha256(grammar.encode()).hexdigest(), **grammar_tables(grammar)}
    lists = {key: tables.pop(key) for key in ("rules", "states")}
    parts = [f'"{key}":{_compact(value)}' for key, value in tables.items()]
    for key, rows in lists.items():
        parts.append(f'"{key}":[\n' + ",\n".join(_compact(row) for row in rows) + "\n]")
    return "{" + ",\n".join(parts) + "}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def main() -> None:
    """Write tables.json."""
    TABLES.write_text(render_tables(GRAMMAR.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
