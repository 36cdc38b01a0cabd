"""Identity and tags side by side, real tables and doors: persons are seen, partners deliver, tags follow."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import orjson
from troika.identity.v1 import events_pb2 as identity_pb

from chassis import rpc
from chassis.bus import Message
from chassis.db import Database
from services.identity import partner_hashes
from services.identity.matching import Limits
from services.identity.partners import Partners
from services.tags import consumers
from services.tags.handlers import TagRules
from services.tags.imports import jobs, mapping
from services.tags.imports.files import ImportFiles
from services.tags.imports.jobs import Job
from services.tags.imports.matching import Matcher
from services.tags.imports.running import Importer, Tell
from tests.integration.identity.matching import KEYS, matching_server, secret
from tests.integration.identity.world import World
from tests.integration.tags.world import message
from tests.unit.tags.imports.catalogue import CATALOGUE, HEAD

RULES = TagRules(CATALOGUE)
CONSUMERS = {consumer.name: consumer for consumer in consumers.consumers(RULES)}
PARTNERS = Partners({**KEYS, "ours": b"o" * 32}, b"h" * 32)
BRAVO = """
partner: bravo
match: {column: phone, kind: mobile}
time: {column: as_of}
confidence: {column: sure}
tags: {income_band: income, household_size: heads, car_loan: loan, hobbies: hobby}
"""
MOBILES = [f"1391234{n:04}" for n in range(100)]


def hashed(value: str, partner: str = "acme") -> str:
    """As a partner writes it into a file."""
    key = {**KEYS, "ours": b"o" * 32}[partner]
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()


def line(mobile: str, income: str = "", at: str = "2026-03-01", sure: str = "1", partner: str = "acme", **more: str) -> str:
    """A line of a partner's file, by its key."""
    rest = ",".join(more.get(name, "") for name in ("heads", "loan", "hobby", "moved", "remark"))
    return f"{hashed(f'+86{mobile}', partner)},{at},{sure},{income},{rest}"


@dataclass
class Partnered:
    """Both services."""

    identity: World
    database: Database
    target: str
    matcher: Matcher
    folder: Path

    async def see(self, *events: tuple[Any, ...]) -> list[identity_pb.ResolvedEvent]:
        """What touchpoints saw, through identity to tags."""
        key = self.identity.key()
        made = []
        for source, *rest in events:
            extra = rest.pop() if isinstance(rest[-1], dict) else {}
            made.append(self.identity.event(key, source, *rest, **extra))
        await self.identity.take(self.identity.batch(key, made))
        return await self.tell()

    async def tell(self) -> list[identity_pb.ResolvedEvent]:
        """Lets tags hear what identity said since the last time, and partners' hashes be made."""
        resolved, changed, _ = await self.identity.published()
        async with self.database.transaction() as uow:
            await CONSUMERS[consumers.RESOLVED].handle(uow, [message(identity_pb.ResolvedBatch(events=resolved))])
        async with self.database.transaction() as uow:
            said = [Message(f"m{n}", "s", each.SerializeToString(), {}, n) for n, each in enumerate(changed, start=1)]
            await CONSUMERS[consumers.ENTITIES].handle(uow, said)
        while await partner_hashes.fill(self.identity.database, self.identity.vault, PARTNERS, 500):
            pass
        return resolved

    async def customers(self, number: int) -> list[int]:
        """So many persons with a mobile each; returns their ids."""
        resolved = await self.see(*(("app", ("crm_id", "app", f"U{n}"), ("mobile", MOBILES[n])) for n in range(number)))
        return [event.person.entity_id for event in resolved]

    def importer(self, chunk_lines: int = 2000) -> Importer:
        return Importer(self.database, RULES, self.matcher, ImportFiles(None), chunk_lines)

    def file(self, name: str, lines: Iterable[str], head: str = HEAD) -> Path:
        path = self.folder / name
        path.write_text("\n".join([head, *lines]) + "\n")
        return path

    async def queue(self, path: Path, text: str, dry_run: bool = False) -> Job:
        async with self.database.transaction() as uow:
            return await jobs.add(
                uow,
                mapping.parse(text, CATALOGUE),
                text=text,
                source=ImportFiles.of_path(path),
                file_name=path.name,
                dry_run=dry_run,
                caller="operator",
                own=True,
            )

    async def take_in(
        self, path: Path, text: str, dry_run: bool = False, chunk_lines: int = 2000, tell: Tell | None = None
    ) -> Job:
        """Imports a file to its end; the import as it is then."""
        job = await self.queue(path, text, dry_run)
        importer = self.importer(chunk_lines)
        await (importer.work(job, tell) if tell else importer.work(job))
        return await self.job(job.id)

    async def undo(self, import_id: int) -> Job:
        async with self.database.transaction() as uow:
            job = await jobs.undo(uow, import_id)
        await self.importer().work(job)
        return await self.job(import_id)

    async def job(self, import_id: int) -> Job:
        async with self.database.read() as uow:
            return await jobs.get(uow, import_id)

    async def faults(self, import_id: int) -> list[tuple[int, str, str]]:
        async with self.database.read() as uow:
            return [tuple(fault) for fault in await jobs.faults_page(uow, import_id, -1, 1000)]

    async def documents(self) -> dict[int, Any]:
        """Facts by anchor."""
        async with self.database.read() as uow:
            rows = await uow.rows("SELECT anchor_id, CAST(facts AS text) AS facts FROM anchor")
        return {row.anchor_id: orjson.loads(row.facts) for row in rows}

    async def tables(self) -> dict[str, Sequence[Any]]:
        """All that an import changes, but the import itself."""
        wanted = ("anchor", "entity", "import_line", "outbox", "relation")
        async with self.database.read() as uow:
            return {t: sorted(map(str, await uow.rows(f"SELECT CAST(t AS text) FROM {t} t"))) for t in wanted}


@asynccontextmanager
async def connected(target: str) -> AsyncIterator[grpc.aio.Channel]:
    """Tags at identity's door."""
    channel = rpc.connect(target, "tags", secret("tags"))
    yield channel
    await channel.close()


@asynccontextmanager
async def partnered(
    identity: World, database: Database, folder: Path, limits: Limits | None = None
) -> AsyncIterator[Partnered]:
    """Opens identity's door for tags."""
    async with matching_server(identity, limits or Limits(10**6, 10**6), PARTNERS) as target:
        async with connected(target) as channel:
            yield Partnered(identity, database, target, Matcher(channel), folder)
