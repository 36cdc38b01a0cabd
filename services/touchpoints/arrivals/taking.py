"""From what a device saw to an arrival that is kept: repeats fall away, whom it is about is sealed, and its card may begin."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import grpc
import orjson
from prometheus_client import Counter

from chassis.batching import Batching
from chassis.db import Database, Reader
from chassis.errors import is_operational
from chassis.moments import to_us
from chassis.outbox import Outgoing
from chassis.sealing import DataKey
from services.touchpoints import events
from services.touchpoints.arrivals import store
from services.touchpoints.arrivals.facts import Finder, Subject
from services.touchpoints.arrivals.limits import Plates
from services.touchpoints.arrivals.permissions import Consents
from services.touchpoints.arrivals.plates import plate_in
from services.touchpoints.arrivals.sightings import CarSeen, Heartbeat, Seen, VisitorSeen, happened
from services.touchpoints.arrivals.store import Arrival, CardState, Door, Entry, Sighting
from services.touchpoints.domain import dealers
from services.touchpoints.domain.observed import Observed, event_id
from services.touchpoints.sealer import Sealer
from services.touchpoints.vault import Vault

SEEN = Counter(
    "touchpoints_arrival_posts_total", "Posts of cameras and terminals by what they amounted to.", ["door", "outcome"]
)
EVENT: Final = "Dealer Visit Started"
VISITOR: Final = "visitor"
TOO_MANY: Final = "too_many_plates"
# Longer than a card may take: a lease that ends before would have a second process send it at the same time.
LEASE: Final = timedelta(seconds=25)
# Whoever drives up alone is kept at once. Where cars come all the time, those of so short a time are kept, asked about and
# decided on together, which takes a fraction of the work; it is half of what is waited for facts.
PACE_S: Final = 0.04
# Their events are one message.
MOST_TOGETHER: Final = 250
RESOLVE_TIMEOUT_S: Final = 1.0


class Visitor(NamedTuple):
    """Somebody who identified themselves; 0 where nobody is known. The event goes by the anchor or by the identifier."""

    person_id: int
    anchor_id: int
    identifier: tuple[str, str, str] | None


NOBODY: Final = Visitor(0, 0, None)


@dataclass(frozen=True)
class Taken:
    """An arrival, and whom its card is about; None when there will be no card."""

    arrival: Arrival
    subject: Subject | None


class Arrivals:
    """Takes what devices saw."""

    def __init__(
        self, database: Database, sealer: Sealer, vault: Vault, finder: Finder, consents: Consents, plates: Plates
    ) -> None:
        self._database, self._sealer, self._vault = database, sealer, vault
        self._finder, self._consents, self._plates = finder, consents, plates
        self._kept: Batching[Entry, bool | Exception] = Batching()

    async def run(self) -> None:
        """Keeps what waits, all at once, until cancelled."""
        writer = self._database.pinned()
        try:
            await self._kept.run(lambda entries: keep(writer, entries), PACE_S)
        finally:
            await writer.close()

    async def take(self, door: Door, seen: Seen, received: datetime) -> Taken | None:
        """An arrival with its event, both durable; None for everything else. Raises Unavailable, and then nothing was kept."""
        match seen:
            case CarSeen():
                taken, outcome = await self._car(door, seen, received)
            case VisitorSeen():
                taken, outcome = await self._visitor(door, seen, received)
            case Heartbeat(why):
                taken, outcome = None, why
        SEEN.labels(door.name, outcome).inc()
        return taken

    async def _car(self, door: Door, seen: CarSeen, received: datetime) -> tuple[Taken | None, str]:
        if door.direction and seen.direction and seen.direction != door.direction:
            return None, "other_direction"
        if seen.confidence is not None and seen.confidence < door.min_confidence:
            return None, "unsure"
        plate = plate_in(seen.plate_text)
        if plate is None:
            return None, "no_plate"
        mark = self._vault.fingerprint(plate, f"arrivals/{door.dealer_code}")
        arrival = self._new(door, happened(seen.camera_time, received, seen.late), plate)
        # What it is known by: the camera's own number of it. Some firmwares have one number for everything, hence the plate.
        post = f"{seen.device} {seen.post} {mark.hex()}" if seen.post else ""
        if seen.late:
            post = post or f"{seen.device} {seen.camera_time} {mark.hex()}"
        # The visit is one all the same; only a card would tell who it was.
        told = not seen.late and await self._plates.allowed(door.dealer_code)
        state, why = (CardState.WAITING, "") if told else (CardState.REFUSED, TOO_MANY)
        sighting = self._sighting(door, mark, seen, received)
        key = self._sealer.key()
        event = self._event(arrival, [("plate", "", plate)], 0, received, key)
        if not await self._keep(Entry(arrival, sighting, state, post, seen.late, event, events.key_prefix(key), why)):
            return None, "repeat"
        return Taken(arrival, Subject(plate) if told else None), "late" if seen.late else why or "arrival"

    async def _visitor(self, door: Door, seen: VisitorSeen, received: datetime) -> tuple[Taken | None, str]:
        visitor = await self._identified(door, seen, received)
        # Who is nobody to us may be anybody: each such post counts, once.
        about = f"person {visitor.person_id}" if visitor.person_id else f"nobody {secrets.token_hex(8)}"
        mark = self._vault.fingerprint(about, f"arrivals/{door.dealer_code}") + (b"" if visitor.person_id else b"?")
        arrival = self._new(door, happened(seen.camera_time, received), "", visitor.person_id)
        state = CardState.WAITING if visitor.person_id else CardState.UNKNOWN
        identifiers = [visitor.identifier] if visitor.identifier else []
        key, sighting = self._sealer.key(), self._sighting(door, mark, seen, received)
        event = self._event(arrival, identifiers, visitor.anchor_id, received, key) if visitor.person_id else None
        post = f"{seen.device} {seen.post}" if seen.post else ""
        if not await self._keep(Entry(arrival, sighting, state, post, False, event, events.key_prefix(key))):
            return None, "repeat"
        if not visitor.person_id:
            return Taken(arrival, None), "counted"
        return Taken(arrival, Subject("", visitor.person_id)), "arrival"

    async def _identified(self, door: Door, seen: VisitorSeen, received: datetime) -> Visitor:
        """Who it is, as far as they allowed us to know."""
        if seen.code and (read := self._vault.read_token(seen.code)) is not None:
            text, expires_s = read
            kind, _, rest = text.partition(" ")
            dealer, _, ids = rest.partition(" ")
            if kind == VISITOR and dealer == door.dealer_code and received.timestamp() < expires_s:
                person, _, anchor = ids.partition(" ")
                return Visitor(int(person), int(anchor), None)
            return NOBODY
        if not seen.employee or len(seen.employee) > 255:
            return NOBODY
        identifier = ("crm_id", dealers.name_of(door.dealer_code), seen.employee)
        try:
            person_id = await self._finder.person_of(*identifier, RESOLVE_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            # Consent cannot be asked, so that it does not hold.
            return NOBODY
        if not person_id or (seen.face and not await self._consents.face(person_id)):
            return NOBODY
        return Visitor(person_id, 0, identifier)

    async def _keep(self, entry: Entry) -> bool:
        """Whether it is an arrival, once that is durable."""
        kept = await self._kept.ask(entry)
        if isinstance(kept, Exception):
            raise kept
        return kept

    def _sighting(self, door: Door, mark: bytes, seen: CarSeen | VisitorSeen, received: datetime) -> Sighting:
        device, repeats = f"{door.name} {seen.device}", timedelta(minutes=door.repeat_minutes)
        return Sighting(door.dealer_code, mark, device, seen.camera_time, received, repeats)

    def _new(self, door: Door, arrived: datetime, plate: str, person_id: int = 0) -> Arrival:
        arrival_id = secrets.token_hex(16)
        about = orjson.dumps([plate, person_id]).decode()
        return Arrival(arrival_id, door.name, door.dealer_code, arrived, self._vault.hide(about, f"arrival/{arrival_id}"))

    def subject_of(self, arrival: Arrival) -> Subject:
        """Whom a kept arrival's card is about."""
        return Subject(*orjson.loads(self._vault.show(arrival.sealed, f"arrival/{arrival.arrival_id}")))

    def _event(
        self, arrival: Arrival, identifiers: list[tuple[str, str, str]], anchor_id: int, received: datetime, key: DataKey
    ) -> Outgoing:
        """What is published, behind the key, if and only if the arrival is kept."""
        # A source of its own: that a car drove past a dealer's camera is no file of that dealer, and makes nobody its customer.
        source, received_us = f"arrivals:{arrival.dealer_code}", to_us(received)
        number, occurred_us = event_id(source, arrival.arrival_id), to_us(arrival.arrived_at)
        facts = orjson.dumps({"dealer": arrival.dealer_code, "door": arrival.door})
        if anchor_id:
            known = events.AnchorEvent(number, source, EVENT, occurred_us, anchor_id, facts)
            (payload,) = events.anchor_batches([known], received_us)
        else:
            observed = Observed(number, source, EVENT, occurred_us, identifiers, "", 0, facts, b"")
            payload = events.sealed_batch([observed], key, received_us)
        return Outgoing.now(events.OBSERVED, payload)


async def keep(writer: Reader, entries: Sequence[Entry]) -> list[bool | Exception]:
    """Whether each is an arrival, in their order. One that the database does not take spoils no other."""
    answers: dict[str, bool | Exception] = {}
    for together in one_by_one(entries):
        try:
            found = await store.take(writer, together, LEASE)
            answers |= {each.arrival.arrival_id: each.arrival.arrival_id in found for each in together}
        except Exception as error:
            if is_operational(error) or len(together) == 1:
                answers |= {each.arrival.arrival_id: error for each in together}
            else:
                for each in together:
                    answers[each.arrival.arrival_id] = (await keep(writer, [each]))[0]
    return [answers[entry.arrival.arrival_id] for entry in entries]


def one_by_one(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """The same entries in batches, in which each car and each post stands once, in the order in which they came."""
    rest = list(entries)
    while rest:
        now: list[Entry] = []
        later: list[Entry] = []
        met: set[tuple[str, str | bytes]] = set()
        for entry in rest:
            keys: set[tuple[str, str | bytes]] = {(entry.arrival.dealer_code, entry.sighting.subject)}
            if entry.post:
                keys.add((entry.arrival.door, entry.post))
            (later if keys & met or len(now) == MOST_TOGETHER else now).append(entry)
            met |= keys
        yield now
        rest = later


def visitor_text(dealer_code: str, person_id: int, anchor_id: int) -> str:
    """What a visitor code says, sealed."""
    return f"{VISITOR} {dealer_code} {person_id} {anchor_id}"
