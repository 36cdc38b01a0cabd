"""What a record may say of a person beside identifiers, and how it is refused: by the name of the field."""

from __future__ import annotations

from typing import Any

import pytest
from troika.touchpoints.v1.events_pb2 import Identifiers, ObservedBatch

from chassis.sealing import DataKey, open_sealed, recover
from services.touchpoints import wire
from services.touchpoints.domain.observed import Invalid, Observed, Source
from services.touchpoints.domain.records import observe

NOW_US = 1_800_000_000_000_000
DEALER = Source("dealer:D001", "crm_id", "")


def record(**extra: Any) -> Observed:
    raw = {"record_id": "1", "updated_at": "2026-03-01T08:00:00Z", **extra}
    return observe(raw, DEALER, NOW_US, 0)


def test_address_birth_date_and_payer_travel_sealed_and_nowhere_else() -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    private = X25519PrivateKey.generate()
    key = DataKey.agree(private.public_key().public_bytes_raw(), "k1")
    address = "深圳市南山区科技园路12号3栋502室"
    taken = record(
        identifiers={"address": address, "birth_date": "1985-02-28"},
        vehicle={"vin": "LSVAA49J132047371", "relation": "pays_for"},
    )
    written = wire.sealed(taken, key, NOW_US)
    assert address.encode() not in written
    [sent] = ObservedBatch.FromString(written).events
    data_key = recover(private, "k1", key.ephemeral_public_key)
    opened = Identifiers.FromString(open_sealed(data_key, sent.event_id, sent.sealed_identifiers))
    assert (address, "1985-02-28", 3) == (opened.address, opened.birth_date, opened.relation)


@pytest.mark.parametrize(
    ("identifiers", "field", "reason"),
    [
        ({"birth_date": "1985-02-30"}, "identifiers.birth_date", "INVALID_DATE"),
        ({"birth_date": "28.2.1985"}, "identifiers.birth_date", "INVALID_DATE"),
        ({"birth_date": "1985-02-28T00:00:00Z"}, "identifiers.birth_date", "INVALID_DATE"),
        ({"birth_date": "19850228"}, "identifiers.birth_date", "INVALID_DATE"),
        ({"birth_date": "1899-12-31"}, "identifiers.birth_date", "OUT_OF_RANGE"),
        ({"birth_date": "2999-01-01"}, "identifiers.birth_date", "OUT_OF_RANGE"),
        ({"birth_date": ["1985-02-28"]}, "identifiers.birth_date", "WRONG_TYPE"),
        ({"address": {"city": "深圳"}}, "identifiers.address", "WRONG_TYPE"),
        ({"address": "路" * 256}, "identifiers.address", "TOO_LONG"),
    ],
)
def test_malformed_fields_are_refused_by_name(identifiers: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(Invalid) as error:
        record(identifiers=identifiers)
    assert (field, reason) == (error.value.field, error.value.reason)


@pytest.mark.parametrize("relation", ["likes", "", 3, ["owns"], {}])
def test_unknown_relations_are_refused_by_name(relation: Any) -> None:
    with pytest.raises(Invalid) as error:
        record(vehicle={"relation": relation})
    assert ("vehicle.relation", "UNKNOWN_RELATION") == (error.value.field, error.value.reason)


def test_nothing_said_is_nothing_refused() -> None:
    taken = record(identifiers={"address": None, "birth_date": ""}, vehicle=None)
    assert ("", "", 0) == (taken.address, taken.birth_date, taken.relation)
