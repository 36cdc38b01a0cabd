"""One event as identity sees it: whose anchor, which claims, and what is handed on untouched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import ANCHOR_ORDER, Kind, Space

OWNS, DRIVES = "owns", "drives"


@dataclass(frozen=True, slots=True)
class Observation:
    """An event with its valid identifiers, anchors first; `signature` is the hash of everything it claims."""

    event_id: bytes
    source: str
    name: str
    occurred_us: int
    received_us: int
    persons: tuple[Known, ...]
    vehicles: tuple[Known, ...]
    person_name: str
    name_token: bytes
    relation: str
    properties: bytes
    vehicle_properties: bytes
    signature: bytes
    # Feedback names the anchor a push went to instead of identifiers.
    anchor_id: int = 0


def in_order(identifiers: Sequence[Known], space: Space) -> tuple[Known, ...]:
    """Those of one space without repeats, the anchor first."""
    vehicle = space is Space.VEHICLE
    # Numbers of kinds are ordered by space; asking each for its space would cost more than the rest of this.
    mine = {known.token: known for known in identifiers if (known.kind >= Kind.VIN) is vehicle}
    return tuple(sorted(mine.values(), key=_rank)) if len(mine) > 1 else tuple(mine.values())


def _rank(known: Known) -> tuple[int, bytes]:
    return ANCHOR_ORDER[known.kind], known.token


def signature(source: str, persons: Sequence[Known], vehicles: Sequence[Known], name_token: bytes, relation: str) -> bytes:
    """16 bytes that are the same for events that claim the same."""
    parts = [known.token for known in persons]
    parts.append(b"|")
    parts += [known.token for known in vehicles]
    return blake2b(
        b"".join([*parts, b"|", name_token, b"|", relation.encode(), b"|", source.encode()]), digest_size=16
    ).digest()
