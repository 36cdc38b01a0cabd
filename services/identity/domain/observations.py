"""One event as identity sees it: whose anchor, which claims, and what is handed on untouched."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import ANCHOR_ORDER, Kind, Space

OWNS, DRIVES, PAYS_FOR = "owns", "drives", "pays_for"

# Numbers of kinds are ordered by space; asking each for its space would cost more than the rest of this.
_FIRST_AND_LAST = {
    space: (min(kinds), max(kinds))
    for space in (Space.PERSON, Space.VEHICLE, Space.DEALER)
    for kinds in [[int(kind) for kind in Kind if kind.space is space]]
}
_RANKS = [ANCHOR_ORDER.get(Kind(kind), 0) if kind else 0 for kind in range(max(Kind) + 1)]


class Observation(NamedTuple):
    """An event with its valid identifiers, anchors first; `signature` is the hash of everything it claims."""

    event_id: bytes
    source: str
    event: str
    occurred_us: int
    received_us: int
    persons: tuple[Known, ...]
    vehicles: tuple[Known, ...]
    person_name: str
    # Hash of the name's sound, 0 when there is no name.
    name: int
    relation: str
    properties: bytes
    vehicle_properties: bytes
    signature: bytes
    # Feedback names the anchor a push went to instead of identifiers.
    anchor_id: int = 0
    # Postal address as given, the hash of its normal form (0: none), date of birth (YYYY-MM-DD).
    address: str = ""
    address_hash: int = 0
    birth_date: str = ""


def in_order(identifiers: Sequence[Known], space: Space) -> tuple[Known, ...]:
    """Those of one space without repeats, the anchor first."""
    first, last = _FIRST_AND_LAST[space]
    mine = {known.token: known for known in identifiers if first <= known.kind <= last}
    return tuple(sorted(mine.values(), key=_rank)) if len(mine) > 1 else tuple(mine.values())


def _rank(known: Known) -> tuple[int, str]:
    # By value, not by token: the order must outlive the keys.
    return _RANKS[known.kind], known.value


def signature(
    source: str, persons: Sequence[Known], vehicles: Sequence[Known], name: int, address: int, birth_date: str, relation: str
) -> bytes:
    """16 bytes that are the same for events that claim the same."""
    parts = [known.token for known in persons]
    parts.append(b"|")
    parts += [known.token for known in vehicles]
    parts.append(f"|{name}|{address}|{birth_date}|{relation}|{source}".encode())
    return blake2b(b"".join(parts), digest_size=16).digest()
