"""Plates, doors and cards: what is read, who may post, what an advisor is told."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.touchpoints.arrivals.cards import Facts, Offer, card, masked
from services.touchpoints.arrivals.doors import Bucket, network, sender
from services.touchpoints.arrivals.plates import plate_in, tail
from services.touchpoints.domain.dealers import band_of

AT = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "plate"),
    [
        ("京A12345", "京A12345"),
        ("蓝京A12345", "京A12345"),
        ("黄牌粤B·1234学", "粤B1234学"),
        ("渐变绿沪AD12345", "沪AD12345"),
        ("绿粤B12345D", "粤B12345D"),
        ("京Ａ１２３４５", "京A12345"),
        ("粤b 12-345", "粤B12345"),
        # No serial has I or O.
        ("京AO1I45", "京A01145"),
        ("京AO1I456", None),
        ("京A0O1I4", "京A00114"),
        ("京AI2345", "京A12345"),
        ("京AI23456", None),
        ("京A8B2Z5", "京A8B2Z5"),
        ("unknown", None),
        ("UnKnown", None),
        ("无车牌", None),
        ("_无_", None),
        ("", None),
        ("京A000000", None),
        ("京A00000", None),
        ("ABC123", None),
        ("京" * 500, None),
    ],
)
def test_a_plate_is_what_cameras_mean(text: str, plate: str | None) -> None:
    assert plate == plate_in(text)


@given(st.from_regex(r"[京沪粤][A-H][A-HJ-NP-Z0-9]{4}[1-9]", fullmatch=True), st.sampled_from(["", "蓝", "黄色", "绿牌", "白"]))
def test_colour_dots_and_width_change_no_plate(plate: str, colour: str) -> None:
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isascii() else c for c in plate)
    dotted = f"{colour}{plate[:2]}·{plate[2:]}"
    assert {plate_in(plate)} == {plate_in(wide), plate_in(dotted), plate_in(plate.lower())}
    assert plate_in(plate) in (plate, None)


@given(st.text(max_size=60))
def test_a_plate_once_read_reads_the_same_again(text: str) -> None:
    plate = plate_in(text)
    assert plate is None or plate == plate_in(plate)


PROXIES = [network("10.0.0.0/8"), network("::1")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "wanted"),
    [
        ("203.0.113.7", "", "203.0.113.7"),
        # Whoever is no proxy of ours may write what they like.
        ("203.0.113.7", "10.0.0.1, 198.51.100.1", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.2.2.2", "198.51.100.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "rubbish", "rubbish"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("", "198.51.100.1", ""),
    ],
)
def test_the_sender_is_the_first_that_is_no_proxy_of_ours(peer: str, forwarded: str, wanted: str) -> None:
    assert wanted == sender(peer, forwarded, PROXIES)


def test_a_door_lets_so_many_in() -> None:
    bucket = Bucket(5)
    assert 10 == sum(bucket.take() for _ in range(50))


def test_a_name_is_masked_and_a_score_has_a_band() -> None:
    assert ("张**", "欧**", "") == (masked("张伟"), masked(" 欧阳娜娜 "), masked("  "))
    assert ["A", "B", "C", "D"] == [band_of(score) for score in (800, 799, 400, 0)]
    assert "345" == tail("京A12345")


def test_a_card_says_what_it_knows_and_why_not_the_rest() -> None:
    facts = Facts(
        vehicle_ref="vehicles/v",
        customer_ref="customers/c",
        relation="owns",
        display_name="张**",
        served_by="D002",
        vehicle={"model": "X5", "mileage_km": 61000, "service_due": 1, "has_open_recall": 0, "service_is_overdue": None},
        score=873.4,
        offer=Offer("offers/1", "延保", "八折", "decisions/1"),
    )
    said = card("a1", "gate", "D001", AT, "345", facts)
    assert {"service_due": True, "has_open_recall": False} == said["service"]
    assert ["service_due"] == [reason["code"] for reason in said["reasons"]]
    assert {"value": 873, "band": "A"} == said["score"]
    assert {"dealer_code": "D002", "here": True} == card("a1", "gate", "D002", AT, "345", facts)["served_by"]
    # Nothing of whose customer it is elsewhere.
    assert (None, False) == (said["served_by"], "D002" in str(said))
    assert [] == said["left_out"]
