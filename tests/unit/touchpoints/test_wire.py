"""Events written by hand are what the contract's own reader sees, and what needs no close look is what a close look leaves."""

from __future__ import annotations

from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from troika.touchpoints.v1.events_pb2 import Identifier, Identifiers, ObservedBatch, ObservedEvent

from chassis.sealing import DataKey, open_sealed
from services.touchpoints import wire
from services.touchpoints.domain import screening
from services.touchpoints.domain.observed import Observed

KEY = DataKey.agree(X25519PrivateKey.generate().public_key().public_bytes_raw(), "k1")
TEXT = st.text(st.characters(codec="utf-8"), max_size=300)
INSTANT = st.integers(-(2**62), 2**62)
JSON = st.sampled_from([b"", b"{}", b'{"a":1}', b"x" * 127, b"x" * 128, b"x" * 3000, b"x" * 20_000])
EVENTS = st.builds(
    Observed,
    st.binary(min_size=16, max_size=16),
    TEXT,
    TEXT,
    INSTANT,
    st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5),
    TEXT,
    st.integers(0, 3),
    JSON,
    JSON,
    TEXT,
    TEXT,
)


@settings(max_examples=150)
@given(st.lists(EVENTS, min_size=1, max_size=3), INSTANT)
def test_bytes_that_are_appended_are_a_batch_to_every_reader(events: list[Observed], received_us: int) -> None:
    batch = ObservedBatch.FromString(b"".join(wire.sealed(event, KEY, received_us) for event in events))
    for event, fact in zip(events, batch.events, strict=True):
        hidden = Identifiers.FromString(open_sealed(KEY, event.event_id, fact.sealed_identifiers))
        assert (
            Identifiers(
                identifiers=[Identifier(kind=k, scope=s, value=v) for k, s, v in event.identifiers],
                person_name=event.person_name,
                relation=event.relation,  # type: ignore[arg-type]  # the numbers are the contract's
                address=event.address,
                birth_date=event.birth_date,
            )
            == hidden
        )
        fact.ClearField("sealed_identifiers")
        assert (
            ObservedEvent(
                event_id=event.event_id,
                source=event.source,
                name=event.name,
                occurred_at_us=event.occurred_at_us,
                received_at_us=received_us,
                properties_json=event.properties,
                vehicle_properties_json=event.vehicle_properties,
            )
            == fact
        )


PIECES = st.sampled_from(
    [
        *(
            "138",
            "0013",
            "8000",
            "13800138000",
            "138 0013-8000",
            "１３８",
            "11010119900307",
            "4514",
            "X",
            "LSVAA49J1",
            "32047371",
            "@",
        ),
        *(
            "a",
            "wei@example.com",
            "phone",
            "Pho-ne ",
            "e_mail",
            "address",
            "地址",
            "-",
            " ",
            "0",
            "model",
            "1772400000000",
            "\u2028",
            '"',
        ),
    ]
)
WORDS = st.lists(PIECES, max_size=4).map("".join)
VALUES = st.recursive(
    WORDS | st.integers(0, 10**18) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=400)
@given(st.dictionaries(WORDS, VALUES, min_size=1, max_size=4))
def test_what_is_harmless_at_first_sight_holds_nothing_that_a_close_look_would_take_out(properties: dict[str, Any]) -> None:
    raw = orjson.dumps(properties)
    if screening._harmless(raw) and screening._harmless_keys(*properties):
        assert properties == screening._clean(properties, 0)
