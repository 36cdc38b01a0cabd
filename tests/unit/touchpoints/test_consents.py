"""What the projection keeps of statements, and what regimes ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from troika.identity.v1.events_pb2 import CONSENT_KIND_SEPARATE, ConsentChange, EntitiesChanged

from chassis.consents import DEFAULT_REGIMES, MESSAGES, OPT_IN, OPT_OUT, SEPARATE, RegimeTable, regime, uses
from services.touchpoints.domain.consents import NO_END, UNSAID, Kept, Statement, kept
from services.touchpoints.events import entity_facts

STATEMENTS = st.lists(
    st.builds(
        Statement,
        st.integers(1, 2),
        st.just(7),
        st.just("marketing"),
        st.sampled_from(["app", "all"]),
        st.booleans(),
        st.booleans(),
        st.integers(0, 4),
        st.sampled_from([2, 5, NO_END]),
    ),
    max_size=8,
)


@given(STATEMENTS, STATEMENTS)
def test_keeping_is_the_same_in_any_order_and_however_often(one: list[Statement], other: list[Statement]) -> None:
    whole = kept(one + other)
    assert whole == kept(other + one) == kept(one + other + one)
    by_key = {(k.anchor_id, k.purpose, k.channel, k.separate): k for k in kept(one)}
    for row in kept(other):
        key = (row.anchor_id, row.purpose, row.channel, row.separate)
        by_key[key] = by_key[key].joined(row) if key in by_key else row
    assert whole == [by_key[key] for key in sorted(by_key)]


def test_the_latest_of_each_side_is_kept_and_of_two_grants_at_once_the_shorter() -> None:
    def said(given: bool, at: int, ends: int = NO_END) -> Statement:
        return Statement(1, 7, "marketing", "app", False, given, at, ends)

    assert [Kept(1, "marketing", "app", False, 7, 3, 4, 8)] == kept(
        [said(False, 3), said(False, 2), said(True, 4, 9), said(True, 4, 8), said(True, 1)]
    )
    assert [Kept(1, "marketing", "app", False, 7, UNSAID, 4, 8)] == kept([said(True, 1), said(True, 4, 8)])


def test_a_fact_without_a_purpose_is_about_all_messages() -> None:
    old = ConsentChange(anchor_id=1, person_id=7, channel="app", opted_out=True, stated_at_us=5)
    new = ConsentChange(
        anchor_id=1, channel="car", stated_at_us=6, purpose="location", kind=CONSENT_KIND_SEPARATE, expires_at_us=9
    )
    statements = entity_facts(EntitiesChanged(consent_changes=[old, new]).SerializeToString()).consents
    assert [
        *(Statement(1, 7, purpose, "app", False, False, 5) for purpose in MESSAGES),
        Statement(1, 0, "location", "car", True, True, 6, 9),
    ] == statements


@pytest.mark.parametrize(
    ("expected", "purpose", "channel"),
    [
        (OPT_OUT, "marketing", "app"),
        (OPT_IN, "marketing", "sms"),
        (SEPARATE, "marketing", "car"),
        (OPT_OUT, "service", "sms"),
        (SEPARATE, "biometric", "app"),
        (SEPARATE, "something new", "app"),
    ],
)
def test_what_no_regime_names_needs_separate_consent(expected: str, purpose: str, channel: str) -> None:
    assert expected == regime(DEFAULT_REGIMES, purpose, channel)


def test_a_lead_is_also_sharing_with_a_dealer() -> None:
    assert (("marketing", "dealer_sharing"), ("marketing",)) == (uses("marketing", "dealer"), uses("marketing", "app"))


@pytest.mark.parametrize("table", [{"marketing": "sometimes"}, {"Marketing": "opt_in"}, {"marketing/": "opt_in"}])
def test_a_table_of_regimes_that_means_nothing_is_refused(table: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(RegimeTable).validate_python(table)
