"""The dealer that serves a car: most visits, the fresh ones counting more; the clock alone changes nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.identity.domain.dealers import HALF_LIFE_DAYS, dealer_relations
from services.identity.domain.relations import DAY_US, Counted, Evidence, Relation, month_of

CAR = 7
KINDS = st.sampled_from([Evidence.SERVICED_AT, Evidence.FILED_AT, Evidence.SOLD_AT])


def at(kind: Evidence, dealer: int, day: int) -> Counted:
    time = day * DAY_US + 1
    month, bit = month_of(time)
    return Counted(kind, CAR, dealer, f"dealer:D{dealer}", month, bit, 1, time, time)


ROWS = st.lists(st.builds(at, KINDS, st.integers(1, 3), st.integers(18_000, 19_500)), max_size=9)


def served(rows: list[Counted]) -> list[Relation]:
    return [r for r in dealer_relations(CAR, rows) if r.kind == "serviced_by"]


def serving(rows: list[Counted]) -> tuple[int, str]:
    return next(((r.object[1], r.reason) for r in served(rows) if r.valid_to_us == 0), (0, ""))


@given(ROWS, st.randoms(use_true_random=False))
def test_order_does_not_matter(rows: list[Counted], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert dealer_relations(CAR, rows) == dealer_relations(CAR, shuffled)


@given(ROWS, st.integers(0, 1000))
def test_time_that_goes_by_changes_nobodys_rank(rows: list[Counted], days: int) -> None:
    later = [at(row.kind, row.object, row.first_us // DAY_US + days) for row in rows]
    assert [(r.object, r.reason) for r in served(rows)] == [(r.object, r.reason) for r in served(later)]


@given(ROWS)
def test_one_dealer_serves_at_most_and_shares_add_up_to_less_than_one(rows: list[Counted]) -> None:
    found = served(rows)
    assert {r.object[1] for r in found} == {row.object for row in rows if row.kind is not Evidence.SOLD_AT}
    assert 1 >= sum(r.valid_to_us == 0 for r in found)
    assert 1.0001 >= sum(r.confidence for r in found)
    assert not any(r.stated for r in found)


def test_a_visit_counts_half_after_the_half_life() -> None:
    old, new = 18_000, 18_000 + int(HALF_LIFE_DAYS)
    twice_before = [at(Evidence.SERVICED_AT, 1, old), at(Evidence.SERVICED_AT, 1, old + 1)]
    assert (1, "MOST_VISITS") == serving([*twice_before, at(Evidence.SERVICED_AT, 2, new)])
    assert (2, "MOST_VISITS") == serving([*twice_before, at(Evidence.SERVICED_AT, 2, new + 30)])


def test_ties_go_to_the_latest_visit_or_to_nobody_and_say_so() -> None:
    one, other = at(Evidence.SERVICED_AT, 1, 18_000), at(Evidence.SERVICED_AT, 2, 18_000)
    assert (2, "LATEST_VISIT") == serving([one, other._replace(last_us=other.last_us + 5)])
    assert ["TIED", "TIED"] == [r.reason for r in served([one, other])]
    assert (0, "") == serving([one, other])


def test_files_alone_make_a_weak_guess_that_a_visit_outweighs() -> None:
    files = [at(Evidence.FILED_AT, 1, 18_000 + n) for n in range(4)]
    assert (1, "ONLY_FILES") == serving(files)
    assert (2, "MOST_VISITS") == serving([*files, at(Evidence.SERVICED_AT, 2, 18_001)])
    assert served(files)[0].confidence < served([at(Evidence.SERVICED_AT, 2, 18_001)])[0].confidence


def test_a_car_that_is_sold_again_was_sold_by_the_first_dealer_until_then() -> None:
    rows = [at(Evidence.SOLD_AT, 2, 18_300), at(Evidence.SOLD_AT, 1, 18_000)]
    assert [(1, 18_000, 18_300), (2, 18_300, 0)] == [
        (r.object[1], r.valid_from_us // DAY_US, r.valid_to_us // DAY_US) for r in dealer_relations(CAR, rows)
    ]
