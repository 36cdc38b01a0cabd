"""Keeps a process's picture of offers, rules, themes, audiences and of what was learnt fresh, so that nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import numpy as np

from chassis.db import Database, Reader
from chassis.errors import FailedPrecondition, InvalidArgument, Unavailable, is_operational
from services.orchestrator import peers
from services.orchestrator.arbiter.store import ArbiterStore
from services.orchestrator.offers import shelf as shelves
from services.orchestrator.offers.arranging import Rules
from services.orchestrator.offers.bandit import Bandit, Tuning
from services.orchestrator.offers.choosing import Posterior
from services.orchestrator.offers.contexts import FEATURES
from services.orchestrator.offers.definitions import Offer, OfferId
from services.orchestrator.offers.members import Ints, Members
from services.orchestrator.offers.offer_log import Arms, Floats, OfferLog, sums_since
from services.orchestrator.offers.shelf import RunningTheme, Shelf
from services.orchestrator.offers.store import OfferStore
from services.orchestrator.offers.templates import Value
from services.orchestrator.peers import Tags, has_word
from services.orchestrator.settings import Settings

log = logging.getLogger(__name__)

RETRY_S: Final = 1.0
# Audiences read before others get their turn, and content words that are looked up at all (the most frequent).
AT_ONCE: Final = 8
MOST_WORDS: Final = 500
# What people are interested in changes more slowly than who may be asked.
WORDS_KEPT: Final = 6


@dataclass(frozen=True)
class Stock:
    """The picture of one moment; `failing`: channels that do not work."""

    shelf: Shelf
    posterior: Posterior
    failing: frozenset[str]


class Stockroom:
    """`follow` and `watch_members` must be running."""

    def __init__(self, database: Database, tags: Tags, settings: Settings, tuning: Tuning | None = None) -> None:
        self._database, self._tags, self._settings = database, tags, settings
        self._tuning = tuning or Tuning()
        self.audiences, self.words = Members(self._ids), Members(self._ids)
        self._stock: Stock | None = None
        self._offers: tuple[Offer, ...] = ()
        self._sums: dict[int, tuple[int, Floats, Floats]] = {}
        self._seen: tuple[Any, ...] = ()
        self._word_tags: tuple[float, tuple[tuple[str, bool], ...]] = (float("-inf"), ())

    def now(self) -> Stock:
        """The present picture; raises Unavailable before the first one is made."""
        if self._stock is None:
            raise Unavailable("offers are still being read", reason="NOT_READY")
        return self._stock

    async def follow(self) -> None:
        """Follows catalogue, rules, themes and sums until cancelled."""
        while True:
            await self._again("offers", self.refresh())
            await asyncio.sleep(self._settings.decide_refresh_s)

    async def watch_members(self) -> None:
        """Reads audiences and words over and over until cancelled."""
        keep_s = self._settings.decide_audience_age_s
        while True:
            await self._again("audiences", self.audiences.refresh(keep_s, AT_ONCE))
            await self._again("words", self.words.refresh(keep_s * WORDS_KEPT, AT_ONCE))
            await asyncio.sleep(min(0.1, keep_s / 10))

    async def _again(self, what: str, work: Any) -> None:
        try:
            await work
        except Exception as error:
            if not is_operational(error):
                log.exception("reading for decisions failed", extra={"what": what})
            await asyncio.sleep(RETRY_S)

    async def refresh(self) -> None:
        """Makes a new picture when anything has changed."""
        async with self._database.read() as uow:
            offers = await self._living(uow)
            rules = await _rules(uow)
            themes = await _themes(uow)
            failing = frozenset(name for name, (fails, _) in (await ArbiterStore(uow).conditions()).items() if fails)
            newer = await sums_since(uow, max((version for version, _, _ in self._sums.values()), default=-1))
        self._sums |= newer
        word_tags = await self._category_tags()
        seen = offers, rules, themes, word_tags, failing, self._settings.clock()
        if self._stock is not None and seen == self._seen and not newer:
            return
        arms = Arms(
            tuple(offer.offer_id for offer in offers), tuple(frozenset(offer.definition.content_tags) for offer in offers)
        )
        known = self._stock.shelf if self._stock else None
        if (
            known is not None
            and [o.definition.content_tags for o in known.offers] == [o.definition.content_tags for o in offers]
            and tuple(o.offer_id for o in known.offers) == arms.offers
        ):
            arms_id = known.arms_id
        else:
            async with self._database.transaction(traced=False) as uow:
                arms_id = await OfferLog(uow).arms_id(arms)
        posterior = await asyncio.to_thread(self._learn, arms)
        self._stock = Stock(self._shelf(arms_id, offers, rules, themes, word_tags), posterior, failing)
        self._seen = seen

    def _shelf(
        self,
        arms_id: int,
        offers: Sequence[Offer],
        rules: dict[str, Rules],
        themes: Sequence[RunningTheme],
        word_tags: Sequence[tuple[str, bool]],
    ) -> Shelf:
        """No other task runs in here, so that rows and pictures belong together."""
        asked = [offer.definition.audience.strip() for offer in offers]
        counted: dict[str, int] = {}
        for offer in offers:
            for word in offer.definition.content_tags:
                counted[word] = counted.get(word, 0) + 1
        words = sorted(sorted(counted), key=lambda word: -counted[word])[:MOST_WORDS] if word_tags else []
        predicates = {word: has_word(word, word_tags) for word in words}
        self.audiences.forget_all_but(set(asked))
        self.words.forget_all_but(set(predicates.values()))
        found = self.audiences.rows([predicate for predicate in asked if predicate])
        rows = np.full(len(asked), -1, np.int64)
        rows[[n for n, predicate in enumerate(asked) if predicate]] = found
        word_rows = self.words.rows([predicates[word] for word in words])
        usual, clock = self._settings.offer_value_fen, self._settings.clock()
        return shelves.build(arms_id, offers, rules, themes, rows, words, word_rows, usual, clock)

    def _learn(self, arms: Arms) -> Posterior:
        size = len(FEATURES)
        outer, rewarded = np.zeros((len(arms.offers), size, size)), np.zeros((len(arms.offers), size))
        for number, offer_id in enumerate(arms.offers):
            if offer_id in self._sums:
                _, outer[number], rewarded[number] = self._sums[offer_id]
        learnt = max((version for version, _, _ in self._sums.values()), default=0)
        if not arms.offers:
            return Posterior(rewarded, outer, self._tuning, learnt)
        mean, covariance = Bandit.of(arms.content, outer, rewarded, self._tuning).weights()
        return Posterior(mean, covariance, self._tuning, learnt)

    async def _living(self, reader: Reader) -> tuple[Offer, ...]:
        """Offers that are not retired; what they say is read anew only when a version has changed."""
        rows = await reader.fetch(
            "SELECT o.offer_id, o.version, o.taken, o.reserved - (SELECT count(*) FROM offer_hold h"
            " WHERE h.offer_id = o.offer_id AND h.state = 1 AND h.expires_at <= now()) AS reserved"
            " FROM offer o WHERE o.retired_at IS NULL ORDER BY o.offer_id"
        )
        known = {(offer.offer_id, offer.version): offer for offer in self._offers}
        if all((row["offer_id"], row["version"]) in known for row in rows):
            found = tuple(
                replace(known[OfferId(row["offer_id"]), row["version"]], reserved=row["reserved"], taken=row["taken"])
                for row in rows
            )
        else:
            async with self._database.read() as uow:
                found = tuple(await OfferStore(uow).living())
        self._offers = found
        return found

    async def _category_tags(self) -> tuple[tuple[str, bool], ...]:
        """(tag, whether it is a set) of persons' tags with words that may be looked at; read every ten audiences' ages."""
        read_at, known = self._word_tags
        if time.monotonic() - read_at < self._settings.decide_audience_age_s * 10:
            return known
        try:
            catalogue = await self._tags.catalogue()
        except Exception as error:
            if not is_operational(error):
                raise
            return known
        found = peers.word_tags(catalogue)
        self._word_tags = time.monotonic(), found
        return found

    async def _ids(self, predicate: str) -> Ints:
        try:
            return await self._tags.person_ids(predicate, "offer.audience")
        except (InvalidArgument, FailedPrecondition) as error:
            # A tag may have gone since the offer was made: nobody is eligible then.
            log.warning("tags refuses an audience of offers", extra={"reason": error.reason})
            return np.empty(0, np.int64)


async def _rules(reader: Reader) -> dict[str, Rules]:
    rows = await reader.fetch("SELECT slot, pinned, excluded, ordered FROM slot_rules")
    return {row["slot"]: Rules(tuple(row["pinned"]), tuple(row["excluded"]), tuple(row["ordered"])) for row in rows}


async def _themes(reader: Reader) -> tuple[RunningTheme, ...]:
    """Themes that run or pause, in the version that decides: their holdouts stay out of their offers all the time."""
    rows = await reader.fetch(
        "SELECT t.salt, v.definition -> 'offers' AS offers, CAST(v.definition ->> 'holdout_share' AS float8) AS share,"
        " CAST(v.definition -> 'goal' ->> 'value_fen' AS bigint) AS value_fen,"
        " v.definition -> 'values' AS stated FROM theme t JOIN theme_version v"
        " ON v.theme_id = t.theme_id AND v.version = t.approved_version WHERE t.state IN (4, 5) ORDER BY t.theme_id"
    )
    return tuple(
        RunningTheme(
            tuple(map(OfferId, r["offers"])), r["salt"], r["share"], r["value_fen"], dict(map(_filling, r["stated"] or ()))
        )
        for r in rows
    )


def _filling(stated: dict[str, Any]) -> tuple[str, Value]:
    if stated["time"]:
        return stated["name"], datetime.fromisoformat(stated["time"])
    return stated["name"], stated["word"] if stated["number"] is None else stated["number"]
