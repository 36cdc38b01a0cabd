"""The catalogue is checked whole before anything runs on it."""

import pytest

from services.tags.catalogue import yaml_files
from services.tags.domain.business import BusinessRules
from services.tags.domain.catalogue import Kind, TagType, Value

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
