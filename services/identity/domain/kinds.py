"""Kinds of identifiers and the guards on each: how far one value may be trusted to mean one person or one vehicle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import lru_cache


class Space(IntEnum):
    """The id spaces; the numbers are those of the contract's EntityKind."""

    PERSON = 1
    VEHICLE = 2
    HOUSEHOLD = 3
    DEALER = 4
    DEVICE = 5


class Kind(IntEnum):
    """Kinds of identifiers; the numbers are stored."""

    CRM_ID = 1
    OPENID = 2
    UNIONID = 3
    DEVICE = 4
    COOKIE = 5
    MOBILE = 6
    EMAIL = 7
    ID_CARD = 8
    VIN = 9
    PLATE = 10
    USCC = 11

    @property
    def space(self) -> Space:
        """Whose identifier it is."""
        return _SPACES.get(self, Space.PERSON)


_SPACES: Mapping[Kind, Space] = {Kind.VIN: Space.VEHICLE, Kind.PLATE: Space.VEHICLE, Kind.USCC: Space.DEALER}
KINDS: Mapping[str, Kind] = {kind.name.lower(): kind for kind in Kind}
SCOPED = frozenset({Kind.CRM_ID, Kind.OPENID})

# Which identifier of an observation its facts hang on, best first: the source's own key, then what is stable on one side.
ANCHOR_ORDER: Mapping[Kind, int] = {
    kind: rank
    for rank, kind in enumerate(
        (
            *(Kind.CRM_ID, Kind.OPENID, Kind.DEVICE, Kind.COOKIE, Kind.MOBILE),
            *(Kind.UNIONID, Kind.EMAIL, Kind.ID_CARD, Kind.VIN, Kind.PLATE, Kind.USCC),
        )
    )
}


class Names(IntEnum):
    """What the name beside a value means for the link."""

    IGNORED = 0  # the value alone decides
    SPLIT = 1  # each name on the value is somebody of their own; nameless links go with the leading name
    REQUIRED = 2  # only value and name together mean a person


class Reason(StrEnum):
    """Why a value or a link does not count."""

    REGISTERED = "REGISTERED"
    TOO_MANY_NAMES = "TOO_MANY_NAMES"
    TOO_MANY_ANCHORS = "TOO_MANY_ANCHORS"
    TOO_MANY_VALUES = "TOO_MANY_VALUES"
    NAME_MISSING = "NAME_MISSING"
    NAME_DIFFERS = "NAME_DIFFERS"
    EXCLUSIVE_ID_CARD = "EXCLUSIVE_ID_CARD"
    EXCLUSIVE_VIN = "EXCLUSIVE_VIN"
    TOO_MANY_OF_A_KIND = "TOO_MANY_OF_A_KIND"
    QUARANTINED = "QUARANTINED"
    ERASED = "ERASED"
    UNMERGED = "UNMERGED"
    RETRACTED = "RETRACTED"


# Stored with an identifier, or said of a link; 0 means that it counts.
NUMBERS: Mapping[Reason, int] = {
    Reason.REGISTERED: 1,
    Reason.TOO_MANY_NAMES: 2,
    Reason.TOO_MANY_ANCHORS: 3,
    Reason.TOO_MANY_VALUES: 4,
    Reason.QUARANTINED: 5,
    Reason.ERASED: 6,
    Reason.NAME_MISSING: 20,
    Reason.NAME_DIFFERS: 21,
    Reason.EXCLUSIVE_ID_CARD: 22,
    Reason.EXCLUSIVE_VIN: 23,
    Reason.TOO_MANY_OF_A_KIND: 24,
    Reason.UNMERGED: 25,
    Reason.RETRACTED: 26,
}
REASON_OF: Mapping[int, Reason] = {number: reason for reason, number in NUMBERS.items()}
# Guards that follow from counting links; the others are somebody's decision.
COUNTED = (Reason.TOO_MANY_NAMES, Reason.TOO_MANY_ANCHORS, Reason.TOO_MANY_VALUES)

NO_LIMIT = 1_000_000


@dataclass(frozen=True)
class Guard:
    """Limits on one kind of value. A value past a limit is shared: it belongs to nobody and its links stop counting."""

    strength: int
    names: Names = Names.IGNORED
    max_names: int = 3
    # Records on one value, all sources together: nobody leaves so many.
    max_anchors: int = NO_LIMIT
    # Records of one source on one value, where names do not tell them apart: nameless ones for SPLIT, all for IGNORED.
    max_anchors_per_source: int = NO_LIMIT
    # Different values of one kind that were seen through this value as anchor.
    max_values_per_kind: int = NO_LIMIT
    # Different values of this kind that one entity may have; links that would pass it are refused, weakest first.
    max_per_entity: int = NO_LIMIT


GUARDS: Mapping[Space, Mapping[Kind, Guard]] = {
    Space.PERSON: {
        Kind.CRM_ID: Guard(strength=100, max_names=NO_LIMIT, max_per_entity=200),
        Kind.ID_CARD: Guard(strength=95, max_per_entity=1),
        Kind.OPENID: Guard(strength=90, max_anchors_per_source=2, max_per_entity=30),
        Kind.UNIONID: Guard(strength=85, max_anchors_per_source=2, max_per_entity=10),
        # A name beside a car is as good as a card: two people of one name on one car are father and son at worst.
        Kind.VIN: Guard(strength=70, names=Names.REQUIRED, max_names=8, max_anchors=200),
        Kind.MOBILE: Guard(
            60, Names.SPLIT, max_anchors=100, max_anchors_per_source=3, max_values_per_kind=20, max_per_entity=20
        ),
        Kind.EMAIL: Guard(
            55, Names.SPLIT, max_anchors=100, max_anchors_per_source=3, max_values_per_kind=20, max_per_entity=20
        ),
        Kind.PLATE: Guard(strength=50, names=Names.REQUIRED, max_names=8, max_anchors=200),
        Kind.COOKIE: Guard(strength=30, max_anchors_per_source=1, max_values_per_kind=2),
        Kind.DEVICE: Guard(strength=25, max_anchors_per_source=1, max_values_per_kind=2),
    },
    Space.VEHICLE: {
        Kind.VIN: Guard(strength=100, max_values_per_kind=20, max_per_entity=1),
        # A plate may outlive a car; on more cars than this it is a trade plate.
        Kind.PLATE: Guard(strength=50, max_anchors_per_source=5, max_values_per_kind=20),
    },
}
EXCLUSIVE: Mapping[Kind, Reason] = {Kind.ID_CARD: Reason.EXCLUSIVE_ID_CARD, Kind.VIN: Reason.EXCLUSIVE_VIN}

# Links that are not observations state their strength. An operator's word is good until two id cards contradict it; what is
# only probable counts less than any proof. A link that was taken back counts nothing.
OPERATOR_STRENGTH = 94
MAX_PROBABLE_STRENGTH = 20
RETRACTED_STRENGTH = -1

# How well a source knows whose value it is: accounts are verified by their owner, clerks type what suits them.
TRUST: Mapping[str, int] = {"app": 4, "wechat": 4, "call_center": 3, "dealer": 1}


@lru_cache(4096)
def trust(source: str) -> int:
    """Weight of one source's word on whose a value is."""
    return TRUST.get(source.partition(":")[0], 1)
