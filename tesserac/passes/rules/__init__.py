"""The simplifier's rules, in the order in which they are tried at an equation."""

from __future__ import annotations

from functools import lru_cache

import tesserac.ops  # noqa: F401  (registers the specs that rules ask for)
from tesserac.ops.base import spec_of
from tesserac.passes.rules import algebra, constants, contractions, pieces, reductions, transforms, views
from tesserac.passes.rules.rule import Rule

RULES: tuple[Rule, ...] = (*constants.RULES, *views.RULES, *pieces.RULES, *algebra.RULES, *reductions.RULES,
                           *contractions.RULES, *transforms.RULES)


@lru_cache(maxsize=65536)
def rules_for(op: str, above: frozenset[str], names: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    """The rules, in order, for an op with operands made by the ops ``above``; ``names`` picks some (none: all)."""
    kind = spec_of(op).kind
    return tuple(rule for rule in RULES if rule.applies_to(op, kind, above) and (not names or rule.name in names))
