"""What the language accepts, and how it says no."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tags.catalogue import yaml_files
from services.tags.domain.aggregates import parse_aggregate
from services.tags.domain.catalogue import Aggregate, FromEvents, Kind, Window
from services.tags.domain.language import MAX_TERMS, LanguageError
from services.tags.domain.predicates import parse_predicate
from services.tags.domain.terms import (
    And,
    Compares,
    Constant,
    CountOf,
    Equals,
    Figure,
    Holds,
    IsMissing,
    IsTruth,
    Measures,
    Not,
    Or,
    Related,
    Since,
    Through,
)

CATALOGUE = yaml_files.load()


def parse(text: str) -> object:
    return parse_predicate(text, Kind.PERSON, CATALOGUE)


def refused(text: str) -> LanguageError:
    with pytest.raises(LanguageError) as caught:
        parse(text)
    return caught.value


def test_an_empty_predicate_holds_for_all() -> None:
    assert Constant(True) == parse(" ")


def test_a_constant_may_stand_on_either_side() -> None:
    assert Compares("age", ">", 5.0) == parse("5 < age") == parse("age > 5")


def test_names_fold_to_lower_case_as_in_sql() -> None:
    assert Holds("has_app") == parse("HAS_APP")


def test_a_chain_is_one_term() -> None:
    assert And((Holds("has_app"), Holds("has_wechat"), Holds("reachable"))) == parse("has_app AND has_wechat AND reachable")


def test_any_reads_the_tags_of_the_other_kind() -> None:
    high, model = Compares("mileage_km", ">", 60000.0), Equals("model", ("X5",))
    assert Related(Kind.VEHICLE, And((high, model))) == parse("ANY(vehicle, mileage_km > 60000 AND model = 'X5')")


def test_all_is_sugar_over_any_and_a_count_is_a_number() -> None:
    high = Compares("mileage_km", ">", 3.0)
    assert Not(Related(Kind.VEHICLE, Not(IsTruth(high, True)))) == parse("ALL(vehicle, mileage_km > 3)")
    assert Measures(CountOf(Kind.VEHICLE, high), ">=", Figure(2.0)) == parse("COUNT(车辆, mileage_km > 3) >= 2")


def test_an_age_is_told_in_days_or_as_an_interval() -> None:
    half_a_year = Since("last_seen_at", ">=", 180 * 86_400.0)
    assert half_a_year == parse("DAYS_SINCE(last_seen_at) >= 180") == parse("last_seen_at <= NOW() - INTERVAL '6 months'")
    assert half_a_year == parse("NOW() - last_seen_at >= INTERVAL '180 days'")
    assert Since("last_seen_at", ">=", 6 * 86_400.0) == parse("DAYS_SINCE(last_seen_at) > 5")


def test_the_owner_of_a_car_is_one_person() -> None:
    expected = Through(Kind.PERSON, "owns", Compares("age", ">", 60.0))
    assert expected == parse_predicate("owner.age > 60", Kind.VEHICLE, CATALOGUE)
    assert Related(Kind.VEHICLE, expected) == parse("ANY(vehicle, owner.age > 60)")
    aged = Through(Kind.PERSON, "owns", Since("last_seen_at", "<", 60.0))
    assert aged == parse_predicate("NOW() - owner.last_seen_at < INTERVAL '1 minute'", Kind.VEHICLE, CATALOGUE)
    for text in ("DAYS_SINCE(owner.last_seen_at) > 3", "owner.age + 1 > 3", "owner.age > owner.calls_before"):
        with pytest.raises(LanguageError, match="constant"):
            parse_predicate(text, Kind.VEHICLE, CATALOGUE)


def test_an_aggregate_says_which_events_count() -> None:
    text = (
        "SUM(amount) FILTER (WHERE event IN ('A', 'B') AND source LIKE 'app:%' AND (model = 'X5' OR \"Model Name\" IS NULL)"
        " AND occurred_at > NOW() - INTERVAL '30 days')"
    )
    condition = Or((Equals("model", ("X5",)), IsMissing("Model Name")))
    expected = FromEvents(
        Aggregate.SUM, frozenset({"A", "B"}), "app:*", "amount", condition, Window(step_us=3_600_000_000, steps=720)
    )
    assert expected == parse_aggregate(text)
    assert parse_aggregate("age > 3") is None
    escaped = parse_aggregate(r"BOOL_OR(TRUE) FILTER (WHERE source LIKE 'wechat\_mini:%')")
    assert escaped and "wechat_mini:*" == escaped.source


@pytest.mark.parametrize(
    "text",
    [
        "SUM(x) FILTER (WHERE event = 'a' OR y > 1)",
        "SUM(x) FILTER (WHERE event > 'a')",
        "SUM(x) FILTER (WHERE event = 'a' AND event = 'b')",
        "SUM(x + 1)",
        "LAST(source_name)",
        "LAST(event)",
        "SUM(x) FILTER (WHERE occurred_at < NOW())",
        "SUM(x) FILTER (WHERE a) > 3",
        "ARRAY_AGG(x)",
        "COUNT(DISTINCT a, b)",
        "SUM(x) FILTER (WHERE source LIKE '%x%')",
        "SUM(x) FILTER (WHERE source LIKE 'a_b:%')",
        "SUM(x) FILTER (WHERE CONTAINS(a, 'x'))",
    ],
)
def test_an_aggregate_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(LanguageError):
        parse_aggregate(text)


def test_not_in_is_not_of_in() -> None:
    assert Not(Equals("job", ("admin", "services"))) == parse("job NOT IN ('admin', 'services')")


def test_a_date_is_a_moment_in_utc() -> None:
    assert Compares("last_seen_at", ">=", 86400.0) == parse("last_seen_at >= '1970-01-02'")
    assert parse("last_seen_at >= DATE '1970-01-02'") == parse("last_seen_at >= TIMESTAMP '1970-01-02T00:00:00Z'")


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ("has_app AND agee > 3", "UNKNOWN_TAG", 13),
        ("mileage_km > 3", "UNKNOWN_TAG", 1),
        ("person.age > 3", "UNKNOWN_TAG", 1),
        ("age = 'old'", "TYPE_MISMATCH", 7),
        ("age", "TYPE_MISMATCH", 1),
        ("job > 'a'", "TYPE_MISMATCH", 1),
        ("has_app = 1", "TYPE_MISMATCH", 1),
        ("last_seen_at > 'tomorrow'", "TYPE_MISMATCH", 16),
        ("last_seen_at > 5", "TYPE_MISMATCH", 16),
        ("age >", "SYNTAX", 5),
        ("has_app; has_wechat", "SYNTAX", 1),
        ("job = 'unfinished", "SYNTAX", 1),
        ("age > NULL", "SYNTAX", None),
        ("age = 1e999", "SYNTAX", 7),
        ("ANY(person, has_app)", "SYNTAX", 5),
        ("ANY(vehicle, ANY(person, ANY(vehicle, ANY(person, has_app))))", "TOO_COMPLEX", 43),
        ("age LIKE 'x'", "UNSUPPORTED", 1),
        ("job + 1 > 2", "TYPE_MISMATCH", 1),
        ("age / 0 > 2", "DIVISION_BY_ZERO", 1),
        ("SUM(x) > 2", "UNSUPPORTED", 1),
        ("occurred_at > NOW() - INTERVAL '3 days'", "WINDOW_WITHOUT_AGGREGATE", 1),
        ("wheel.age > 3", "UNKNOWN_TAG", 1),
        ("EXISTS (SELECT 1)", "UNSUPPORTED", None),
        ("age IN (SELECT 1)", "UNSUPPORTED", 1),
        ("(" * 5000 + "has_app", "TOO_COMPLEX", 33),
        ("NOT " * 4000 + "has_app", "TOO_COMPLEX", 129),
        (" OR ".join(["has_app"] * (MAX_TERMS + 1)), "TOO_COMPLEX", None),
        ("x" * 20_001, "TOO_COMPLEX", 20_000),
    ],
)
def test_a_wrong_predicate_is_refused_with_reason_and_place(text: str, reason: str, position: int | None) -> None:
    error = refused(text)
    assert reason == error.reason
    if position is not None:
        assert position == error.position


def test_an_unknown_tag_is_answered_with_the_nearest_name() -> None:
    assert "did you mean lead_score" in str(refused("leadscore >= 800"))


PIECES = ("age", "has_app", "ANY", "(", ")", ",", "vehicle", "=", "<", "AND", "OR", "NOT", "IN", "IS", "NULL", "'x'", "1", "-")


@given(st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=20).map(" ".join))
def test_any_text_is_a_predicate_or_a_typed_error(text: str) -> None:
    error = None
    try:
        parse(text)
    except LanguageError as caught:
        error = caught
    if error:
        assert error.reason in {"SYNTAX", "UNKNOWN_TAG", "TYPE_MISMATCH", "TOO_COMPLEX", "UNSUPPORTED"}
        assert 1 <= error.position <= max(1, len(text))


def test_precedence_is_that_of_sql() -> None:
    assert Or((Holds("has_app"), And((Holds("has_wechat"), Not(Holds("reachable")))))) == parse(
        "has_app OR has_wechat AND NOT reachable"
    )
