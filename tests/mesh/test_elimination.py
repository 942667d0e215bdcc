"""Elimination finds what trying everything finds, ties included."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tesserac.passes.mesh.elimination import IMPOSSIBLE, Table, cost_of, minimise


def random_problem(rng: np.random.Generator, variables: int, tables: int) -> tuple[list[int], list[Table]]:
    """Small numbers, so that ties are common, and some combinations that are not allowed."""
    domains = [int(rng.integers(1, 5)) for _ in range(variables)]
    found = []
    for _ in range(tables):
        scope = sorted(rng.choice(variables, int(rng.integers(1, min(4, variables) + 1)), replace=False).tolist())
        shape = tuple(domains[v] for v in scope)
        cost = rng.integers(0, 4, shape)
        cost[rng.random(shape) < 0.15] = IMPOSSIBLE
        found.append(Table.of(scope, cost, rng.integers(0, 3, shape), rng.integers(0, 3, shape)))
    return domains, found


def tried(domains: list[int], tables: list[Table]) -> tuple[int, int, int, int]:
    """The least (nanoseconds, collectives, bytes, sum of numbers) of all combinations."""
    return min((*cost_of(c, tables), sum(c)) for c in itertools.product(*map(range, domains)))


@pytest.mark.parametrize("seed", range(60))
def test_elimination_is_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    domains, tables = random_problem(rng, int(rng.integers(1, 7)), int(rng.integers(1, 9)))
    found = minimise(domains, tables)
    best = tried(domains, tables)
    assert found.exact
    assert found.possible == (best[0] < IMPOSSIBLE)
    if found.possible:
        assert (*cost_of(found.choices, tables), sum(found.choices)) == best
        assert found.nanoseconds == best[0]


def test_the_order_of_variables_and_tables_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        domains, tables = random_problem(rng, 6, 7)
        place = rng.permutation(6)
        moved = [0] * 6
        for v, p in enumerate(place):
            moved[p] = domains[v]
        other = []
        for t in tables:
            order = sorted(range(len(t.scope)), key=lambda a: place[t.scope[a]])
            parts = [part.transpose(order) for part in (t.nanoseconds, t.collectives, t.bytes)]
            other.append(Table.of(sorted(int(place[v]) for v in t.scope), *parts))
        first, second = minimise(domains, tables), minimise(moved, other[::-1])
        assert first.nanoseconds == second.nanoseconds
        if first.possible:
            assert cost_of(first.choices, tables) == cost_of(second.choices, other)


def test_bytes_beyond_the_packing_still_decide() -> None:
    huge = 1 << 60
    tables = [Table.of([0], [5, 5, 5], [1, 1, 0], [huge, huge // 2, huge]), Table.of([0, 1], np.zeros((3, 900)))]
    assert minimise([3, 900], tables).choices == (2, 0)
    assert minimise([2, 900], [Table.of([0], [5, 5], [1, 1], [huge, huge // 2])]).choices == (1, 0)


def test_a_chain_of_thousands_stays_narrow() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    tables = [Table.of([i, i + 1], rng.integers(0, 1000, (4, 4))) for i in range(n - 1)]
    found = minimise([4] * n, tables)
    least = np.zeros(4, np.int64)
    for table in tables:
        least = (least[:, None] + table.nanoseconds).min(0)
    assert found.nanoseconds == least.min()
    assert found.width == 2


def test_variables_without_a_choice_cost_nothing() -> None:
    tables = [Table.of([0, i], [[1], [0]]) for i in range(1, 100)]
    found = minimise([2, *(1 for _ in range(99))], tables)
    assert found.choices == (1, *(0 for _ in range(99)))
    assert found.width == 1


def test_beyond_the_limit_a_choice_is_fixed_and_the_result_says_so() -> None:
    rng = np.random.default_rng(1)
    pairs = [*itertools.combinations(range(8), 2), *itertools.combinations(range(8, 16), 2)]
    tables = [Table.of(pair, rng.integers(0, 9, (3, 3))) for pair in pairs]
    exact, narrow = minimise([3] * 16, tables), minimise([3] * 16, tables, limit=100)
    assert exact.exact
    assert not narrow.exact
    assert narrow.largest <= 100
    assert narrow.nanoseconds >= exact.nanoseconds
    assert narrow.nanoseconds == cost_of(narrow.choices, tables)[0]
