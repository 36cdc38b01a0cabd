"""Intervals and what follows from evidence: the same in any order, one owner at a time, strong words outlive weak ones."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.identity.domain.relations import (
    DAY_US,
    LEAST_DAYS,
    MOST_PEOPLE,
    Counted,
    Evidence,
    evidence_of,
    month_of,
    support,
    vehicle_relations,
)
from services.identity.domain.tenures import OPEN, Start, Tenure, dated_back, tenures

SALE, WORD = 3, 2
CAR = 77
STARTS = st.lists(st.builds(Start, st.integers(1, 12), st.sampled_from([WORD, SALE]), st.integers(1, 4)), max_size=8)


def holder(held: list[Tenure], at: int) -> int:
    return next((tenure.holder for tenure in held if tenure.holds_at(at)), 0)


@given(STARTS, st.randoms(use_true_random=False))
def test_tenures_are_the_same_in_any_order_and_however_often_told(starts: list[Start], random: object) -> None:
    shuffled = starts + starts[:2]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert tenures(starts) == tenures(shuffled)


@given(STARTS)
def test_nobody_holds_beside_another_and_at_most_the_last_still_does(starts: list[Start]) -> None:
    held = tenures(starts)
    assert all(one.to_us <= other.from_us and one.to_us != OPEN for one, other in pairwise(held))
    assert all(tenure.to_us == OPEN or tenure.from_us < tenure.to_us for tenure in held)
    assert all(one.holder != other.holder or one.to_us < other.from_us for one, other in pairwise(held))


@given(STARTS, st.integers(0, 14))
def test_the_holder_is_whom_the_strongest_and_among_those_the_latest_word_names(starts: list[Start], at: int) -> None:
    so_far = [start for start in starts if start.at_us <= at]
    best = max(((s.strength, s.at_us) for s in so_far), default=(0, 0))
    names = {s.holder for s in so_far if (s.strength, s.at_us) == best}
    assert (names.pop() if len(names) == 1 else 0) == holder(tenures(starts), at)


@given(STARTS, st.integers(1, 12), st.integers(1, 4))
def test_a_weak_word_never_ends_what_a_sale_began(starts: list[Start], at: int, who: int) -> None:
    sales = [start for start in starts if start.strength == SALE]
    after = tenures([*sales, Start(at, WORD, who)])
    for tenure in tenures(sales):
        assert tenure.holder == holder(after, tenure.from_us)
        assert tenure.to_us in [other.to_us for other in after if other.holder == tenure.holder]


@given(STARTS, st.integers(13, 20), st.integers(1, 4))
def test_a_later_sale_changes_nothing_before_it(starts: list[Start], at: int, who: int) -> None:
    before, after = tenures(starts), tenures([*starts, Start(at, SALE, who)])
    assert [holder(before, t) for t in range(13)] == [holder(after, t) for t in range(13)]
    assert who == holder(after, at)


@given(STARTS, st.integers(0, 20))
def test_the_first_sale_dates_the_first_owner_only(starts: list[Start], since: int) -> None:
    held = tenures(starts)
    back = dated_back(held, since)
    assert held[1:] == back[1:]
    if held:
        assert (held[0].holder, min(held[0].from_us, since or held[0].from_us)) == (back[0].holder, back[0].from_us)


PERSON_KINDS = st.sampled_from([Evidence.OWNS, Evidence.DRIVES, Evidence.PAYS_FOR, Evidence.BOUGHT, Evidence.SEEN_WITH])
TIMES = st.integers(18_000, 18_400).map(lambda day: day * DAY_US)


def counted(kind: Evidence, person: int, at_us: int, source: str = "app", since: int = 0) -> Counted:
    month, day = month_of(at_us)
    return Counted(kind, person, CAR, source, month, day, 1, at_us, at_us, since)


ROWS = st.lists(
    st.builds(counted, PERSON_KINDS, st.integers(1, 5), TIMES, st.sampled_from(["app", "dealer:D001"])), min_size=1, max_size=10
)


@given(ROWS, st.randoms(use_true_random=False))
def test_a_cars_relations_do_not_depend_on_the_order_of_evidence(rows: list[Counted], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert vehicle_relations(CAR, rows) == vehicle_relations(CAR, shuffled)


@given(ROWS)
def test_one_owner_at_a_time_and_everybody_who_was_stated_has_a_relation(rows: list[Counted]) -> None:
    found = vehicle_relations(CAR, rows)
    owns = sorted((r for r in found if r.kind == "owns"), key=lambda r: r.valid_from_us)
    assert all(0 < one.valid_to_us <= other.valid_from_us for one, other in pairwise(owns))
    assert all(0 < r.confidence < 1 for r in found)
    stated = {(row.kind.name.lower(), row.subject) for row in rows if row.kind in (Evidence.DRIVES, Evidence.PAYS_FOR)}
    assert stated <= {(r.kind, r.subject[1]) for r in found}
    assert all(r.valid_to_us == 0 or r.valid_from_us < r.valid_to_us for r in found)


def day(number: int) -> int:
    return (18_000 + number) * DAY_US


def test_use_makes_a_driver_after_some_days_and_only_while_the_car_is_anothers() -> None:
    owner = counted(Evidence.OWNS, 1, day(10))
    seen = [counted(Evidence.SEEN_WITH, 2, day(10 + n)) for n in range(LEAST_DAYS)]
    assert ["owns"] == [r.kind for r in vehicle_relations(CAR, [owner, *seen[:-1]])]
    assert ["owns", "drives"] == [r.kind for r in vehicle_relations(CAR, [owner, *seen])]
    assert [] == vehicle_relations(CAR, seen)
    assert ["owns"] == [r.kind for r in vehicle_relations(CAR, [owner, counted(Evidence.SEEN_WITH, 1, day(11)), owner])]


def test_a_crowd_around_a_car_drives_a_rental_not_each_others_car() -> None:
    owner = counted(Evidence.OWNS, 1, day(0))
    crowd = [counted(Evidence.SEEN_WITH, 2 + n, day(d)) for n in range(MOST_PEOPLE) for d in (1, 2)]
    assert {"owns"} == {r.kind for r in vehicle_relations(CAR, [owner, *crowd])}
    assert {"owns", "drives"} == {r.kind for r in vehicle_relations(CAR, [owner, *crowd[:-2]])}


def test_drivers_go_with_the_owner_who_sold_the_car() -> None:
    rows = [
        counted(Evidence.OWNS, 1, day(0)),
        counted(Evidence.DRIVES, 2, day(5)),
        counted(Evidence.BOUGHT, 3, day(50)),
        counted(Evidence.DRIVES, 4, day(60)),
    ]
    ends = {r.subject[1]: r.valid_to_us for r in vehicle_relations(CAR, rows) if r.kind == "drives"}
    assert {2: day(50), 4: OPEN} == ends


def test_two_who_both_claim_a_car_make_the_later_owner_less_sure() -> None:
    alone = vehicle_relations(CAR, [counted(Evidence.OWNS, 2, day(5))])
    disputed = vehicle_relations(
        CAR, [counted(Evidence.OWNS, 2, day(5)), counted(Evidence.OWNS, 1, day(0)), counted(Evidence.OWNS, 1, day(9))]
    )
    later = next(r for r in disputed if r.kind == "owns" and r.valid_to_us == OPEN)
    assert (2, True) == (later.subject[1], later.confidence < alone[0].confidence)


def test_more_days_and_sources_make_surer() -> None:
    rows = [counted(Evidence.OWNS, 1, day(n), source) for n in range(6) for source in ("app", "dealer:D001")]
    sure = [vehicle_relations(CAR, rows[:n])[0].confidence for n in range(1, 13)]
    assert sorted(set(sure)) == sure
    assert (6, 12, 12) == (support(rows).days, support(rows).sightings, support(rows).observations)


def test_events_are_evidence_by_their_name_and_whom_they_are_about() -> None:
    def shown(name: str, relation: str = "", **about: bool) -> list[Evidence]:
        return [*evidence_of(name, relation, **{"person": True, "vehicle": True, "dealer": True, **about})]

    assert [Evidence.BOUGHT, Evidence.SOLD_AT] == shown("Vehicle Sold", "owns")
    assert [Evidence.SEEN_WITH, Evidence.SERVICED_AT] == shown("Service Visit")
    assert [Evidence.PAYS_FOR, Evidence.FILED_AT] == shown("Record Updated", "pays_for")
    assert [Evidence.ADVISED_AT] == shown("Test Drive Completed")
    assert [] == shown("Test Drive Completed", dealer=False)
    assert [Evidence.ADVISED_AT] == shown("Record Updated", vehicle=False)
    assert [Evidence.SEEN_WITH] == shown("App Opened", dealer=False)
    assert [] == shown("App Opened", dealer=False, vehicle=False)
    assert [Evidence.SERVICED_AT] == shown("Service Completed", person=False)
