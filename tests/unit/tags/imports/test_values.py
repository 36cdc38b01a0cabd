"""Cells: what each type takes, what is refused and why, never the cell itself."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from services.tags.imports.values import BadCell, CellReader, Fault, typed
from tests.unit.tags.imports.catalogue import HASH, csv, plan, rows

ZONE = ZoneInfo("Asia/Shanghai")
TAGS = {tag.tag: tag for tag in plan().tags}
NOW_US = 1_800_000_000_000_000


@pytest.mark.parametrize(
    ("tag", "cell", "expected"),
    [
        ("household_size", "3", 3.0),
        ("household_size", "-1.5e2", -150.0),
        ("household_size", 4, 4.0),
        ("household_size", Decimal("2.5"), 2.5),
        ("household_size", "", None),
        ("household_size", None, None),
        ("household_size", float("nan"), None),
        ("income_band", "1", "low"),
        ("income_band", 3, "high"),
        ("car_loan", "是", True),
        ("car_loan", "No", False),
        ("car_loan", 1, True),
        ("car_loan", False, False),
        ("hobbies", "tea; golf;;tea", ["golf", "tea"]),
        ("hobbies", ["b", "a", "b"], ["a", "b"]),
        ("hobbies", ";", None),
        ("moved_on", "2026-03-01", 1_772_294_400.0),
        ("moved_on", "2026-03-01T00:00:00Z", 1_772_323_200.0),
        ("moved_on", date(2026, 3, 1), 1_772_294_400.0),
        ("moved_on", datetime(2026, 3, 1), 1_772_294_400.0),
        ("remark", "likes 5 doors, 2026", "likes 5 doors, 2026"),
    ],
)
def test_a_cell_becomes_a_value_of_its_tags_type(tag: str, cell: Any, expected: Any) -> None:
    assert expected == typed(TAGS[tag], cell, ZONE)


@pytest.mark.parametrize(
    ("tag", "cell", "reason"),
    [
        ("household_size", "three", "NOT_A_NUMBER"),
        ("household_size", "1,5", "NOT_A_NUMBER"),
        ("household_size", "1_0", "NOT_A_NUMBER"),
        ("household_size", "inf", "NOT_A_NUMBER"),
        ("household_size", "1e999", "NOT_A_NUMBER"),
        ("household_size", True, "NOT_A_NUMBER"),
        ("household_size", 10**400, "NOT_A_NUMBER"),
        ("income_band", "4", "UNKNOWN_WORD"),
        ("car_loan", "perhaps", "NOT_YES_OR_NO"),
        ("car_loan", 2, "NOT_YES_OR_NO"),
        ("moved_on", "01.03.2026", "NOT_A_TIME"),
        ("moved_on", "2026-02-30", "NOT_A_TIME"),
        ("moved_on", 20260301, "NOT_A_TIME"),
        ("hobbies", [["a"]], "NOT_A_WORD"),
        ("remark", {"a": 1}, "NOT_A_WORD"),
        ("remark", "a\0b", "CONTROL_CHARACTER"),
        ("remark", "\ud800", "CONTROL_CHARACTER"),
        ("remark", "x" * 2001, "TOO_LONG"),
        ("remark", "call 138 0013 8001", "LOOKS_PERSONAL"),
        ("remark", "+86-13800138001", "LOOKS_PERSONAL"),
        ("remark", "is 11010519491231002X", "LOOKS_PERSONAL"),
        ("hobbies", "tea;li.na@mail.cn", "LOOKS_PERSONAL"),
    ],
)
def test_a_cell_that_is_none_is_refused_with_its_reason(tag: str, cell: Any, reason: str) -> None:
    with pytest.raises(BadCell) as error:
        typed(TAGS[tag], cell, ZONE)
    assert reason == error.value.reason == str(error.value)


def test_lines_and_cells_are_refused_one_by_one_and_the_others_stay() -> None:
    text = csv(
        f"{HASH},2026-03-01,0.9,1,3,yes,tea,2026-01-01,fine",
        f"{HASH[:-1]},2026-03-01,0.9,1,3,yes,,,",
        f"{HASH[:-1]}g,2026-03-01,0.9,1,3,yes,,,",
        ",2026-03-01,0.9,1,3,yes,,,",
        f"{HASH},,0.9,1,3,yes,,,",
        f"{HASH},2099-03-01,0.9,1,3,yes,,,",
        f"{HASH},1066-10-14,0.9,1,3,yes,,,",
        f"{HASH},2026-03-01,1.1,1,3,yes,,,",
        f"{HASH},2026-03-01,,1,3,yes,,,",
        f"{HASH},2026-03-01,0.9,9,three,yes,,,{'x' * 1_000_000}",
        f"{HASH},2026-03-01",
        f"{HASH.upper()},2026-03-01,0.9,,,,,,",
    )
    read = CellReader(plan(), NOW_US).read(rows(text))
    assert [2, 11, 13] == [line for line, _, _ in read.lines]
    assert {bytes.fromhex(HASH)} == {hashed for _, hashed, _ in read.lines}
    assert [6, 1, 0] == [len(said) for _, _, said in read.lines]
    assert [
        Fault(3, "phone", "INVALID_HASH"),
        Fault(4, "phone", "INVALID_HASH"),
        Fault(5, "phone", "HASH_MISSING"),
        Fault(6, "as_of", "TIME_MISSING"),
        Fault(7, "as_of", "TIME_OUT_OF_RANGE"),
        Fault(8, "as_of", "TIME_OUT_OF_RANGE"),
        Fault(9, "sure", "INVALID_CONFIDENCE"),
        Fault(10, "sure", "INVALID_CONFIDENCE"),
        Fault(11, "income", "UNKNOWN_WORD"),
        Fault(11, "heads", "NOT_A_NUMBER"),
        Fault(11, "remark", "CELL_TOO_LONG"),
        Fault(12, "", "WRONG_NUMBER_OF_CELLS"),
    ] == read.faults
    assert (9, 3) == (read.refused_lines, read.refused_values)


def test_what_a_partner_says_is_dated_and_expires_from_then() -> None:
    read = CellReader(plan(), NOW_US).read(rows(csv(f"{HASH},2026-03-01,0.9,1,,,,2026-01-01,")))
    income, moved = read.lines[0][2]
    assert (1_772_294_400_000_000, 0.9, None) == (income.occurred_us, income.confidence, income.until_us)
    assert 1_772_294_400_000_000 + 30 * 86_400_000_000 == moved.until_us
