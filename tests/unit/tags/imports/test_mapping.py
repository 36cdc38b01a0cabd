"""Mappings: what they say, and the place and reason where they are wrong."""

from __future__ import annotations

import pytest

from services.tags.domain.catalogue import Kind, TagType
from services.tags.imports.mapping import MappingError
from tests.unit.tags.imports.catalogue import MAPPING, plan


def test_a_mapping_names_its_columns_each_once_and_reads_vehicles_where_the_hash_is_of_one() -> None:
    found = plan()
    assert Kind.PERSON is found.kind
    assert ["phone", "as_of", "sure", "income", "heads", "loan", "hobby", "moved", "remark"] == found.columns
    assert TagType.SET is found.tags[3].type and ";" == found.tags[3].separator
    car = plan("partner: acme\nmatch: {column: v, kind: vin}\ntime: 2026-03-01\ntags: {insured_until: u}")
    assert (Kind.VEHICLE, 1_772_323_200_000_000) == (car.kind, car.time_us)


def test_what_it_says_and_not_how_it_is_written_makes_its_digest() -> None:
    other = "# of June\n" + MAPPING.replace("household_size: heads", "household_size: {column: heads}")
    assert plan().sha256 == plan(other).sha256
    assert plan().sha256 != plan(MAPPING.replace("heads", "loan")).sha256


def test_the_shorter_of_two_retentions_counts() -> None:
    by_tag = {tag.tag: tag.lasts_us for tag in plan(MAPPING + "retention_days: 90").tags}
    assert (90 * 86_400_000_000, 30 * 86_400_000_000) == (by_tag["income_band"], by_tag["moved_on"])
    assert {None, 30 * 86_400_000_000} == {tag.lasts_us for tag in plan().tags}


@pytest.mark.parametrize(
    ("old", "new", "reason", "words"),
    [
        ("  remark: remark", "  remrk: remark", "UNKNOWN_TAG", "line 12, column 3: person has no tag remrk; did you mean r"),
        ("  remark: remark", "  wealthy: remark", "TAG_NOT_IMPORTED", "line 12, column 3: wealthy is not a tag that imports"),
        ("partner: acme", "partner: bravo", "PARTNER_NOT_ALLOWED", "does not allow bravo to deliver moved_on"),
        ("kind: mobile", "kind: name", "INVALID_MAPPING", "match.kind is one of mobile, email"),
        ("partner: acme", "partnr: acme", "INVALID_MAPPING", "line 2, column 1: does not know partnr; did you mean partner?"),
        ("time: {column: as_of, zone: Asia/Shanghai}", "", "INVALID_MAPPING", "needs time"),
        ("zone: Asia/Shanghai", "zone: Asia/Atlantis", "INVALID_MAPPING", "time.zone is no zone"),
        ("zone: Asia/Shanghai", "zone: ../../etc/passwd", "INVALID_MAPPING", "time.zone is no zone"),
        ("{column: sure}", "1.5", "INVALID_MAPPING", "confidence is from 0 to 1"),
        ("  car_loan: loan", "  household_size: loan", "INVALID_MAPPING", "household_size stands twice"),
        ('"3": high', '"3": 7', "TYPE_MISMATCH", "income_band.values: not a category"),
        ("  remark: remark", "  remark: [", "INVALID_MAPPING", "line "),
        ("  car_loan: loan", "  car_loan: {column: loan, separator: x}", "INVALID_MAPPING", "car_loan is no set"),
        ("confidence: {column: sure}", "retention_days: 0", "INVALID_MAPPING", "retention_days is from 1"),
        ("confidence: {column: sure}", "format: {encoding: latin-1}", "INVALID_MAPPING", "format.encoding is one of utf-8"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(old: str, new: str, reason: str, words: str) -> None:
    assert old in MAPPING
    with pytest.raises(MappingError) as error:
        plan(MAPPING.replace(old, new))
    assert (reason, "mapping") == (error.value.reason, error.value.field)
    assert words in error.value.message


@pytest.mark.parametrize("text", ["", "[1, 2]", "a", "- - -", "partner: &a [*a]", "tags: !!python/object:os.system {}", "\0"])
def test_what_is_no_mapping_at_all_is_refused(text: str) -> None:
    with pytest.raises(MappingError):
        plan(text)
