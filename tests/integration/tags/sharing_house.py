"""A house that shares: persons in a database, an index over them, and both doors of sharing on a real server."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr
from troika.identity.v1 import events_pb2 as identity
from troika.tags.v1 import sharing_service_pb2 as pb
from troika.tags.v1.sharing_service_pb2_grpc import (
    SharedTagsServiceStub,
    SharingServiceStub,
    add_SharedTagsServiceServicer_to_server,
    add_SharingServiceServicer_to_server,
)

from chassis import rpc
from chassis.db import Database
from services.tags import consents, store
from services.tags.domain.catalogue import Kind
from services.tags.index.index import AudienceIndex
from services.tags.rpc_shared_tags import SharedTagsRpc
from services.tags.rpc_sharing import SharingRpc
from services.tags.sharing import verifying
from services.tags.sharing.keys import SharingKeys
from services.tags.sharing.ledger_store import Head
from services.tags.sharing.source import IndexSource
from services.tags.sharing.verifying import Verdict
from tests.integration.tags import world
from tests.integration.tags.world import RULES, event

TOKEN = "t" * 16
RECIPIENTS = frozenset({"agency", "insurer"})
CALLERS = {name: hashlib.sha256(TOKEN.encode()).hexdigest() for name in ("operator", *RECIPIENTS)}
KEYS = {key_id: SecretStr(base64.b64encode(bytes([seed]) * 32).decode()) for seed, key_id in enumerate(("k1", "k2"), 1)}
JOBS = ("student", "retired", "services")


@dataclass
class Following:
    """The index as of the last time that it was told to look."""

    database: Database
    index: AudienceIndex = field(default_factory=lambda: AudienceIndex(RULES.catalogue))

    async def check(self) -> None:
        """It is told when to look."""

    async def look(self) -> None:
        async with self.database.read() as uow:
            rows = await store.entities_after(uow, Kind.PERSON, 0, 100_000)
        self.index = AudienceIndex(RULES.catalogue)
        for row in rows:
            self.index.load_entity(Kind.PERSON, row.entity_id, row.present, row.tags, row.version)


@dataclass
class Read:
    """What a recipient got."""

    receipt: pb.UseReceipt
    rows: dict[bytes, tuple[Any, ...]]
    counts: list[pb.TagCounts]
    chunks: int


@dataclass
class House:
    """Its doors, each as its callers see it."""

    database: Database
    following: Following
    operator: SharingServiceStub
    recipients: dict[str, SharedTagsServiceStub]
    channels: dict[str, grpc.aio.Channel]

    async def share(self, recipient: str = "agency", **terms: Any) -> int:
        """Makes a share and returns its number."""
        made = await self.operator.CreateShare(asked(recipient, **terms))
        return made.share.share_id

    async def read(self, share_id: int, recipient: str = "agency") -> Read:
        """Reads all of a share, from what is in the database now."""
        await self.following.look()
        rows: dict[bytes, tuple[Any, ...]] = {}
        receipt, counts, chunks = pb.UseReceipt(), [], 0
        async for chunk in self.recipients[recipient].ReadShare(pb.ReadShareRequest(share_id=share_id)):
            if chunk.HasField("receipt"):
                receipt = chunk.receipt
            chunks += 1
            counts += chunk.counts
            columns = [values(column) for column in chunk.columns]
            rows |= {p: tuple(column[at] for column in columns) for at, p in enumerate(chunk.pseudonyms)}
        return Read(receipt, rows, counts, chunks)

    async def account(self, person: int) -> tuple[list[int], int, int]:
        """(numbers of uses, points earned, points spent)."""
        found = await self.operator.GetDataUse(pb.GetDataUseRequest(person_id=person))
        return [use.number for use in found.uses], found.points_earned, found.points_spent

    async def verify(self, *receipts: Head) -> Verdict:
        async with self.database.read() as uow:
            return await verifying.verify(uow, receipts)


def values(column: Any) -> list[Any]:
    """A column as people would write it, None where there is nothing."""
    if column.word_indexes:
        return [column.words[at] if at >= 0 else None for at in column.word_indexes]
    return [None if number != number else number for number in column.numbers]


def asked(recipient: str = "agency", **terms: Any) -> pb.CreateShareRequest:
    given: dict[str, Any] = {
        "request_id": uuid.uuid4().hex,
        "recipient": recipient,
        "purpose": "Study of mobility",
        "form": pb.SHARE_FORM_ROWS,
        "tags": ["job"],
        "min_group_size": 5,
        "points_per_use": 3,
        "expires_at": moment(datetime.now(UTC) + timedelta(hours=1)),
    }
    return pb.CreateShareRequest(**given | terms)


def moment(given: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(given)
    return stamp


@asynccontextmanager
async def open_house(database: Database, *, key_ids: Sequence[str] = ("k1",), active: str = "k1") -> AsyncIterator[House]:
    following = Following(database)
    keys = SharingKeys({key_id: KEYS[key_id] for key_id in key_ids}, active)
    allowed = {
        "troika.tags.v1.SharingService": frozenset({"operator"}),
        "troika.tags.v1.SharedTagsService": RECIPIENTS,
    }
    server = rpc.Server(CALLERS, allowed, False)
    add_SharingServiceServicer_to_server(SharingRpc(database, RULES.catalogue, keys, RECIPIENTS, 5), server.aio)
    add_SharedTagsServiceServicer_to_server(SharedTagsRpc(database, RULES.catalogue, IndexSource(following), keys), server.aio)
    port = await server.start("127.0.0.1:0")
    channels = {name: rpc.connect(f"127.0.0.1:{port}", name, TOKEN) for name in CALLERS}
    try:
        yield House(
            database,
            following,
            SharingServiceStub(channels["operator"]),
            {name: SharedTagsServiceStub(channels[name]) for name in RECIPIENTS},
            channels,
        )
    finally:
        for channel in channels.values():
            await channel.close()
        await server.stop(0)


async def people(database: Database, numbers: Iterable[int], job: str = "student", age: int = 30) -> None:
    """Persons with one anchor each, of the same number."""
    made = [
        event(n, "Record Updated", source="call_center", person=(n, n, 1), properties={"job": job, "age": age}) for n in numbers
    ]
    await world.resolved(database, *made)


def said(
    anchor: int,
    *,
    given: bool = True,
    person: int = 0,
    at: int = 100,
    separate: bool = True,
    channel: str = "all",
    ends: datetime | None = None,
    purpose: str = "sharing",
) -> identity.ConsentChange:
    """What somebody said through an anchor about sharing; `at` are microseconds."""
    return identity.ConsentChange(
        anchor_id=anchor,
        person_id=person or anchor,
        channel=channel,
        opted_out=not given,
        stated_at_us=at,
        purpose=purpose,
        kind=identity.CONSENT_KIND_SEPARATE if separate else identity.CONSENT_KIND_GENERAL,
        expires_at_us=int(ends.timestamp()) * 1_000_000 if ends else 0,
    )


async def told(database: Database, *changes: identity.ConsentChange) -> None:
    await world.changed(database, identity.EntitiesChanged(consent_changes=changes))


async def consenting(database: Database, numbers: Iterable[int], job: str = "student", age: int = 30) -> None:
    """Persons who agreed to sharing."""
    listed = list(numbers)
    await people(database, listed, job, age)
    await told(database, *(said(n) for n in listed))


async def crowd(database: Database, size: int) -> None:
    """Students who agreed, more than events would bring in a test's time."""
    async with database.transaction() as uow:
        for insert in (
            "anchor (entity_kind, anchor_id, entity_id, version, facts) SELECT 1, n, n, 1, '{}'",
            "entity (entity_kind, entity_id, version, present, tags, scores)"
            " SELECT 1, n, 1, true, json_build_object('job', 'student'), '{}'",
            f"consent SELECT n, '{consents.SHARING}', 'all', true, n, -1, 100, {consents.NO_END}",
        ):
            await uow.fetch(f"INSERT INTO {insert} FROM generate_series(1, $1::bigint) n", size)


@asynccontextmanager
async def refused(code: str, reason: str) -> AsyncIterator[None]:
    """The call must fail with this code and reason."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        yield
    assert (code, reason) == (error.value.code().name, rpc.reason_of(error.value)[0])
