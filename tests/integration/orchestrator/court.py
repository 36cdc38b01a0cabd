"""The arbiter in the test's own loop: real database, stand-ins for its peers, a clock that tests may turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import events_pb2
from troika.touchpoints.v1 import events_pb2 as touchpoints_pb2

from chassis import rpc
from chassis.bus import Message
from chassis.db import Database, UnitOfWork
from chassis.testing import DatabaseFactory
from services.orchestrator.arbiter.due import DueWorker
from services.orchestrator.arbiter.passing import Arbiter
from services.orchestrator.arbiter.proposing import Proposal, propose
from services.orchestrator.consumers import consumers
from services.orchestrator.domain.themes import PersonId, ThemeId
from services.orchestrator.handlers import Room
from services.orchestrator.launching import Launcher
from services.orchestrator.offers.catalogue import Catalogue
from services.orchestrator.offers.definitions import Definition, OfferId, Variant
from services.orchestrator.peers import Scoring, Tags
from services.orchestrator.settings import Settings
from services.orchestrator.store.launches import LaunchStore
from services.orchestrator.themes.definitions import Band, Budget, Goal, Pacing, Schedule, ThemeDefinition
from services.orchestrator.themes.states import ThemeState
from services.orchestrator.themes.store import ThemeStore
from tests.integration.orchestrator.world import HASHES, MODEL, SECRET, People, peers

EVERYBODY = Budget(10**6, 10**6, None, {"app": 1, "wechat": 2, "dealer": 500}, Pacing.ASAP)
# Nine in the morning in Shanghai, where it is never quiet.
MORNING = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)


@dataclass
class Court:
    """The arbiter under test. `moment` None: the database's own clock."""

    room: Room
    people: People
    moment: datetime | None = None
    workers: list[Any] = field(default_factory=list)

    @property
    def database(self) -> Database:
        return self.room.database

    async def clock(self, uow: UnitOfWork) -> datetime:
        return self.moment or (await uow.fetch("SELECT clock_timestamp() AS now"))[0]["now"]

    def arbiter(self) -> Arbiter:
        room = self.room
        return Arbiter(room.database, room.tags, room.scoring, room.settings, self.clock)

    def pass_on(self, **parts: float) -> None:
        """Turns the clock."""
        assert self.moment
        self.moment += timedelta(**parts)

    async def offer(self, purpose: str = "service", **changes: Any) -> OfferId:
        """An offer that can be told on every channel that may carry its purpose."""
        channels = ("app", "dealer", *(("wechat",) if purpose == "service" else ()))
        stated = Definition(
            title="Check-up",
            kind="service",
            purpose=purpose,
            content_tags=(),
            valid_from=datetime(2020, 1, 1, tzinfo=UTC),
            valid_to=None,
            audience="",
            stock=None,
            variants=tuple(Variant(channel, "en", "Free check-up", "Come by") for channel in channels),
        )
        catalogue = Catalogue(self.database, self.room.tags)
        return (await catalogue.create(replace(stated, **changes), "", "operator")).offer_id

    async def theme(self, *, state: ThemeState = ThemeState.RUNNING, **changes: Any) -> ThemeId:
        """A theme that runs and proposes nothing yet; by itself with an offer of its purpose and without holdout."""
        purpose = changes.get("purpose", "service")
        channels = ("app", "wechat", "dealer") if purpose == "service" else ("app", "dealer")
        stated: dict[str, Any] = {
            "title": "Spring", "words": "", "audience": "TRUE", "goal": Goal("Offer Answered", "answer", "yes", 30, 0),
            "offers": changes.pop("offers", None) or (await self.offer(purpose),), "language": "en", "values": (),
            "purpose": purpose, "bands": (Band(0.0, channels),), "model": MODEL, "budget": EVERYBODY,
            "schedule": Schedule(None, None), "priority": 500, "holdout_share": 0.0, "exclusion": None, "waves": None,
        }  # fmt: skip
        definition = ThemeDefinition(**(stated | changes))
        async with self.database.transaction() as uow:
            theme_id = await ThemeStore(uow).add(definition, "", "operator")
            await uow.execute(
                "UPDATE theme_version SET offer_versions = :versions WHERE theme_id = :id",
                id=theme_id,
                versions=[1] * len(definition.offers),
            )
            await uow.execute(
                "UPDATE theme SET approved_version = 1, state = :state, launched_at = now() WHERE theme_id = :id",
                id=theme_id,
                state=int(state),
            )
        return theme_id

    async def state(self, theme_id: ThemeId, state: ThemeState) -> None:
        async with self.database.transaction() as uow:
            await uow.execute("UPDATE theme SET state = :state WHERE theme_id = :id", id=theme_id, state=int(state))

    async def queue(self, theme_id: ThemeId) -> None:
        async with self.database.transaction() as uow:
            await LaunchStore(uow).queue(theme_id, "")

    async def launch(self, chunk: int = 100, **changes: Any) -> ThemeId:
        """A theme, launched to the end."""
        theme_id = await self.theme(**changes)
        await self.queue(theme_id)
        assert await Launcher(self.room, self.arbiter(), chunk).work_once()
        return theme_id

    async def propose(
        self, theme_id: ThemeId, persons: Sequence[int], occasion: int = 1, ends: timedelta = timedelta(days=7), **more: Any
    ) -> None:
        async with self.database.transaction() as uow:
            now = await self.clock(uow)
            given: dict[str, Any] = {"offer_id": None, "due_at": now, "expires_at": now + ends} | more
            await propose(uow, [Proposal(theme_id, PersonId(person), occasion, **given) for person in persons])

    async def work(self) -> None:
        """Decides all that is due."""
        worker = DueWorker(self.arbiter())
        while await worker.work_once():
            pass

    async def outcomes(self, theme_id: ThemeId) -> dict[tuple[int, int], str]:
        """(person, occasion) to outcome, or why it was put off."""
        rows = await self.rows(
            f"SELECT person_id, occasion, CASE outcome WHEN 'deferred' THEN reason ELSE outcome END AS word"
            f" FROM decision WHERE theme_id = {theme_id}"
        )
        return {(row.person_id, row.occasion): row.word for row in rows}

    async def words(self, theme_id: ThemeId) -> dict[int, str]:
        """Person to outcome, of one who was proposed once."""
        return {person: word for (person, _), word in (await self.outcomes(theme_id)).items()}

    async def pushes(self) -> list[events_pb2.DeliveryRequest]:
        rows = await self.rows("SELECT payload FROM outbox WHERE subject = 'troika.deliveries.requested.v1' ORDER BY id")
        return [r for row in rows for r in events_pb2.DeliveriesRequested.FromString(row.payload).requests]

    async def rows(self, statement: str) -> Any:
        async with self.database.read() as uow:
            return await uow.rows(statement)

    async def hear(self, **facts: Any) -> None:
        """Facts about who is who, as identity states them."""
        [consumer] = [each for each in consumers() if each.subject == "troika.entities.changed.v1"]
        data = identity_pb2.EntitiesChanged(**facts).SerializeToString()
        async with self.database.transaction() as uow:
            await consumer.handle(uow, [Message("1", consumer.subject, data, {}, 1)])

    async def delivered(self, *updates: tuple[str, int, str]) -> None:
        """(delivery, state, answer), as touchpoints states them."""
        [consumer] = [each for each in consumers() if each.subject == "troika.deliveries.updated.v1"]
        stated = [
            touchpoints_pb2.DeliveryUpdate(delivery_id=name, state=state, answer=answer, occurred_at_us=1)
            for name, state, answer in updates
        ]
        data = touchpoints_pb2.DeliveriesUpdated(updates=stated).SerializeToString()
        async with self.database.transaction() as uow:
            await consumer.handle(uow, [Message("1", consumer.subject, data, {}, 1)])

    async def told(self, subject: str, fact: Any) -> None:
        """One fact of another room."""
        [consumer] = [each for each in consumers() if each.subject == subject]
        async with self.database.transaction() as uow:
            await consumer.handle(uow, [Message("1", subject, fact.SerializeToString(), {}, 1)])

    async def merge(self, survivor: int, other: int, op_id: int = 1, operation: str = "merge") -> None:
        change = identity_pb2.ClusterChange(
            op_id=op_id, entity_kind=1, operation=operation, survivor_id=survivor, other_id=other
        )
        await self.hear(cluster_changes=[change])

    async def forbid(self, person: int, channel: str = "all", purpose: str = "service") -> None:
        stated = identity_pb2.ConsentChange(
            anchor_id=person, person_id=person, purpose=purpose, channel=channel, opted_out=True, stated_at_us=1
        )
        await self.hear(consent_changes=[stated])


@asynccontextmanager
async def court(
    databases: DatabaseFactory, people: People, moment: datetime | None = None, **changes: Any
) -> AsyncIterator[Court]:
    stated: dict[str, Any] = {
        "referral_device_key": "0" * 64,
        "postgres_dsn": "postgresql://unused", "nats_url": "nats://unused", "grpc_port": 0, "http_port": 0,
        "caller_token": SECRET,
        "caller_token_sha256": HASHES, "quiet_hours": "", "global_holdout_share": 0.0, "audience_age_s": 0.0,
        "push_caps": {"any": (1000, 7)},
    }  # fmt: skip
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(databases.database("orchestrator"))
        target = await stack.enter_async_context(peers(people))
        channel = await stack.enter_async_context(rpc.connect(target, "orchestrator", SECRET))
        yield Court(Room(database, Tags(channel), Scoring(channel), Settings(**(stated | changes))), people, moment)
