"""Themes by themselves: which commands move them where, and what must hold before somebody is asked to approve them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chassis.errors import FailedPrecondition, InvalidArgument, PermissionDenied, TroikaError
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.offers.definitions import Definition, Offer, OfferId, Variant
from services.orchestrator.themes import states
from services.orchestrator.themes.checking import audience_obstacle, offer_obstacles
from services.orchestrator.themes.definitions import (
    Band,
    Budget,
    Filling,
    Goal,
    Pacing,
    Schedule,
    ThemeDefinition,
    checked,
)
from services.orchestrator.themes.states import Review, Theme, ThemeState, VersionState
from services.orchestrator.themes.words import reading_alike, words_of

NOW = datetime(2026, 11, 22, tzinfo=UTC)
DAY = timedelta(days=1)
STATED = ThemeDefinition(
    title="Spring",
    words="",
    audience="age > 30",
    goal=Goal("Offer Answered", "answer", "yes", 30, 0),
    offers=(OfferId(1),),
    language="en",
    values=(),
    purpose="service",
    bands=(Band(0, ("app", "wechat")), Band(800, ("dealer",))),
    model="purchase_intent",
    budget=Budget(10, 2, None, {}, Pacing.ASAP),
    schedule=Schedule(None, None),
    priority=500,
    holdout_share=0.1,
    exclusion=None,
    waves=None,
)
PEOPLE = ("ann", "bob", "cai")
APPROVERS = frozenset({"bob", "cai"})


def draft(stated: ThemeDefinition = STATED, author: str = "ann") -> Theme:
    return Theme(
        theme_id=ThemeId(1),
        version=1,
        definition=stated,
        offer_versions=(),
        author=author,
        stated_at=NOW,
        review=Review(),
        owner=author,
        state=ThemeState.DRAFT,
        latest_version=1,
        approved_version=0,
        launching=False,
        salt=bytes(16),
        launch_failure="",
        created_at=NOW,
        launched_at=None,
        finished_at=None,
        authors=(author,),
    )


def offer(*channels: str, **changes: Any) -> Offer:
    variants = tuple(Variant(channel, "en", "Check-up", "Come by") for channel in channels)
    stated = Definition("Check-up", "service", "service", (), NOW - DAY, None, "", None, variants)
    living = {name: changes.pop(name) for name in ("retired_at", "reserved", "taken") if name in changes}
    made = Offer(OfferId(1), 1, replace(stated, **changes), 0, 0, NOW, NOW, None)
    return replace(made, **living)


class Approvals(RuleBasedStateMachine):
    """Three people, of whom two approve, give every command in any order; a book beside it knows what really happened."""

    def __init__(self) -> None:
        super().__init__()
        self.theme = draft()
        self.authors = {1: "ann"}
        self.submitters: dict[int, str] = {}
        self.approved: dict[int, str] = {}
        self.decided: set[int] = set()

    def give(self, command: Callable[[Theme], Theme]) -> bool:
        before = self.theme
        try:
            self.theme = command(before)
        except TroikaError:
            assert before is self.theme
            return False
        return self.theme != before

    versions = st.integers(-1, 0)
    people = st.sampled_from(PEOPLE)

    @rule(person=people, back=versions)
    def edit(self, person: str, back: int) -> None:
        if self.give(lambda theme: states.edited(theme, theme.version + back, STATED, person, NOW)):
            self.authors[self.theme.version] = person

    @rule(person=people, back=versions)
    def submit(self, person: str, back: int) -> None:
        if self.give(lambda theme: states.submitted(theme, theme.version + back, (1,), person, NOW)):
            self.submitters[self.theme.version] = person

    @rule(person=people, back=versions)
    def approve(self, person: str, back: int) -> None:
        if self.give(lambda theme: states.approved(theme, theme.version + back, person, APPROVERS, NOW)):
            assert self.theme.version not in self.approved
            self.approved[self.theme.version] = person

    @rule(person=people)
    def reject(self, person: str) -> None:
        before = self.theme.approved_version
        self.give(lambda theme: states.rejected(theme, theme.version, person, APPROVERS, "no", NOW))
        assert before == self.theme.approved_version

    @rule()
    def launch(self) -> None:
        self.give(lambda theme: states.launched(theme, NOW))

    @rule()
    def give_back(self) -> None:
        if self.theme.state is ThemeState.RUNNING and not self.decided:
            self.give(lambda theme: states.given_back(theme, "MODEL_NOT_FOUND"))

    @rule()
    def pause(self) -> None:
        self.give(states.paused)

    @rule()
    def resume(self) -> None:
        self.give(states.resumed)

    @precondition(lambda self: len(self.authors) > 4)
    @rule()
    def finish(self) -> None:
        self.give(lambda theme: states.finished(theme, NOW))

    @precondition(lambda self: self.theme.state is ThemeState.RUNNING)
    @rule()
    def decide(self) -> None:
        self.decided.add(self.theme.approved_version)

    @invariant()
    def only_approved_versions_decide(self) -> None:
        assert self.decided <= set(self.approved)
        if self.theme.state in (ThemeState.APPROVED, ThemeState.RUNNING, ThemeState.PAUSED):
            assert self.theme.approved_version in self.approved

    @invariant()
    def nobody_approves_their_own(self) -> None:
        for version, reviewer in self.approved.items():
            assert reviewer in APPROVERS
            last = max((earlier for earlier in self.approved if earlier < version), default=0)
            edited = {author for number, author in self.authors.items() if last < number <= version}
            assert reviewer not in {*edited, self.submitters[version]}

    @invariant()
    def an_approved_version_is_lost_only_to_a_later_one(self) -> None:
        assert max(self.approved, default=0) == self.theme.approved_version

    @invariant()
    def a_theme_is_reviewed_only_where_nothing_is_approved(self) -> None:
        waiting = self.theme.review.state is VersionState.IN_REVIEW
        if not self.approved and self.theme.state is not ThemeState.FINISHED:
            assert (ThemeState.IN_REVIEW if waiting else ThemeState.DRAFT) == self.theme.state


Approvals.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestApprovals = Approvals.TestCase


def refusal(call: Callable[[], object]) -> tuple[type[TroikaError], str, str]:
    with pytest.raises(TroikaError) as caught:
        call()
    return type(caught.value), caught.value.reason, caught.value.field or ""


@pytest.mark.parametrize("reviewer", ["bob", "cai"])
def test_neither_author_nor_submitter_reviews_a_version(reviewer: str) -> None:
    waiting = states.submitted(draft(author="bob"), 1, (1,), "cai", NOW)
    expected = (PermissionDenied, "SAME_PERSON", "version")
    assert expected == refusal(lambda: states.approved(waiting, 1, reviewer, APPROVERS, NOW))
    assert expected == refusal(lambda: states.rejected(waiting, 1, reviewer, APPROVERS, "no", NOW))


def test_only_approvers_approve_and_only_what_is_under_review() -> None:
    waiting = states.submitted(draft(), 1, (1,), "ann", NOW)
    stranger = refusal(lambda: states.approved(waiting, 1, "dan", APPROVERS, NOW))
    assert (PermissionDenied, "NOT_AN_APPROVER", "version") == stranger
    assert (FailedPrecondition, "NOT_IN_REVIEW", "version") == refusal(
        lambda: states.approved(draft(), 1, "bob", APPROVERS, NOW)
    )
    stale = refusal(lambda: states.approved(states.edited(waiting, 1, STATED, "ann", NOW), 1, "bob", APPROVERS, NOW))
    assert (FailedPrecondition, "VERSION_CHANGED", "version") == stale
    rejected = states.rejected(waiting, 1, "bob", APPROVERS, "dull", NOW)
    assert (VersionState.REJECTED, "dull", ThemeState.DRAFT) == (rejected.review.state, rejected.review.reason, rejected.state)
    again = refusal(lambda: states.submitted(rejected, 1, (1,), "ann", NOW))
    assert (FailedPrecondition, "VERSION_REVIEWED", "version") == again


def test_a_schedule_is_kept_by_the_launch() -> None:
    def approved(schedule: Schedule) -> Theme:
        waiting = states.submitted(draft(replace(STATED, schedule=schedule)), 1, (1,), "ann", NOW)
        return states.approved(waiting, 1, "bob", APPROVERS, NOW)

    early, late = approved(Schedule(NOW + DAY, None)), approved(Schedule(None, NOW))
    assert (FailedPrecondition, "TOO_EARLY", "theme.schedule.starts_at") == refusal(lambda: states.launched(early, NOW))
    assert ThemeState.RUNNING is states.launched(early, NOW + DAY).state
    assert (FailedPrecondition, "SCHEDULE_OVER", "theme.schedule.ends_at") == refusal(lambda: states.launched(late, NOW))
    assert (FailedPrecondition, "NOT_APPROVED", "name") == refusal(lambda: states.launched(draft(), NOW))
    for command in (states.paused, states.resumed):
        assert FailedPrecondition is refusal(lambda command=command: command(early))[0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"goal": Goal("Order Placed", "answer", "yes", 30, 0)}, "theme.goal.event"),
        ({"goal": Goal("Offer Answered", "", "yes", 30, 0)}, "theme.goal.property"),
        ({"goal": Goal("Offer Answered", "answer", "no", 30, 0)}, "theme.goal.value"),
        ({"goal": Goal("Offer Answered", "answer", "yes", 7, 0)}, "theme.goal.window_days"),
        ({"holdout_share": 0.2}, "theme.holdout_share"),
        ({"purpose": "marketing"}, "theme.purpose"),
    ],
)
def test_what_is_measured_stays_as_it_was_launched(changes: dict[str, Any], field: str) -> None:
    stated = replace(STATED, **changes)
    expected = (FailedPrecondition, "FIXED_BY_LAUNCH", field)
    assert expected == refusal(lambda: states.check_fixed(STATED, stated))
    states.check_fixed(STATED, replace(STATED, title="Autumn", goal=replace(STATED.goal, value_fen=100)))


def reasons(stated: ThemeDefinition, *offers: Offer) -> list[tuple[str, str]]:
    return [(fault.reason, fault.field or "") for fault in offer_obstacles(stated, offers, timedelta(0), NOW)]


def test_every_channel_of_a_theme_needs_words() -> None:
    assert [("CHANNEL_WITHOUT_WORDS", "theme.bands[1].channels[0]")] == reasons(STATED, offer("app", "wechat"))
    assert [] == reasons(STATED, offer("app", "wechat"), offer("dealer"))
    assert ("CHANNEL_WITHOUT_WORDS", "theme.bands[0].channels[0]") in reasons(
        replace(STATED, language="fr"), offer("app", "wechat", "dealer")
    )


@pytest.mark.parametrize(
    ("changes", "schedule", "reason"),
    [
        ({"valid_to": NOW + 5 * DAY}, Schedule(None, NOW + 9 * DAY), "OFFER_EXPIRES"),
        ({"valid_to": NOW + 5 * DAY}, Schedule(None, None), "OFFER_EXPIRES"),
        ({"valid_to": NOW - DAY / 2}, Schedule(None, None), "OFFER_NOT_VALID"),
        ({"valid_from": NOW + DAY}, Schedule(None, None), "OFFER_NOT_VALID"),
        ({"retired_at": NOW}, Schedule(None, None), "OFFER_RETIRED"),
        ({"stock": 3, "taken": 3}, Schedule(None, None), "OUT_OF_STOCK"),
    ],
)
def test_an_offer_that_does_not_hold_over_the_schedule_is_named(
    changes: dict[str, Any], schedule: Schedule, reason: str
) -> None:
    good = offer("app", "wechat", "dealer")
    bad = offer("app", "wechat", "dealer", **changes)
    assert [(reason, "theme.offers[1]")] == reasons(replace(STATED, schedule=schedule), good, bad)
    whole = Schedule(NOW + DAY, NOW + 5 * DAY)
    if reason == "OFFER_EXPIRES" or "valid_from" in changes:
        assert [] == reasons(replace(STATED, schedule=whole), good, bad)


def test_variables_are_filled_from_the_theme_or_named() -> None:
    variant = Variant("app", "en", "{model: word}", "from {price: number}")
    told = offer(variants=(variant,))
    only_app = replace(STATED, bands=(Band(0, ("app",)),))
    assert [("MISSING_VARIABLE", "theme.values[model]")] == reasons(only_app, told)
    filled = replace(only_app, values=(Filling("model", word="X5"), Filling("price", number=99.5)))
    assert [] == reasons(filled, told)
    words = words_of(filled, [told], timedelta(0))["app"]
    assert ("X5", "from 99.5") == (words.title, words.body)
    wrong = replace(only_app, values=(Filling("model", number=5), Filling("price", number=99.5)))
    assert [("WRONG_VARIABLE_TYPE", "theme.values[model]")] == reasons(wrong, told)
    spare = replace(filled, values=(*filled.values, Filling("colour", word="red")))
    assert [("UNKNOWN_VARIABLE", "theme.values[colour]")] == reasons(spare, told)
    long = replace(filled, values=(Filling("model", word="X" * 100), filled.values[1]))
    tight = offer(variants=(replace(variant, channel="wechat"),))
    wechat = replace(long, bands=(Band(0, ("wechat",)),))
    assert [("TEXT_TOO_LONG", "theme.offers[0]")] == reasons(wechat, tight)


def test_words_of_one_channel_go_through_another_only_where_they_read_the_same() -> None:
    short = Variant("wechat", "en", "Check-up", "Today")
    words = words_of(STATED, [offer("app", "dealer"), offer(variants=(short,))], timedelta(0))
    assert {"app", "wechat", "dealer"} == set(words)
    assert {"app", "dealer"} == reading_alike(words, "app")
    assert {"wechat"} == reading_alike(words, "wechat")


def test_nobody_is_refused_and_everybody_must_be_meant() -> None:
    for size, base, confirmed, reason in (
        (0, 10, True, "EMPTY_AUDIENCE"),
        (0, 0, True, "EMPTY_AUDIENCE"),
        (10, 10, False, "EVERYBODY_MATCHED"),
        (10, 10, True, ""),
        (9, 10, False, ""),
    ):
        fault = audience_obstacle(size, base, confirmed)
        assert reason == (fault.reason if fault else "")


def test_a_limit_of_cost_needs_the_cost_of_every_channel() -> None:
    dear = replace(STATED, budget=Budget(10, 2, 1000, {"app": 1, "wechat": 1}, Pacing.ASAP))
    assert (InvalidArgument, "NO_COST", "theme.budget.unit_cost_fen[dealer]") == refusal(lambda: checked(dear))
    assert dear.band(-1) == dear.bands[0] and dear.band(800) == dear.bands[1]


def test_a_service_theme_may_go_without_scores_but_then_also_without_bands() -> None:
    plain = replace(STATED, model="", bands=STATED.bands[:1])
    assert plain == checked(plain)
    assert (InvalidArgument, "NO_MODEL", "theme.model") == refusal(lambda: checked(replace(STATED, model="")))
    advert = replace(plain, purpose="marketing", bands=(Band(0, ("app",)),))
    assert (InvalidArgument, "NO_MODEL", "theme.model") == refusal(lambda: checked(advert))
