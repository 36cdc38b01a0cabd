"""Referrals: a code per person, named once by whom it brought, and credit on both sides when that one buys.

Guards: nobody refers herself, her household or her own device; a device names codes so often at most; a referrer brings so
many at most in a window. Whoever was erased is forgotten with all referrals that she made or was.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import grpc
from troika.identity.v1.events_pb2 import ENTITY_KIND_HOUSEHOLD, ENTITY_KIND_PERSON
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition, NotFound
from chassis.merges import below
from services.orchestrator.experiments.store import ExperimentStore
from services.orchestrator.journeys.engine import House
from services.orchestrator.journeys.hearing import Ear, Happened
from services.orchestrator.store.erasures import ErasureStore
from services.orchestrator.store.holding import hold_off_erasures

# Without letters and digits that people confuse.
_ALPHABET: Final = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
LENGTH: Final = 8
WAITING, CREDITED = 1, 2
# What journeys hear: of the referred person that the code was named, and of each side (`side`: referrer, referred) the credit.
REDEEMED_EVENT, CREDITED_EVENT = "Referral Redeemed", "Referral Credited"

_SELECT = (
    "SELECT referral_id, referrer_id, referred_id, state, referrer_fen, referred_fen, redeemed_at, credited_at FROM referral"
)


@dataclass(frozen=True)
class Terms:
    """What is given and what is guarded. `cap`: most referrals of one referrer within `window`; `per_device`: for ever."""

    event: str
    referrer_fen: int
    referred_fen: int
    cap: int
    window: timedelta
    per_device: int


@dataclass(frozen=True)
class Referral:
    """Somebody brought somebody."""

    referral_id: int
    referrer_id: int
    referred_id: int
    state: int
    referrer_fen: int
    referred_fen: int
    redeemed_at: datetime
    credited_at: datetime | None


class Households:
    """Which households persons are members of, as tags knows."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._tags = TagsServiceStub(channel)

    async def of(self, person: int) -> set[int]:
        """The households of one person; raises NotFound for nobody."""
        try:
            # One tag that everybody may have keeps the answer small; relations come with any.
            request = pb.GetProfileRequest(entity_kind=ENTITY_KIND_PERSON, entity_id=person)
            answer = await self._tags.GetProfile(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NotFound("no such person", reason="PERSON_NOT_FOUND", field="person_id") from error
            raise
        return {each.entity_id for each in answer.related if each.entity_kind == ENTITY_KIND_HOUSEHOLD}


class Referrals:
    """The room's handlers. `key`: devices are kept as hashes under it."""

    def __init__(self, house: House, households: Households, terms: Terms, key: bytes) -> None:
        self._house, self._households, self._terms, self._key = house, households, terms, key
        self._database, self._now = house.database, house.now

    @property
    def event(self) -> str:
        """The event that credits."""
        return self._terms.event

    async def make(self, person: int, device: str) -> str:
        """The code of a person, the same every time; whoever she went into keeps the code that she had."""
        async with self._database.transaction() as uow:
            await hold_off_erasures(uow)
            person = await _present(uow, person)
            await _living(uow, person)
            if (known := await _code_of(uow, person)) is not None:
                return known
            for _ in range(10):
                code = "".join(secrets.choice(_ALPHABET) for _ in range(LENGTH))
                made = await uow.rows(
                    "INSERT INTO referral_code (code, person_id, device, made_at) VALUES (:code, :person, :device, :now)"
                    " ON CONFLICT DO NOTHING RETURNING code",
                    code=code,
                    person=person,
                    device=self._hashed(device),
                    now=self._now(),
                )
                if made or (known := await _code_of(uow, person)) is not None:
                    return code if made else str(known)
        raise FailedPrecondition("no code is free", reason="NO_CODE_LEFT")

    async def redeem(self, person: int, code: str, device: str) -> Referral:
        """Notes who referred a person; the same code again gives the same referral. Raises what the guards refuse."""
        async with self._database.read() as uow:
            person = await _present(uow, person)
            rows = await uow.rows("SELECT person_id, device FROM referral_code WHERE code = :code", code=code.upper())
            if not rows:
                raise NotFound("there is no such code", reason="CODE_NOT_FOUND", field="code")
            referrer = await _present(uow, rows[0].person_id)
        if referrer != person and await self._households.of(referrer) & await self._households.of(person):
            raise FailedPrecondition("one household refers itself", reason="SAME_HOUSEHOLD", field="person_id")
        hashed = self._hashed(device)
        async with self._database.transaction() as uow:
            ear = await Ear.of(uow, self._house)
            # One after the other for a referrer, so that nobody passes the cap side by side.
            await uow.execute("SELECT pg_advisory_xact_lock(hashtextextended('orchestrator referral', :who))", who=referrer)
            await _living(uow, person)
            await _living(uow, referrer)
            if (await _present(uow, person), await _present(uow, referrer)) != (person, referrer) or person == referrer:
                raise FailedPrecondition("nobody refers herself", reason="SELF_REFERRAL", field="person_id")
            if (before := await _first(uow, person)) is not None:
                if await _present(uow, before.referrer_id) == referrer:
                    return before
                raise FailedPrecondition("this person was referred before", reason="ALREADY_REFERRED", field="person_id")
            await self._guard(uow, referrer, hashed, bytes(rows[0].device))
            made = await uow.rows(
                "INSERT INTO referral (code, referrer_id, referred_id, device, state, referrer_fen, referred_fen, redeemed_at)"
                " VALUES (:code, :referrer, :person, :device, 1, :referrer_fen, :referred_fen, :now)"
                " ON CONFLICT (referred_id) DO NOTHING RETURNING referral_id",
                code=code.upper(),
                referrer=referrer,
                person=person,
                device=hashed,
                referrer_fen=self._terms.referrer_fen,
                referred_fen=self._terms.referred_fen,
                now=self._now(),
            )
            if not made:
                raise FailedPrecondition("this person was referred before", reason="ALREADY_REFERRED", field="person_id")
            referral = _referral((await uow.rows(_SELECT + " WHERE referral_id = :id", id=made[0].referral_id))[0])
            told = {"referral": referral.referral_id, "credit_fen": referral.referred_fen}
            await ear.events(uow, [Happened(REDEEMED_EVENT, 0, person, 0, 0, referral.redeemed_at, told)])
            return referral

    async def _guard(self, uow: UnitOfWork, referrer: int, device: bytes, own: bytes) -> None:
        if device and device == own:
            raise FailedPrecondition("the referrer's own device names the code", reason="SAME_DEVICE", field="device")
        if device:
            [(used,)] = await uow.rows("SELECT count(*) FROM referral WHERE device = :device AND device <> ''", device=device)
            if used >= self._terms.per_device:
                raise FailedPrecondition("this device has named codes enough", reason="DEVICE_LIMIT", field="device")
        [(made,)] = await uow.rows(
            "SELECT count(*) FROM referral WHERE referrer_id = ANY(CAST(:who AS bigint[])) AND redeemed_at > :since",
            who=await _all_of(uow, referrer),
            since=self._now() - self._terms.window,
        )
        if made >= self._terms.cap:
            raise FailedPrecondition("this person has referred enough", reason="REFERRER_LIMIT", field="code")

    async def page(self, person: int, before: int, size: int) -> list[Referral]:
        """Referrals that a person made, newest first."""
        async with self._database.read() as uow:
            who = await _all_of(uow, await _present(uow, person))
            rows = await uow.rows(
                _SELECT + " WHERE referrer_id = ANY(CAST(:who AS bigint[])) AND referral_id < :before"
                " ORDER BY referral_id DESC LIMIT :size",
                who=who,
                before=before,
                size=size,
            )
        return [_referral(row) for row in rows]

    async def credit(self, uow: UnitOfWork, bought: Sequence[Happened], now: datetime) -> list[Happened]:
        """Credits both sides of referrals whose referred person bought after naming the code; what journeys hear of it."""
        if not bought:
            return []
        present = await ExperimentStore(uow).present(sorted({each.person_id for each in bought}))
        first: dict[int, datetime] = {}
        for each in bought:
            person = present[each.person_id]
            first[person] = max(first.get(person, each.at), each.at)
        owners = await _whole(uow, sorted(first))
        rows = await uow.rows(
            "UPDATE referral r SET state = 2, credited_at = CAST(:now AS timestamptz) FROM"
            " unnest(CAST(:persons AS bigint[]), CAST(:moments AS timestamptz[])) AS b (person_id, at)"
            " WHERE r.referred_id = b.person_id AND r.state = 1 AND b.at >= r.redeemed_at"
            " RETURNING r.referral_id, r.referrer_id, r.referred_id, r.referrer_fen, r.referred_fen",
            persons=list(owners),
            moments=[first[owners[one]] for one in owners],
            now=now,
        )
        told = []
        for row in rows:
            for side in ("referrer", "referred"):
                about: Mapping[str, Any] = {
                    "side": side,
                    "credit_fen": getattr(row, f"{side}_fen"),
                    "referral": row.referral_id,
                }
                told.append(Happened(CREDITED_EVENT, 0, getattr(row, f"{side}_id"), 0, 0, now, about))
        return told

    def _hashed(self, device: str) -> bytes:
        return hmac.digest(self._key, device.encode(), hashlib.sha256) if device else b""


async def _present(uow: UnitOfWork, person: int) -> int:
    return (await ExperimentStore(uow).present([person]))[person]


async def _all_of(uow: UnitOfWork, person: int) -> list[int]:
    """A person and all who went into her."""
    return list(await _whole(uow, [person]))


async def _whole(uow: UnitOfWork, persons: Sequence[int]) -> dict[int, int]:
    """Of persons, and all who went into them, who they are now."""
    rows = await uow.rows(below("CAST(:persons AS bigint[])"), persons=list(persons))
    return {row.person_id: row.root for row in rows}


async def _code_of(uow: UnitOfWork, person: int) -> str | None:
    rows = await uow.rows(
        "SELECT code FROM referral_code WHERE person_id = ANY(CAST(:who AS bigint[])) ORDER BY made_at, code LIMIT 1",
        who=await _all_of(uow, person),
    )
    return str(rows[0].code) if rows else None


async def _first(uow: UnitOfWork, person: int) -> Referral | None:
    rows = await uow.rows(
        _SELECT + " WHERE referred_id = ANY(CAST(:who AS bigint[])) ORDER BY referral_id LIMIT 1",
        who=await _all_of(uow, person),
    )
    return _referral(rows[0]) if rows else None


async def _living(uow: UnitOfWork, person: int) -> None:
    if await ErasureStore(uow).erased([person]):
        raise NotFound("no such person", reason="PERSON_NOT_FOUND", field="person_id")


def _referral(row: Any) -> Referral:
    return Referral(*row)
