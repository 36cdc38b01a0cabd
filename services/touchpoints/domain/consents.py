"""What is kept of statements of consent: per anchor, purpose and channel the latest withdrawal and the latest grant.

That is enough: of one anchor the later of the two governs (the withdrawal on a tie), and a grant that has run out brings back
the withdrawal it lifted. Keeping is commutative, associative and idempotent, so facts may come in any order, and twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

# Where a grant has no end; where nothing was said yet.
NO_END, UNSAID = 2**63 - 1, -1


@dataclass(frozen=True)
class Statement:
    """Somebody allowed or forbade a use of their data through an anchor; times in microseconds since the epoch, UTC."""

    anchor_id: int
    person_id: int
    purpose: str
    channel: str
    separate: bool
    given: bool
    stated_us: int
    expires_us: int = NO_END


@dataclass(frozen=True)
class Kept:
    """What statements under one key amount to."""

    anchor_id: int
    purpose: str
    channel: str
    separate: bool
    person_id: int
    withdrawn_us: int
    given_us: int
    expires_us: int

    def joined(self, other: Kept) -> Kept:
        """Both; of two grants at one instant the one that ends earlier."""
        grant = max((self.given_us, -self.expires_us), (other.given_us, -other.expires_us))
        later = max(self, other, key=lambda kept: (max(kept.withdrawn_us, kept.given_us), kept.person_id))
        withdrawn_us = max(self.withdrawn_us, other.withdrawn_us)
        return replace(later, withdrawn_us=withdrawn_us, given_us=grant[0], expires_us=-grant[1])


def kept(statements: Iterable[Statement]) -> list[Kept]:
    """One row for each key, in the order of keys, so that writers never wait for each other in a circle."""
    rows: dict[tuple[int, str, str, bool], Kept] = {}
    for s in statements:
        key = (s.anchor_id, s.purpose, s.channel, s.separate)
        given, withdrawn = (s.stated_us, UNSAID) if s.given else (UNSAID, s.stated_us)
        row = Kept(*key, s.person_id, withdrawn, given, s.expires_us if s.given else NO_END)
        rows[key] = rows[key].joined(row) if key in rows else row
    return [rows[key] for key in sorted(rows)]
