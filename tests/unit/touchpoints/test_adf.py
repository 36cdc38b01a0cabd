"""ADF leads: what is written correctly, what is written as it is in the wild, and what is only meant to hurt."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest

from services.touchpoints.domain import adf
from services.touchpoints.domain.observed import Invalid, Observed, Source

NOW_US = 1_772_400_000_000_000
SOURCE = Source("portal", "crm_id", "")
ARRIVAL = adf.Arrival(SOURCE, NOW_US, NOW_US - 3650 * 86_400_000_000)
CUSTOMER = '<customer><contact><phone type="cellphone">13800138000</phone></contact></customer>'
FULL = """<?xml version="1.0" encoding="UTF-8"?>
<?adf version="1.0"?>
<adf><prospect status="new">
  <id sequence="1" source="Portal">L-1</id><id sequence="2" source="CRM">77</id>
  <requestdate>2026-03-01T08:00:00-08:00</requestdate>
  <vehicle interest="trade-in" status="used"><year>2019</year>
    <make>Audi</make><model>A4</model><vin>LFV3A24G5K3000001</vin></vehicle>
  <vehicle interest="test-drive" status="new"><year>2026</year>
    <make>BMW</make><model>X5</model><vin>LBV00000000000001</vin></vehicle>
  <customer><id>C-9</id><contact><name part="first">Wei</name><name part="last">Zhang</name><email>wei@example.com</email>
    <phone type="fax">02088888888</phone><phone type="voice">13900139000</phone><phone type="cellphone">138 0013 8000</phone>
    <address><street line="1">1 Road</street><city>Shenzhen</city><postalcode>518000</postalcode></address></contact>
    <comments>Weekend please</comments></customer>
  <vendor><contact><name part="full">Star Motors</name></contact></vendor><provider><name>AutoHome</name></provider>
</prospect></adf>"""


def lead(inside: str = "", customer: str = CUSTOMER) -> str:
    return f"<adf><prospect>{inside}{customer}</prospect></adf>"


def observed(text: str | bytes) -> Observed:
    body = text.encode() if isinstance(text, str) else text
    [one] = adf.leads(body)
    return adf.observe(one, ARRIVAL)


def said(event: Observed) -> dict[str, Any]:
    return dict(json.loads(event.properties or b"{}"))


def test_a_lead_becomes_an_event_whose_identifiers_are_apart_and_whose_car_is_the_customers() -> None:
    event = observed(FULL)
    assert ("portal", "Lead Submitted", 1_772_380_800_000_000) == (event.source, event.name, event.occurred_at_us)
    assert [
        ("crm_id", "portal", "C-9"),
        ("mobile", "", "138 0013 8000"),
        ("mobile", "", "13900139000"),
        ("email", "", "wei@example.com"),
        ("vin", "", "LFV3A24G5K3000001"),
    ] == event.identifiers
    assert ("Wei Zhang", "1 Road, Shenzhen, 518000", 1) == (event.person_name, event.address, event.relation)
    assert {
        "lead_id": "L-1",
        "make": "BMW",
        "model": "X5",
        "year": 2026,
        "comment": "Weekend please",
        "vendor": "Star Motors",
        "provider": "AutoHome",
        "interest": "test_drive",
        "condition": "new",
    } == said(event)
    assert {"make": "Audi", "model": "A4", "year": 2019} == json.loads(event.vehicle_properties)


def test_a_lead_told_again_is_the_same_event_and_another_one_is_not() -> None:
    again = FULL.replace("Weekend please", "Monday please")
    assert observed(FULL).event_id == observed(again).event_id
    assert observed(FULL).event_id != observed(FULL.replace("L-1", "L-2")).event_id
    assert observed(lead("<comments>a</comments>")).event_id != observed(lead("<comments>b</comments>")).event_id


def test_of_a_dealers_car_nothing_makes_its_askers_one_person() -> None:
    event = observed(lead('<vehicle interest="buy"><vin>LBV00000000000001</vin><model>X5</model></vehicle>'))
    assert ([("mobile", "", "13800138000")], 0, b"") == (event.identifiers, event.relation, event.vehicle_properties)


@pytest.mark.parametrize(
    "body",
    [
        FULL.replace("<?adf version", "<?ADF VERSION"),
        FULL.replace("<adf>", "<ADF>").replace("</adf>", "</ADF>"),
        FULL.replace("<adf>", "").replace("</adf>", ""),
        FULL.replace("<adf>", '<adf xmlns="urn:adf">'),
        FULL.replace("Weekend please", "Weekend & more\x01"),
        FULL.replace("Weekend", "Wochenende ä").encode("latin-1"),
        FULL.replace("UTF-8", "GB2312").replace("Weekend", "周末").encode("gb2312"),
        FULL.replace("UTF-8", "zip"),
        "\ufeff" + FULL,
        "\n" + FULL,
    ],
)
def test_what_is_written_wrong_the_usual_way_is_read_all_the_same(body: str | bytes) -> None:
    assert ("crm_id", "portal", "C-9") == observed(body).identifiers[0]
    assert "X5" == said(observed(body))["model"]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("2026-03-01T08:00:00Z", 1_772_352_000),
        ("2026-03-01 08:00:00", 1_772_352_000),
        ("2026-03-01T08:00:00-08:0", 1_772_380_800),
        ("2026-03-01T08:00:00+0800", 1_772_323_200),
        ("3/1/2026 08:00:00", 1_772_352_000),
        ("Sun, 01 Mar 2026 08:00:00 +0000", 1_772_352_000),
        ("2026-03-01", 1_772_323_200),
        ("yesterday", NOW_US // 1_000_000),
        ("2026-13-41T99:00:00Z", NOW_US // 1_000_000),
        ("2026-03-01T08:00:00+99:99", NOW_US // 1_000_000),
        ("", NOW_US // 1_000_000),
    ],
)
def test_a_time_is_read_however_it_is_written(written: str, seconds: int) -> None:
    assert seconds * 1_000_000 == observed(lead(f"<requestdate>{written}</requestdate>")).occurred_at_us


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        (b"", "prospect", "NO_LEAD"),
        (b"\xff\xfe\x00", "prospect", "NO_LEAD"),
        (b"<adf><prospect>", "body", "NOT_XML"),
        (b"<adf/>", "prospect", "NO_LEAD"),
        (b"<adf>" + b"<prospect>" * 499 + b"x" * 1000 + b"</prospect>" * 499 + b"</adf>", "prospect", "NESTED_LEAD"),
        (b"just words", "prospect", "NO_LEAD"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><adf><prospect>&b;</prospect></adf>', "body", "ENTITIES_FORBIDDEN"),
        (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "body", "ENTITIES_FORBIDDEN"),
        (lead(customer="").encode(), "customer.contact", "NO_ID"),
    ],
)
def test_what_is_no_lead_is_named(body: bytes, field: str, reason: str) -> None:
    with pytest.raises(Invalid) as refused:
        observed(body)
    assert (field, reason) == (refused.value.field, refused.value.reason)


def test_deep_and_wide_documents_cost_what_their_size_does() -> None:
    begin = time.perf_counter()
    for body in (b"<a>" * 300_000, b"<a>" * 150_000 + b"</a>" * 150_000, b"<adf>" + b"<prospect/>" * 100_000 + b"</adf>"):
        with contextlib.suppress(Invalid):
            adf.written(adf.leads(body)[0])
    assert time.perf_counter() - begin < 20


def test_a_deep_lead_that_is_wrong_can_still_be_set_aside() -> None:
    [one] = adf.leads(b"<prospect>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</prospect>")
    assert b"<prospect" in adf.written(one)
    with pytest.raises(Invalid):
        adf.observe(one, ARRIVAL)


def test_a_lead_without_a_number_is_the_same_lead_whatever_follows_it() -> None:
    ids = {observed(lead().replace("</prospect>", f"</prospect>{tail}")).event_id for tail in ("", "\n", "  \n\t")}
    assert 1 == len(ids)
