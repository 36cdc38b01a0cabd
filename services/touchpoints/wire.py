"""Observed events as the contract's bytes, written by hand: at the hot door protobuf's objects cost three times as much.

The tags are those of ObservedBatch, ObservedEvent and Identifiers in events.proto; a property test reads them with protobuf.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from chassis.sealing import DataKey, seal
from services.touchpoints.domain.observed import Observed


def _varint(number: int) -> bytes:
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


# Nearly all lengths are below this.
_SHORT: Final = 2048
_LENGTHS: Final = tuple(_varint(length) for length in range(_SHORT))


def _length(size: int) -> bytes:
    return _LENGTHS[size] if size < _SHORT else _varint(size)


def _text(tag: bytes, text: str) -> bytes:
    raw = text.encode()
    return tag + _length(len(raw)) + raw if raw else b""


@lru_cache(4096)
def _kind(kind: str, scope: str) -> bytes:
    """The first two fields of an Identifier; there are few sources and kinds."""
    return _text(b"\x0a", kind) + _text(b"\x12", scope)


@lru_cache(4096)
def _named(source: str, name: str) -> bytes:
    return _text(b"\x12", source) + _text(b"\x1a", name)


@lru_cache(64)
def _instant(tag: bytes, us: int) -> bytes:
    return tag + _varint(us)


def identifiers(event: Observed) -> bytes:
    """The serialised Identifiers of an event."""
    parts: list[bytes] = []
    for kind, scope, value in event.identifiers:
        raw = value.encode()
        one = _kind(kind, scope)
        if raw:
            one += b"\x1a" + _length(len(raw)) + raw
        parts += (b"\x0a", _length(len(one)), one)
    if event.person_name:
        parts.append(_text(b"\x12", event.person_name))
    if event.relation:
        parts.append(b"\x18" + _varint(event.relation))
    if event.address:
        parts.append(_text(b"\x22", event.address))
    if event.birth_date:
        parts.append(_text(b"\x2a", event.birth_date))
    return b"".join(parts)


def sealed(event: Observed, key: DataKey, received_us: int) -> bytes:
    """A serialised ObservedBatch of this event alone, without the key; batches are put together by appending them."""
    number, properties, vehicle = event.event_id, event.properties, event.vehicle_properties
    hidden = seal(key, number, identifiers(event))
    parts = [
        b"\x0a",
        _LENGTHS[len(number)],
        number,
        _named(event.source, event.name),
        b"\x20",
        _varint(event.occurred_at_us),
        _instant(b"\x28", received_us),
        b"\x32",
        _length(len(hidden)),
        hidden,
    ]
    if properties:
        parts += (b"\x42", _length(len(properties)), properties)
    if vehicle:
        parts += (b"\x4a", _length(len(vehicle)), vehicle)
    fact = b"".join(parts)
    return b"\x12" + _length(len(fact)) + fact
