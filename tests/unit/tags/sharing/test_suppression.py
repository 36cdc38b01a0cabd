"""No group below k ever appears, and what is left out cannot be computed from what is shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.tags.domain.sharing import Pseudonyms, groups, large_enough, shown_counts

KEY = bytes(range(32))
words = st.sampled_from(["", "a", "b", "c"])
numbers = st.sampled_from([math.nan, 0.0, 1.0, 2.5])
rows_of_two = st.lists(st.tuples(words, numbers), max_size=60)


def columns(rows: list[tuple[str, float]]) -> list[np.ndarray]:
    codes = {"": -1, "a": 0, "b": 1, "c": 2}
    return [np.array([codes[word] for word, _ in rows], np.int32), np.array([number for _, number in rows], np.float64)]


@given(rows_of_two, st.integers(1, 12))
def test_no_combination_that_fewer_than_k_share_is_shown_and_no_other_is_left_out(
    rows: list[tuple[str, float]], k: int
) -> None:
    # NaN is a value like any other here: nobody may be told apart by having none.
    combinations = [(word, "none" if math.isnan(number) else number) for word, number in rows]
    counted = Counter(combinations)
    expected = [counted[each] >= k for each in combinations]
    assert expected == large_enough(groups(columns(rows), len(rows)), k).tolist()


@given(rows_of_two)
def test_rows_are_grouped_exactly_by_what_they_have_in_common(rows: list[tuple[str, float]]) -> None:
    found = groups(columns(rows), len(rows)).tolist()
    combinations = [(word, "none" if math.isnan(number) else number) for word, number in rows]
    assert len(set(combinations)) == len(set(found)) == len(set(zip(combinations, found, strict=True)))


@given(st.integers(0, 30), st.integers(1, 10))
def test_an_audience_without_tags_is_one_group(size: int, k: int) -> None:
    assert [size >= k] * size == large_enough(groups([], size), k).tolist()


def test_many_columns_of_many_values_do_not_overflow() -> None:
    columns = [np.arange(1000, dtype=np.float64) % (7 + at) for at in range(20)] + [np.arange(1000, dtype=np.float64)] * 8
    assert 1000 == len(set(groups(columns, 1000).tolist()))


counts = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@given(st.lists(st.integers(1, 1000), max_size=30), st.integers(2, 50))
def test_no_count_below_k_is_shown(cells: list[int], k: int) -> None:
    shown = shown_counts(cells, k)
    assert all(count >= k for count, visible in zip(cells, shown, strict=True) if visible)


@given(st.lists(st.integers(1, 1000), max_size=30), st.integers(2, 50))
def test_what_is_hidden_is_never_one_cell_nor_fewer_than_k_persons(cells: list[int], k: int) -> None:
    hidden = [count for count, visible in zip(cells, shown_counts(cells, k), strict=True) if not visible]
    if hidden and sum(cells) >= k:
        assert (len(hidden) >= 2 and sum(hidden) >= k) or len(hidden) == len(cells)


@given(st.lists(st.integers(50, 1000), max_size=30))
def test_where_every_count_is_large_nothing_is_hidden(cells: list[int]) -> None:
    assert [True] * len(cells) == shown_counts(cells, 50)


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write a total as positive parts."""
    if parts == 1:
        yield (total,)
        return
    for first in range(1, total - parts + 2):
        for rest in compositions(total - first, parts - 1):
            yield (first, *rest)


def view(cells: tuple[int, ...], order: tuple[int, ...], k: int) -> dict[int, int]:
    """What a recipient sees when equal counts are hidden in this order."""
    shown = shown_counts([cells[at] for at in order], k)
    return {at: cells[at] for at, visible in zip(order, shown, strict=True) if visible}


@settings(max_examples=150, deadline=None)
@given(counts, st.integers(2, 5), st.randoms(use_true_random=False))
def test_whoever_knows_the_rules_the_total_and_which_values_occur_cannot_compute_a_hidden_count(
    cells: list[int], k: int, rnd
) -> None:  # type: ignore[no-untyped-def]
    true = tuple(cells)
    total, places = sum(true), list(range(len(true)))
    order = tuple(rnd.sample(places, len(places)))
    seen = view(true, order, k)
    hidden = [at for at in places if at not in seen]
    # Where nothing at all is shown and all are equal there is nothing left to hide behind.
    if total < k or not hidden or (not seen and len(set(true)) == 1):
        return
    possible: dict[int, set[int]] = {at: set() for at in hidden}
    for guess in compositions(total - sum(seen.values()), len(hidden)):
        world = list(true)
        for at, count in zip(hidden, guess, strict=True):
            world[at] = count
        if any(view(tuple(world), other, k) == seen for other in permutations(places)):
            for at, count in zip(hidden, guess, strict=True):
                possible[at].add(count)
    assert all(len(values) > 1 for values in possible.values())


ids = st.lists(st.integers(1, 2**32), unique=True, min_size=1, max_size=50)


@given(ids)
def test_a_person_has_one_pseudonym_in_a_share_and_another_in_every_other(persons: list[int]) -> None:
    makers = [
        Pseudonyms(KEY, "agency", 1),
        Pseudonyms(KEY, "insurer", 1),
        Pseudonyms(KEY, "agency", 2),
        Pseudonyms(bytes(32), "agency", 1),
    ]
    made = [maker.of(persons) for maker in makers]
    assert made[0] == Pseudonyms(KEY, "agency", 1).of(persons)
    assert 4 * len(persons) == len({name for names in made for name in names})
    assert {16} == {len(name) for names in made for name in names}


def test_a_recipients_name_cannot_run_into_what_stands_behind_it() -> None:
    assert Pseudonyms(KEY, "a", 1).of([1]) != Pseudonyms(KEY, "a" + "\0" * 7, 1).of([1])


@given(st.lists(st.text(max_size=5), unique=True, max_size=20))
def test_the_order_of_ties_is_the_shares_own_and_always_the_same(known: list[str]) -> None:
    order = Pseudonyms(KEY, "agency", 1).order(known)
    assert sorted(order) == list(range(len(known)))
    assert [known[at] for at in order] == [known[::-1][at] for at in Pseudonyms(KEY, "agency", 1).order(known[::-1])]
