"""Quiet hours, caps, pacing, suggestions and explanations."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.quiet_hours import QuietHours, spans, zone_of
from services.orchestrator.arbiter import caps, pacing
from services.orchestrator.arbiter.deciding import DEFERRED, OUTCOMES, PROPOSED
from services.orchestrator.domain.channels import ALL_BITS, CHANNELS
from services.orchestrator.domain.explaining import Decision, explain
from services.orchestrator.domain.suggesting import Term, combine, cover, leaking, significant, words
from services.orchestrator.domain.themes import PersonId
from services.orchestrator.offers.definitions import OfferId
from services.orchestrator.themes.definitions import Band, Budget, Goal, Pacing, Schedule, ThemeDefinition

CHINA = ZoneInfo("Asia/Shanghai")
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


zones = st.sampled_from(["Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]).map(
    ZoneInfo
)


@given(moments, st.sampled_from(["21:00-09:00", "12:00-14:00", "00:00-00:01", "23:59-23:58", "01:30-02:30"]), zones)
def test_waiting_for_the_end_of_quiet_hours_ends_it_in_about_a_day(now: datetime, window: str, zone: ZoneInfo) -> None:
    quiet = QuietHours.parse(window, zone)
    assert quiet
    earliest = quiet.earliest(now)
    assert timedelta() <= earliest - now <= timedelta(days=1, hours=1)
    # Where clocks are put back, the hours may begin once more.
    assert earliest == quiet.earliest(earliest) or window == "01:30-02:30"
    begin = quiet.begin(earliest)
    assert begin > earliest
    assert begin == quiet.earliest(begin) or begin < quiet.earliest(begin)


def test_quiet_hours_are_on_the_clock_of_each_zone_whatever_the_season() -> None:
    night = QuietHours.parse("21:00-09:00", CHINA)
    now = datetime(2026, 7, 1, 12, 30, tzinfo=UTC)
    names = ["Asia/Shanghai", "Europe/Berlin", "America/New_York", "nowhere", "../etc/passwd"]
    ends = [end and end.hour for end, _ in spans(night, names, now)]
    assert [None, None, 13, None, None] == ends
    winter = datetime(2026, 1, 1, 20, 30, tzinfo=UTC)
    assert [1, 8, None] == [end and end.hour for end, _ in spans(night, names[:3], winter)]
    assert [(None, None)] * 2 == spans(None, names[:2], now)
    assert zone_of("nowhere") is None is zone_of("")


def pushes(*rows: tuple[int, int, int]) -> caps.Pushed:
    table = np.array(rows, np.int64).reshape(-1, 3)
    return caps.Pushed(table[:, 0], table[:, 1], table[:, 2])


def test_a_cap_opens_when_enough_pushes_have_left_its_window() -> None:
    day, now = caps.DAY_US, 100 * caps.DAY_US
    until, counted = caps.opens(
        {"any": (2, 7), "dealer": (1, 14)}, pushes((0, 0, now - day), (0, 1, now - 3 * day), (1, 2, now - 10 * day)), 3, now
    )
    assert [[now + 4 * day] * 8, [0, 0, now + 4 * day, *[0] * 5], [0] * 8] == until.tolist()
    assert [2, 0, 0] == counted.tolist()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 2, 7]), st.integers(1, 1000)), max_size=30),
    st.dictionaries(
        st.sampled_from(["any", "app", "dealer", "call_list"]), st.tuples(st.integers(1, 3), st.integers(1, 9)), min_size=1
    ),
)
def test_at_the_moment_that_caps_name_there_is_room_and_not_a_moment_before(
    rows: list[tuple[int, int, int]], table: dict[str, tuple[int, int]]
) -> None:
    now = 1000 * caps.DAY_US // 100
    given_pushes = [(row, channel, at * caps.DAY_US // 100) for row, channel, at in rows]
    until, _ = caps.opens(table, pushes(*given_pushes), 4, now)

    def room(row: int, channel: int, moment: int) -> bool:
        return all(
            sum(r == row and at > moment - days * caps.DAY_US and name in ("any", CHANNELS[c]) for r, c, at in given_pushes)
            < most
            for name, (most, days) in table.items()
            if name in ("any", CHANNELS[channel])
        )

    for row in range(4):
        for channel in (0, 2, 5, 7):
            opens = int(until[row, channel])
            assert room(row, channel, max(opens, now))
            assert opens <= now or not room(row, channel, opens - 1)


@given(st.integers(0, 1000), st.integers(1, 30), st.randoms())
def test_even_shares_spend_all_by_the_last_day_and_never_more(total: int, days: int, draw: Any) -> None:
    spent = 0
    for day in range(days):
        left, share = pacing.today_left(total, spent, 0, days - day)
        assert (total - spent, True) == (left, 0 <= share <= left)
        assert share <= -(-left // (days - day))
        today = share if day == days - 1 else draw.randint(0, share)
        assert pacing.today_left(total, spent, today, days - day) == (left - today, share - today)
        spent += today
    assert total == spent


def test_days_are_those_of_the_house() -> None:
    now = datetime(2026, 3, 1, 15, 59, tzinfo=UTC)
    assert datetime(2026, 3, 1, 16, 0, tzinfo=UTC) == pacing.next_day(now, CHINA)
    assert 1 == pacing.days_left(now.astimezone(CHINA).date(), datetime(2026, 3, 1, 16, 0, tzinfo=UTC), CHINA)
    assert 2 == pacing.days_left(now.astimezone(CHINA).date(), datetime(2026, 3, 1, 16, 1, tzinfo=UTC), CHINA)


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
NOW = datetime(2026, 3, 2, tzinfo=UTC)
PUSHED = Decision(
    PersonId(7), 0, 1, "push", "", None, NOW, 1, "app", 612.3, 0.1161, 0.1161, 3, 3, 0, ALL_BITS, 0, 0, 0, 1, "D001", "", "ab",
    NOW,
)  # fmt: skip


def test_an_explanation_names_the_rules_in_order_and_stops_at_the_one_that_decided() -> None:
    assert [
        "consent: closes none",
        "score: 612 from m, probability 0.1161",
        "channel: app, open are app, dealer of app, dealer from score 0 on; WeChat carries no marketing; at most 2 calls",
        "frequency: 1 pushes lately, caps close none",
        "quiet hours: not now in the usual zone",
        "budget: place 3 of at most 10, costs 3 fen",
        "holdout: not kept out, share 0.1",
    ] == explain(PUSHED, STATED)
    assert ["consent: closes everything"] == explain(
        replace(PUSHED, outcome="opted_out", channel="", opted_out=ALL_BITS), STATED
    )
    assert "score: none from m" == explain(replace(PUSHED, outcome="no_score", channel="", score=-1), STATED)[-1]
    put_off = replace(PUSHED, outcome=DEFERRED, reason="quiet_hours", due_at=NOW, channel="", time_zone="Europe/Berlin")
    assert "quiet hours: now in Europe/Berlin; decided again at 2026-03-02T00:00:00+00:00" == explain(put_off, STATED)[-1]
    assert ["proposed: waits for its moment; decided again at 2026-03-02T00:00:00+00:00"] == explain(
        replace(put_off, reason=PROPOSED), STATED
    )


@pytest.mark.parametrize("outcome", [word for word in OUTCOMES if word != DEFERRED])
def test_every_outcome_has_an_explanation(outcome: str) -> None:
    assert all(explain(replace(PUSHED, outcome=outcome), STATED))
