"""Keeps lists at advertising platforms the same as their audiences: differences only, page by page.

Who leaves goes first. Then the audience is looked through; of each page identity hashes who allowed it, consent is asked once
more, and who is not on the list yet is added before the next page. Whoever no page named leaves. A process that dies goes on
behind the last page that was noted; what it may have sent is sent again, which changes nothing at the platform.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import grpc
from prometheus_client import Counter
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.identity.v1.identity_service_pb2 import HashAddressesRequest
from troika.tags.v1.tags_service_pb2 import StreamAudienceRequest

from chassis.db import Database
from chassis.errors import is_operational
from chassis.leases import LostLease, hold
from services.touchpoints.channels.ads import store
from services.touchpoints.channels.ads.channel import CHUNK, KINDS
from services.touchpoints.channels.ads.platforms import ADD, REMOVE, Member, Platform, named, platforms
from services.touchpoints.channels.ads.store import AdList, Row
from services.touchpoints.channels.http import Caller
from services.touchpoints.domain.deliveries import Accepted, Channel, Outcome, Refused, Retry, retry_delay_s
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.engine import health, rates
from services.touchpoints.engine.admission import rate_of
from services.touchpoints.store import erasures
from services.touchpoints.store.consents import Asked, forbidden
from services.touchpoints.vault import Vault

log = logging.getLogger(__name__)

MEMBERS = Counter("touchpoints_ad_members_total", "Hashes told to advertising platforms.", ["operation", "outcome"])
# What identity hashes in one call.
PAGE: Final = 1000
LOOK_S: Final = 1.0
ASK_TIMEOUT_S: Final = 30.0


class Waits(Exception):
    """The platform, or somebody we ask, has to be asked again later."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        """`after_s`: at the earliest then."""
        super().__init__(reason)
        self.reason, self.after_s = reason, after_s


class Broken(Exception):
    """Nobody but an operator can mend it; the first argument is a snake_case reason."""


@dataclass(frozen=True)
class Called:
    """One call of a platform, for the channel's health."""

    endpoint: Endpoint
    outcome: Outcome
    seconds: float


@dataclass(frozen=True)
class Peers:
    """Who is asked: stubs of identity and tags."""

    identity: Any
    tags: Any


class Uploader:
    """Works on lists, one after the other; any number of replicas may."""

    def __init__(
        self,
        database: Database,
        endpoints: Endpoints,
        vault: Vault,
        caller: Caller,
        peers: Peers,
        regimes: Mapping[str, str],
        beat_s: float = store.LEASE_S / 3,
    ) -> None:
        self._database, self._endpoints, self._vault, self._peers = database, endpoints, vault, peers
        self._platforms, self._regimes, self._beat_s = platforms(caller), regimes, beat_s

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            try:
                if ads := await store.claim(self._database):
                    await self.work(ads)
                    continue
            except Exception as error:
                if not is_operational(error):
                    log.exception("advertising lists not worked on")
            await asyncio.sleep(LOOK_S)

    async def work(self, ads: AdList) -> None:
        """Brings a list up to date, or leaves it until it can be."""
        try:
            await hold(self._bring(ads), partial(store.renew, self._database, ads.name), self._beat_s, f"ad list {ads.name}")
        except LostLease:
            log.info("an advertising list was changed or taken over", extra={"list": ads.name})
            await store.put_off(self._database, ads.name, 0.0, "")
        except asyncio.CancelledError:
            # Where the database is away the lease runs out by itself.
            with suppress(Exception):
                await store.put_off(self._database, ads.name, 0.0, "")
            raise
        except Waits as error:
            after_s = retry_delay_s(ads.failures + 1, error.after_s, random.random())
            await store.put_off(self._database, ads.name, after_s, error.reason)
        except Broken as error:
            log.error("an advertising list is stuck", extra={"list": ads.name, "reason": str(error)})
            await store.stop(self._database, ads.name, store.FAILED, str(error))

    async def _bring(self, ads: AdList) -> None:
        endpoint = await self._endpoints.named(ads.endpoint)
        if endpoint is None or endpoint.disabled:
            raise Broken("endpoint_disabled" if endpoint else "no_endpoint")
        if ads.state == store.ENDING:
            async with self._database.transaction() as uow:
                await store.send_off_all(uow, ads.name)
        await self._take_off(ads, endpoint)
        if ads.state != store.ACTIVE:
            # One that is stuck stays so: only who had to leave has left.
            ended = ads.state == store.ENDING
            await store.stop(self._database, ads.name, store.ENDED if ended else store.FAILED, "" if ended else ads.reason)
            return
        if ads.passing or ads.pass_due:
            if not ads.passing:
                ads = await store.begin(self._database, ads.name)
            while True:
                persons, token = await self._page(ads)
                added = await self._put_on(ads, endpoint, persons) if persons else 0
                ads = await store.advance(self._database, ads, token, len(persons), added)
                if not token:
                    break
            ads = await store.finish(self._database, ads)
            await self._take_off(ads, endpoint)
        await store.release(self._database, ads.name)

    async def _page(self, ads: AdList) -> tuple[list[int], str]:
        """The next members of the audience, and the token for those behind them."""
        request = StreamAudienceRequest(
            entity_kind=ENTITY_KIND_PERSON, predicate=ads.predicate, page_size=PAGE, page_token=ads.page_token
        )
        persons: list[int] = []
        token = ""
        try:
            async for chunk in self._peers.tags.StreamAudience(request, timeout=ASK_TIMEOUT_S):
                persons += chunk.entity_ids
                token = chunk.next_page_token
        except grpc.aio.AioRpcError as error:
            raise _asked(error, "audience") from error
        return persons, token

    async def _put_on(self, ads: AdList, endpoint: Endpoint, persons: Sequence[int]) -> int:
        """Adds those of a page who may be added and are not there yet; returns how many hashes."""
        hashed = await self._hashed(endpoint, persons)
        if not hashed:
            return 0
        async with self._database.transaction(traced=False) as uow:
            await erasures.hold_off(uow)
            gone = await erasures.erased_persons(uow, hashed)
            rows, members, whose = [], {}, {}
            for person, theirs in hashed.items():
                for member in theirs if person not in gone else ():
                    digest = self._vault.fingerprint(f"{member.kind}:{member.hash}", f"ads/{ads.name}")
                    sealed = self._vault.hide(f"{member.kind}:{member.hash}", f"ads/{ads.name}")
                    rows.append(Row(digest, sealed, person))
                    members[digest], whose[digest] = member, person
            fresh = await store.see(uow, ads, list({row.digest: row for row in rows}.values()))
        ordered, size, added = sorted(fresh), int(endpoint.settings.get("chunk", CHUNK)), 0
        for start in range(0, len(ordered), size):
            chunk = {digest: whose[digest] for digest in ordered[start : start + size]}
            await self._turn(endpoint)
            if going := await self._allowed(ads, chunk):
                await self._change(ads, endpoint, ADD, {digest: members[digest] for digest in sorted(going)})
                async with self._database.transaction(traced=False) as uow:
                    await store.confirm(uow, ads.name, going)
                added += len(going)
        return added

    async def _allowed(self, ads: AdList, chunk: Mapping[bytes, int]) -> set[bytes]:
        """Those of a chunk who may be added, noted as such.

        Asked last: an opt-out that was accepted before this statement wins, a later one finds the rows and sends them off.
        """
        asked = [Asked(str(person), person, 0, store.PURPOSE, Channel.ADS) for person in sorted(set(chunk.values()))]
        refused = {int(name) for name in await forbidden(self._database, asked, self._regimes)}
        async with self._database.transaction(traced=False) as uow:
            if refused:
                await store.send_off(uow, refused)
            return await store.call(uow, ads.name, [digest for digest, person in chunk.items() if person not in refused])

    async def _turn(self, endpoint: Endpoint) -> None:
        """Waits until the account's rate lets another call go."""
        if rate := rate_of(endpoint):
            bucket = f"endpoint/{endpoint.name}"
            waits = await rates.book(self._database, [("", [bucket])], {bucket: rate})
            await asyncio.sleep(waits.get("", 0.0))

    async def _hashed(self, endpoint: Endpoint, persons: Sequence[int]) -> dict[int, list[Member]]:
        settings = endpoint.settings
        request = HashAddressesRequest(
            person_ids=persons,
            kinds=sorted(set(settings.get("kinds", KINDS).split(","))),
            digest=settings.get("digest", "sha256"),
            mobile_form=settings.get("mobile_form", "national"),
            device_capitals=settings.get("device_case") == "upper",
        )
        try:
            answer = await self._peers.identity.HashAddresses(request, timeout=ASK_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise _asked(error, "hashes") from error
        return {each.person_id: [Member(h.kind, h.digest.hex()) for h in each.hashes] for each in answer.persons}

    async def _take_off(self, ads: AdList, endpoint: Endpoint) -> None:
        """Takes off the list whoever is to leave; of those who never came there the platform hears nothing."""
        size = int(endpoint.settings.get("chunk", CHUNK))
        while rows := await store.leaving(self._database, ads.name, size):
            theirs = {bytes(row["digest"]): row["sealed"] for row in rows if row["called"]}
            if theirs:
                await self._turn(endpoint)
                members = {}
                for digest, sealed in theirs.items():
                    kind, _, value = self._vault.show(sealed, f"ads/{ads.name}").partition(":")
                    members[digest] = Member(kind, value)
                await self._change(ads, endpoint, REMOVE, members)
            async with self._database.transaction(traced=False) as uow:
                await store.off(uow, ads.name, [bytes(row["digest"]) for row in rows])

    async def _change(self, ads: AdList, endpoint: Endpoint, operation: str, members: Mapping[bytes, Member]) -> None:
        """Calls the platform; raises Waits or Broken unless it did as told."""
        platform: Platform = named(self._platforms, endpoint)
        content = b"".join((ads.name.encode(), b"\0", operation.encode(), str(ads.pass_no).encode(), b"\0", *sorted(members)))
        number = hashlib.blake2b(content, digest_size=16).hexdigest()
        began = time.monotonic()
        outcome = await platform.change(endpoint, ads.name, operation, number, list(members.values()))
        async with self._database.transaction(traced=False) as uow:
            await health.note(uow, [Called(endpoint, outcome, time.monotonic() - began)])
        MEMBERS.labels(operation, type(outcome).__name__.lower()).inc(len(members))
        match outcome:
            case Accepted():
                return
            case Retry():
                raise Waits(outcome.reason, outcome.after_s)
            case Refused():
                raise Broken(outcome.reason)


def _asked(error: grpc.aio.AioRpcError, what: str) -> Exception:
    """What a peer's failure means for a list."""
    if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND):
        return Broken(f"{what}_refused")
    return Waits(f"{what}_unavailable")
