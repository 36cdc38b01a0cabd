"""What may be shared at all: the tag at fault is named."""

from __future__ import annotations

import pytest

from chassis.errors import InvalidArgument
from services.tags.catalogue import yaml_files
from services.tags.domain.business import BusinessRules
from services.tags.domain.catalogue import Catalogue
from services.tags.domain.sharing import Form
from services.tags.sharing import terms

CATALOGUE = """
person:
  job: {type: category, title: 职业, description: Occupation., expression: LAST(job)}
  note: {type: text, description: What the advisor wrote., expression: LAST(note)}
  income: {type: number, description: Income., sensitivity: sensitive, expression: LAST(income)}
  rich: {type: boolean, description: A band., sensitivity: public, expression: income > 50000}
  welcome: {type: boolean, description: Built on a band., sensitivity: public, expression: rich AND job = 'x'}
  drives_far: {type: boolean, description: Asks cars., expression: "ANY(vehicle, mileage_km > 60000)"}
vehicle:
  mileage_km: {type: number, description: Mileage., expression: LAST(mileage_km)}
  near_clinic: {type: boolean, description: Parks there., sensitivity: sensitive, expression: BOOL_OR(near_clinic)}
"""


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    # Not loaded whole: a catalogue in which a tag is less sensitive than what it is built on would be refused.
    catalogue = Catalogue([written.definition for written in yaml_files.read(CATALOGUE)[0]])
    BusinessRules(catalogue)
    return catalogue


@pytest.mark.parametrize(
    ("tags", "predicate", "reason", "named", "field"),
    [
        (["job", "income"], "", "SENSITIVE_TAG", "income", "tags[1]"),
        (["rich"], "", "SENSITIVE_TAG", "income, on which rich is built,", "tags[0]"),
        (["welcome"], "", "SENSITIVE_TAG", "income, on which welcome is built,", "tags[0]"),
        (["job"], "income > 5", "SENSITIVE_TAG", "income", "predicate"),
        (["job"], "NOT welcome", "SENSITIVE_TAG", "income, on which welcome is built,", "predicate"),
        (["job"], "ANY(vehicle, near_clinic)", "SENSITIVE_TAG", "near_clinic", "predicate"),
        (["job"], "COUNT(vehicle, near_clinic) > 1", "SENSITIVE_TAG", "near_clinic", "predicate"),
        (["note"], "", "TEXT_TAG", "note", "tags[0]"),
        (["jobb"], "", "UNKNOWN_TAG", "jobb", "tags[0]"),
        (["mileage_km"], "", "UNKNOWN_TAG", "mileage_km", "tags[0]"),
        (["drives_far"], "", "TAG_WITHOUT_VALUES", "drives_far", "tags[0]"),
        (["job", "职业"], "", "TAG_NAMED_TWICE", "twice", "tags"),
        (["job"], "job =", "SYNTAX", "", "predicate"),
        ([], "", "NOTHING_TO_SHARE", "", "tags"),
    ],
)
def test_what_may_not_be_shared_is_refused_by_name(
    catalogue: Catalogue, tags: list[str], predicate: str, reason: str, named: str, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        terms.check(catalogue, tags, predicate, Form.ROWS)
    assert (reason, field) == (refused.value.reason, refused.value.field)
    assert named in refused.value.message


def test_counts_need_a_tag(catalogue: Catalogue) -> None:
    with pytest.raises(InvalidArgument, match="name the tags"):
        terms.check(catalogue, [], "job = 'x'", Form.COUNTS)


def test_a_tag_may_be_named_by_its_title_and_is_kept_by_its_name(catalogue: Catalogue) -> None:
    definitions, _ = terms.check(catalogue, ["职业"], "drives_far AND ANY(vehicle, mileage_km > 5)", Form.ROWS)
    assert ["job"] == [definition.name for definition in definitions]


def test_who_is_in_an_audience_may_be_shared_without_any_tag(catalogue: Catalogue) -> None:
    assert [] == terms.check(catalogue, [], "job = 'x'", Form.ROWS)[0]
