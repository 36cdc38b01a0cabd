"""Quiet hours, suggestions, merged people, explanations and the fold of the report."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.domain.deciding import ALL_BITS, OUTCOMES
from services.orchestrator.domain.explaining import Decision, explain
from services.orchestrator.domain.merging import superfluous
from services.orchestrator.domain.quiet_hours import QuietHours
from services.orchestrator.domain.reporting import Cell, fold
from services.orchestrator.domain.suggesting import Term, combine, cover, leaking, significant, words
from services.orchestrator.domain.themes import PersonId
from services.orchestrator.offers.definitions import OfferId
from services.orchestrator.themes.definitions import Band, Budget, Goal, Pacing, Schedule, ThemeDefinition

CHINA = 8.0
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("now", "earliest"),
    [
        ("2026-03-01T12:59:59+00:00", "2026-03-01T12:59:59+00:00"),  # 20:59:59 in China
        ("2026-03-01T13:00:00+00:00", "2026-03-02T01:00:00+00:00"),  # 21:00 waits for 09:00
        ("2026-03-01T18:30:00+00:00", "2026-03-02T01:00:00+00:00"),  # past midnight there
        ("2026-03-02T01:00:00+00:00", "2026-03-02T01:00:00+00:00"),
    ],
)
def test_the_night_in_china_ends_at_nine(now: str, earliest: str) -> None:
    night = QuietHours.parse("21:00-09:00", CHINA)
    assert night
    assert datetime.fromisoformat(earliest) == night.earliest(datetime.fromisoformat(now))


@given(moments, st.sampled_from(["21:00-09:00", "12:00-14:00", "00:00-00:01", "23:59-23:58"]), st.integers(-12, 14))
def test_waiting_for_the_end_of_quiet_hours_ends_it_and_takes_less_than_a_day(now: datetime, window: str, zone: int) -> None:
    quiet = QuietHours.parse(window, zone)
    assert quiet
    earliest = quiet.earliest(now)
    assert timedelta() <= earliest - now < timedelta(days=1)
    assert earliest == quiet.earliest(earliest)


@pytest.mark.parametrize("window", ["21-9", "25:00-09:00", "09:00-09:00", "21:00–09:00", " "])
def test_a_window_that_is_none_is_refused(window: str) -> None:
    with pytest.raises(ValueError, match=r"must be like|the same"):
        QuietHours.parse(window, CHINA)


def test_tags_that_follow_from_the_outcome_are_found_through_definitions() -> None:
    tags = {
        "offer_answer": "",
        "is_new_lead": "offer_answer IS NULL",
        "fresh": "NOT is_new_lead",
        "score_band": "CASE WHEN lead_score >= 800 THEN 'A' END",
        "job": "",
        "remark": "job = 'offer_answer'",
    }
    leaks = leaking(tags, {"lead_score"}, ["offer_answer = 'yes'"])
    assert {"job", "remark"} == set(tags) - leaks


def test_what_is_counted_from_the_events_of_the_outcome_is_left_out_and_what_a_record_says_is_not() -> None:
    tags = {
        "offer_answer": "LAST(answer) FILTER (WHERE event = 'Offer Answered')",
        "answers": "COUNT(*) FILTER (WHERE event IN ('Survey Answered', 'Offer Answered'))",
        "surveys": "COUNT(*) FILTER (WHERE event = 'Survey Answered')",
        "opens": "COUNT(*) FILTER (WHERE event = 'App Opened')",
        "previous_outcome": "LAST(previous_outcome) FILTER (WHERE event = 'Record Updated')",
        "job": "LAST(job) FILTER (WHERE event = 'Record Updated')",
    }
    leaks = leaking(tags, {"previous_outcome"}, ["offer_answer = 'yes'"])
    assert {"opens", "job"} == set(tags) - leaks


def test_words_of_a_predicate_leave_literals_out() -> None:
    assert {"job", "and", "年龄"} == words("job = 'it''s a job' AND 年龄 > 3")


def test_only_strong_terms_of_clean_tags_are_kept_strongest_first() -> None:
    good = Term("job", "job = 'student'", 100, 2.0, 9.0)
    better = replace(good, predicate="job = 'retired'", z_score=12.0)
    weak = [replace(good, z_score=2.9), replace(good, lift=1.1), replace(good, support=5), replace(good, tag="Answer")]
    assert [better, good] == significant([good, *weak, better], {"answer"})


def test_the_smallest_set_that_holds_enough_is_chosen() -> None:
    probability = np.array([0.5, 0.5, 0.4, 0.01, 0.01, 0.01])
    everybody, best, third, worthless = (
        np.array([1, 1, 1, 1, 1, 1], bool),
        np.array([1, 1, 0, 0, 0, 0], bool),
        np.array([0, 0, 1, 0, 0, 0], bool),
        np.array([0, 0, 0, 1, 0, 0], bool),
    )
    assert [1, 2] == cover(np.array([everybody, best, third, worthless]), probability, 0.9)
    assert [0] == cover(np.array([everybody, worthless]), probability, 0.9)
    assert [] == cover(np.empty((0, 6), bool), probability, 0.9)


@given(st.integers(0, 2**32), st.integers(0, 8), st.floats(0.1, 1.0))
def test_a_cover_reaches_the_share_whenever_all_terms_together_do_with_room(seed: int, terms: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    membership, probability = draw.random((terms, 50)) < 0.3, draw.random(50)
    chosen = cover(membership, probability, share)
    assert sorted(set(chosen)) == chosen
    assert chosen == cover(membership, probability, share)
    reached = probability[membership[chosen].any(axis=0)].sum() if chosen else 0.0
    possible = probability[membership.any(axis=0)].sum()
    # Terms that bring less than 1 % each are left out.
    assert reached >= min(share * probability.sum(), possible - 0.01 * terms * probability.sum()) - 1e-9


def test_a_suggestion_reads_as_eligible_and_any_of_the_terms() -> None:
    assert "(a IS NULL) AND ((x = 1) OR (y = 2))" == combine("a IS NULL", ["x = 1", "y = 2"])
    assert "a IS NULL" == combine("a IS NULL", [])


def test_of_one_human_the_push_handed_over_first_stays_else_the_best_placed() -> None:
    assert {2} == superfluous([(2, 1)], {1: (False, 1), 2: (False, 2)})
    assert {1} == superfluous([(2, 1)], {1: (False, 1), 2: (True, 2)})
    assert set() == superfluous([(2, 1)], {1: (True, 1), 2: (True, 2)})
    assert {3, 4} == superfluous([(3, 9), (4, 9), (9, 2)], {2: (True, 7), 3: (False, 1), 4: (False, 2), 5: (False, 3)})
    assert set() == superfluous([(2, 1)], {2: (False, 5)})


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12))), st.dictionaries(st.integers(1, 12), st.booleans()))
def test_after_dropping_no_human_waits_for_a_second_push(aliases: list[tuple[int, int]], done: dict[int, bool]) -> None:
    pushes = {person: (handed, person) for person, handed in done.items()}
    dropped = superfluous(aliases, pushes)
    assert not any(pushes[person][0] for person in dropped)
    left = [{person} for person in range(1, 13)]
    for a, b in aliases:
        joined = next(s for s in left if a in s) | next(s for s in left if b in s)
        left = [s for s in left if not s & joined] + [joined]
    for human in left:
        planned = [p for p in human if p in pushes and p not in dropped]
        waiting = [p for p in planned if not pushes[p][0]]
        assert len(waiting) <= (0 if len(planned) > len(waiting) else 1)


STATED = ThemeDefinition(
    title="t",
    words="",
    audience="a",
    goal=Goal("e", "", "", 30, 0),
    offers=(OfferId(1),),
    language="en",
    values=(),
    purpose="marketing",
    bands=(Band(0, ("app", "dealer")), Band(800, ("dealer",))),
    model="m",
    budget=Budget(10, 2, None, {"app": 3, "dealer": 500}, Pacing.ASAP),
    schedule=Schedule(None, None),
    priority=500,
    holdout_share=0.1,
    exclusion=None,
    waves=None,
)
PUSHED = Decision(
    PersonId(7), "push", "app", 612.3, 0.1161, "ab", datetime.now(UTC), 3, 0, ALL_BITS, 0, 1, "D001"
)  # fmt: skip


def test_an_explanation_names_the_rules_in_order_and_stops_at_the_one_that_decided() -> None:
    assert [
        "consent: closes none",
        "frequency: 1 of at most 3 pushes lately",
        "score: 612 from m, probability 0.1161",
        "channel: app, open are app, dealer; WeChat carries no marketing; at most 2 calls; from score 0 on: app, dealer",
        "budget: place 3 of at most 10",
        "holdout: not kept out, share 0.1",
    ] == explain(PUSHED, STATED, 3)
    assert ["consent: closes everything"] == explain(
        replace(PUSHED, outcome="opted_out", channel="", opted_out=ALL_BITS), STATED, 3
    )
    assert "score: none from m" == explain(replace(PUSHED, outcome="no_score", channel="", score=-1), STATED, 3)[-1]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_has_an_explanation(outcome: str) -> None:
    assert explain(replace(PUSHED, outcome=outcome), STATED, 3)


def test_a_report_counts_everybody_chosen_and_charges_what_was_accepted() -> None:
    report = fold(
        [
            Cell("push", "app", 1, True, 4, 10, 2),
            Cell("push", "app", 1, True, 7, 5, 0),
            Cell("push", "app", 4, True, 6, 3, 3),
            Cell("push", "dealer", 4, True, 2, 4, 0),
            Cell("holdout", "", 4, False, 0, 8, 1),
            Cell("budget", "", 0, False, 0, 100, 0),
        ],
        {"app": 3, "dealer": 500},
    )
    assert {"push": 22, "holdout": 8, "budget": 100} == report.decisions
    assert (22, 5, 8, 1) == (report.pushed.persons, report.pushed.goals, report.holdout.persons, report.holdout.goals)
    [app, dealer] = report.funnels
    assert (18, 13, 13, 3, 5, 5) == (app.requested, app.accepted, app.delivered, app.answered, app.goals, app.failed)
    assert (4, 0) == (dealer.requested, dealer.accepted)
    assert 39 == report.cost_fen
    assert [0, 15, 0, 0, 7] == [band.persons for band in report.bands]
    assert 5 / 22 - 1 / 8 == pytest.approx(report.effect.value)
