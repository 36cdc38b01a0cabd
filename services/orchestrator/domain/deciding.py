"""The one decision point: who of an audience is pushed, through which channel, and why the others are not.

Rules in the order they are asked: consent, frequency cap, score, channel, budget (best probability first), holdout.
`max_contacts` bounds everybody chosen, holdout included; `max_calls` bounds real calls, so a person kept out spends none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.orchestrator.domain.hashing import units
from services.orchestrator.domain.themes import MARKETING

CHANNELS = ("app", "wechat", "dealer")
APP, WECHAT, DEALER = 0, 1, 2
NO_CHANNEL_CODE = -1
APP_BIT, WECHAT_BIT, DEALER_BIT = 1, 2, 4
CHANNEL_BITS = {"app": APP_BIT, "wechat": WECHAT_BIT, "dealer": DEALER_BIT}
ALL_BITS = APP_BIT | WECHAT_BIT | DEALER_BIT

OUTCOMES = ("push", "holdout", "budget", "no_score", "opted_out", "no_channel", "frequency_cap", "merged", "erased")
PUSH, HOLDOUT, BUDGET, NO_SCORE, OPTED_OUT, NO_CHANNEL, FREQUENCY_CAP, MERGED, ERASED = range(9)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bits = NDArray[np.uint8]
Codes = NDArray[np.int8]
Flags = NDArray[np.bool_]
Bands = tuple[tuple[float, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Candidates:
    """An audience as aligned columns; person ids are unique.

    `score` and `probability` are -1 where there is none; `channels` and `opted_out` (those that consent closes, for this
    purpose) are masks of the channel bits; `dealer` is any number per dealer, -1 for none; `recent_pushes` counts pushes of
    all themes inside the cap's window.
    """

    person_id: Ints
    score: Floats
    probability: Floats
    channels: Bits
    dealer: NDArray[np.int32]
    opted_out: Bits
    recent_pushes: NDArray[np.int32]


@dataclass(frozen=True)
class Rules:
    """What bounds a decision. `bands`: (score from which on, channels in order of preference), ascending from 0.

    `salt`: 16 bytes of the theme.
    """

    max_contacts: int
    max_calls: int
    bands: Bands
    purpose: str
    holdout_share: float
    frequency_cap: int
    salt: bytes


@dataclass(frozen=True)
class Plan:
    """One decision per candidate, aligned with them.

    `position` counts from 1 those who could be contacted, best first, 0 for others; `call_rank` counts from 1 within a
    dealer's call list, 0 for others; `channel` is -1 unless pushed.
    """

    outcome: Codes
    channel: Codes
    position: Ints
    call_rank: Ints


def usable(channels: Bits, purpose: str) -> Bits:
    """Channels that may carry the purpose: WeChat template messages must not carry marketing (CONVENTIONS trap 11)."""
    return channels & np.uint8(ALL_BITS & ~WECHAT_BIT) if purpose == MARKETING else channels


def decide(people: Candidates, rules: Rules) -> Plan:
    """Decides for everybody; depends on nothing but its arguments, not even on their order."""
    channels = usable(people.channels, rules.purpose)
    allowed = channels & ~people.opted_out
    forbidden = (people.opted_out == ALL_BITS) | ((channels != 0) & (allowed == 0))
    unranked = -1
    outcome: Codes = np.select(
        [forbidden, people.recent_pushes >= rules.frequency_cap, people.score < 0, allowed == 0],
        [OPTED_OUT, FREQUENCY_CAP, NO_SCORE, NO_CHANNEL],
        unranked,
    ).astype(np.int8)
    open_ = np.flatnonzero(outcome == unranked)
    order = open_[np.lexsort((people.person_id[open_], -people.probability[open_]))]

    mask = allowed[order]
    held = in_holdout(people.person_id[order], rules.salt, rules.holdout_share)
    to_channel = _channels(mask, people.score[order], rules.bands, held, rules.max_calls)
    contactable = to_channel != NO_CHANNEL_CODE
    place = np.cumsum(contactable)
    chosen = contactable & (place <= rules.max_contacts)
    pushed = chosen & ~held

    outcome[order] = np.select([~contactable, pushed, chosen], [NO_CHANNEL, PUSH, HOLDOUT], BUDGET)
    channel = np.full(len(outcome), NO_CHANNEL_CODE, np.int8)
    channel[order] = np.where(pushed, to_channel, NO_CHANNEL_CODE)
    position = np.zeros(len(outcome), np.int64)
    position[order] = np.where(contactable, place, 0)
    call_rank = np.zeros(len(outcome), np.int64)
    called = order[pushed & (to_channel == DEALER)]
    call_rank[called] = _rank_within(people.dealer[called])
    return Plan(outcome, channel, position, call_rank)


def _channels(mask: Bits, score: Floats, bands: Bands, held: Flags, max_calls: int) -> Codes:
    """The channel each would get, in ranked order: the first of their band that is open, calls while there are any."""
    band = np.searchsorted(np.array([from_score for from_score, _ in bands]), score, side="right") - 1
    first = np.full(len(mask), NO_CHANNEL_CODE, np.int8)
    uncalled = first.copy()
    for number, (_, preferred) in enumerate(bands):
        # From the last to the first, so that the first open one stays.
        for channel in reversed(preferred):
            open_ = (band == number) & (mask >> np.uint8(channel) & 1 != 0)
            first[open_] = channel
            if channel != DEALER:
                uncalled[open_] = channel
    wants_call = first == DEALER
    spends = wants_call & ~held
    calls_before = np.cumsum(spends) - spends
    return np.where(wants_call & (calls_before >= max_calls), uncalled, first)


def _rank_within(groups: NDArray[np.int32]) -> Ints:
    """Position from 1 of each element within its group, in the order given."""
    by_group = np.argsort(groups, kind="stable")
    ordered = groups[by_group]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(groups) else np.empty(0, np.int64)
    lengths = np.diff(np.r_[starts, len(groups)])
    ranks = np.empty(len(groups), np.int64)
    ranks[by_group] = np.arange(len(groups)) - np.repeat(starts, lengths) + 1
    return ranks


def in_holdout(person_id: Ints, salt: bytes, share: float) -> Flags:
    """True for about `share` of people: a hash of theme and person, so the same person is always on the same side."""
    return units(person_id, salt) < share


def delivery_id(salt: bytes, person_id: int) -> str:
    """32 hexadecimal digits: the same for the same theme and person, and telling outsiders neither of them."""
    return hashlib.blake2b(person_id.to_bytes(8, "big"), key=salt, digest_size=16).hexdigest()


def fallbacks(channel: int, preferred: Sequence[int], channels: int, opted_out: int, purpose: str) -> list[str]:
    """Further channels to try when the person has no address on the first one; never a call, calls are budgeted."""
    allowed = int(usable(np.array([channels], np.uint8), purpose)[0]) & ~opted_out
    return [CHANNELS[code] for code in preferred if code not in (channel, DEALER) and allowed >> code & 1]
