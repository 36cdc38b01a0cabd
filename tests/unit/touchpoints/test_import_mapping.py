"""Mappings of files: what a record is made of, and the place of every mistake."""

from __future__ import annotations

import math
from datetime import date, datetime
from typing import Any

import pytest

from services.touchpoints.domain.observed import Invalid
from services.touchpoints.imports import mapping
from services.touchpoints.imports.mapping import MappingError
from services.touchpoints.imports.observing import masked, plan

TEXT = """
format: {encoding: gb18030, delimiter: ";"}
record_id: no
updated_at: {column: changed, format: ["%Y/%m/%d %H:%M", "%Y/%m/%d"], zone: Asia/Shanghai}
identifiers:
  mobile: phone
  birth_date: {column: born, format: "%d.%m.%Y"}
  appid: {value: wx1}
vehicle:
  plate: plate
  relation: {column: role, values: {车主: owns, 司机: drives}}
  attributes:
    mileage_km: {column: km, type: number}
    sold_on: {column: sold, type: date}
attributes:
  age: {column: age, type: number}
  has_loan: {column: loan, type: boolean}
  job: {column: job, values: {"1": services, "2": admin, "9": null}}
  region: {value: south}
  note: note
"""
CELLS: dict[str, Any] = {
    "no": "88731",
    "changed": "2026/03/01 08:30",
    "phone": " 138 0013 8000 ",
    "born": "02.01.1990",
    "plate": "粤B12345",
    "role": "车主",
    "km": "61,000",
    "sold": "2022-03-01",
    "age": "41",
    "loan": "是",
    "job": "1",
    "note": "",
}


def record(**changes: Any) -> dict[str, Any]:
    given = mapping.parse(TEXT)
    return given.record([(CELLS | changes)[name] for name in given.columns])


def test_a_row_becomes_the_record_that_the_mapping_describes() -> None:
    assert {
        "record_id": "88731",
        "updated_at": "2026-03-01T08:30:00+08:00",
        "identifiers": {"mobile": "138 0013 8000", "birth_date": "1990-01-02", "appid": "wx1"},
        "vehicle": {"plate": "粤B12345", "relation": "owns", "attributes": {"mileage_km": 61000, "sold_on": "2022-03-01"}},
        "attributes": {"age": 41, "has_loan": True, "job": "services", "region": "south"},
    } == record()


def test_what_parquet_and_json_bring_along_keeps_its_type() -> None:
    found = record(
        no=88731, changed=datetime(2026, 3, 1, 8), born=date(1990, 1, 2), km=61000.0, age=math.nan, loan=True, note=1.5
    )
    assert ("88731", "2026-03-01T08:00:00+08:00", "1990-01-02") == (
        found["record_id"],
        found["updated_at"],
        found["identifiers"]["birth_date"],
    )
    assert {"has_loan": True, "job": "services", "region": "south", "note": 1.5} == found["attributes"]
    assert 61000 == found["vehicle"]["attributes"]["mileage_km"]


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"changed": "soon"}, "updated_at", "NOT_A_TIME"),
        ({"born": "1990-01-02"}, "identifiers.birth_date", "NOT_A_DATE"),
        ({"role": "nobody"}, "vehicle.relation", "UNKNOWN_WORD"),
        ({"km": "far"}, "vehicle.attributes.mileage_km", "NOT_A_NUMBER"),
        ({"km": "1e999"}, "vehicle.attributes.mileage_km", "NOT_A_NUMBER"),
        ({"km": "12,5"}, "vehicle.attributes.mileage_km", "NOT_A_NUMBER"),
        ({"km": "61,00,000"}, "vehicle.attributes.mileage_km", "NOT_A_NUMBER"),
        ({"loan": "maybe"}, "attributes.has_loan", "NOT_YES_OR_NO"),
        ({"phone": True}, "identifiers.mobile", "NOT_A_WORD"),
        ({"phone": "x" * 10_001}, "identifiers.mobile", "CELL_TOO_LONG"),
        ({"phone": "\udc81"}, "identifiers.mobile", "INVALID_ENCODING"),
        ({"note": [1]}, "attributes.note", "NOT_A_VALUE"),
    ],
)
def test_a_cell_that_is_refused_names_its_part_and_is_not_quoted(changes: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(Invalid) as refused:
        record(**changes)
    assert (field, reason) == (refused.value.field, refused.value.reason)
    assert all(len(str(value)) < 2 or str(value) not in str(refused.value) for value in changes.values())


def test_commas_between_thousands_are_no_part_of_a_number() -> None:
    for written, number in (("61,000", 61000), ("-1,234,567.5", -1234567.5), ("1,000.", 1000), ("12.5", 12.5)):
        assert number == record(km=written)["vehicle"]["attributes"]["mileage_km"]


MINIMAL = "record_id: a\nupdated_at: {value: 2026-03-01}\n"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "the mapping is a mapping"),
        ("record_id: a", "line 1, column 1: needs updated_at"),
        ("a: [", "line 1, column 5"),
        ("{a: *b}", "line 1, column 5: found undefined alias"),
        (MINIMAL + "identifier: {mobile: m}", "line 3, column 1: does not know identifier; did you mean identifiers?"),
        (MINIMAL + "identifiers: {mobil: m}", "line 3, column 15: does not know mobil; did you mean mobile?"),
        (MINIMAL + "identifiers:\n  mobile: {colum: m}", "line 4, column 12: does not know colum; did you mean column?"),
        (MINIMAL + "identifiers:\n  mobile: {column: m, value: 1}", "line 4, column 11: identifiers.mobile needs either"),
        (MINIMAL + "identifiers: {mobile: {column: m, type: number}}", "identifiers.mobile.type is one of text"),
        (MINIMAL + "vehicle: {relation: {value: likes}}", "vehicle.relation is one of owns, drives, pays_for"),
        (MINIMAL + "vehicle: {relation: {column: r, values: {a: likes}}}", "vehicle.relation.values: a becomes one of"),
        (MINIMAL + "attributes: {a: {column: a, type: nummer}}", "attributes.a.type is one of text, number, boolean"),
        (MINIMAL + "attributes: {a: {column: a, format: '%Y'}}", "attributes.a.format is for dates and times"),
        (MINIMAL + "attributes: {a: {column: a, type: date, format: 'Y'}}", "attributes.a.format: not a format"),
        (MINIMAL + "attributes: {a: {column: a, type: date, zone: Mars/One}}", "attributes.a.zone is no zone"),
        (MINIMAL + "attributes: {a: b, a: c}", "line 3, column 20: a stands twice"),
        (MINIMAL + "format: {encoding: ebcdic}", "format.encoding is one of"),
        (MINIMAL + "format: {delimiter: ab}", "format.delimiter is one character"),
        ("record_id: a\nupdated_at: {value: soon}", "line 2, column 21: updated_at.value is a date"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, place: str) -> None:
    with pytest.raises(MappingError) as wrong:
        mapping.parse(text)
    assert place in wrong.value.message
    assert ("INVALID_MAPPING", "mapping") == (wrong.value.reason, wrong.value.field)


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [("", "a.csv", "MAPPING_MISSING"), ("", "a", "MAPPING_MISSING"), (MINIMAL, "a.xml", "INVALID_MAPPING")],
)
def test_a_file_whose_columns_nobody_knows_needs_a_mapping_and_leads_take_none(text: str, name: str, reason: str) -> None:
    with pytest.raises(MappingError) as wrong:
        plan(text, name)
    assert reason == wrong.value.reason


def test_the_name_of_a_file_says_what_it_is_unless_the_mapping_does() -> None:
    kinds = [plan(MINIMAL, name).layout.kind for name in ("a.csv", "a.TSV", "a.parquet", "a.jsonl", "a")]
    assert ["csv", "csv", "parquet", "jsonl", "csv"] == kinds
    assert "parquet" == plan(MINIMAL + "format: {kind: parquet}", "a.csv").layout.kind
    assert ("jsonl", "adf") == (plan("", "a.ndjson").layout.kind, plan("", "leads.adf").layout.kind)


def test_what_people_are_shown_of_an_identifier_does_not_tell_it() -> None:
    assert ["", "**", "a*c", "13*******00"] == [masked(value) for value in ("", "ab", "abc", "13800138000")]
