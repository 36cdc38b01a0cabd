"""`troika plan …` and `troika quarantine …`: the tracking plan and held events from a terminal."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc
import orjson
import yaml
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from troika.touchpoints.v1 import plan_service_pb2 as pb
from troika.touchpoints.v1.plan_service_pb2_grpc import PlanServiceStub

from chassis import terminal
from chassis.run import PlainVerb
from chassis.terminal import moment, shown, table

TIMEOUT_S: Final = 120.0
_SERVICE, _PORT = "touchpoints", 7005
_LOOK_S: Final = 0.5
_MODES: Final = {"pass": pb.UNPLANNED_MODE_PASS, "hold": pb.UNPLANNED_MODE_HOLD}

Ask = Callable[[Any, argparse.Namespace], Awaitable[Message]]


async def _list(stub: Any, flags: argparse.Namespace) -> Message:
    found = pb.ListEventTypesResponse()
    token = ""
    while True:
        request = pb.ListEventTypesRequest(page_size=1000, page_token=token, source=flags.source)
        page: pb.ListEventTypesResponse = await stub.ListEventTypes(request, timeout=TIMEOUT_S)
        found.event_types.extend(page.event_types)
        found.unplanned = page.unplanned
        if not (token := page.next_page_token):
            return found


async def _show(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.GetEventTypeRequest(name=flags.event)
    if flags.version is not None:
        request.version = flags.version
    answer: Message = await stub.GetEventType(request, timeout=TIMEOUT_S)
    return answer


async def _save(stub: Any, flags: argparse.Namespace) -> Message:
    """All events of a file, in its order; the last answer stands for all when it is told as JSON."""
    answer: Any = pb.SaveEventTypeResponse()
    for name, body in yaml.safe_load(flags.file.read_text(encoding="utf-8")).items():
        given = pb.EventType(
            name=name,
            title=body.get("title", ""),
            description=body.get("description", ""),
            schema_json=orjson.dumps(body["schema"]).decode() if body.get("schema") else "",
            sources=body.get("sources") or (),
            retired=bool(body.get("retired")),
            aliases=body.get("aliases") or (),
        )
        request = pb.SaveEventTypeRequest(event_type=given, dry_run=flags.dry_run)
        if flags.from_version is not None:
            request.from_version = flags.from_version
        answer = await stub.SaveEventType(request, timeout=TIMEOUT_S)
        if not flags.json:
            said = "would be" if flags.dry_run else "is"
            sys.stdout.write(f"{name} {said} version {answer.event_type.version}; {_healing(answer.healing)}\n")
    found: Message = answer
    return found


async def _mode(stub: Any, flags: argparse.Namespace) -> Message:
    answer: Message = await stub.SetUnplanned(pb.SetUnplannedRequest(mode=_MODES[flags.mode]), timeout=TIMEOUT_S)
    return answer


async def _unplanned(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.CountUnplannedRequest(source=flags.source, days=flags.days)
    answer: Message = await stub.CountUnplanned(request, timeout=TIMEOUT_S)
    return answer


async def _count(stub: Any, flags: argparse.Namespace) -> Message:
    answer: Message = await stub.CountQuarantined(pb.CountQuarantinedRequest(filter=_filter(flags)), timeout=TIMEOUT_S)
    return answer


async def _held(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.ListQuarantinedRequest(filter=_filter(flags), page_size=flags.limit, with_event=flags.events)
    answer: Message = await stub.ListQuarantined(request, timeout=TIMEOUT_S)
    return answer


async def _replay(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.ReplayQuarantinedRequest(
        filter=_filter(flags), patch_json=flags.patch, request_id=flags.request_id, dry_run=flags.dry_run
    )
    answer: pb.ReplayQuarantinedResponse = await stub.ReplayQuarantined(request, timeout=TIMEOUT_S)
    while not (flags.dry_run or flags.no_wait or answer.replay.done):
        await asyncio.sleep(_LOOK_S)
        found = await stub.GetReplay(pb.GetReplayRequest(name=answer.replay.name), timeout=TIMEOUT_S)
        answer.replay.CopyFrom(found.replay)
        if not flags.json:
            sys.stdout.write(f"{answer.replay.examined} of {answer.replay.total}\n")
    return answer


async def _discard(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.DiscardQuarantinedRequest(filter=_filter(flags), dry_run=flags.dry_run)
    answer: Message = await stub.DiscardQuarantined(request, timeout=TIMEOUT_S)
    return answer


def _filter(flags: argparse.Namespace) -> pb.QuarantineFilter:
    found = pb.QuarantineFilter(
        source=flags.source,
        event=flags.event,
        reason=flags.reason,
        names=[f"quarantined/{name.removeprefix('quarantined/')}" for name in flags.name],
    )
    if flags.since:
        found.from_time.FromDatetime(flags.since)
    if flags.until:
        found.until_time.FromDatetime(flags.until)
    return found


def _types(answer: pb.ListEventTypesResponse) -> str:
    rows = [
        (e.name, e.version, e.title, "retired" if e.retired else "", ", ".join(e.sources) or "all") for e in answer.event_types
    ]
    mode = "held" if answer.unplanned == pb.UNPLANNED_MODE_HOLD else "let pass and counted"
    return table(("event", "version", "title", "", "sources"), rows) + f"\nunplanned events are {mode}"


def _one(answer: pb.GetEventTypeResponse) -> str:
    e = answer.event_type
    body: dict[str, Any] = {"title": e.title, "description": e.description}
    if e.schema_json:
        body["schema"] = orjson.loads(e.schema_json)
    if e.sources:
        body["sources"] = list(e.sources)
    if e.aliases:
        body["aliases"] = list(e.aliases)
    if e.retired:
        body["retired"] = True
    saved = f"saved {shown(e.save_time)} by {e.author}" if e.author else "as shipped"
    versions = ", ".join(map(str, answer.versions))
    written: str = yaml.safe_dump({e.name: body}, allow_unicode=True, sort_keys=False, default_flow_style=None, width=120)
    return f"# version {e.version}, {saved}; there are {versions}\n{written.rstrip()}"


def _healing(found: pb.Healing) -> str:
    held = ", ".join(f"{count} {reason}" for reason, count in sorted(found.still_held.items()))
    return f"of {found.examined} held events {found.healed} would go on" + (f", still held: {held}" if held else "")


def _counts(answer: pb.CountQuarantinedResponse) -> str:
    rows = [(c.events, c.day, c.source, c.event or "?", c.reason, c.field) for c in answer.counts]
    told = table(("events", "day", "source", "event", "reason", "field"), rows)
    return f"{told}\n{answer.events} held events, {answer.bytes / 1e6:.1f} MB"


def _passed(answer: pb.CountUnplannedResponse) -> str:
    rows = [(c.events, c.day, c.source, c.event or "(others)") for c in answer.counts]
    return table(("events", "day", "source", "event"), rows)


def _listed(answer: pb.ListQuarantinedResponse) -> str:
    rows = [
        (e.name.removeprefix("quarantined/"), shown(e.receive_time), e.source, e.event or "?", e.reason, e.field, e.message)
        for e in answer.events
    ]
    events = [f"\n{e.name}\n{e.event_json}" for e in answer.events if e.event_json]
    return "\n".join([table(("name", "received", "source", "event", "reason", "field", "why"), rows), *events])


def _replayed(answer: pb.ReplayQuarantinedResponse) -> str:
    if answer.HasField("healing"):
        return _healing(answer.healing)
    r = answer.replay
    held = r.examined - r.healed
    return f"{r.name}: {'done' if r.done else 'goes on'}, {r.healed} of {r.total} sent on, {held} still held"


def _run(flags: argparse.Namespace) -> int:
    async def use(channel: grpc.aio.Channel) -> int:
        stub: Any = PlanServiceStub(channel)
        answer = await flags.ask(stub, flags)
        if flags.json:
            told = MessageToJson(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        else:
            told = flags.tell(answer)
        if told:
            sys.stdout.write(told + "\n")
        return 0

    try:
        return terminal.ask(flags, _SERVICE, use)
    except (OSError, yaml.YAMLError) as error:
        sys.stderr.write(f"FILE_NOT_READ: {error}\n")
        return 1


def _action(actions: Any, name: str, about: str, ask: Ask, tell: Callable[[Any], str]) -> argparse.ArgumentParser:
    found: argparse.ArgumentParser = actions.add_parser(name, help=about)
    terminal.door_arguments(found, _SERVICE, _PORT)
    found.set_defaults(ask=ask, tell=tell)
    return found


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    listing = _action(actions, "list", "planned events", _list, _types)
    listing.add_argument("--source", default="", help="only what it may send")
    show = _action(actions, "show", "an event as YAML, fit for save", _show, _one)
    show.add_argument("event")
    show.add_argument("--version", type=int)
    save = _action(actions, "save", "add or change the events of a file", _save, lambda _: "")
    save.add_argument("file", type=Path, help="YAML: an event's name to title, description, schema, sources, aliases, retired")
    save.add_argument("--from-version", type=int, help="the version it was made from; refused when there is a newer one")
    save.add_argument("--dry-run", action="store_true", help="save nothing, say what it would heal")
    mode = _action(
        actions, "unplanned", "what becomes of unplanned events", _mode, lambda a: pb.UnplannedMode.Name(a.mode).lower()
    )
    mode.add_argument("mode", choices=sorted(_MODES))
    passed = _action(actions, "passed", "unplanned events that were let pass", _unplanned, _passed)
    passed.add_argument("--source", default="")
    passed.add_argument("--days", type=int, default=0, help="of how many days back; default: all")


def _quarantine_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    listing = _action(actions, "list", "held events, newest first", _held, _listed)
    listing.add_argument("--limit", type=int, default=50)
    listing.add_argument("--events", action="store_true", help="with what they say, without whom they are about")
    counting = _action(actions, "count", "held events by source, event, reason, field and day", _count, _counts)
    replay = _action(actions, "replay", "send on what fits by now", _replay, _replayed)
    replay.add_argument("--patch", default="", help='JSON Merge Patch for each, for example {"properties": {"price": null}}')
    replay.add_argument("--request-id", default="", help="the same id never begins a second replay")
    replay.add_argument("--no-wait", action="store_true", help="do not wait for its end")
    discard = _action(actions, "discard", "delete for good", _discard, lambda a: f"{a.events} events")
    for each in (replay, discard):
        each.add_argument("--dry-run", action="store_true", help="change nothing")
    for each in (listing, counting, replay, discard):
        each.add_argument("name", nargs="*", help="just these; default: all that the options say")
        for option in ("source", "event", "reason"):
            each.add_argument(f"--{option}", default="")
        each.add_argument("--since", type=moment, help="received at or after; ISO 8601, UTC")
        each.add_argument("--until", type=moment, help="received before; ISO 8601, UTC")


VERBS = (
    PlainVerb("plan", "the tracking plan: which events there are and what they must say", _run, _plan_arguments),
    PlainVerb("quarantine", "events that were held", _run, _quarantine_arguments),
)
