"""What an audience is like before it is used: through which channels it can be reached, and a few of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from services.tags.audiences.consents import Listed
from services.tags.domain.catalogue import Catalogue, Kind, TagType
from services.tags.domain.terms import Holds, IsMissing, Not, Term
from services.tags.index.algebra import audience
from services.tags.index.index import AudienceIndex

# Who has an address there.
ADDRESSABLE: Final[Mapping[str, Term]] = {
    "app": Holds("has_app"),
    "wechat": Holds("has_wechat"),
    "dealer": Not(IsMissing("dealer_code")),
}
CHANNELS: Final = tuple(ADDRESSABLE)
# What the house asks for first, where it is in the catalogue.
_USUAL: Final[Mapping[Kind, Sequence[str]]] = {
    Kind.PERSON: ("lifecycle", "score_band", "has_app", "has_wechat", "dealer_code", "age"),
    Kind.VEHICLE: ("model", "high_mileage", "service_due", "mileage_km"),
    Kind.HOUSEHOLD: (),
    Kind.DEALER: (),
}
_OTHERWISE: Final = 5


class Reach(NamedTuple):
    """How many of an audience a channel has an address of, and how many of those it may carry marketing to."""

    channel: str
    addressable: int
    allowed: int


def usual_tags(catalogue: Catalogue, kind: Kind) -> list[str]:
    """Tags that an audience is broken down by when nobody says which."""
    known = catalogue.of(kind)
    if found := [tag for tag in _USUAL[kind] if tag in known]:
        return found
    small = (TagType.BOOLEAN, TagType.CATEGORY)
    return [d.name for d in known.values() if d.type in small and d.name not in catalogue.views[kind]][:_OTHERWISE]


def reach(index: AudienceIndex, members: BitMap, consents: Mapping[str, Listed], now: float) -> tuple[list[Reach], int]:
    """Reach per channel, and how many persons at least one channel reaches."""
    known = index.columns(Kind.PERSON)
    found: list[Reach] = []
    reached = BitMap()
    for channel, term in ADDRESSABLE.items():
        tag = term.term.tag if isinstance(term, Not) else term.tag  # type: ignore[union-attr]  # one of the above
        there = audience(index, Kind.PERSON, term, now, within=members) if tag in known else BitMap()
        listed = consents[channel]
        allowed = there & listed.persons if listed.is_allowed else there - listed.persons
        found.append(Reach(channel, len(there), len(allowed)))
        reached |= allowed
    return found, len(reached)


def sample(members: NDArray[np.uint32], size: int, seed: int) -> list[int]:
    """Members with the lowest hashes: as good as drawn by lot, and the same ones as long as they stay."""
    if len(members) <= size:
        chosen = members
        hashes = _hashed(members, seed)
    else:
        hashes = _hashed(members, seed)
        places = np.argpartition(hashes, size)[:size]
        chosen, hashes = members[places], hashes[places]
    ordered: list[int] = chosen[np.argsort(hashes, kind="stable")].tolist()
    return ordered


def _hashed(ids: NDArray[np.uint32], seed: int) -> NDArray[np.uint64]:
    """SplitMix64 of each id under a seed."""
    x = ids.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return hashed
