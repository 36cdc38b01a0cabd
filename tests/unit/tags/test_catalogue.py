"""The catalogue is checked whole before anything runs on it."""

import pytest

from services.tags.catalogue import yaml_files
from services.tags.catalogue.provenance import Refresh, refresh_of, source_of
from services.tags.domain.business import BusinessRules
from services.tags.domain.catalogue import FromEvents, Kind, TagType, Value

CATALOGUE = yaml_files.load()
BOOLEAN = "type: boolean, description: d"


def test_the_shipped_catalogue_loads() -> None:
    catalogue = CATALOGUE
    assert TagType.NUMBER is catalogue.of(Kind.PERSON)["lead_score"].type
    assert TagType.TIME is catalogue.of(Kind.VEHICLE)["sold_on"].type


def test_business_tags_are_evaluated_in_the_order_of_their_inputs() -> None:
    catalogue = yaml_files.parse(
        f"person:\n  c: {{{BOOLEAN}, expression: b}}\n  b: {{{BOOLEAN}, expression: a}}\n"
        f"  a: {{{BOOLEAN}, expression: BOOL_OR(TRUE)}}"
    )
    values: dict[str, Value] = {"a": True}
    BusinessRules(catalogue).complete(Kind.PERSON, values, 0.0)
    assert {"a": True, "b": True, "c": True} == values


@pytest.mark.parametrize(("score", "band"), [(800.0, "A"), (799.9, "B"), (400.0, "C"), (0.0, "D"), (None, None)])
def test_the_band_follows_the_score(score: float | None, band: str | None) -> None:
    values: dict[str, Value] = {} if score is None else {"lead_score": score}
    BusinessRules(CATALOGUE).complete(Kind.PERSON, values, 0.0)
    assert band == values.get("score_band")


def test_who_has_no_channel_is_known_not_to_be_reachable() -> None:
    values: dict[str, Value] = {}
    BusinessRules(CATALOGUE).complete(Kind.PERSON, values, 0.0)
    assert values["reachable"] is False


@pytest.mark.parametrize(("days", "window_days"), [("", 30), ("retention_days: 90, ", 30), ("retention_days: 10, ", 10)])
def test_what_is_past_its_retention_counts_no_more(days: str, window_days: int) -> None:
    counted = "COUNT(*) FILTER (WHERE occurred_at > NOW() - INTERVAL '30 days')"
    parsed = yaml_files.parse(f'person:\n  a: {{type: number, description: d, {days}expression: "{counted}"}}')
    origin = parsed.of(Kind.PERSON)["a"].origin
    assert isinstance(origin, FromEvents) and origin.window
    assert window_days * 86_400_000_000 == origin.window.steps * origin.window.step_us


def test_a_tag_with_retention_and_no_window_gets_one() -> None:
    origin = CATALOGUE.of(Kind.VEHICLE)["usual_city"].origin
    assert isinstance(origin, FromEvents) and origin.window
    assert 90 * 86_400_000_000 == origin.window.steps * origin.window.step_us


@pytest.mark.parametrize(
    ("kind", "name", "source", "refresh"),
    [
        (Kind.PERSON, "app_opens", "events: App Opened", Refresh.AT_ONCE),
        (Kind.PERSON, "app_opens_30d", "events: App Opened", Refresh.AT_ONCE_AND_BY_TIME),
        (Kind.PERSON, "dealer_code", "events: every event of dealer:*", Refresh.AT_ONCE),
        (Kind.PERSON, "lead_score", "score: purchase_intent", Refresh.AT_ONCE),
        (Kind.PERSON, "is_active", "tags: last_seen_at", Refresh.AT_ONCE_AND_BY_TIME),
        (Kind.HOUSEHOLD, "app_members", "tags: person.has_app", Refresh.WHEN_ASKED),
        (Kind.DEALER, "customers_count", "relations", Refresh.WHEN_ASKED),
    ],
)
def test_a_tag_says_where_it_comes_from_and_when_it_changes(kind: Kind, name: str, source: str, refresh: Refresh) -> None:
    definition = CATALOGUE.of(kind)[name]
    assert (source, refresh) == (source_of(definition), refresh_of(definition, name in CATALOGUE.views[kind]))
