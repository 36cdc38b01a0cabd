"""What a recipient may see: pseudonyms of its own, and only what enough persons have in common.

*Rows* are k-anonymous over the values that are shared: a combination that fewer than k persons have is left out. *Counts* leave
out values that fewer than k persons have, and others with them, so that no missing count follows from the total.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
PSEUDONYM_BYTES = 16


class Form(IntEnum):
    """In which form tags are shared; numbers as in the contract and in the database."""

    ROWS = 1
    COUNTS = 2


@dataclass(frozen=True)
class Terms:
    """What was agreed with a recipient."""

    recipient: str
    purpose: str
    form: Form
    tags: tuple[str, ...]
    predicate: str
    min_group_size: int
    points: int
    expires_at: datetime


@dataclass(frozen=True)
class Share:
    """Terms under a number, and their life."""

    share_id: int
    request_id: str
    terms: Terms
    key_id: str
    created_by: str
    created_at: datetime
    revoked_at: datetime | None = None
    revoke_reason: str = ""

    def ended(self, now: datetime) -> str:
        """Why nothing may be read any more, an UPPER_SNAKE reason; empty while it may."""
        if self.revoked_at is not None:
            return "SHARE_REVOKED"
        return "SHARE_EXPIRED" if self.terms.expires_at <= now else ""


class Pseudonyms:
    """Names of persons for one share. Without the key they lead back to nobody, and to no other share's names.

    Each share has its own, even of one recipient: who could join two shares would see combinations that neither may show.
    """

    def __init__(self, key: bytes, recipient: str, share_id: int) -> None:
        name = recipient.encode()
        context = b"troika share v1\0" + len(name).to_bytes(4, "big") + name + share_id.to_bytes(8, "big")
        self._key = hmac.digest(key, context, "sha256")

    def of(self, person_ids: Iterable[int]) -> list[bytes]:
        """One for each person, 16 bytes."""
        key = self._key
        return [hmac.digest(key, b"person" + p.to_bytes(8, "big"), "sha256")[:PSEUDONYM_BYTES] for p in person_ids]

    def order(self, words: Sequence[str]) -> list[int]:
        """Positions of some words in an order that the recipient cannot know and that is always the same."""
        marks = [hmac.digest(self._key, b"word" + word.encode(), "sha256") for word in words]
        return sorted(range(len(words)), key=marks.__getitem__)


def groups(columns: Sequence[NDArray[np.generic]], size: int) -> Ints:
    """A number for each of `size` rows, the same for rows with the same values in all columns; NaN equals NaN here."""
    found = np.zeros(size, np.int64)
    for column in columns:
        values, codes = np.unique(column, return_inverse=True)
        # Numbered anew after each column, so that the product never outgrows 64 bits.
        _, found = np.unique(found * len(values) + codes, return_inverse=True)
    return found


def large_enough(grouped: Ints, k: int) -> NDArray[np.bool_]:
    """Which rows stand in a group of at least k."""
    if not len(grouped):
        return np.zeros(0, np.bool_)
    return (np.bincount(grouped) >= k)[grouped]


def shown_counts(counts: Sequence[int], k: int) -> list[bool]:
    """Which of some counts may be shown beside their sum; counts are positive, equal ones are hidden in the given order.

    Below k nothing is. Otherwise counts below k are hidden, and with them the smallest others until at least two are hidden,
    k persons stand behind them, and they are not all the same: then exchanging any two of them shows the same picture.
    """
    if sum(counts) < k:
        return [False] * len(counts)
    rising = sorted(range(len(counts)), key=counts.__getitem__)
    hidden = sum(count < k for count in counts)
    while 0 < hidden < len(counts) and _is_plain([counts[at] for at in rising[:hidden]], k):
        hidden += 1
    shown = [True] * len(counts)
    for at in rising[:hidden]:
        shown[at] = False
    return shown


def _is_plain(hidden: Sequence[int], k: int) -> bool:
    """Whether the sum of hidden counts tells one of them."""
    return len(hidden) < 2 or sum(hidden) < k or len(set(hidden)) == 1
