"""What other services know of somebody who arrives: few questions, all at once, and no waiting beyond the moment."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc
from prometheus_client import Counter
from troika.identity.v1.events_pb2 import ENTITY_KIND_DEALER, ENTITY_KIND_PERSON, ENTITY_KIND_VEHICLE
from troika.identity.v1.identity_service_pb2 import (
    GetEntityRequest,
    IdentifierRef,
    Relation,
    ResolveIdentifiersRequest,
    RevealAddressesRequest,
)
from troika.orchestrator.v1.decide_service_pb2 import DecideRequest, SlotContext
from troika.scoring.v1.scoring_service_pb2 import ScorePersonsRequest
from troika.tags.v1.tags_service_pb2 import StreamTagValuesRequest

from services.touchpoints.arrivals import cards
from services.touchpoints.arrivals.cards import LATE, UNAVAILABLE, UNKNOWN, Facts, Offer
from services.touchpoints.arrivals.permissions import Consents

if TYPE_CHECKING:
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
_HOLDS: Final = ("owns", "drives", "pays_for")


class Subject(NamedTuple):
    """Whom or what was seen: a plate, or a person."""

    plate: str
    person_id: int = 0


class Met(NamedTuple):
    """Who arrived, 0 where nobody is known. `dealer_id`: identity's number of the dealer that services the car, 0 for none."""

    vehicle_id: int
    person_id: int
    relation: str
    dealer_id: int


@dataclass(frozen=True)
class Peers:
    """The services that are asked."""

    identity: IdentityServiceAsyncStub
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

    def __init__(self, peers: Peers, consents: Consents, questions: Questions) -> None:
        self._peers, self._consents, self._questions = peers, consents, questions
        # Numbers of dealers never change their code.
        self._codes: dict[int, str] = {}

    async def who(self, subject: Subject) -> Met | None:
        """Whose car it is; None when nobody knows. Raises AioRpcError while identity does not answer."""
        if subject.person_id:
            return await self._with_car(subject.person_id)
        asked = ResolveIdentifiersRequest(identifiers=[IdentifierRef(kind="plate", value=subject.plate)])
        (vehicle_id,) = (await self._peers.identity.ResolveIdentifiers(asked, timeout=WHO_TIMEOUT_S)).entity_ids
        if not vehicle_id:
            return None
        relations = await self._relations(ENTITY_KIND_VEHICLE, vehicle_id)
        if relations is None:
            return None
        persons = [r for r in relations if r.kind in _HOLDS and r.entity_kind == ENTITY_KIND_PERSON]
        # The owner before who drives, who drives before who pays; of equals the one that is surest, and the smaller number.
        first = min(persons, key=lambda r: (_HOLDS.index(r.kind), -r.confidence, r.entity_id), default=None)
        return Met(vehicle_id, first.entity_id if first else 0, first.kind if first else "", _dealer(relations, "serviced_by"))

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
        # Identity writes down that a dealer was shown something of the name.
        asked = RevealAddressesRequest(person_ids=[person_id], kind="mobile", purpose="dealer_contact")
        answer = await self._peers.identity.RevealAddresses(asked, timeout=WHO_TIMEOUT_S)
        facts.display_name = next((cards.masked(a.person_name) for a in answer.addresses if a.person_name), None)

    async def _served(self, met: Met, facts: Facts) -> None:
        dealer = met.dealer_id
        if not dealer:
            # Who has no car that is serviced anywhere may have been advised somewhere.
            dealer = _dealer(await self._relations(ENTITY_KIND_PERSON, met.person_id) or (), "advised_by")
        if dealer and dealer not in self._codes:
            asked = GetEntityRequest(entity_kind=ENTITY_KIND_DEALER, entity_id=dealer)
            self._codes[dealer] = (await self._peers.identity.GetEntity(asked, timeout=WHO_TIMEOUT_S)).entity.code
        facts.served_by = self._codes.get(dealer) or None

    async def _vehicle(self, vehicle_id: int, facts: Facts) -> None:
        asked = StreamTagValuesRequest(entity_kind=ENTITY_KIND_VEHICLE, entity_ids=[vehicle_id], tags=cards.VEHICLE_TAGS)
        async for chunk in self._peers.tags.StreamTagValues(asked, timeout=WHO_TIMEOUT_S):
            found: dict[str, Any] = {}
            for tag, column in zip(cards.VEHICLE_TAGS, chunk.columns, strict=True):
                if tag in cards.VEHICLE_WORDS:
                    index = column.word_indexes[0] if column.word_indexes else -1
                    found[tag] = column.words[index] if index >= 0 else None
                elif column.numbers and not math.isnan(column.numbers[0]):
                    found[tag] = round(column.numbers[0])
            facts.vehicle = found

    async def _score(self, person_id: int, facts: Facts) -> None:
        asked = ScorePersonsRequest(model=self._questions.model, person_ids=[person_id])
        score = (await self._peers.scoring.ScorePersons(asked, timeout=WHO_TIMEOUT_S)).scores[0]
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
        answer = await self._peers.decisions.Decide(asked, timeout=WHO_TIMEOUT_S)
        if answer.offer:
            facts.offer = Offer(answer.offer, answer.title, answer.body, answer.decision)

    async def _with_car(self, person_id: int) -> Met | None:
        """Somebody who came by themselves: the car they own, else drive, when they have only one."""
        relations = await self._relations(ENTITY_KIND_PERSON, person_id)
        if relations is None:
            # Of a person who has become another one, or was erased, nobody here knows what they allowed.
            return None
        for kind in _HOLDS:
            cars = [r for r in relations if r.kind == kind and r.entity_kind == ENTITY_KIND_VEHICLE]
            if len(cars) == 1:
                return Met(cars[0].entity_id, person_id, kind, 0)
            if cars:
                break
        return Met(0, person_id, "", 0)

    async def _relations(self, kind: Any, entity_id: int) -> Sequence[Relation] | None:
        """Relations that hold at present; None when there is no such entity (any more)."""
        try:
            answer = await self._peers.identity.GetEntity(
                GetEntityRequest(entity_kind=kind, entity_id=entity_id), timeout=WHO_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return [r for r in answer.entity.relations if not r.HasField("valid_to")]


def _dealer(relations: Sequence[Relation], kind: str) -> int:
    found = [r for r in relations if r.kind == kind and r.entity_kind == ENTITY_KIND_DEALER]
    return max(found, key=lambda r: (r.confidence, -r.entity_id)).entity_id if found else 0
