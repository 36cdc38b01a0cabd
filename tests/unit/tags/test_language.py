"""What the language accepts, and how it says no."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tags import catalogue_file
from services.tags.domain.catalogue import Kind
from services.tags.domain.language import MAX_TERMS, LanguageError, parse_predicate
from services.tags.domain.terms import And, Compares, Constant, Equals, Holds, Not, Or, Related

CATALOGUE = catalogue_file.load()


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
        ("ANY(vehicle, ANY(person, has_app))", "TOO_COMPLEX", 18),
        ("age LIKE 'x'", "UNSUPPORTED", 1),
        ("age + 1 > 2", "SYNTAX", 1),
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
