"""Cards on their way to the dealer: at once when somebody arrives, and again until they are taken or of no use any more.

The arrival stands in the table, leased, before anybody is called: what happens to this process then loses no card. The
webhook's id is the arrival's, so that a card which is sent twice is one to the receiver.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc
from cryptography.exceptions import InvalidTag
from prometheus_client import Counter, Histogram

from chassis.db import Database
from chassis.errors import is_operational
from services.touchpoints import webhooks
from services.touchpoints.arrivals import cards, store
from services.touchpoints.arrivals.facts import Finder, Met, Subject
from services.touchpoints.arrivals.plates import tail
from services.touchpoints.arrivals.store import Arrival, CardState, Note
from services.touchpoints.arrivals.taking import LEASE, Arrivals, Taken
from services.touchpoints.channels.http import Caller
from services.touchpoints.domain import dealers
from services.touchpoints.domain.deliveries import Accepted, Channel, Outcome, Refused, retry_delay_s
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.store import disable_endpoint
from services.touchpoints.vault import Vault

log = logging.getLogger(__name__)

CARDS = Counter("touchpoints_arrival_cards_total", "Arrival cards by what became of them.", ["outcome"])
# From the first byte of the camera's request to the dealer's answer.
CARD_SECONDS = Histogram(
    "touchpoints_arrival_card_seconds",
    "From a camera's request to the dealer's answer, first attempts.",
    buckets=(0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 15),
)
MOST_AT_ONCE: Final = 128
BATCH: Final = 32
POLL_S: Final = 0.5
# A card's end is in no hurry: until it is noted the lease holds.
NOTE_EVERY_S: Final = 0.2
FORGET_S: Final = 3600.0
LAST_WORD_S: Final = 1.0
# Counts of the last days; nothing personal is in them any more.
KEEP: Final = timedelta(days=8)


class Cards:
    """Sends arrival cards; any number of processes may."""

    def __init__(
        self,
        database: Database,
        arrivals: Arrivals,
        finder: Finder,
        endpoints: Endpoints,
        caller: Caller,
        vault: Vault,
        budget_s: float,
        life_s: float,
    ) -> None:
        self._database, self._arrivals, self._finder = database, arrivals, finder
        self._endpoints, self._caller, self._vault = endpoints, caller, vault
        self._budget_s, self._life = budget_s, timedelta(seconds=life_s)
        self._sending: set[asyncio.Task[None]] = set()
        self._notes: list[Note] = []
        self._forgotten = float("-inf")

    def begin(self, taken: Taken, started: float) -> None:
        """Sends the card of an arrival now, behind the caller's back; `started`: time.monotonic of the camera's request."""
        if taken.subject is None:
            return
        if len(self._sending) >= MOST_AT_ONCE:
            # Whoever is free first, here or in another process, takes it from the table.
            self._notes.append(Note(taken.arrival.arrival_id, CardState.WAITING, "busy"))
            return
        self._spawn(self._attempt(taken.arrival, taken.subject, started, first=True))

    async def run(self) -> None:
        """Sends what is due until cancelled."""
        while True:
            sent = 0
            try:
                sent = await self.round()
                await self._forget()
            except Exception as error:
                if not is_operational(error):
                    log.exception("arrival cards failed")
            if not sent:
                await asyncio.sleep(POLL_S)

    async def _forget(self) -> None:
        if time.monotonic() - self._forgotten > FORGET_S:
            async with self._database.transaction() as uow:
                await store.forget(uow, KEEP)
            self._forgotten = time.monotonic()

    async def round(self) -> int:
        """Begins to send the cards that are due; returns how many there are."""
        free = min(BATCH, MOST_AT_ONCE - len(self._sending))
        if free <= 0:
            return 0
        async with self._database.transaction(traced=False) as uow:
            due = await store.claim(uow, free, LEASE)
        for arrival in due:
            # On its own: a dealer who is slow to answer holds up nobody else's.
            self._spawn(self._again(arrival))
        return len(due)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _let_go(self) -> None:
        """Gives cards that are being sent a moment more; leases of the others run out, and another process sends them."""
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=LAST_WORD_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _again(self, arrival: Arrival) -> None:
        try:
            subject = self._arrivals.subject_of(arrival)
        except (InvalidTag, ValueError):
            log.error("an arrival was sealed under another key", extra={"arrival": arrival.arrival_id})
            self._end(arrival, CardState.REFUSED, "sealed_under_another_key")
            return
        await self._attempt(arrival, subject, time.monotonic(), first=False)

    async def _attempt(self, arrival: Arrival, subject: Subject, started: float, first: bool) -> None:
        try:
            await self._send(arrival, subject, started, first)
        except Exception as error:
            # The lease runs out and it is tried again.
            if not is_operational(error):
                log.exception("arrival card failed", extra={"arrival": arrival.arrival_id})

    async def _send(self, arrival: Arrival, subject: Subject, started: float, first: bool) -> None:
        if datetime.now(UTC) - arrival.arrived_at > self._life:
            self._end(arrival, CardState.EXPIRED, "too_late")
            return
        endpoint = next(
            (
                e
                for e in await self._endpoints.all()
                if e.channel is Channel.DEALER and e.scope == arrival.dealer_code and not e.disabled
            ),
            None,
        )
        if endpoint is None:
            self._end(arrival, CardState.REFUSED, "no_dealer")
            return
        if not endpoint.wants("arrival.card"):
            self._end(arrival, CardState.REFUSED, "event_type_off")
            return
        try:
            met = await self._finder.who(subject)
        except grpc.aio.AioRpcError as error:
            log.warning("nobody says who arrived", extra={"code": error.code().name})
            self._wait(arrival, "identity_unavailable", 0.0)
            return
        if met is None:
            self._end(arrival, CardState.UNKNOWN, "unknown")
            return
        recipient = dealers.name_of(arrival.dealer_code)
        references = self._vehicle_ref(recipient, met), self._vault.reference(recipient, met.person_id)
        facts = await self._finder.about(met, arrival.arrival_id, references, started + self._budget_s)
        if not facts.customer_ref:
            # A card that may tell nothing would still tell that we know the car.
            self._end(arrival, CardState.UNKNOWN, facts.left_out["customer"], sorted(facts.left_out))
            return
        plate_tail = tail(subject.plate) if subject.plate else ""
        said = cards.card(arrival.arrival_id, arrival.door, arrival.dealer_code, arrival.arrived_at, plate_tail, facts)
        body = webhooks.envelope("arrival.card", said, datetime.now(UTC))
        outcome = await self._caller.webhook(endpoint.url, endpoint.secret, f"msg_arrival_{arrival.arrival_id}", body)
        if first:
            CARD_SECONDS.observe(time.monotonic() - started)
        await self._note(arrival, endpoint, outcome, sorted(facts.left_out))

    async def _note(self, arrival: Arrival, endpoint: Endpoint, outcome: Outcome, left_out: list[str]) -> None:
        if isinstance(outcome, Accepted):
            self._end(arrival, CardState.SENT, "", left_out)
        elif isinstance(outcome, Refused):
            if outcome.disables_endpoint:
                log.error("endpoint disabled: its receiver is gone", extra={"endpoint": endpoint.name})
                async with self._database.transaction() as uow:
                    await disable_endpoint(uow, endpoint.name)
                self._endpoints.forget()
            self._end(arrival, CardState.REFUSED, outcome.reason, left_out)
        else:
            self._wait(arrival, outcome.reason, outcome.after_s)

    def _end(self, arrival: Arrival, state: CardState, reason: str, left_out: Sequence[str] = ()) -> None:
        CARDS.labels(state.name.lower()).inc()
        self._notes.append(Note(arrival.arrival_id, state, reason, left_out))

    def _wait(self, arrival: Arrival, reason: str, after_s: float) -> None:
        CARDS.labels("retried").inc()
        wait_s = retry_delay_s(arrival.attempts + 1, after_s, random.random())
        self._notes.append(Note(arrival.arrival_id, CardState.WAITING, reason, wait_s=wait_s))

    async def note(self) -> None:
        """Keeps what became of cards, several at a time, until cancelled. What is not kept in time is sent once more."""
        # Here and not beside: cards that are given a moment more need their answers.
        lanes = [asyncio.create_task(lane) for lane in self._finder.lanes()]
        try:
            while True:
                await asyncio.sleep(NOTE_EVERY_S)
                try:
                    await self._keep_notes()
                except Exception as error:
                    if not is_operational(error):
                        log.exception("arrival cards not noted")
        finally:
            await self._let_go()
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
            # The world may have gone first; what is not noted is sent once more, under its id.
            with suppress(Exception):
                await self._keep_notes()

    async def _keep_notes(self) -> None:
        notes, self._notes = self._notes, []
        if not notes:
            return
        try:
            await store.note(self._database, notes)
        except BaseException:
            self._notes = notes + self._notes
            raise

    def _vehicle_ref(self, recipient: str, met: Met) -> str:
        if not met.vehicle_id:
            return ""
        return "vehicles/" + self._vault.reference(f"{recipient}/vehicles", met.vehicle_id).partition("/")[2]
