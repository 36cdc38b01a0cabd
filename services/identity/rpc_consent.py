"""The gRPC door of the consent ledger: protobuf in, protobuf out; it decides nothing."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

import time
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from troika.identity.v1 import consent_service_pb2 as pb
from troika.identity.v1 import events_pb2
from troika.identity.v1.consent_service_pb2_grpc import ConsentServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.errors import InvalidArgument, NotFound
from chassis.rpc import caller_of
from services.identity import consenting, consents
from services.identity.consenting import Stated
from services.identity.consents import Line
from services.identity.domain.consents import (
    ALL,
    CHANNELS,
    GENERAL,
    NEVER,
    PURPOSES,
    SEPARATE,
    Statement,
    effective,
    needs_separate,
    stated_id,
    void_reason,
)
from services.identity.messages import timestamp
from services.identity.rpc import DEFAULT_PAGE, LARGEST_PAGE
from services.identity.store import Store
from services.identity.vault import Vault

Context = grpc.aio.ServicerContext[Any, Any]

# How far a caller's clock may run ahead of ours.
AHEAD_US = 5_000_000
# The end of the year 9999: what lies behind is no time but a broken clock.
LATEST_US = 253_402_300_799_000_000


class ConsentRpc(ConsentServiceServicer):
    """Records statements and says what holds."""

    def __init__(self, database: Database, store: Store, vault: Vault) -> None:
        self._database, self._store, self._vault = database, store, vault

    async def RecordConsents(self, request: pb.RecordConsentsRequest, context: Context) -> pb.RecordConsentsResponse:
        """Nothing is recorded when any statement is wrong in itself; whose it is has an outcome for each."""
        caller, now_us = caller_of(context), time.time_ns() // 1000
        stated = [self._stated(one, f"consents[{index}]", caller, now_us) for index, one in enumerate(request.consents)]
        async with self._database.transaction() as uow:
            outcomes = await consenting.record(uow, self._store, self._vault, stated)
        return pb.RecordConsentsResponse(
            outcomes=[
                pb.ConsentOutcome(consent_id=one.consent_id, outcome=o.outcome, anchor_id=o.anchor_id, person_id=o.person_id)
                for one, o in zip(request.consents, outcomes, strict=True)
            ]
        )

    def _stated(self, one: pb.ConsentStatement, field: str, caller: str, now_us: int) -> Stated:
        kind = SEPARATE if one.kind == events_pb2.CONSENT_KIND_SEPARATE else GENERAL
        if one.purpose not in PURPOSES:
            raise InvalidArgument(f"must be one of {', '.join(PURPOSES)}", reason="UNKNOWN_PURPOSE", field=f"{field}.purpose")
        if one.channel != ALL and one.channel not in CHANNELS:
            raise InvalidArgument(
                f"must be one of {', '.join((*CHANNELS, ALL))}", reason="UNKNOWN_CHANNEL", field=f"{field}.channel"
            )
        if void_reason(one.purpose, one.channel, kind, given=one.given):
            raise InvalidArgument(
                "this purpose needs consent that was asked for by itself",
                reason="SEPARATE_CONSENT_REQUIRED",
                field=f"{field}.kind",
            )
        stated_us = _micros(one.stated_at, f"{field}.stated_at")
        if stated_us > now_us + AHEAD_US:
            raise InvalidArgument("nobody has said it yet", reason="STATED_IN_FUTURE", field=f"{field}.stated_at")
        expires_us = _micros(one.expires_at, f"{field}.expires_at") if one.HasField("expires_at") else NEVER
        if one.HasField("expires_at") and (not one.given or expires_us <= stated_us):
            raise InvalidArgument(
                "only consent that is given ends, and later than it was given",
                reason="INVALID_EXPIRY",
                field=f"{field}.expires_at",
            )
        ref = one.identifier
        return Stated(
            Statement(
                stated_id(caller, one.consent_id),
                0,
                one.purpose,
                one.channel,
                kind,
                one.given,
                stated_us,
                expires_us,
                one.text_version,
                one.text_sha256,
                one.language,
                one.screen,
                source=caller,
                consent_id=one.consent_id,
            ),
            self._vault.known(ref.kind, ref.scope, ref.value) if one.HasField("identifier") else one.anchor_id,
        )

    async def GetConsents(self, request: pb.GetConsentsRequest, context: Context) -> pb.GetConsentsResponse:
        """Raises NotFound for persons that are merged away or never were, InvalidArgument for a purpose that is none."""
        if request.purpose and request.purpose not in PURPOSES:
            raise InvalidArgument(f"must be one of {', '.join(PURPOSES)}", reason="UNKNOWN_PURPOSE", field="purpose")
        async with self._database.read() as uow:
            anchors = await consents.anchors_of(uow, request.person_id)
            if not anchors:
                raise NotFound("no such person", reason="ENTITY_NOT_FOUND", field="person_id")
            lines = await consents.counting(uow, anchors)
        found = effective([line.statement for line in lines.values()], time.time_ns() // 1000)
        return pb.GetConsentsResponse(
            consents=[
                pb.EffectiveConsent(
                    purpose=purpose,
                    channel=channel,
                    state=pb.ConsentState.ValueType(finding.state + 1),
                    needs_separate=needs_separate(purpose, channel),
                    because=_recorded(lines[finding.because.statement_id]) if finding.because else None,
                )
                for (purpose, channel), finding in found.items()
                if request.purpose in ("", purpose)
            ]
        )

    async def ListConsentHistory(
        self, request: pb.ListConsentHistoryRequest, context: Context
    ) -> pb.ListConsentHistoryResponse:
        """Goes on behind the number of the last line shown; raises NotFound for persons that are none."""
        size = paging.size(request.page_size, DEFAULT_PAGE, LARGEST_PAGE)
        whose = f"person {request.person_id}" if request.HasField("person_id") else f"anchor {request.anchor_id}"
        (before,) = paging.read(f"consents of {whose}", request.page_token, (paging.BIGINT_MAX,))
        async with self._database.read() as uow:
            anchors = [request.anchor_id]
            if request.HasField("person_id"):
                anchors = await consents.anchors_of(uow, request.person_id)
                if not anchors:
                    raise NotFound("no such person", reason="ENTITY_NOT_FOUND", field="person_id")
            lines = await consents.page(uow, anchors, before, size)
        token = paging.token(f"consents of {whose}", lines[-1].number) if len(lines) == size else ""
        return pb.ListConsentHistoryResponse(consents=[_recorded(line) for line in lines], next_page_token=token)


def _micros(stamp: Timestamp, field: str) -> int:
    micros = stamp.seconds * 1_000_000 + stamp.nanos // 1000
    if not 0 < micros <= LATEST_US:
        raise InvalidArgument("must be a time after 1970 and before 10000", reason="TIME_OUT_OF_RANGE", field=field)
    return micros


def _recorded(line: Line) -> pb.RecordedConsent:
    said = line.statement
    return pb.RecordedConsent(
        consent_id=said.consent_id,
        anchor_id=said.anchor_id,
        purpose=said.purpose,
        channel=said.channel,
        kind=events_pb2.CONSENT_KIND_SEPARATE if said.kind == SEPARATE else events_pb2.CONSENT_KIND_GENERAL,
        given=said.given,
        stated_at=timestamp(said.stated_us),
        expires_at=timestamp(said.expires_us) if said.expires_us != NEVER else None,
        text_version=said.text_version,
        text_sha256=said.text_sha256,
        language=said.language,
        screen=said.screen,
        event_id=said.event_id,
        source=said.source,
        void_reason=said.void,
        recorded_at=timestamp(line.recorded_us),
    )
