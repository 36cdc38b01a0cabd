"""gRPC door: PlanService."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
import orjson
from troika.touchpoints.v1 import plan_service_pb2 as pb
from troika.touchpoints.v1.plan_service_pb2_grpc import PlanServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from chassis.moments import moment, stamp
from chassis.rpc import caller_of
from services.touchpoints.domain.observed import Invalid
from services.touchpoints.plan import quarantine_store, store
from services.touchpoints.plan.held import Holder, shown
from services.touchpoints.plan.judging import EventType, Judge, Unplanned
from services.touchpoints.plan.live import LivePlan
from services.touchpoints.plan.quarantine_store import Wanted
from services.touchpoints.plan.replaying import Healing, Replayer
from services.touchpoints.plan.schemas import InvalidSchema
from services.touchpoints.plan.shipped import shipped
from services.touchpoints.plan.store import Saved

Context = grpc.aio.ServicerContext[Any, Any]
_TYPES_A_PAGE, _MOST_TYPES = 100, 1000
_HELD_A_PAGE, _MOST_HELD = 50, 500


class PlanRpc(PlanServiceServicer):
    """Converts between messages and the room's own functions."""

    def __init__(self, database: Database, live: LivePlan, replayer: Replayer, holder: Holder) -> None:
        self._database, self._live, self._replayer, self._holder = database, live, replayer, holder

    async def ListEventTypes(self, request: pb.ListEventTypesRequest, context: Context) -> pb.ListEventTypesResponse:  # noqa: N802, D102
        plan = await self._live.refresh()
        types = [each for each in plan.types if not request.source or plan.judges[each.name].allows(request.source)]
        listing = f"event types {request.source}"
        (start,) = paging.read(listing, request.page_token, (0,))
        end = start + paging.size(request.page_size, _TYPES_A_PAGE, _MOST_TYPES)
        return pb.ListEventTypesResponse(
            event_types=[_type(self._live.saved(each.name) or Saved(each)) for each in types[start:end]],
            next_page_token=paging.token(listing, end) if end < len(types) else "",
            unplanned=int(plan.unplanned),  # type: ignore[arg-type]  # the numbers are the contract's
        )

    async def GetEventType(self, request: pb.GetEventTypeRequest, context: Context) -> pb.GetEventTypeResponse:  # noqa: N802, D102
        async with self._database.read() as uow:
            found = _shipped(request.name) + await store.versions(uow, request.name)
        wanted = request.version if request.HasField("version") else max((each.type.version for each in found), default=0)
        for each in found:
            if each.type.version == wanted:
                return pb.GetEventTypeResponse(event_type=_type(each), versions=[other.type.version for other in found])
        raise NotFound("no such event type or version", reason="EVENT_TYPE_NOT_FOUND", field="name")

    async def SaveEventType(self, request: pb.SaveEventTypeRequest, context: Context) -> pb.SaveEventTypeResponse:  # noqa: N802, D102
        given, plan = request.event_type, await self._live.refresh()
        if given.name != given.name.strip():
            raise InvalidArgument("must not begin or end with a blank", field="event_type.name")
        async with self._database.read() as uow:
            saved = await store.versions(uow, given.name)
        known = [*_shipped(given.name), *saved]
        newest = known[-1].type.version if known else -1
        if request.HasField("from_version") and request.from_version != max(newest, 0):
            raise FailedPrecondition(f"version {newest} is in force by now", reason="VERSION_CHANGED", field="from_version")
        planned = EventType(
            given.name,
            max(newest, 0) + 1,
            given.title,
            given.description,
            _schema(given.schema_json),
            tuple(given.sources),
            given.retired,
            tuple(given.aliases),
        )
        if alias := "" if planned.retired else plan.taken(planned):
            raise InvalidArgument(f"{alias} is another event's name or alias", reason="ALIAS_TAKEN", field="event_type.aliases")
        try:
            # Some patterns take long to compile; meanwhile the doors stay open.
            judge = await asyncio.to_thread(Judge, planned)
        except InvalidSchema as error:
            raise InvalidArgument(str(error), reason="INVALID_SCHEMA", field="event_type.schema_json") from error
        kept: Saved | None = Saved(planned, caller_of(context))
        if not request.dry_run:
            async with self._database.transaction() as uow:
                kept = await store.save(uow, planned, caller_of(context))
            await self._live.refresh()
        if kept is None:
            raise FailedPrecondition("somebody else saved it meanwhile", reason="VERSION_CHANGED", field="from_version")
        healing = await self._replayer.foresee(Wanted(event=planned.name), plan.with_type(judge))
        return pb.SaveEventTypeResponse(event_type=_type(kept), healing=_healing(healing))

    async def SetUnplanned(self, request: pb.SetUnplannedRequest, context: Context) -> pb.SetUnplannedResponse:  # noqa: N802, D102
        async with self._database.transaction() as uow:
            await store.set_unplanned(uow, Unplanned(request.mode))
        plan = await self._live.refresh()
        return pb.SetUnplannedResponse(mode=int(plan.unplanned))  # type: ignore[arg-type]  # likewise

    async def CountUnplanned(self, request: pb.CountUnplannedRequest, context: Context) -> pb.CountUnplannedResponse:  # noqa: N802, D102
        async with self._database.read() as uow:
            rows = await store.passed_counts(uow, request.source, request.days)
        return pb.CountUnplannedResponse(
            counts=[
                pb.UnplannedCount(source=r["source"], event=r["event"], day=r["day"].isoformat(), events=r["events"])
                for r in rows
            ]
        )

    async def CountQuarantined(self, request: pb.CountQuarantinedRequest, context: Context) -> pb.CountQuarantinedResponse:  # noqa: N802, D102
        async with self._database.read() as uow:
            rows, total, size = await quarantine_store.counts(uow, _wanted(request.filter))
        return pb.CountQuarantinedResponse(
            counts=[
                pb.QuarantineCount(
                    source=r["source"],
                    event=r["event"],
                    reason=r["reason"],
                    field=r["field"],
                    day=r["day"].isoformat(),
                    events=r["events"],
                )
                for r in rows
            ],
            events=total,
            bytes=size,
        )

    async def ListQuarantined(self, request: pb.ListQuarantinedRequest, context: Context) -> pb.ListQuarantinedResponse:  # noqa: N802, D102
        listing = "quarantined " + request.filter.SerializeToString(deterministic=True).hex()
        (below,) = paging.read(listing, request.page_token, (paging.BIGINT_MAX,))
        most = paging.size(request.page_size, _HELD_A_PAGE, _MOST_HELD)
        async with self._database.read() as uow:
            rows = await quarantine_store.page(uow, _wanted(request.filter), below, most + 1)
        return pb.ListQuarantinedResponse(
            events=[self._held(row, request.with_event) for row in rows[:most]],
            next_page_token=paging.token(listing, rows[most - 1]["id"]) if len(rows) > most else "",
        )

    async def ReplayQuarantined(  # noqa: N802, D102
        self, request: pb.ReplayQuarantinedRequest, context: Context
    ) -> pb.ReplayQuarantinedResponse:
        wanted, patch = _wanted(request.filter), _patch(request.patch_json)
        if request.dry_run:
            healing = await self._replayer.foresee(wanted, await self._live.refresh(), patch)
            return pb.ReplayQuarantinedResponse(healing=_healing(healing))
        replay_id = request.request_id or uuid.uuid4().hex
        async with self._database.transaction() as uow:
            await quarantine_store.begin(uow, replay_id, wanted, request.patch_json)
            replay = await quarantine_store.replay(uow, replay_id)
        if replay is None or (replay.wanted, replay.patch) != (wanted, request.patch_json):
            raise FailedPrecondition("another replay has this id", reason="REQUEST_ID_USED", field="request_id")
        return pb.ReplayQuarantinedResponse(replay=_replay(replay))

    async def GetReplay(self, request: pb.GetReplayRequest, context: Context) -> pb.GetReplayResponse:  # noqa: N802, D102
        async with self._database.read() as uow:
            replay = await quarantine_store.replay(uow, request.name.removeprefix("replays/"))
        if replay is None:
            raise NotFound("no such replay", reason="REPLAY_NOT_FOUND", field="name")
        return pb.GetReplayResponse(replay=_replay(replay))

    async def DiscardQuarantined(  # noqa: N802, D102
        self, request: pb.DiscardQuarantinedRequest, context: Context
    ) -> pb.DiscardQuarantinedResponse:
        wanted = _wanted(request.filter)
        if wanted.is_all:
            raise InvalidArgument("say which: an empty filter would delete everything", field="filter")
        if request.dry_run:
            async with self._database.read() as uow:
                _, total, _ = await quarantine_store.counts(uow, wanted)
            return pb.DiscardQuarantinedResponse(events=total)
        async with self._database.transaction() as uow:
            return pb.DiscardQuarantinedResponse(events=await quarantine_store.discard(uow, wanted))

    def _held(self, row: Any, with_event: bool) -> pb.HeldEvent:
        held = pb.HeldEvent(
            name="quarantined/" + row["event_id"].hex(),
            source=row["source"],
            event=row["event"],
            reason=row["reason"],
            field=row["field"],
            message=row["message"],
            schema_path=row["schema_path"],
            receive_time=stamp(row["received_at"]),
            bytes=len(row["sealed"]),
        )
        if with_event:
            try:
                held.event_json = shown(self._holder.open(row["event_id"], row["sealed"]))
            except Invalid as error:
                held.message = f"{held.message}; {error.message}"
        return held


def _shipped(name: str) -> list[Saved]:
    return [Saved(each) for each in shipped() if each.name == name]


def _type(saved: Saved) -> pb.EventType:
    each = saved.type
    return pb.EventType(
        name=each.name,
        version=each.version,
        title=each.title,
        description=each.description,
        schema_json=orjson.dumps(each.schema).decode() if each.schema else "",
        sources=each.sources,
        retired=each.retired,
        aliases=each.aliases,
        save_time=stamp(saved.saved_at),
        author=saved.author,
    )


def _schema(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text) if text.strip() else {}
    except orjson.JSONDecodeError as error:
        raise InvalidArgument("is not valid JSON", reason="INVALID_SCHEMA", field="event_type.schema_json") from error
    if not isinstance(found, dict):
        raise InvalidArgument("must be a JSON object", reason="INVALID_SCHEMA", field="event_type.schema_json")
    return found


def _patch(text: str) -> Any:
    try:
        found = orjson.loads(text) if text.strip() else None
    except orjson.JSONDecodeError as error:
        raise InvalidArgument("is not valid JSON", reason="INVALID_PATCH", field="patch_json") from error
    if found is not None and not isinstance(found, dict):
        raise InvalidArgument("must be a JSON object", reason="INVALID_PATCH", field="patch_json")
    return found


def _wanted(given: pb.QuarantineFilter) -> Wanted:
    return Wanted(
        given.source,
        given.event,
        given.reason,
        moment(given.from_time, "filter.from_time") if given.HasField("from_time") else None,
        moment(given.until_time, "filter.until_time") if given.HasField("until_time") else None,
        tuple(bytes.fromhex(name.removeprefix("quarantined/")) for name in given.names),
    )


def _healing(found: Healing) -> pb.Healing:
    return pb.Healing(examined=found.examined, healed=found.healed, still_held=dict(found.still_held))


def _replay(replay: quarantine_store.Replay) -> pb.Replay:
    return pb.Replay(
        name=f"replays/{replay.replay_id}",
        total=replay.total,
        examined=replay.examined,
        healed=replay.healed,
        done=replay.done,
        create_time=stamp(replay.created_at),
        update_time=stamp(replay.updated_at),
    )
