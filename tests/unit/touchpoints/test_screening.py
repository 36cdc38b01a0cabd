"""Personal data leaves properties, whatever shape it has; everything else stays as it was."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.touchpoints.domain.screening import REDACTED, Found, looks_personal, screen


def screened(properties: dict[str, Any]) -> tuple[dict[str, Any], Found]:
    found: Found = []
    raw = screen(properties, found)
    return json.loads(raw or b"{}"), found


@pytest.mark.parametrize(
    "text",
    [
        "13800138000",
        "+86 138-0013-8000",
        "call 0086 13800138000 now",
        "１３８００１３８０００",
        "me@example.cn",
        "11010519491231002X",
        "LSVAA4182E2184847",
        "his VIN is lsvaa4182e2184847.",
    ],
)
def test_a_text_that_looks_like_an_identifier_is_redacted(text: str) -> None:
    assert ({"note": REDACTED, "deep": [{"x": REDACTED}], "model": "X5"}, []) == screened(
        {"note": text, "deep": [{"x": text}], "model": "X5"}
    )


@pytest.mark.parametrize(
    "text",
    [
        "X5",
        "2026-03-01T08:00:00Z",
        "1700000000000",
        "c729b800-6bde-4308-8c56-3e51d40f36aa",
        "12800138000",
        "/models/x5?utm=spring",
        "123456789012345678",
        "ABCDEFGHJKLMNPRST",
        "user@home",
        "价格 138,000 元",
    ],
)
def test_harmless_texts_stay(text: str) -> None:
    assert ({"note": text}, []) == screened({"note": text})


def test_named_identifiers_move_to_the_sealed_part() -> None:
    given = {"Phone_Number": "138 0013 8000", "e-mail": "a@b.cn", "VIN": "V1", "id card": 11010519491231002, "model": "X5"}
    clean, found = screened(given)
    assert {"model": "X5"} == clean
    assert [
        ("mobile", "", "138 0013 8000"),
        ("email", "", "a@b.cn"),
        ("vin", "", "V1"),
        ("id_card", "", "11010519491231002"),
    ] == found


def test_personal_keys_are_dropped_at_any_depth() -> None:
    assert ({"lead": {"model": "X5"}}, []) == screened(
        {"lead": {"model": "X5", "phone": "x", "full name": "张伟"}, "姓名": "李"}
    )


def test_numbers_that_are_a_mobile_are_redacted_and_other_numbers_are_not() -> None:
    assert ({"a": REDACTED, "b": 41, "c": 1.13800138000, "d": True}, []) == screened(
        {"a": 13800138000, "b": 41, "c": 1.13800138000, "d": True}
    )


SAFE = st.text("abcdefg 试驾", max_size=12)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 99_999) | SAFE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "colour", "n"]), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["model", "page", "x"]), TREES, max_size=3))
def test_properties_without_personal_data_come_out_unchanged(properties: dict[str, Any]) -> None:
    assert (properties, []) == screened(properties)


@given(
    TREES,
    st.sampled_from(["", "tel:", "他的电话是"]),
    st.from_regex(r"\A1[3-9][0-9]{9}\Z"),
    st.sampled_from(["", "。", " (work)"]),
)
def test_no_mobile_survives_wherever_it_stands(tree: Any, before: str, mobile: str, after: str) -> None:
    found: Found = []
    assert mobile.encode() not in screen({"tree": [tree, {"x": [before + mobile + after]}], mobile: 1}, found)


@pytest.mark.parametrize("text", ["a" * 200_000, "1" * 200_000, "1 " * 100_000, "a@" * 100_000, "A1" * 100_000, "_" * 200_000])
def test_hostile_texts_cost_no_more_than_their_length(text: str) -> None:
    started = time.process_time()
    looks_personal(text)
    screen({"m" + text: 1, "note": "a@b.cn", "x": text}, [])
    assert time.process_time() - started < 1
