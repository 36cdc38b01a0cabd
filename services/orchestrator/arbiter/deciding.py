"""Every rule of the arbiter as one pure function: what becomes of proposals, given what is known of the persons.

Rules in the order they are asked: merged, left the audience, global holdout, consent, score, channel, offer, exclusion, caps,
quiet hours, priority; then, the most valuable person first, value, budget, the capacity of whoever speaks to people, stock and
the channel's quota; last the holdout. What
may be otherwise later puts off (DEFERRED, with the moment); what would be put off beyond the proposal's end is final.
`max_contacts` bounds everybody chosen, holdout included; a person kept out spends no call, no money and no stock.

Moments are microseconds since the epoch, 0 for none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.orchestrator.arbiter.drawing import Drawn, Learnt, Possible, draw_offers
from services.orchestrator.domain.channels import ALL_BITS, CHANNELS, NO_CHANNEL_CODE, PERSONAL, desk, may_carry
from services.orchestrator.domain.hashing import units
from services.orchestrator.domain.themes import MARKETING
from services.orchestrator.experiments.assigning import in_global_holdout

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bits = NDArray[np.uint8]
Flags = NDArray[np.bool_]

PUSH, HOLDOUT, DEFERRED, GLOBAL_HOLDOUT = "push", "holdout", "deferred", "global_holdout"
# Why nobody is pushed, for good.
MERGED, LEFT_AUDIENCE, OPTED_OUT, NO_SCORE, NO_CHANNEL, NO_OFFER, NO_VALUE = (
    "merged", "left_audience", "opted_out", "no_score", "no_channel", "no_offer", "no_value",
)  # fmt: skip
BUDGET, ERASED, EXPIRED, THEME_FINISHED = "budget", "erased", "expired", "theme_finished"
# Why nobody is pushed yet; for good once a proposal ends with it.
EXCLUSION, FREQUENCY_CAP, QUIET_HOURS, PRIORITY, PACING, CAPACITY, STOCK, QUOTA, PROPOSED = (
    "exclusion", "frequency_cap", "quiet_hours", "priority", "pacing", "capacity", "stock", "quota", "proposed",
)  # fmt: skip
OUTCOMES: Final = (
    PUSH, HOLDOUT, DEFERRED, GLOBAL_HOLDOUT, MERGED, LEFT_AUDIENCE, OPTED_OUT, NO_SCORE, NO_CHANNEL, NO_OFFER, NO_VALUE, BUDGET,
    ERASED, EXPIRED, THEME_FINISHED, EXCLUSION, FREQUENCY_CAP, QUIET_HOURS, PRIORITY, PACING, CAPACITY, STOCK,
    QUOTA,
)  # fmt: skip

ANY_SIDE, PUSHED_SIDE, KEPT_OUT_SIDE = -1, 0, 1
NO_OFFER_YET = -1
UNLIMITED: Final = 1 << 62
# How long those wait whom a theme of higher priority is about to decide on.
YIELD_US: Final = 1_000_000


@dataclass(frozen=True)
class Candidates:
    """Proposals of one theme as aligned columns, no human twice.

    `human_id`: whom the person went into, or she herself. `score`, `probability`: -1 where there is none. `channels`,
    `opted_out`: masks of what reaches her and of what consent closes. `opens_us` (n, channels): until when caps close each.
    `pushes`: how many she had within the cap's window. `excluded_us`, `quiet_us`: until when. `dealer`: code of who serves
    her, empty for none. `offers`: mask of the rules' offers that are for her; `wanted`: the place of the one proposed, -1 for
    any. `side`: where the theme had her before. `ends_us`: when the proposal ends. `words`: mask of the content that is true of
    her; `personal`: whether she may be told apart by it.
    """

    person_id: Ints
    human_id: Ints
    score: Floats
    probability: Floats
    channels: Bits
    opted_out: Bits
    opens_us: Ints
    pushes: NDArray[np.int32]
    excluded_us: Ints
    quiet_us: Ints
    dealer: Sequence[str]
    offers: Ints
    wanted: NDArray[np.int8]
    side: NDArray[np.int8]
    merged: Flags
    left: Flags
    outranked: Flags
    ends_us: Ints
    words: Ints
    personal: Flags


@dataclass(frozen=True)
class Rules:
    """What a theme's version and the house's settings say. `salt`: 16 bytes of the theme.

    `bands`: (from score, channel codes in order), ascending. `words`: of each offer, the mask of channels it can be told on.
    `learnt`: what chooses among the offers; None for their order.
    """

    purpose: str
    bands: tuple[tuple[float, tuple[int, ...]], ...]
    needs_score: bool
    value_fen: int
    unit_cost_fen: tuple[int, ...]
    words: tuple[int, ...]
    holdout_share: float
    salt: bytes
    global_holdout_share: float
    global_holdout_salt: str
    learnt: Learnt | None = None


@dataclass
class Purse:
    """What is left to spend, in all and for today; `decide` spends from it. `position`: contacts of the theme so far.

    `dealers`: how often each desk (channels.desk) still speaks to somebody today; `ranks`: of the theme so far. `stock`: pieces
    by offer. `quotas`: pushes that providers still take, by channel. `tomorrow_us`: when the next share begins.
    """

    contacts: int
    contacts_today: int
    calls: int
    calls_today: int
    cost: int
    cost_today: int
    tomorrow_us: int
    position: int = 0
    dealers: dict[str, int] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    stock: list[int] = field(default_factory=list)
    quotas: list[int] = field(default_factory=lambda: [UNLIMITED] * len(CHANNELS))

    def pay(self, channel: int, offer: int, cost: int, dealer: str) -> int:
        """Spends what a push takes; its rank among those whom the same desk is to speak to, 0 for others."""
        self.cost -= cost
        self.cost_today -= cost
        self.stock[offer] -= 1
        self.quotas[channel] -= 1
        if channel not in PERSONAL:
            return 0
        whose = desk(channel, dealer)
        self.calls -= 1
        self.calls_today -= 1
        self.dealers[whose] -= 1
        self.ranks[whose] += 1
        return self.ranks[whose]


@dataclass(frozen=True)
class Verdicts:
    """One per candidate, aligned: outcome, and why it was put off; channel and offer are -1 unless somebody is pushed.

    `value`: expected, in fen where the goal has a worth, else the probability. `position` counts contacts of the theme from 1,
    `call_rank` within the desk's list; 0 for others. `due_us`: when to decide again, 0 when that is over. `chance`: with which
    the offer was drawn, among those of the mask `competed`.
    """

    outcome: list[str]
    reason: list[str]
    due_us: list[int]
    channel: list[int]
    offer: list[int]
    value: list[float]
    cost_fen: list[int]
    position: list[int]
    call_rank: list[int]
    chance: list[float]
    competed: list[int]


def decide(people: Candidates, rules: Rules, purse: Purse, now_us: int) -> Verdicts:
    """Decides for all; depends on nothing but its arguments, not even on the order of the candidates."""
    band = np.searchsorted([start for start, _ in rules.bands], np.maximum(people.score, 0), "right") - 1
    offered = np.array([sum(1 << code for code in codes) for _, codes in rules.bands], np.uint8)[band]
    offered &= np.uint8(may_carry(rules.purpose))
    reached = people.channels & offered
    allowed = reached & ~people.opted_out
    told = _told(people, rules) & allowed
    closable = np.unpackbits(told[:, None], axis=1, bitorder="little", count=len(CHANNELS)).view(np.bool_)
    held_back = np.where(closable, people.opens_us, np.iinfo(np.int64).max)
    opens_us = held_back.min(axis=1, initial=np.iinfo(np.int64).max)
    marketing = rules.purpose == MARKETING
    in_global = in_global_holdout(people.human_id, rules.global_holdout_salt, rules.global_holdout_share) & marketing
    yielding = np.where(people.outranked, now_us + YIELD_US, 0)
    final: list[tuple[str, Flags]] = [
        (MERGED, people.merged),
        (LEFT_AUDIENCE, people.left),
        (GLOBAL_HOLDOUT, in_global),
        (OPTED_OUT, (people.opted_out == ALL_BITS) | ((reached != 0) & (allowed == 0))),
        (NO_SCORE, (people.score < 0) & rules.needs_score),
        (NO_CHANNEL, allowed == 0),
        (NO_OFFER, told == 0),
    ]
    later: list[tuple[str, Ints]] = [
        (EXCLUSION, people.excluded_us),
        (FREQUENCY_CAP, opens_us),
        (QUIET_HOURS, people.quiet_us),
        (PRIORITY, yielding),
    ]
    names = [name for name, _ in final] + [name for name, _ in later]
    due = np.select([moment > now_us for _, moment in later], [moment for _, moment in later], 0)
    conditions = [flag for _, flag in final] + [moment > now_us for _, moment in later]
    failed: Ints = np.select(conditions, list(range(len(names))), -1)
    due_us: Ints = np.where(failed >= len(final), due, 0)
    held = np.where(
        people.side == ANY_SIDE, in_holdout(people.human_id, rules.salt, rules.holdout_share), people.side == KEPT_OUT_SIDE
    )
    open_ = told & ~_closed(people, now_us)
    drawn = None
    if rules.learnt is not None:
        possible = people.offers & sum(1 << place for place, pieces in enumerate(purse.stock) if pieces > 0)
        possible = np.where(people.wanted >= 0, possible & 1 << np.maximum(people.wanted, 0).astype(np.int64), possible)
        mine = Possible(
            np.where(failed < 0, open_, 0).astype(np.uint8), possible, people.words, people.personal, people.human_id
        )
        drawn = draw_offers(rules.learnt, rules.words, mine, rules.salt)
    return _spend(people, rules, purse, band, open_, held, names, failed.tolist(), due_us.tolist(), drawn)


def _told(people: Candidates, rules: Rules) -> Bits:
    """Channels on which at least one of the offers that may be proposed to each person has words."""
    told = np.zeros(len(people.person_id), np.uint8)
    for place, words in enumerate(rules.words):
        open_ = (people.offers >> place & 1 == 1) & ((people.wanted == NO_OFFER_YET) | (people.wanted == place))
        told |= np.where(open_, words, 0).astype(np.uint8)
    return told


def _closed(people: Candidates, now_us: int) -> Bits:
    """Channels that caps close now."""
    return packed(people.opens_us > now_us)


def packed(flags: Flags) -> Bits:
    """Flags (n, channels) as one mask for each row."""
    bits: Bits = np.packbits(flags, axis=1, bitorder="little")[:, 0]
    return bits


def _spend(
    people: Candidates,
    rules: Rules,
    purse: Purse,
    band: Ints,
    open_: Bits,
    held: Flags,
    names: list[str],
    failed: list[int],
    due_us: list[int],
    drawn: Drawn | None,
) -> Verdicts:
    """The second half of `decide`: what is scarce, the most valuable person first."""
    size = len(failed)
    given = Verdicts(
        [""] * size, [""] * size, [0] * size, [NO_CHANNEL_CODE] * size, [NO_OFFER_YET] * size, [0.0] * size, [0] * size,
        [0] * size, [0] * size, [1.0] * size, [0] * size,
    )  # fmt: skip
    # Nobody is valued without a probability: then chance decides who comes first, and no value is computed.
    chance = np.maximum(people.probability, 0)
    neutral = units(people.person_id, rules.salt)
    ranked = np.lexsort((people.person_id, neutral if not rules.needs_score else people.person_id, -chance))
    worth = (chance * rules.value_fen).tolist()
    valued = ((people.probability >= 0) & (rules.value_fen > 0)).tolist()
    chances, ends, held_list = chance.tolist(), people.ends_us.tolist(), held.tolist()
    options, dealers = _Options(people, rules, band, open_, drawn), people.dealer
    for row in ranked.tolist():
        value = given.value[row] = worth[row] if valued[row] else chances[row]
        if (rule := failed[row]) >= 0:
            reason, until = names[rule], due_us[row]
            channel = offer = -1
        else:
            worthy = value if valued[row] else None
            reason, until, channel, offer = _afford(options.of(row), rules, purse, dealers[row], worthy)
        if reason:
            if until and until < ends[row]:
                given.outcome[row], given.reason[row], given.due_us[row] = DEFERRED, reason, until
            else:
                given.outcome[row] = reason
            continue
        purse.contacts -= 1
        purse.contacts_today -= 1
        purse.position += 1
        given.position[row] = purse.position
        if valued[row]:
            given.value[row] = value - rules.unit_cost_fen[channel]
        if held_list[row]:
            given.outcome[row] = HOLDOUT
            continue
        cost = rules.unit_cost_fen[channel]
        given.outcome[row], given.channel[row], given.offer[row], given.cost_fen[row] = PUSH, channel, offer, cost
        given.call_rank[row] = purse.pay(channel, offer, cost, dealers[row])
    if drawn:
        rows, codes = np.arange(size), np.array(given.channel)
        given.chance[:], given.competed[:] = drawn.chance[rows, codes].tolist(), drawn.competed[rows, codes].tolist()
    return given


class _Options:
    """What may be proposed to each person, best first."""

    def __init__(self, people: Candidates, rules: Rules, band: Ints, open_: Bits, drawn: Drawn | None) -> None:
        self._rules = rules
        self._keys = list(zip(band.tolist(), open_.tolist(), people.offers.tolist(), people.wanted.tolist(), strict=True))
        self._known: dict[tuple[int, int, int, int], list[tuple[int, int]]] = {}
        self._drawn = drawn.offer.tolist() if drawn else None

    def of(self, row: int) -> list[tuple[int, int]]:
        """(channel, offer) in order of preference; where nothing could be drawn, what says why."""
        key = self._keys[row]
        if self._drawn is not None:
            mine = self._drawn[row]
            if found := [(code, mine[code]) for code in self._rules.bands[key[0]][1] if key[1] >> code & 1 and mine[code] >= 0]:
                return found
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _choices(self._rules, *key)
        return known


def _choices(rules: Rules, band: int, open_: int, offers: int, wanted: int) -> list[tuple[int, int]]:
    """(channel, offer) in order of preference: the band's channels, and on each the theme's offers."""
    places = [wanted] if wanted >= 0 else range(len(rules.words))
    return [
        (channel, offer)
        for channel in rules.bands[band][1]
        if open_ >> channel & 1
        for offer in places
        if offers >> offer & 1 and rules.words[offer] >> channel & 1
    ]


def _afford(
    choices: list[tuple[int, int]], rules: Rules, purse: Purse, dealer: str, value: float | None
) -> tuple[str, int, int, int]:
    """(why not, until when, channel, offer) of the first choice that can be paid; "" for why not when one can.

    What is spent for good gives way to the next choice; what is spent for today is worth waiting for. Whoever will be kept out
    is asked the same, or the two sides could not be compared.
    """
    if purse.contacts <= 0:
        return BUDGET, 0, -1, -1
    if purse.contacts_today <= 0:
        return PACING, purse.tomorrow_us, -1, -1
    reason, until = NO_VALUE, 0
    for channel, offer in choices:
        cost = rules.unit_cost_fen[channel]
        if value is not None and value < cost:
            continue
        if purse.stock[offer] <= 0 or purse.quotas[channel] <= 0:
            reason, until = STOCK if purse.stock[offer] <= 0 else QUOTA, purse.tomorrow_us
            continue
        personal = channel in PERSONAL
        if cost > purse.cost or (personal and purse.calls <= 0):
            if not until:
                reason = BUDGET
            continue
        if cost > purse.cost_today or (personal and purse.calls_today <= 0):
            return PACING, purse.tomorrow_us, -1, -1
        if personal and purse.dealers[desk(channel, dealer)] <= 0:
            return CAPACITY, purse.tomorrow_us, -1, -1
        return "", 0, channel, offer
    return reason, until, -1, -1


def in_holdout(human_id: Ints, salt: bytes, share: float) -> Flags:
    """True for about `share` of humans: a hash of theme and human, so the same one is always on the same side."""
    held: Flags = units(human_id, salt) < share
    return held


def delivery_id(salt: bytes, person_id: int, occasion: int) -> str:
    """32 hexadecimal digits: the same for the same theme, person and occasion, and telling outsiders none of them."""
    told = person_id.to_bytes(8, "big") + occasion.to_bytes(8, "big")
    return hashlib.blake2b(told, key=salt, digest_size=16).hexdigest()


def fallbacks(channel: int, open_: int, words: Mapping[int, object]) -> list[int]:
    """Further channels to try when the person has no address on the first one.

    Nobody speaks to a person unasked, calls are budgeted; and only where the offer is told in the same words, for a push
    carries one text.
    """
    return [
        other
        for other in sorted(words)
        if other != channel and other not in PERSONAL and open_ >> other & 1 and words[other] == words[channel]
    ]
