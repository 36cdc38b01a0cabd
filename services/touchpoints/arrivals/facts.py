"""What other services know of somebody who arrives: few questions, all at once, and no waiting beyond the moment.

Whoever arrives while a question is under way is asked about in the next one, together with all others who wait.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import grpc
from prometheus_client import Counter
from troika.identity.v1.events_pb2 import ENTITY_KIND_DEALER, ENTITY_KIND_PERSON, ENTITY_KIND_VEHICLE
from troika.identity.v1.holder_service_pb2 import FindHoldersRequest, RevealNamesRequest
from troika.identity.v1.identity_service_pb2 import (
    GetEntityRequest,
    IdentifierRef,
    Relation,
    ResolveIdentifiersRequest,
)
from troika.orchestrator.v1.decide_service_pb2 import BatchDecideRequest, DecideRequest, DecideResponse, SlotContext
from troika.scoring.v1.scoring_service_pb2 import ScorePersonsRequest
from troika.tags.v1.tags_service_pb2 import StreamTagValuesRequest

from chassis.batching import Batching
from services.touchpoints.arrivals import cards
from services.touchpoints.arrivals.cards import LATE, UNAVAILABLE, UNKNOWN, Facts, Offer
from services.touchpoints.arrivals.permissions import Consents

if TYPE_CHECKING:
    from troika.identity.v1.holder_service_pb2_grpc import HolderServiceAsyncStub
    from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub
    from troika.orchestrator.v1.decide_service_pb2_grpc import DecisionServiceAsyncStub
    from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceAsyncStub
    from troika.tags.v1.tags_service_pb2_grpc import TagsServiceAsyncStub

log = logging.getLogger(__name__)

LEFT_OUT = Counter("touchpoints_arrival_left_out_total", "Parts that an arrival card went without.", ["part", "reason"])
# Without knowing whose car it is there is no card: this may wait longer than all that only makes the card better.
WHO_TIMEOUT_S: Final = 2.0
# However late it is already, peers get a chance to answer.
LEAST_S: Final = 0.01
# Questions of one kind that may be under way at once: a slow answer holds up those who came with it, not those after them.
LANES: Final = 2
_HOLDS: Final = ("owns", "drives", "pays_for")


class Subject(NamedTuple):
    """Whom or what was seen: a plate, or a person."""

    plate: str
    person_id: int = 0


class Met(NamedTuple):
    """Who arrived, 0 where nobody is known. `dealer_id`: identity's number of the dealer that services the car or, without
    any, advises the person; 0 for none.
    """

    vehicle_id: int
    person_id: int
    relation: str
    dealer_id: int


@dataclass(frozen=True)
class Peers:
    """The services that are asked."""

    identity: IdentityServiceAsyncStub
    holders: HolderServiceAsyncStub
    tags: TagsServiceAsyncStub
    scoring: ScoringServiceAsyncStub
    decisions: DecisionServiceAsyncStub


@dataclass(frozen=True)
class Questions:
    """What is asked for: the score's model, the slot whose offers are for the forecourt, the language of offers."""

    model: str
    slot: str
    language: str


class Finder:
    """Finds what a card says."""

    def __init__(self, peers: Peers, consents: Consents, questions: Questions, budget_s: float) -> None:
        """No card waits longer than `budget_s` for its parts."""
        self._peers, self._consents, self._questions, self._budget_s = peers, consents, questions, budget_s
        # Numbers of dealers never change their code.
        self._codes: dict[int, str] = {}
        self._holders: Batching[str, Met | None] = Batching()
        self._names: Batching[int, str | None] = Batching()
        self._tags: Batching[int, Mapping[str, Any]] = Batching()
        self._scores: Batching[int, float] = Batching()
        self._offers: Batching[DecideRequest, DecideResponse] = Batching()

    def lanes(self) -> list[Coroutine[Any, Any, None]]:
        """What asks the peers for all who wait; must be running."""
        return [
            self._consents.run(),
            *_lanes(self._holders, self._ask_holders),
            *_lanes(self._names, self._ask_names),
            *_lanes(self._tags, self._ask_tags),
            *_lanes(self._scores, self._ask_scores),
            *_lanes(self._offers, self._ask_offers),
        ]

    async def who(self, subject: Subject) -> Met | None:
        """Whose car it is; None when nobody knows. Raises AioRpcError while identity does not answer."""
        if subject.person_id:
            return await self._with_car(subject.person_id)
        return await self._holders.ask(subject.plate)

    async def person_of(self, kind: str, scope: str, value: str, timeout_s: float) -> int:
        """The person of an identifier, 0 when there is none; raises AioRpcError."""
        asked = ResolveIdentifiersRequest(identifiers=[IdentifierRef(kind=kind, scope=scope, value=value)])
        return int((await self._peers.identity.ResolveIdentifiers(asked, timeout=timeout_s)).entity_ids[0])

    async def about(self, met: Met, arrival_id: str, references: tuple[str, str], until: float) -> Facts:
        """Everything that is allowed and comes before `until` (time.monotonic); what is missing stands in `left_out`.

        `references`: what the dealer knows the vehicle and the person by.
        """
        facts = Facts()
        if met.person_id == 0:
            # Nobody's consent can be asked, so nothing is told.
            facts.left_out = dict.fromkeys(("customer", "vehicle", "score", "offer"), UNKNOWN)
            return self._counted(facts)
        sharing, profiling = await self._consents.of(met.person_id)
        if sharing:
            facts.left_out = dict.fromkeys(("customer", "vehicle", "score", "offer"), sharing)
            return self._counted(facts)
        facts.vehicle_ref, facts.customer_ref, facts.relation = *references, met.relation
        asked: dict[str, Coroutine[Any, Any, None]] = {
            "customer": self._name(met.person_id, facts),
            "served_by": self._served(met, facts),
        }
        if met.vehicle_id:
            asked["vehicle"] = self._vehicle(met.vehicle_id, facts)
        else:
            facts.left_out["vehicle"] = UNKNOWN
        if profiling:
            facts.left_out |= dict.fromkeys(("score", "offer"), profiling)
        else:
            asked["score"] = self._score(met.person_id, facts)
            asked["offer"] = self._offer(met.person_id, arrival_id, facts)
        await self._all(asked, until, facts)
        return self._counted(facts)

    async def _all(self, asked: Mapping[str, Coroutine[Any, Any, None]], until: float, facts: Facts) -> None:
        tasks = {asyncio.create_task(work): part for part, work in asked.items()}
        try:
            done, late = await asyncio.wait(tasks, timeout=max(LEAST_S, until - time.monotonic()))
        except BaseException:
            for task in tasks:
                task.cancel()
            raise
        for task in late:
            task.cancel()
            facts.left_out[tasks[task]] = LATE
        for task in done:
            if error := task.exception():
                if not isinstance(error, grpc.aio.AioRpcError):
                    log.error("part of a card failed", exc_info=error, extra={"part": tasks[task]})
                facts.left_out[tasks[task]] = UNAVAILABLE
        if late:
            # What they find from now on is not for this card.
            await asyncio.gather(*late, return_exceptions=True)

    def _counted(self, facts: Facts) -> Facts:
        for part, reason in facts.left_out.items():
            LEFT_OUT.labels(part, reason).inc()
        return facts

    async def _name(self, person_id: int, facts: Facts) -> None:
        facts.display_name = await self._names.ask(person_id)

    async def _served(self, met: Met, facts: Facts) -> None:
        if met.dealer_id and met.dealer_id not in self._codes:
            asked = GetEntityRequest(entity_kind=ENTITY_KIND_DEALER, entity_id=met.dealer_id)
            self._codes[met.dealer_id] = (await self._peers.identity.GetEntity(asked, timeout=WHO_TIMEOUT_S)).entity.code
        facts.served_by = self._codes.get(met.dealer_id) or None

    async def _vehicle(self, vehicle_id: int, facts: Facts) -> None:
        facts.vehicle = await self._tags.ask(vehicle_id)

    async def _score(self, person_id: int, facts: Facts) -> None:
        score = await self._scores.ask(person_id)
        if score >= 0:
            facts.score = score
        else:
            facts.left_out["score"] = UNKNOWN

    async def _offer(self, person_id: int, arrival_id: str, facts: Facts) -> None:
        asked = DecideRequest(
            person_id=person_id,
            slot=self._questions.slot,
            channel="dealer",
            language=self._questions.language,
            context=SlotContext(place="dealer", vehicle_state="parked"),
            # A card that is tried again shows the same offer.
            request_id=f"arrival-{arrival_id}",
        )
        answer = await self._offers.ask(asked)
        if answer.offer:
            facts.offer = Offer(answer.offer, answer.title, answer.body, answer.decision)

    async def _ask_holders(self, plates: Sequence[str]) -> list[Met | None]:
        answer = await self._peers.holders.FindHolders(FindHoldersRequest(plates=plates), timeout=WHO_TIMEOUT_S)
        return [
            Met(each.vehicle_id, each.person_id, each.relation, each.serviced_by or each.advised_by)
            if each.vehicle_id
            else None
            for each in answer.holders
        ]

    async def _ask_names(self, persons: Sequence[int]) -> list[str | None]:
        # Identity writes down that a dealer was shown something of the names.
        asked = RevealNamesRequest(person_ids=sorted(set(persons)), purpose="dealer_contact")
        answer = await self._peers.holders.RevealNames(asked, timeout=self._budget_s)
        found = {each.person_id: cards.masked(each.name) for each in answer.names}
        return [found.get(person) or None for person in persons]

    async def _ask_tags(self, vehicles: Sequence[int]) -> list[Mapping[str, Any]]:
        ids = sorted(set(vehicles))
        asked = StreamTagValuesRequest(entity_kind=ENTITY_KIND_VEHICLE, entity_ids=ids, tags=cards.VEHICLE_TAGS)
        found: dict[int, dict[str, Any]] = {vehicle: {} for vehicle in ids}
        async for chunk in self._peers.tags.StreamTagValues(asked, timeout=self._budget_s):
            for tag, column in zip(cards.VEHICLE_TAGS, chunk.columns, strict=True):
                if tag in cards.VEHICLE_WORDS:
                    for vehicle, index in zip(chunk.entity_ids, column.word_indexes, strict=True):
                        found[vehicle][tag] = column.words[index] if index >= 0 else None
                else:
                    for vehicle, number in zip(chunk.entity_ids, column.numbers, strict=True):
                        found[vehicle][tag] = None if math.isnan(number) else round(number)
        return [found[vehicle] for vehicle in vehicles]

    async def _ask_scores(self, persons: Sequence[int]) -> list[float]:
        asked = ScorePersonsRequest(model=self._questions.model, person_ids=persons)
        return list((await self._peers.scoring.ScorePersons(asked, timeout=self._budget_s)).scores)

    async def _ask_offers(self, asked: Sequence[DecideRequest]) -> list[DecideResponse]:
        answer = await self._peers.decisions.BatchDecide(BatchDecideRequest(requests=asked), timeout=self._budget_s)
        return list(answer.answers)

    async def _with_car(self, person_id: int) -> Met | None:
        """Somebody who came by themselves: the car they own, else drive, when they have only one."""
        try:
            asked = GetEntityRequest(entity_kind=ENTITY_KIND_PERSON, entity_id=person_id)
            entity = (await self._peers.identity.GetEntity(asked, timeout=WHO_TIMEOUT_S)).entity
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            # Of a person who has become another one, or was erased, nobody here knows what they allowed.
            return None
        relations = [r for r in entity.relations if not r.HasField("valid_to")]
        dealer = _dealer(relations, "advised_by")
        for kind in _HOLDS:
            cars = [r for r in relations if r.kind == kind and r.entity_kind == ENTITY_KIND_VEHICLE]
            if len(cars) == 1:
                return Met(cars[0].entity_id, person_id, kind, dealer)
            if cars:
                break
        return Met(0, person_id, "", dealer)


def _dealer(relations: Sequence[Relation], kind: str) -> int:
    found = [r for r in relations if r.kind == kind and r.entity_kind == ENTITY_KIND_DEALER]
    return max(found, key=lambda r: (r.confidence, -r.entity_id)).entity_id if found else 0


Q = TypeVar("Q")
A = TypeVar("A")


def _lanes(asked: Batching[Q, A], work: Callable[[Sequence[Q]], Awaitable[Sequence[A]]]) -> list[Coroutine[Any, Any, None]]:
    return [asked.run(work) for _ in range(LANES)]
