"""What the tests of identity stand on: sealed batches in, resolved events and changes out."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from troika.identity.v1 import events_pb2 as out
from troika.touchpoints.v1 import events_pb2 as seen

from chassis.bus import Message
from chassis.db import Database
from chassis.sealing import DataKey, seal
from services.identity.consumers import Opener, observed
from services.identity.handlers import MOBILE_KNOWN, Resolver
from services.identity.keks import EnvironmentKeks
from services.identity.store import Store
from services.identity.tokens import Tokens
from services.identity.vault import Vault

NOW = 1_772_352_000_000_000
RELATIONS = {
    "owns": seen.VEHICLE_RELATION_OWNS,
    "drives": seen.VEHICLE_RELATION_DRIVES,
    "pays_for": seen.VEHICLE_RELATION_PAYS_FOR,
}


class World:
    """Identity without its process: handler and tables are real, the bus is looked at in the outbox."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.private_key = X25519PrivateKey.from_private_bytes(bytes(range(32)))
        self.public_key = self.private_key.public_key().public_bytes_raw()
        self.vault = Vault(Tokens({1: b"t" * 32}, 1), b"h" * 32, EnvironmentKeks({"k1": b"v" * 32}, "k1"))
        self.store = Store()
        self.opener = Opener({"k1": self.private_key}, self.vault)
        self.handle = observed(self.opener, self.store, Resolver(self.store, self.vault))
        self._numbers = itertools.count(1)
        self._read = 0
        # What identity stated by itself, until a test takes it.
        self.mobiles: list[out.ResolvedEvent] = []

    def event(self, key: DataKey, source: str, *identifiers: tuple[str, ...], **extra: Any) -> seen.ObservedEvent:
        """An event; identifiers are (kind, value) or (kind, scope, value).

        Extras: name, who, relation, address, birth_date, at, id, properties, vehicle.
        """
        event_id = extra.get("id") or hashlib.sha256(str(next(self._numbers)).encode()).digest()[:16]
        inner = seen.Identifiers(person_name=extra.get("who", ""), relation=RELATIONS.get(extra.get("relation", ""), 0))
        inner.address, inner.birth_date = extra.get("address", ""), extra.get("birth_date", "")
        for kind, *rest in identifiers:
            inner.identifiers.add(kind=kind, scope=rest[0] if len(rest) > 1 else "", value=rest[-1])
        return seen.ObservedEvent(
            event_id=event_id,
            source=source,
            name=extra.get("name", "Record Updated"),
            occurred_at_us=extra.get("at", NOW),
            received_at_us=NOW,
            sealed_identifiers=seal(key, event_id, inner.SerializeToString()) if identifiers else b"",
            anchor_id=extra.get("anchor_id", 0),
            properties_json=orjson.dumps(extra.get("properties", {})),
            vehicle_properties_json=orjson.dumps(extra.get("vehicle", {})),
        )

    def key(self) -> DataKey:
        return DataKey.agree(self.public_key, "k1")

    def batch(self, key: DataKey, events: Sequence[seen.ObservedEvent]) -> bytes:
        sealed_key = seen.SealedKey(key_id=key.key_id, ephemeral_public_key=key.ephemeral_public_key)
        return seen.ObservedBatch(sealed_key=sealed_key, events=events).SerializeToString()

    async def take(self, *payloads: bytes) -> None:
        """Handles messages in one transaction, as the consumer does."""
        messages = [Message(str(next(self._numbers)), "s", payload, {}, 0) for payload in payloads]
        async with self.database.transaction() as uow:
            await self.handle(uow, messages)

    async def see(self, *events: tuple[Any, ...], **extra: Any) -> list[out.ResolvedEvent]:
        """Handles events (source, identifiers..., {extras}) in one batch and returns those that were resolved."""
        key = self.key()
        made = []
        for source, *rest in events:
            own = rest.pop() if rest and isinstance(rest[-1], dict) else {}
            made.append(self.event(key, source, *rest, **{**extra, **own}))
        await self.take(self.batch(key, made))
        resolved, _, _ = await self.published()
        return resolved

    async def published(self) -> tuple[list[out.ResolvedEvent], list[out.EntitiesChanged], list[tuple[str, bytes]]]:
        """What went into the outbox since the last look: resolved events, changes, dead letters (reason, payload)."""
        async with self.database.read() as uow:
            rows = await uow.rows("SELECT * FROM outbox WHERE id > :id ORDER BY id", id=self._read)
        self._read = max([self._read, *(row.id for row in rows)])
        resolved, changed, dead = [], [], []
        for row in rows:
            if row.subject == "troika.events.resolved.v1":
                told = out.ResolvedBatch.FromString(row.payload).events
                resolved += [event for event in told if event.name != MOBILE_KNOWN]
                self.mobiles += [event for event in told if event.name == MOBILE_KNOWN]
            elif row.subject == "troika.entities.changed.v1":
                changed.append(out.EntitiesChanged.FromString(row.payload))
            else:
                dead.append((row.headers["troika-reason"], row.payload))
        return resolved, changed, dead

    async def rows(self, statement: str, **parameters: Any) -> Sequence[Any]:
        async with self.database.read() as uow:
            return await uow.rows(statement, **parameters)
