"""Decide, hear what came of it, and explain: the commands and questions about single decisions."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import orjson

from chassis.batching import Batching
from chassis.db import Database
from chassis.errors import FailedPrecondition, NotFound
from services.orchestrator.domain.hashing import key_of
from services.orchestrator.experiments.assigning import in_global_holdout
from services.orchestrator.offers import offer_log, permissions
from services.orchestrator.offers.choosing import NEUTRAL, REASONS, WHYS, Asked, Choice, Person, choose
from services.orchestrator.offers.contexts import FEATURES, SlotContext
from services.orchestrator.offers.definitions import Offer, OfferId, Rendered, name_of
from services.orchestrator.offers.offer_log import OUTCOMES, UNLEARNT, WAITING, Decided, OfferLog, Said
from services.orchestrator.offers.permissions import Known
from services.orchestrator.offers.stockroom import Stock, Stockroom
from services.orchestrator.offers.store import OfferStore
from services.orchestrator.settings import Settings
from services.orchestrator.store.holding import hold_off_erasures

# Clocks of phones are a little wrong.
EARLY_S: Final = 300.0
NAME: Final = "decisions/"


@dataclass(frozen=True)
class Question:
    """What somebody asks; `request_id` empty for a decision of its own."""

    person_id: int
    slot: str
    language: str
    context: SlotContext
    request_id: str = ""


@dataclass(frozen=True)
class Answer:
    """A decision and what is shown; `offer` None for nothing. `failing`: the slot's channel does not work now."""

    decided: Decided
    offer: Offer | None
    words: Rendered | None
    audience_age_s: float
    failing: bool


@dataclass(frozen=True)
class Explanation:
    """A stored decision in words; `left_out` has (offer, reason)."""

    decided: Decided
    features: tuple[str, ...]
    words: tuple[str, ...]
    candidates: int
    left_out: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]
    outcomes: tuple[str, ...]


class Decider:
    """Single decisions. The stockroom must be kept and the `lanes` must be running."""

    def __init__(self, database: Database, stockroom: Stockroom, settings: Settings) -> None:
        self.database, self.stockroom, self.settings = database, stockroom, settings
        self._register: Batching[int, Known] = Batching()
        self._log: Batching[Decided, bool] = Batching()

    def lanes(self) -> list[Coroutine[Any, Any, None]]:
        """What reads, and what writes, for all who wait; each over a connection of its own."""
        return [self._read_persons(), self._write_decisions()]

    async def _read_persons(self) -> None:
        window, reader = timedelta(days=self.settings.offer_cap_days), self.database.pinned()
        try:
            await self._register.run(lambda persons: permissions.ask(reader, persons, datetime.now(UTC), window))
        finally:
            await reader.close()

    async def _write_decisions(self) -> None:
        writer = self.database.pinned()

        async def written(decisions: Sequence[Decided]) -> list[bool]:
            """Whether each is new, once all are durable; of two with one id the first one is."""
            once = {decided.decision_id: decided for decided in reversed(decisions)}
            fresh = await offer_log.add(writer, list(once.values()))
            return [once[d.decision_id] is d and d.decision_id in fresh for d in decisions]

        try:
            await self._log.run(written)
        finally:
            await writer.close()

    async def decide(self, question: Question, caller: str) -> Answer:
        """The best offer now, once it is durable; raises FailedPrecondition for a request id that meant something else."""
        asked_before = question.request_id
        decision_id = key_of("offer decision", caller, asked_before) if asked_before else secrets.token_bytes(16)
        self.stockroom.now()
        known = await self._register.ask(question.person_id)
        # One picture of the stockroom for all that follows; nothing is awaited until the decision is made.
        stock, now = self.stockroom.now(), datetime.now(UTC)
        person, age = self._person(stock, known, question.context.channel, now)
        active = question.context.active(self.settings.clock())
        asked = Asked(question.slot, question.context.channel, question.language, now.timestamp(), active)
        choice = choose(stock.shelf, stock.posterior, asked, person, self.settings.offer_cap, unit_of(decision_id))
        decided = self._decided(decision_id, stock, known.person_id, question, active, choice, now, person.personal)
        # Nearly no request comes twice: it is the log that says so, not a question before.
        if not await self._log.ask(decided):
            return await self._again((await offer_log.kept(self.database, [decision_id]))[decision_id].decided, question)
        if choice.place < 0:
            return Answer(decided, None, None, age, self._fails(decided))
        words = stock.shelf.said(asked.channel, asked.language)[choice.place]
        return Answer(decided, stock.shelf.offers[choice.place], words, age, self._fails(decided))

    def _person(self, stock: Stock, known: Known, channel: str, now: datetime) -> tuple[Person, float]:
        """The person as the shelf's columns have her, and the age of the oldest audience that was looked up."""
        shelf, settings, person = stock.shelf, self.settings, known.person_id
        personal = known.personal(now)
        asked = shelf.audience_rows >= 0
        rows = shelf.audience_rows[asked]
        ages = self.stockroom.audiences.ages(rows)
        known_audiences, member = asked.copy(), asked.copy()
        known_audiences[asked] = ages <= settings.decide_audience_most_s
        # Nobody known is in no audience, and none of her tags is true.
        named = bool(person) and personal
        member[asked] = self.stockroom.audiences.has(person, rows) if named else False
        true_words = self.stockroom.words.has(person, shelf.word_rows) if named else np.zeros(len(shelf.words), np.bool_)
        held = person and bool(
            in_global_holdout(np.array([person]), settings.global_holdout_salt, settings.global_holdout_share)[0]
        )
        closed = known.closed("marketing", channel, settings.consent_regimes, now)
        read = ages[np.isfinite(ages)]
        return (
            Person(person, personal, closed, bool(held), known.shown, known_audiences, member, true_words),
            float(read.max()) if len(read) else 0.0,
        )

    def _decided(
        self,
        decision_id: bytes,
        stock: Stock,
        person_id: int,
        question: Question,
        active: tuple[int, ...],
        choice: Choice,
        now: datetime,
        personal: bool,
    ) -> Decided:
        offer = stock.shelf.offers[choice.place] if choice.place >= 0 else None
        return Decided(
            decision_id,
            person_id,
            question.slot,
            question.context.channel,
            question.language,
            offer.offer_id if offer else 0,
            offer.version if offer else 0,
            WHYS.index(choice.why),
            choice.propensity,
            float(choice.rate),
            float(choice.sd),
            float(choice.match),
            stock.shelf.arms_id,
            stock.posterior.learnt,
            choice.codes.tobytes(),
            bytes(active),
            orjson.dumps(choice.words).decode(),
            now,
            now + timedelta(minutes=self.settings.offer_window_minutes),
            # Nothing is learnt from who wants not to be told apart.
            WAITING if offer and personal else UNLEARNT,
        )

    async def _again(self, decided: Decided, question: Question) -> Answer:
        present = await offer_log.present_of(self.database, {decided.person_id, question.person_id})
        same = decided.person_id in (0, question.person_id) or (present[decided.person_id] == present[question.person_id])
        if not same or (decided.slot, decided.channel, decided.language) != (
            question.slot,
            question.context.channel,
            question.language,
        ):
            raise FailedPrecondition("this request meant something else before", reason="REQUEST_ID_REUSED", field="request_id")
        offer = None
        if decided.offer_id:
            async with self.database.read() as uow:
                offer = await OfferStore(uow).get(OfferId(decided.offer_id), decided.offer_version)
        words = self.stockroom.now().shelf.says(offer, decided.channel, decided.language) if offer else None
        # Where nothing fills its variables any more, nothing is better than a text with holes.
        return Answer(decided, offer if words else None, words, 0.0, self._fails(decided))

    def _fails(self, decided: Decided) -> bool:
        return decided.channel in self.stockroom.now().failing

    async def record(self, said: Sequence[Said]) -> list[str]:
        """Keeps what came of decisions; empty or an UPPER_SNAKE refusal for each."""
        async with self.database.transaction() as uow:
            await hold_off_erasures(uow)
            return await OfferLog(uow).record(said, EARLY_S)

    async def explain(self, decision_id: bytes) -> Explanation:
        """A decision from what was stored; raises NotFound."""
        async with self.database.read() as uow:
            kept = (await offer_log.kept(uow, [decision_id])).get(decision_id)
            if kept is None:
                raise NotFound("there is no such decision", reason="DECISION_NOT_FOUND", field="decision")
            arms = (await offer_log.arms_of(uow, [kept.decided.arms_id]))[kept.decided.arms_id]
        decided = kept.decided
        codes = np.frombuffer(decided.codes, np.uint8).tolist()
        left_out = tuple(
            (name_of(OfferId(offer_id)), REASONS[code]) for offer_id, code in zip(arms.offers, codes, strict=True) if code
        )
        words = tuple(orjson.loads(decided.words))
        return Explanation(
            decided,
            tuple(FEATURES[place] for place in decided.active),
            words,
            codes.count(0),
            left_out,
            tuple(_reasons(decided, codes, words)),
            tuple(outcome for bit, outcome in enumerate(OUTCOMES) if kept.outcomes >> bit & 1),
        )


def unit_of(decision_id: bytes) -> float:
    """The number of [0, 1) that a decision is drawn with: it follows from its id, so that the draw can be checked."""
    return int.from_bytes(hashlib.blake2b(decision_id, key=b"draw", digest_size=6).digest(), "big") / 2.0**48


def _reasons(decided: Decided, codes: Sequence[int], words: Sequence[str]) -> list[str]:
    why = WHYS[decided.why]
    counts = {REASONS[code]: codes.count(code) for code in sorted(set(codes)) if code}
    told = [f"{len(codes)} offers, {codes.count(0)} could be shown"]
    told += [f"{count} left out: {reason}" for reason, count in counts.items()]
    if why == "none":
        return [*told, "nothing was left to show"]
    if why in ("pinned", "ordered"):
        return [*told, f"operators' rule for {decided.slot}: {why}"]
    if why == NEUTRAL:
        return [*told, "personalisation is off: drawn evenly, without looking at any tag"]
    if words:
        told.append(f"content that is true of the person: {', '.join(words)}; {decided.matched:.0%} of this offer's")
    told.append(f"believed rate of success {decided.rate:.2%}, standard deviation {decided.sd:.2%}")
    return [*told, f"drawn with a chance of {decided.propensity:.2%} by the number {unit_of(decided.decision_id):.6f}"]
