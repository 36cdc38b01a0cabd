"""gRPC door: ArrivalsService."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import grpc
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.identity.v1.identity_service_pb2 import GetEntityRequest
from troika.touchpoints.v1 import arrivals_service_pb2 as pb
from troika.touchpoints.v1.arrivals_service_pb2_grpc import ArrivalsServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from chassis.moments import stamp
from services.touchpoints.arrivals import store
from services.touchpoints.arrivals.doors import Doors, hashed, network
from services.touchpoints.arrivals.store import Door, DoorRow
from services.touchpoints.arrivals.taking import visitor_text
from services.touchpoints.vault import Vault

if TYPE_CHECKING:
    from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub

DEFAULT_PAGE, LARGEST_PAGE = 100, 1000
REPEAT_MINUTES: Final = 30
CODE_HOURS: Final = 24
ASK_TIMEOUT_S: Final = 5.0
Context = grpc.aio.ServicerContext[Any, Any]


class ArrivalsRpc(ArrivalsServiceServicer):
    """Converts between messages and the room's own functions."""

    def __init__(
        self, database: Database, doors: Doors, identity: IdentityServiceAsyncStub, vault: Vault, public_url: str
    ) -> None:
        self._database, self._doors, self._identity, self._vault = database, doors, identity, vault
        self._address = public_url.rstrip("/") + "/arrivals/"

    async def CreateArrivalDoor(self, request: pb.CreateArrivalDoorRequest, context: Context) -> pb.CreateArrivalDoorResponse:
        """The token is shown in the address once; only its hash is kept."""
        given = request.door
        for index, text in enumerate(given.networks):
            try:
                network(text)
            except ValueError:
                raise InvalidArgument("must be an address or a network", field=f"door.networks[{index}]") from None
        door = Door(
            given.name,
            given.dealer_code,
            tuple(given.networks),
            given.min_confidence,
            given.repeat_minutes or REPEAT_MINUTES,
            given.direction,
        )
        token = secrets.token_urlsafe(32)
        async with self._database.transaction() as uow:
            made = await store.save_door(uow, door, hashed(token))
        self._doors.forget()
        return pb.CreateArrivalDoorResponse(door=_message(door), url=self._address + token if made else "")

    async def RotateArrivalDoor(self, request: pb.RotateArrivalDoorRequest, context: Context) -> pb.RotateArrivalDoorResponse:
        """Raises NotFound."""
        token = secrets.token_urlsafe(32)
        async with self._database.transaction() as uow:
            found = await store.rotate_door(uow, request.name, hashed(token), timedelta(hours=request.grace_hours))
        if not found:
            raise _no_door()
        self._doors.forget()
        return pb.RotateArrivalDoorResponse(url=self._address + token)

    async def ListArrivalDoors(self, request: pb.ListArrivalDoorsRequest, context: Context) -> pb.ListArrivalDoorsResponse:
        """Dealers have a handful of doors each: all are read, a page is shown."""
        size = paging.size(request.page_size, DEFAULT_PAGE, LARGEST_PAGE)
        (start,) = paging.read("arrival doors", request.page_token, (0,))
        async with self._database.read() as uow:
            rows, counts = await store.doors(uow), await store.door_counts(uow)
        answer = pb.ListArrivalDoorsResponse(
            next_page_token=paging.token("arrival doors", start + size) if start + size < len(rows) else ""
        )
        for row in rows[start : start + size]:
            answer.doors.append(_message(row.door, row, *counts.get(row.door.name, (0, None))))
        return answer

    async def DisableArrivalDoor(
        self, request: pb.DisableArrivalDoorRequest, context: Context
    ) -> pb.DisableArrivalDoorResponse:
        """Raises NotFound; repeating it changes nothing."""
        async with self._database.transaction() as uow:
            found = await store.disable_door(uow, request.name)
        if not found:
            raise _no_door()
        self._doors.forget()
        return pb.DisableArrivalDoorResponse()

    async def CreateVisitorCode(self, request: pb.CreateVisitorCodeRequest, context: Context) -> pb.CreateVisitorCodeResponse:
        """Nothing is stored: the code carries, sealed, what it says. Raises NotFound for persons that are not (any more)."""
        asked = GetEntityRequest(entity_kind=ENTITY_KIND_PERSON, entity_id=request.person_id)
        try:
            entity = (await self._identity.GetEntity(asked, timeout=ASK_TIMEOUT_S)).entity
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            raise NotFound("no such person", reason="ENTITY_NOT_FOUND", field="person_id") from None
        if not entity.anchor_ids:
            raise FailedPrecondition("nothing is known that a visit could be kept under", reason="NO_ANCHOR", field="person_id")
        expires_s = int(time.time()) + (request.hours or CODE_HOURS) * 3600
        text = visitor_text(request.dealer_code, request.person_id, min(entity.anchor_ids))
        code = self._vault.token(text, expires_s)
        return pb.CreateVisitorCodeResponse(code=code, expire_time=stamp(datetime.fromtimestamp(expires_s, UTC)))


def _message(door: Door, row: DoorRow | None = None, arrivals: int = 0, last: datetime | None = None) -> pb.ArrivalDoor:
    until = row.previous_until if row else None
    return pb.ArrivalDoor(
        name=door.name,
        dealer_code=door.dealer_code,
        networks=door.networks,
        min_confidence=door.min_confidence,
        repeat_minutes=door.repeat_minutes,
        direction=door.direction,
        disabled=row is not None and row.disabled_at is not None,
        previous_address_until=stamp(until) if until and until > datetime.now(UTC) else None,
        arrivals_24h=arrivals,
        last_arrival_time=stamp(last),
    )


def _no_door() -> NotFound:
    return NotFound("no such door", reason="DOOR_NOT_FOUND", field="name")
