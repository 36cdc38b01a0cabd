"""What other rooms know of the persons to be decided on. Asked outside of transactions."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.orchestrator.arbiter.bits import Persons
from services.orchestrator.domain.channels import CHANNEL_BITS, DEALER_BIT
from services.orchestrator.offers.definitions import Offer
from services.orchestrator.peers import REACHED_BY, ZONE_TAG, Reach, Scoring, Tags, has_word, word_tags
from services.orchestrator.themes.definitions import Choice, ThemeDefinition

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bits = NDArray[np.uint8]
Flags = NDArray[np.bool_]

# What the catalogue has is asked anew after this time.
CATALOGUE_S: Final = 30.0
MOST_AUDIENCES: Final = 200
# Words of content that are looked at: one bit each of a person's mask. They are read less often than audiences.
MOST_WORDS: Final = 62
WORDS_KEPT: Final = 6
# Decisions tell of these even where a theme does not name them.
_ALWAYS: Final = frozenset({"app", "wechat"})


@dataclass(frozen=True)
class Asked:
    """Proposals of one theme and what other rooms know of the persons, as aligned columns.

    `wanted`: the place of the offer proposed, -1 for any; `offers`: mask of the theme's offers that are for each; `dealer` and
    `zone`: places in `dealers` and `zones`, -1 for none; `left`: who is not in the theme's audience any more. `words`: masks of
    the words of `content` that are true of each, where the theme's offers are chosen by what was learnt.
    """

    person_id: Ints
    occasion: Ints
    wanted: NDArray[np.int8]
    ends_us: Ints
    score: Floats
    probability: Floats
    channels: Bits
    dealer: Ints
    dealers: Sequence[str]
    zone: Ints
    zones: Sequence[str]
    offers: Ints
    left: Flags
    words: Ints
    content: tuple[str, ...] = ()

    def take(self, rows: Ints | Flags) -> Asked:
        """Some of them."""
        columns = {each.name: getattr(self, each.name) for each in fields(self)}
        taken: dict[str, Any] = {name: each[rows] for name, each in columns.items() if isinstance(each, np.ndarray)}
        return replace(self, **taken)


class Asking:
    """Questions to tags and scoring about some persons."""

    def __init__(self, tags: Tags, scoring: Scoring, keep_s: float) -> None:
        """`keep_s`: for how long an audience read whole is remembered; tags answers a predicate for everybody only."""
        self._tags, self._scoring, self._keep_s = tags, scoring, keep_s
        self._known: Mapping[str, Any] = {}
        self._known_at = float("-inf")
        self._audiences: dict[str, tuple[float, Persons]] = {}
        self._reading = asyncio.Lock()

    async def about(
        self,
        stated: ThemeDefinition,
        offers: Sequence[Offer],
        persons: Ints,
        occasion: Ints,
        wanted: NDArray[np.int8],
        ends_us: Ints,
        scored: tuple[Floats, Floats] | None = None,
        *,
        recheck: bool = False,
    ) -> Asked:
        """All that is asked; `scored` where scores are known already. `recheck`: whether launches' persons are still meant."""
        content: tuple[str, ...] = ()
        words = np.zeros(len(persons), np.int64)
        if stated.choice is Choice.LEARNT:
            content, words = await self._words(offers, persons)
        known = (await self._catalogue()).keys()
        flags = sorted({REACHED_BY[name] for name in _ALWAYS.union(stated.channels) & REACHED_BY.keys()} & known)
        reach = await self._tags.reach(persons, flags, zones=ZONE_TAG in known)
        score = probability = np.full(len(persons), -1.0)
        if scored is not None:
            score, probability = scored
        elif stated.model:
            score, probability = await self._scoring.scores(stated.model, persons, "theme.model")
        left = np.zeros(len(persons), np.bool_)
        if recheck and (launched := occasion == 0).any():
            left = launched & ~(await self.audience(stated.audience, "theme.audience")).has(persons)
        mask = np.zeros(len(persons), np.int64)
        for place, offer in enumerate(offers):
            predicate = offer.definition.audience
            meant = (await self.audience(predicate, "offer.audience")).has(persons) if predicate else True
            mask |= np.where(meant, 1 << place, 0)
        return Asked(
            persons,
            occasion,
            wanted,
            ends_us,
            score,
            probability,
            _ways(reach),
            reach.dealer,
            reach.dealers,
            reach.zone,
            reach.zones,
            mask,
            left,
            words,
            content,
        )

    async def _words(self, offers: Sequence[Offer], persons: Ints) -> tuple[tuple[str, ...], Ints]:
        """(words of the offers' content, masks of those that are true of each person)."""
        tags = word_tags(await self._catalogue())
        counted = Counter(word for offer in offers for word in set(offer.definition.content_tags))
        content = tuple(sorted(word for word, _ in counted.most_common(MOST_WORDS))) if tags else ()
        masks = np.zeros(len(persons), np.int64)
        for place, word in enumerate(content):
            having = await self.audience(has_word(word, tags), "offer.content_tags", WORDS_KEPT)
            masks |= np.where(having.has(persons), 1 << place, 0)
        return content, masks

    async def audience(self, predicate: str, field: str, times: int = 1) -> Persons:
        """For whom a predicate held at most `keep_s` seconds, or some `times` as long, ago."""
        known, keep_s = self._audiences.get(predicate), self._keep_s * times
        if known is None or time.monotonic() - known[0] > keep_s:
            # One at a time: a crowd must not read the same millions side by side.
            async with self._reading:
                known = self._audiences.get(predicate)
                if known is None or time.monotonic() - known[0] > keep_s:
                    began, members = time.monotonic(), Persons()
                    async for ids in self._tags.stream_ids(predicate, field):
                        members.add(ids)
                    if len(self._audiences) >= MOST_AUDIENCES:
                        self._audiences.pop(min(self._audiences, key=lambda each: self._audiences[each][0]))
                    known = self._audiences[predicate] = began, members
        return known[1]

    async def _catalogue(self) -> Mapping[str, Any]:
        if time.monotonic() - self._known_at > CATALOGUE_S:
            self._known = await self._tags.catalogue()
            self._known_at = time.monotonic()
        return self._known


def _ways(reach: Reach) -> Bits:
    """The channels that lead to each person, of those that were asked about."""
    bits: Bits = (reach.dealer >= 0).astype(np.uint8) * np.uint8(DEALER_BIT)
    for channel, flag in REACHED_BY.items():
        if flag in reach.has:
            bits |= reach.has[flag] * np.uint8(CHANNEL_BITS[channel])
    return bits
