"""The algebra of consent: laws for any set of statements, and the two ways in which the field is known to lose them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.identity.domain.consents import (
    ALL,
    CHANNELS,
    GENERAL,
    KINDS,
    MESSAGES,
    NEVER,
    PURPOSES,
    SEPARATE,
    Evidence,
    Finding,
    State,
    Statement,
    effective,
    of_anchor,
    of_person,
    read_event,
    statement_id,
    strictest,
    void_reason,
)

NOW = 1_000


def said(
    what: bool,
    at: int,
    *,
    anchor: int = 1,
    purpose: str = "marketing",
    channel: str = "app",
    kind: str = GENERAL,
    until: int = NEVER,
    number: int = 0,
) -> Statement:
    key = repr((anchor, at, what, until, kind, number)).encode()
    void = void_reason(purpose, channel, kind, given=what)
    return Statement(
        statement_id(key, purpose, channel), anchor, purpose, channel, kind, what, at, until if what else NEVER, void=void
    )


def yes(at: int, **more: object) -> Statement:
    return said(True, at, **more)  # type: ignore[arg-type]


def no(at: int, **more: object) -> Statement:
    return said(False, at, **more)  # type: ignore[arg-type]


def state(statements: list[Statement], channel: str = "app", purpose: str = "marketing", now: int = NOW) -> State:
    return of_person(statements, purpose, channel, now).state


# Few values each, so that statements meet.
STATEMENT = st.builds(
    said,
    st.booleans(),
    st.integers(1, 6),
    anchor=st.integers(1, 4),
    purpose=st.sampled_from(["marketing", "marketing", "marketing", "biometric"]),
    channel=st.sampled_from(["app", "app", "car", ALL]),
    kind=st.sampled_from(KINDS),
    until=st.sampled_from([NEVER, 3, 5, 9]),
    number=st.integers(0, 2),
)
STATEMENTS = st.lists(STATEMENT, max_size=12)
ASKED = st.sampled_from([("marketing", "app"), ("marketing", "app"), ("marketing", "car"), ("biometric", "app")])
TIME = st.integers(1, 10)


def test_an_opt_out_on_the_loser_of_a_merge_is_not_lost() -> None:
    loser, winner = [no(100, anchor=2)], [yes(900, anchor=1)]
    assert State.GIVEN == state(winner)
    merged = of_person(winner + loser, "marketing", "app", NOW)
    assert (State.WITHDRAWN, loser[0]) == (merged.state, merged.because)


def test_an_expired_consent_is_replaced_by_the_newer_one_in_whatever_order_they_come() -> None:
    old, new = yes(100, until=500), yes(400, until=2_000)
    for ledger in ([old, new], [new, old], [old, new, old]):
        assert (State.GIVEN, new) == ((found := of_person(ledger, "marketing", "app", NOW)).state, found.because)
    assert State.EXPIRED == state([old])
    # And what ran out last hides neither side of the person that holds a consent in force.
    assert State.GIVEN == state([yes(900, anchor=1, until=950), yes(100, anchor=2)])


@pytest.mark.parametrize(
    ("expected", "ledger"),
    [
        (State.NONE, []),
        (State.GIVEN, [no(1), yes(2)]),
        (State.WITHDRAWN, [yes(1), no(2)]),
        *((State.WITHDRAWN, [yes(5, number=n), no(5, number=n)]) for n in range(8)),
        (State.WITHDRAWN, [yes(5, until=NOW + 1), no(5)]),
        (State.WITHDRAWN, [yes(5), no(1, anchor=2)]),
        (State.GIVEN, [no(1, channel=ALL), yes(2)]),
        (State.WITHDRAWN, [yes(1), no(2, channel=ALL)]),
        (State.NONE, [no(1, channel="wechat")]),
        (State.NONE, [no(1, purpose="service")]),
        (State.EXPIRED, [yes(1, until=NOW)]),
        (State.GIVEN, [yes(1, until=NOW + 1)]),
        # The time-limited consent replaced the unlimited one; its end does not bring that back.
        (State.EXPIRED, [yes(1), yes(2, until=3)]),
        (State.EXPIRED, [yes(2), yes(2, until=3)]),
        (State.EXPIRED, [yes(2, until=NOW + 5), yes(2, until=3)]),
        # But it does bring back the opt-out that it lifted for a while.
        (State.WITHDRAWN, [no(1), yes(2, until=3)]),
    ],
)
def test_the_latest_statement_of_an_anchor_and_the_strictest_anchor_decide(expected: State, ledger: list[Statement]) -> None:
    assert expected == state(ledger)


def test_separate_consent_is_not_given_by_a_general_statement() -> None:
    assert State.NONE == state([yes(1, purpose="biometric")], purpose="biometric")
    assert State.NONE == state([yes(1, channel=ALL)], channel="car")
    assert State.GIVEN == state([yes(1, channel=ALL)], channel="sms")
    assert State.GIVEN == state([yes(1, channel=ALL, kind=SEPARATE)], channel="car")
    assert State.GIVEN == state([yes(1, channel="car", kind=SEPARATE), yes(2, channel=ALL)], channel="car")
    assert State.WITHDRAWN == state([yes(1, channel="car", kind=SEPARATE), no(2, channel=ALL)], channel="car")


@given(STATEMENTS, ASKED, TIME, st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(
    statements: list[Statement], asked: tuple[str, str], now: int, shuffle: random.Random
) -> None:
    again = statements * 2
    shuffle.shuffle(again)
    assert of_person(statements, *asked, now) == of_person(again, *asked, now)


@given(STATEMENTS, STATEMENTS, ASKED, TIME)
def test_a_merge_is_the_strictest_of_its_sides_and_unmerging_gives_each_its_own(
    one: list[Statement], other: list[Statement], asked: tuple[str, str], now: int
) -> None:
    a = [replace(s, anchor_id=s.anchor_id + 10) for s in one]
    b = [replace(s, anchor_id=s.anchor_id + 20) for s in other]
    sides = [of_person(a, *asked, now), of_person(b, *asked, now)]
    merged = of_person(a + b, *asked, now)
    assert strictest(sides) == strictest(reversed(sides)) == merged
    assert max(side.state for side in sides) == merged.state
    # The view moves, the ledger does not: of what is kept by anchor each side finds exactly its own again.
    ledger = a + b
    apart = [of_person([s for s in ledger if s.anchor_id // 10 == side], *asked, now) for side in (1, 2)]
    assert sides == apart


@given(st.lists(STATEMENTS, max_size=3), ASKED, TIME)
def test_strictest_is_associative_commutative_and_idempotent(
    persons: list[list[Statement]], asked: tuple[str, str], now: int
) -> None:
    findings = [of_person(person, *asked, now) for person in persons]
    whole = strictest(findings)
    assert whole == strictest([*findings, whole]) == strictest(findings[::-1])
    if len(findings) == 3:
        a, b, c = findings
        assert strictest([strictest([a, b]), c]) == strictest([a, strictest([b, c])])


def allowed(found: Finding) -> set[str]:
    """Under which regimes we may."""
    regimes = {"opt_out": found.state is not State.WITHDRAWN, "opt_in": found.state is State.GIVEN}
    return {regime for regime, may in regimes.items() if may}


@given(STATEMENTS, STATEMENT, ASKED, TIME)
def test_a_withdrawal_never_loosens_anything(
    statements: list[Statement], more: Statement, asked: tuple[str, str], now: int
) -> None:
    withdrawal = replace(more, given=False, expires_us=NEVER, void="")
    before, after = of_person(statements, *asked, now), of_person([*statements, withdrawal], *asked, now)
    assert after.state >= before.state
    assert allowed(after) <= allowed(before)


@given(STATEMENTS, STATEMENT, ASKED, TIME)
def test_a_grant_lifts_only_older_withdrawals_of_its_own_anchor(
    statements: list[Statement], more: Statement, asked: tuple[str, str], now: int
) -> None:
    grant = replace(more, given=True)
    others = of_person([s for s in statements if s.anchor_id != grant.anchor_id], *asked, now)
    after = of_person([*statements, grant], *asked, now)
    if others.state is State.WITHDRAWN:
        assert State.WITHDRAWN is after.state
    of_its_own = [s for s in statements if s.anchor_id == grant.anchor_id]
    about = [s for s in of_its_own if not s.given and s.purpose == asked[0] and s.channel in (asked[1], ALL)]
    if any(w.stated_us >= max(s.stated_us for s in [grant, *of_its_own] if s.given) for w in about):
        assert State.WITHDRAWN is after.state


@given(STATEMENTS, ASKED, TIME, TIME)
def test_time_only_takes_consent_away(statements: list[Statement], asked: tuple[str, str], one: int, other: int) -> None:
    sooner, later = (of_person(statements, *asked, now) for now in sorted((one, other)))
    assert allowed(later) <= allowed(sooner)


@given(STATEMENTS, ASKED, TIME)
def test_general_statements_never_give_what_needs_separate_consent(
    statements: list[Statement], asked: tuple[str, str], now: int
) -> None:
    found = of_person(statements, *asked, now)
    if found.state is State.GIVEN and (asked[0] == "biometric" or asked[1] == "car"):
        assert found.because is not None and SEPARATE == found.because.kind


@given(STATEMENTS, TIME)
def test_what_is_told_of_a_person_is_what_each_question_gives(statements: list[Statement], now: int) -> None:
    told = effective(statements, now)
    for purpose in PURPOSES:
        for channel in CHANNELS:
            found = of_person(statements, purpose, channel, now)
            assert told.get((purpose, channel), Finding(State.NONE, None)) == found


@given(st.lists(STATEMENT.filter(lambda s: s.anchor_id == 1), max_size=8), ASKED, TIME)
def test_one_anchor_alone_is_a_person(statements: list[Statement], asked: tuple[str, str], now: int) -> None:
    assert of_anchor(statements, *asked, now) == of_person(statements, *asked, now)


EVIDENCE = Evidence(b"e" * 16, 7, "app", 100)


def read(name: str, **properties: object) -> list[tuple[str, str, bool, str]]:
    return [(s.purpose, s.channel, s.given, s.void) for s in read_event(name, properties, EVIDENCE)]


def test_an_opt_out_without_a_purpose_is_from_all_messages() -> None:
    assert [(purpose, "app", False, "") for purpose in MESSAGES] == read("Unsubscribed", channel="app")
    assert [("marketing", "app", False, "")] == read("Consent Withdrawn", channel="app", purpose="marketing")


def test_what_is_not_understood_is_read_the_strict_way() -> None:
    assert [(purpose, ALL, False, "") for purpose in MESSAGES] == read("Unsubscribed", channel="pigeon")
    assert [(purpose, "sms", False, "") for purpose in MESSAGES] == read("Consent Withdrawn", channel="sms", purpose="spam")
    assert [("marketing", "pigeon", True, "UNKNOWN_CHANNEL")] == read("Consent Given", purpose="marketing", channel="pigeon")
    assert [("spam", "app", True, "UNKNOWN_PURPOSE")] == read("Consent Given", purpose="spam", channel="app")
    assert [("marketing", "app", True, "INVALID_EXPIRY")] == read(
        "Consent Given", purpose="marketing", channel="app", expires_at="tomorrow"
    )
    assert [("biometric", ALL, True, "SEPARATE_CONSENT_REQUIRED")] == read("Consent Given", purpose="biometric")
    assert [("biometric", ALL, True, "SEPARATE_CONSENT_REQUIRED")] == read("Consent Given", purpose="biometric", kind="big")
    assert [("biometric", ALL, True, "")] == read("Consent Given", purpose="biometric", kind="separate")
    assert 2 == len(read("Consent Given", purpose=["marketing"], channel={"a": 1}, kind=None, expires_at="", text_sha256=3))


def test_a_grant_whose_end_cannot_be_read_never_counts() -> None:
    given = {"purpose": "marketing", "channel": "app", "expires_at": "soon"}
    assert State.NONE == state(read_event("Consent Given", given, EVIDENCE))
    assert State.GIVEN == state(read_event("Consent Given", given | {"expires_at": None}, EVIDENCE))


def test_a_statement_keeps_its_evidence_and_has_one_id() -> None:
    given = {
        "purpose": "marketing",
        "channel": "sms",
        "expires_at": "2026-12-31T23:59:59+08:00",
        "text_version": "2026-10",
        "text_sha256": "ab" * 32,
        "language": "zh",
        "screen": "sign-up\0",
    }
    [one] = read_event("Consent Given", given, EVIDENCE)
    assert [one] == read_event("Consent Given", dict(given), EVIDENCE)
    assert (1_798_732_799_000_000, "2026-10", b"\xab" * 32, "zh", "sign-up", b"e" * 16, "app", 7, 100) == (
        one.expires_us,
        one.text_version,
        one.text_sha256,
        one.language,
        one.screen,
        one.event_id,
        one.source,
        one.anchor_id,
        one.stated_us,
    )
    [expired] = read_event("Consent Given", {"purpose": "marketing", "expires_at": "1960-01-01"}, EVIDENCE)
    assert State.EXPIRED == state([expired])
    two = read_event("Unsubscribed", {}, EVIDENCE)
    assert 2 == len({s.statement_id for s in two})
