"""The door for observed events: opens what the touchpoints sealed and turns it into observations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from google.protobuf.message import DecodeError
from troika.touchpoints.v1 import events_pb2

from chassis.bus import Message
from chassis.db import UnitOfWork
from chassis.sealing import CannotOpen, DataKey, open_sealed, recover
from services.identity.domain import addresses, names
from services.identity.domain.kinds import KINDS, Space
from services.identity.domain.observations import DRIVES, OWNS, PAYS_FOR, Observation, in_order, signature
from services.identity.handlers import Observed, Resolver
from services.identity.store import Store
from services.identity.vault import Vault

NAME = "identity-observed"
SUBJECT = "troika.events.observed.v1"
EVENT_ID_BYTES = 16
# The end of the year 9999: what lies behind is no time but a broken clock.
LATEST_US = 253_402_300_799_000_000

_RELATIONS: Mapping[int, str] = {
    events_pb2.VEHICLE_RELATION_OWNS: OWNS,
    events_pb2.VEHICLE_RELATION_DRIVES: DRIVES,
    events_pb2.VEHICLE_RELATION_PAYS_FOR: PAYS_FOR,
}


@dataclass
class Reading:
    """What a micro-batch held: good events, bad ones (payload as it came, reason), refused values by source, kind, reason."""

    observations: list[Observation] = field(default_factory=list)
    bad: list[tuple[bytes, str]] = field(default_factory=list)
    refused: Counter[tuple[str, str, str]] = field(default_factory=Counter)


class Opener:
    """Holds the private keys and reads batches."""

    def __init__(self, private_keys: Mapping[str, X25519PrivateKey], vault: Vault) -> None:
        self._private_keys, self._vault = private_keys, vault
        self._data_key = lru_cache(1024)(self._recover)

    def _recover(self, key_id: str, ephemeral_public_key: bytes) -> DataKey:
        private = self._private_keys.get(key_id)
        if private is None:
            raise CannotOpen("unknown key")
        return recover(private, key_id, ephemeral_public_key)

    def read(self, payloads: Sequence[bytes]) -> Reading:
        """Reads batches; nothing is dropped: what cannot be read stands among the bad."""
        reading = Reading()
        for payload in payloads:
            try:
                batch = events_pb2.ObservedBatch.FromString(payload)
            except DecodeError:
                reading.bad.append((payload, "MALFORMED_BATCH"))
                continue
            try:
                key = batch.sealed_key
                data_key = self._data_key(key.key_id, key.ephemeral_public_key) if batch.HasField("sealed_key") else None
            except CannotOpen:
                reading.bad.append((payload, "UNKNOWN_SEALING_KEY"))
                continue
            for event in batch.events:
                observation = self._observation(event, data_key, reading)
                if isinstance(observation, Observation):
                    reading.observations.append(observation)
                else:
                    alone = events_pb2.ObservedBatch(sealed_key=batch.sealed_key if data_key else None, events=[event])
                    reading.bad.append((alone.SerializeToString(), observation))
        return reading

    def _observation(self, event: events_pb2.ObservedEvent, key: DataKey | None, reading: Reading) -> Observation | str:
        event_id, source = event.event_id, event.source
        if len(event_id) != EVENT_ID_BYTES or not source or "\0" in source:
            return "MALFORMED_EVENT"
        if not (0 <= event.occurred_at_us <= LATEST_US and 0 <= event.received_at_us <= LATEST_US):
            return "TIME_OUT_OF_RANGE"
        identifiers, name, relation, address, birth_date = [], "", "", "", ""
        if event.sealed_identifiers:
            try:
                if key is None:
                    return "UNKNOWN_SEALING_KEY"
                opened = events_pb2.Identifiers.FromString(open_sealed(key, event_id, event.sealed_identifiers))
            except (CannotOpen, DecodeError):
                return "CANNOT_OPEN_IDENTIFIERS"
            for raw in opened.identifiers:
                known = self._vault.known(raw.kind, raw.scope, raw.value)
                if isinstance(known, str):
                    reading.refused[source, raw.kind if raw.kind in KINDS else "unknown", known] += 1
                else:
                    identifiers.append(known)
            if opened.person_name and not (name := names.clean(opened.person_name)):
                reading.refused[source, "name", "PLACEHOLDER"] += 1
            relation = _RELATIONS.get(opened.relation, "")
            address, birth_date = opened.address, opened.birth_date
        if not identifiers and event.anchor_id <= 0:
            return "NO_VALID_IDENTIFIER"
        persons, vehicles = in_order(identifiers, Space.PERSON), in_order(identifiers, Space.VEHICLE)
        name_hash = self._vault.name_hash(names.sound_key(name)) if name else 0
        address_hash = self._vault.address_hash(normal) if address and (normal := addresses.normal(address)) else 0
        return Observation(
            event_id,
            source,
            event.name,
            event.occurred_at_us,
            event.received_at_us,
            persons,
            vehicles,
            name,
            name_hash,
            relation,
            event.properties_json,
            event.vehicle_properties_json,
            signature(source, persons, vehicles, name_hash, address_hash, birth_date, relation) if identifiers else b"",
            0 if identifiers else event.anchor_id,
            address,
            address_hash,
            birth_date,
        )


def observed(opener: Opener, store: Store, resolver: Resolver) -> Observed:
    """The handler of the consumer."""

    async def handle(uow: UnitOfWork, messages: Sequence[Message]) -> None:
        reading = opener.read([message.data for message in messages])
        await store.source_ids(uow, {o.source for o in reading.observations} | {source for source, _, _ in reading.refused})
        await store.scope_ids(uow, {known.scope for o in reading.observations for known in o.persons})
        unknown = await resolver.resolve(uow, reading.observations)
        await store.count_refused(uow, reading.refused)
        for observation in unknown:
            # The anchor is opaque and the properties are free of personal data, so the event is set aside as it came.
            event = events_pb2.ObservedEvent(
                event_id=observation.event_id,
                source=observation.source,
                name=observation.event,
                occurred_at_us=observation.occurred_us,
                received_at_us=observation.received_us,
                anchor_id=observation.anchor_id,
                properties_json=observation.properties,
            )
            alone = events_pb2.ObservedBatch(events=[event])
            uow.dead_letter(NAME, SUBJECT, alone.SerializeToString(), "UNKNOWN_ANCHOR")
        for payload, reason in reading.bad:
            uow.dead_letter(NAME, SUBJECT, payload, reason)

    return handle
