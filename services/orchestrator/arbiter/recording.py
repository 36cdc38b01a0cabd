"""Offers that were drawn for pushes: what was learnt before, and the log by which it is learnt and judged (ADR 29).

A push is a decision of slot "theme_12" whose id is the delivery's, so that what comes of the push needs no other name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import orjson

from chassis.db import UnitOfWork
from services.orchestrator.arbiter.deciding import PUSH, Candidates, Verdicts
from services.orchestrator.arbiter.drawing import Ints, Learnt
from services.orchestrator.arbiter.house import Deciding, House
from services.orchestrator.domain.channels import CHANNELS
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.offers.bandit import Bandit, Tuning
from services.orchestrator.offers.choosing import DRAWN, NEUTRAL, PINNED, REASONS, WHYS
from services.orchestrator.offers.contexts import FEATURES, SlotContext
from services.orchestrator.offers.offer_log import (
    OUTCOMES,
    UNLEARNT,
    WAITING,
    Arms,
    Decided,
    OfferLog,
    Said,
    sums_since,
)
from services.orchestrator.store.projections import Update

# A push that nobody has answered by then has failed; a longer goal is the theme's to measure.
MOST_DAYS: Final = 7
# Clocks of providers are a little wrong.
EARLY_S: Final = 300.0
# What states of a delivery tell of its offer, as touchpoints numbers them.
_TOLD: Final = {5: "opened", 6: "clicked", 7: "answered", 8: "answered"}
_CHOSEN, _NOT_FOR_HER, _SOLD_OUT, _NO_WORDS = (
    REASONS.index(reason) for reason in ("EXCLUDED", "NOT_ELIGIBLE", "OUT_OF_STOCK", "NO_VARIANT")
)


def slot_of(theme_id: ThemeId) -> str:
    """The slot that a theme's pushes are logged under."""
    return f"theme_{theme_id}"


async def learnt(
    uow: UnitOfWork, deciding: Deciding, words: tuple[str, ...], now: datetime, house: House, *, keeping: bool
) -> Learnt:
    """What is known of a theme's offers now; without `keeping` nothing is written, and nothing can be logged by it."""
    contents = [frozenset(offer.definition.content_tags) for offer in deciding.offers]
    ids = [int(offer) for offer in deciding.offer_ids]
    sums = await sums_since(uow, -1, ids)
    size = len(FEATURES)
    outer, rewarded = np.zeros((len(ids), size, size)), np.zeros((len(ids), size))
    for place, offer in enumerate(ids):
        if offer in sums:
            _, outer[place], rewarded[place] = sums[offer]
    tuning = Tuning()
    mean, covariance = Bandit.of(contents, outer, rewarded, tuning).weights()
    order = np.argsort(ids).tolist()
    arms = Arms(tuple(ids[n] for n in order), tuple(contents[n] for n in order))
    clock, theirs = house.settings.clock(), {CHANNELS.index(name) for name in deciding.theme.definition.channels}
    return Learnt(
        mean,
        covariance,
        tuning,
        np.array([[(word in tags) / max(1, len(tags)) for word in words] for tags in contents]).reshape(len(ids), len(words)),
        words,
        {code: SlotContext(CHANNELS[code], now).active(clock) for code in sorted(theirs)},
        await OfferLog(uow).arms_id(arms) if keeping else 0,
        max((version for version, _, _ in sums.values()), default=0),
    )


def decisions(
    known: Learnt, deciding: Deciding, people: Candidates, said: Verdicts, records: Sequence[Any], now: datetime
) -> list[Decided]:
    """Rows of the log for the pushes of a chunk; by channel all at once."""
    by_channel: dict[int, list[int]] = defaultdict(list)
    for row, outcome in enumerate(said.outcome):
        if outcome == PUSH:
            by_channel[said.channel[row]].append(row)
    theme, found = deciding.theme, list[Decided]()
    stated = theme.definition
    due = now + timedelta(days=min(stated.goal.window_days, MOST_DAYS))
    order = np.argsort([int(offer) for offer in deciding.offer_ids])
    told: dict[int, str] = {}
    for channel, rows in by_channel.items():
        places = np.array(rows)
        masks: Ints = np.where(people.personal[places], people.words[places], 0)
        match = known.match(masks)
        rate, sd = known.believed(channel, match)
        codes = _codes(deciding, people, np.array(said.competed)[places], places, channel)[:, order]
        active = bytes(known.active[channel])
        for n, row in enumerate(rows):
            offer, mask, personal = said.offer[row], int(masks[n]), bool(people.personal[row])
            if mask not in told:
                told[mask] = orjson.dumps([word for bit, word in enumerate(known.words) if mask >> bit & 1]).decode()
            why = PINNED if people.wanted[row] >= 0 else DRAWN if personal else NEUTRAL
            found.append(
                Decided(
                    bytes.fromhex(records[row][-2]),
                    int(people.person_id[row]),
                    slot_of(theme.theme_id),
                    CHANNELS[channel],
                    stated.language,
                    int(deciding.offer_ids[offer]),
                    deciding.offers[offer].version,
                    WHYS.index(why),
                    said.chance[row],
                    float(rate[n, offer]),
                    float(sd[n, offer]),
                    float(match[n, offer]),
                    known.arms_id,
                    known.learnt,
                    codes[n].tobytes(),
                    active,
                    told[mask],
                    now,
                    due,
                    # Nothing is learnt from who wants not to be told apart.
                    WAITING if personal else UNLEARNT,
                )
            )
    return found


def _codes(
    deciding: Deciding, people: Candidates, competed: Ints, rows: Ints, channel: int
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """By person and offer (in the theme's order) the code of why it could not be drawn; 0 when it could."""
    codes = np.zeros((len(rows), len(deciding.offers)), np.uint8)
    wanted = people.wanted[rows]
    for place, words in enumerate(deciding.words):
        reasons = [
            (competed >> place & 1 == 1, 0),
            ((wanted >= 0) & (wanted != place), _CHOSEN),
            (people.offers[rows] >> place & 1 == 0, _NOT_FOR_HER),
            (np.full(len(rows), channel not in words), _NO_WORDS),
        ]
        codes[:, place] = np.select([each for each, _ in reasons], [code for _, code in reasons], _SOLD_OUT)
    return codes


async def hear(uow: UnitOfWork, furthest: Mapping[str, Update], successes: frozenset[str]) -> None:
    """Keeps what deliveries (id, state, reason, answer, moment) say of the offers that were drawn for them."""
    said = []
    for name, state, _, answer, at in furthest.values():
        outcome = "declined" if state == 7 and answer == "no" else _TOLD.get(state)
        if outcome and len(name) == 32:
            try:
                decision_id = bytes.fromhex(name)
            except ValueError:
                continue
            said.append(Said(decision_id, OUTCOMES.index(outcome), outcome in successes, at))
    if said:
        await OfferLog(uow).record(said, EARLY_S)
