"""What the services answer about populations, and the commands that merge, part and erase their persons."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import grpc
import nats
import pytest
from troika.identity.v1 import consent_service_pb2 as consent_pb
from troika.identity.v1 import stewardship_service_pb2 as steward_pb
from troika.identity.v1 import vault_service_pb2 as vault_pb
from troika.identity.v1.consent_service_pb2_grpc import ConsentServiceStub
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON, ENTITY_KIND_VEHICLE
from troika.identity.v1.identity_service_pb2 import IdentifierRef, ResolveIdentifiersRequest
from troika.identity.v1.stewardship_service_pb2_grpc import StewardshipServiceStub
from troika.identity.v1.vault_service_pb2_grpc import VaultServiceStub
from troika.tags.v1 import tags_service_pb2 as tags_pb

from chassis.consents import DEFAULT_REGIMES
from chassis.db import Database
from local.demo.doors import Doors
from local.demo.operator import Operator
from local.plan import SERVICES
from local.supervisor import Suite
from services.orchestrator.domain.channels import CONSENT_BITS
from services.orchestrator.store.consents import ConsentStore
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.store.consents import Asked, forbidden
from tests.e2e.histories import DEALERS, PAIRS, SOURCES, Name, Population, Record, Step

AUDIENCES = (
    "",
    "app_opens >= 3",
    "age >= 40 AND job = 'services'",
    "dealer_code = 'D001' OR offer_answer = 'yes'",
    "has_app AND NOT (price_calculations > 1)",
    "ANY(vehicle, mileage_km > 60000)",
    "ANY(vehicle, model = 'X5') AND last_model_viewed IS NOT NULL",
)
PURPOSES = ("marketing", "service")
REGIMES = {**DEFAULT_REGIMES, "service": "opt_in"}
QUIET_S = 60.0


KEEPERS = ("tags", "orchestrator", "touchpoints")


@dataclass
class Seen:
    """What the services answer about one population, by the names that its history has for persons."""

    persons: dict[Name, set[int]] = field(default_factory=dict)
    tags: dict[Name, Any] = field(default_factory=dict)
    cars: dict[Name, list[str]] = field(default_factory=dict)
    members: dict[str, list[Name]] = field(default_factory=dict)
    consents: dict[Name, Any] = field(default_factory=dict)
    planned: dict[tuple[Name, str], int] = field(default_factory=dict)
    sent: dict[tuple[Name, str, str], str] = field(default_factory=dict)


class World:
    """The suite, its doors, and the databases that two of its services project consents into."""

    def __init__(
        self, suite: Suite, operator: Operator, doors: Doors, identity: grpc.aio.Channel, populations: tuple[Population, ...]
    ) -> None:
        self.populations = populations
        self.suite, self.operator, self.doors = suite, operator, doors
        self.steward: Any = StewardshipServiceStub(identity)
        self.consents: Any = ConsentServiceStub(identity)
        self.vault: Any = VaultServiceStub(identity)
        self.databases = {name: Database(suite.postgres_dsn, name, pool_size=1) for name in ("orchestrator", "touchpoints")}

    async def live(self, chapter: Callable[[Population], Step]) -> None:
        """Lets every population live a chapter of the history."""
        steps = [chapter(population) for population in self.populations]
        for source in SOURCES:
            records = [record for step in steps for where, record in step.records if where == source]
            calls = [call for step in steps for where, call in step.calls if where == source]
            await self.doors.records(source, records, lambda _: None)
            await self.doors.events(source, calls, lambda _: None)
        assert [] == self.doors.accepted.refused
        await self.quiet()

    async def quiet(self) -> None:
        """Waits until nobody has anything left to do: no message pending, no outbox filled, no relation to work out."""
        client = await nats.connect(self.suite.nats_url)
        tables = [f"{service}.outbox" for service in SERVICES] + ["identity.inference_queue"]
        connection = await asyncpg.connect(self.suite.postgres_dsn)
        js, calm, deadline = client.jetstream(), 0, time.monotonic() + QUIET_S
        try:
            # Once is not enough: between the two looks something may have gone from one to the other.
            while calm < 3:
                assert time.monotonic() < deadline, "never came to rest"
                consumers = [c for s in await js.streams_info() for c in await js.consumers_info(str(s.config.name))]
                left = sum((c.num_pending or 0) + (c.num_ack_pending or 0) for c in consumers)
                left += sum([await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables])
                calm = 0 if left else calm + 1
                await asyncio.sleep(0.1)
        finally:
            await connection.close()
            await client.close()

    async def resolve(self, kind: str, values: list[tuple[str, str]]) -> list[int]:
        """Entities of (scope, value)."""
        identifiers = [IdentifierRef(kind=kind, scope=scope, value=value) for scope, value in values]
        request = ResolveIdentifiersRequest(identifiers=identifiers)
        return list((await self.operator.ask(self.operator.identity.ResolveIdentifiers, request)).entity_ids)

    async def persons(self, population: Population) -> dict[Name, list[int]]:
        """The person of each record, by whose record it is."""
        records: list[tuple[Name, Record]] = [(n, r) for n in population.names for r in population.records_of(n)]
        found = await self.resolve("crm_id", [record for _, record in records])
        return {name: [id_ for (n, _), id_ in zip(records, found, strict=True) if n == name] for name in population.names}

    async def look(self, population: Population) -> Seen:
        """Everything that must be the same whether merged in between or not."""
        ids = {name: set(each) for name, each in (await self.persons(population)).items()}
        seen, one = Seen(persons=ids), {name: min(each) for name, each in ids.items()}
        cars = dict(zip(await self._cars(population), population.names, strict=True))
        for name, person in one.items():
            request = tags_pb.GetProfileRequest(entity_kind=ENTITY_KIND_PERSON, entity_id=person)
            profile = await self.operator.ask(self.operator.tags.GetProfile, request)
            seen.tags[name] = {
                t.tag: (getattr(t.value, t.value.WhichOneof("kind")), t.occurred_at.ToMicroseconds()) for t in profile.tags
            }
            seen.cars[name] = sorted(str(cars[car]) for car in profile.related_ids)
            asked = consent_pb.GetConsentsRequest(person_id=person)
            held = (await self.operator.ask(self.consents.GetConsents, asked)).consents
            seen.consents[name] = [(c.purpose, c.channel, c.state, c.needs_separate) for c in held]
        for predicate in AUDIENCES:
            members = set(await self.audience(predicate))
            seen.members[predicate] = [name for name, person in one.items() if person in members]
        async with self.databases["orchestrator"].read() as uow:
            for purpose in PURPOSES:
                closed = await ConsentStore(uow).forbidden(purpose, CONSENT_BITS, REGIMES, datetime.now(UTC))
                masks = dict(zip(closed.persons.tolist(), closed.masks.tolist(), strict=True))
                seen.planned |= {(name, purpose): masks.get(person, closed.others) for name, person in one.items()}
        async with self.databases["touchpoints"].read() as uow:
            pushes = {(n, p, c.label): Asked(f"{n} {p} {c}", one[n], 0, p, c) for n in one for p in PURPOSES for c in Channel}
            refused = await forbidden(uow, list(pushes.values()), REGIMES)
            seen.sent = {key: refused.get(push.delivery_id, "") for key, push in pushes.items()}
        return seen

    async def _cars(self, population: Population) -> list[int]:
        return await self.resolve("vin", [("", population.vin(name)) for name in population.names])

    async def audience(self, predicate: str) -> list[int]:
        """Members, as tags streams them."""
        request = tags_pb.StreamAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate)
        return [
            id_ for chunk in await self.operator.read(self.operator.tags.StreamAudience, request) for id_ in chunk.entity_ids
        ]

    async def count(self, predicate: str) -> int:
        """How many tags counts."""
        request = tags_pb.CountAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate)
        return int((await self.operator.ask(self.operator.tags.CountAudience, request)).count)

    async def merge(self, before: Seen) -> None:
        """A steward makes each pair one; evidence has done so by itself."""
        for number in range(PAIRS):
            [target], [source] = before.persons["T", number], before.persons["S", number]
            request = steward_pb.MergePersonsRequest(
                op_id=f"op-{number}", target_id=target, source_ids=[source], move_limit=10, reason="called us"
            )
            answer = await self.operator.ask(self.steward.MergePersons, request)
            assert ["MERGED"] == [outcome.outcome for outcome in answer.outcomes]
        await self.quiet()

    async def unmerge(self, before: dict[str, Seen]) -> None:
        """Takes back the steward's merges by their ids, those of evidence by their places in the ledger."""
        merges = (await self.operator.ask(self.steward.ListMerges, steward_pb.ListMergesRequest())).merges
        pairs = {frozenset((merge.survivor_id, merge.merged_id)): merge for merge in merges}
        for number in range(PAIRS):
            op_ids = [f"op-{number}"]
            for population in self.populations:
                if population.evidence:
                    seen = before[population.tag].persons
                    merge = pairs[frozenset(seen["T", number] | seen["S", number])]
                    assert ("", True) == (merge.caller, merge.op_id.startswith("ledger/"))
                    op_ids.append(merge.op_id)
            for op_id in op_ids:
                request = steward_pb.UnmergeRequest(op_id=op_id, reason="two people after all")
                assert "UNMERGED" == (await self.operator.ask(self.steward.Unmerge, request)).outcome
        await self.quiet()

    async def owners(self, population: Population) -> tuple[list[int], list[int]]:
        """(whom tags relates to the car of the first T, its seller and its buyer as identity knows them)."""
        [car] = await self.resolve("vin", [("", population.vin(("T", 0)))])
        request = tags_pb.GetProfileRequest(entity_kind=ENTITY_KIND_VEHICLE, entity_id=car)
        related = (await self.operator.ask(self.operator.tags.GetProfile, request)).related_ids
        records = [population.records_of(("T", 0))[1], (DEALERS[0], f"{population.tag}-buyer")]
        return list(related), await self.resolve("crm_id", records)

    async def erase(self, person: int) -> dict[str, Any]:
        """Erases a person; what every service answers afterwards."""
        request = vault_pb.ErasePersonRequest(person_id=person, request_id="e2e", reason="asked for it")
        anchors = list((await self.operator.ask(self.vault.ErasePerson, request)).manifest.anchor_ids)
        await self.quiet()
        asked = tags_pb.GetProfileRequest(entity_kind=ENTITY_KIND_PERSON, entity_id=person)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.operator.tags.GetProfile(asked)
        connection = await asyncpg.connect(self.suite.postgres_dsn)
        try:
            buried = {s: await connection.fetchval(f"SELECT count(*) FROM {s}.erased_anchor") for s in KEEPERS}
            kept = await connection.fetchval(
                "SELECT (SELECT count(*) FROM tags.anchor WHERE entity_kind = 1 AND anchor_id = ANY($1))"
                " + (SELECT count(*) FROM orchestrator.consent WHERE anchor_id = ANY($1))"
                " + (SELECT count(*) FROM touchpoints.consent WHERE anchor_id = ANY($1))",
                anchors,
            )
            scored = await connection.fetch("SELECT person_id FROM scoring.erased_person")
        finally:
            await connection.close()
        return {
            "code": caught.value.code(),
            "members": person in await self.audience(""),
            "anchors": len(anchors),
            "buried": buried,
            "kept": kept,
            "scoring": [row["person_id"] for row in scored],
        }

    async def close(self) -> None:
        for database in self.databases.values():
            await database.close()
