"""The catalogue is checked whole before anything runs on it."""

import pytest

from services.tags import catalogue_file
from services.tags.domain.business import BusinessRules
from services.tags.domain.catalogue import CatalogueError, Kind, TagType, Value

BOOLEAN = "type: boolean, description: d"
ANY = "expression: BOOL_OR(TRUE)"


def test_the_shipped_catalogue_loads() -> None:
    catalogue = catalogue_file.load()
    assert TagType.NUMBER is catalogue.of(Kind.PERSON)["lead_score"].type
    assert TagType.TIME is catalogue.of(Kind.VEHICLE)["sold_on"].type


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("person:\n  a: {type: number, description: d}", "line 2: person.a: needs exactly one of expression, score, import"),
        ("dog:\n  a: {}", "line 1: no entity kind 'dog'"),
        ("person:\n  A: {}", "line 2: person.A: a name is lower case"),
        ("person:\n  a: {type: word, description: d, score: m}", "line 2: person.a: type must be one of number, category"),
        ("person:\n  a: {type: category, description: d, expression: BOOL_OR(TRUE)}", "any gives boolean, not category"),
        ("person:\n  a: {type: set, description: d, expression: LAST(x)}", "last gives number or time or category"),
        (f"person:\n  a: {{{BOOLEAN}, expression: b}}\n  b: {{{BOOLEAN}, expression: a}}", "in a circle"),
        (f"person:\n  a: {{{BOOLEAN}, expression: c}}", "line 2: person.a: no person tag is named c"),
        ("person:\n  a: {type: number, description: d, expression: 'TRUE'}", "line 2: person.a is declared number, but"),
        ("person:\n  a: {type: number, description: d, wrong: 1, score: m}", "does not know wrong"),
        (f"person:\n  a: {{{BOOLEAN}, {ANY}}}\n  a: {{{BOOLEAN}, {ANY}}}", "person.a is defined twice"),
        ("person: [", "line 1"),
        ("person: 3", "line 1: expected a mapping"),
    ],
)
def test_a_wrong_catalogue_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        catalogue_file.parse(text)
    assert message in str(caught.value)


def test_business_tags_are_evaluated_in_the_order_of_their_inputs() -> None:
    catalogue = catalogue_file.parse(
        f"person:\n  c: {{{BOOLEAN}, expression: b}}\n  b: {{{BOOLEAN}, expression: a}}\n"
        f"  a: {{{BOOLEAN}, expression: BOOL_OR(TRUE)}}"
    )
    values: dict[str, Value] = {"a": True}
    BusinessRules(catalogue).complete(Kind.PERSON, values, 0.0)
    assert {"a": True, "b": True, "c": True} == values


@pytest.mark.parametrize(("score", "band"), [(800.0, "A"), (799.9, "B"), (400.0, "C"), (0.0, "D"), (None, None)])
def test_the_band_follows_the_score(score: float | None, band: str | None) -> None:
    values: dict[str, Value] = {} if score is None else {"lead_score": score}
    BusinessRules(catalogue_file.load()).complete(Kind.PERSON, values, 0.0)
    assert band == values.get("score_band")


def test_who_has_no_channel_is_known_not_to_be_reachable() -> None:
    values: dict[str, Value] = {}
    BusinessRules(catalogue_file.load()).complete(Kind.PERSON, values, 0.0)
    assert values["reachable"] is False
