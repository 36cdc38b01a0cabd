"""The life of a push: an order-free state, and when to try again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.touchpoints.channels.http import Answer, forbidden, is_public, webhook_outcome
from services.touchpoints.domain.deliveries import (
    LADDER_S,
    Accepted,
    Channel,
    Delivery,
    Outcome,
    Refused,
    Retry,
    State,
    after_attempt,
    furthest,
    retry_delay_s,
)

STATES = st.lists(st.sampled_from(State), min_size=1)
NOW = datetime(2026, 3, 1, tzinfo=UTC)
PUSH = Delivery("d", "t", 1, Channel.APP, (), "", "", "", "service", 0, 0, (), "", NOW, NOW, NOW)


@given(STATES, st.randoms())
def test_updates_in_any_order_end_in_the_same_state(states: list[State], random: object) -> None:
    shuffled = list(states)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert furthest(states) == furthest(shuffled)


@given(STATES, STATES, STATES)
def test_updates_may_be_joined_in_any_grouping_and_repeated(a: list[State], b: list[State], c: list[State]) -> None:
    assert furthest([furthest(a + b), furthest(c)]) == furthest([furthest(a), furthest(b + c), furthest(a)])


@given(st.integers(1, 50), st.floats(0, 1, exclude_max=True))
def test_retries_wait_longer_and_longer_with_a_fifth_of_jitter(attempts: int, luck: float) -> None:
    step = LADDER_S[min(attempts, len(LADDER_S)) - 1]
    assert step <= retry_delay_s(attempts, 0, luck) <= step * 1.2


@given(st.integers(1, 50), st.floats(0, 10**5), st.floats(0, 1, exclude_max=True))
def test_retry_after_is_never_undercut(attempts: int, after_s: float, luck: float) -> None:
    assert after_s <= retry_delay_s(attempts, after_s, luck)


@pytest.mark.parametrize(
    ("given_outcome", "attempts", "state", "reason"),
    [
        (Accepted("7"), 1, State.ACCEPTED, ""),
        (Refused("http_400"), 1, State.FAILED, "http_400"),
        (Retry("http_500"), 1, State.SENDING, "http_500"),
    ],
)
def test_an_attempt_ends_in_a_state(given_outcome: Outcome, attempts: int, state: State, reason: str) -> None:
    change = after_attempt(PUSH, attempts, given_outcome, most_attempts=3, luck=0)
    assert (state, reason) == (change.state, change.reason)
    assert (change.due_in_s is not None) == (state is State.SENDING)


@pytest.mark.parametrize(
    ("given_outcome", "parked"),
    [(Retry("http_500"), "retries_exhausted"), (Refused("http_422", mendable=True), "refused")],
)
def test_what_an_owner_may_mend_is_parked(given_outcome: Outcome, parked: str) -> None:
    change = after_attempt(PUSH, 3, given_outcome, most_attempts=3, luck=0)
    assert (State.SENDING, parked, given_outcome.reason, None) == (change.state, change.parked, change.reason, change.due_in_s)  # type: ignore[union-attr]


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_calls_are_sure_only_while_none_was_perhaps_sent(perhaps: list[bool]) -> None:
    """Folded as the table folds it: unsure since the first call that was perhaps sent, until every call is known."""
    unsure = False
    for number, sent_perhaps in enumerate(perhaps, 1):
        push = replace(PUSH, unsure_s=1.0 if unsure else None)
        change = after_attempt(push, number, Retry("r", sent_perhaps=sent_perhaps), most_attempts=99, luck=0)
        unsure = not change.sure
    assert any(perhaps) == unsure


@pytest.mark.parametrize(
    ("given_outcome", "unsure_s", "state"),
    [
        (Refused("no_permission"), None, State.QUEUED),
        (Retry("busy", sent_perhaps=False), None, State.QUEUED),
        # Something may have come through here: the other channel's would be the second one.
        (Refused("no_permission"), 3.0, State.FAILED),
        (Retry("timeout"), None, State.SENDING),
    ],
)
def test_what_surely_was_not_sent_goes_to_the_next_channel(
    given_outcome: Outcome, unsure_s: float | None, state: State
) -> None:
    push = replace(PUSH, fallback_channels=(Channel.SMS,), unsure_s=unsure_s)
    assert state == after_attempt(push, 3, given_outcome, most_attempts=3, luck=0).state


def test_what_stops_a_whole_endpoint_uses_up_no_attempts() -> None:
    change = after_attempt(PUSH, 99, Retry("key_refused", sent_perhaps=False, pauses_endpoint=True), most_attempts=3, luck=0)
    assert (State.SENDING, False) == (change.state, change.counts)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Accepted()),
        (204, Accepted()),
        (301, Retry("http_301", 9, faults_endpoint=True)),
        (400, Refused("http_400", mendable=True)),
        (401, Retry("http_401", 9, faults_endpoint=True)),
        (410, Refused("endpoint_gone", disables_endpoint=True, mendable=True)),
        (422, Refused("http_422", mendable=True)),
        (429, Retry("http_429", 9, throttles=True)),
        (500, Retry("http_500", 9, faults_endpoint=True)),
    ],
)
def test_a_webhooks_answer_is_read_by_the_rules(status: int, expected: Outcome) -> None:
    assert expected == webhook_outcome(Answer(status, 9.0, b""))


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1", "::ffff:10.0.0.1", "x", "0.0.0.0"]
)
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    ["ftp://a.example", "https://", "http://a.example/", "https://10.0.0.1/", "https://[::1]/", "https://u:p@a.example/"],
)
def test_endpoints_outside_of_the_open_internet_are_refused(url: str) -> None:
    assert forbidden(url, allow_private=False)
    assert "" == forbidden("https://a.example/hook", allow_private=False)
