"""`troika journeys …`: documents are checked without a service, everything else is asked of a running one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import orjson
from google.protobuf.json_format import MessageToDict
from troika.orchestrator.v1 import journey_service_pb2 as pb
from troika.orchestrator.v1.journey_service_pb2_grpc import JourneyServiceStub

from chassis import terminal
from chassis.run import PlainVerb
from services.orchestrator.journeys import programs
from services.orchestrator.journeys.catalogue import library
from services.orchestrator.terminal import TIMEOUT_S


def run(flags: argparse.Namespace) -> int:
    """0 when it went well, 1 for a document with faults and for what the service refused."""
    match flags.action:
        case "check":
            return _check(flags)
        case "library":
            return _library(flags)
        case _:
            return terminal.ask(flags, "orchestrator", lambda channel: _ask(channel, flags))


def _check(flags: argparse.Namespace) -> int:
    """What is wrong with files by themselves; themes and offers may stand empty with --unbound."""
    found = [
        {"file": str(file), "path": f.path, "line": f.line, "reason": f.reason, "message": f.message}
        for file in flags.file
        for f in programs.read(file.read_text(encoding="utf-8"), bound=not flags.unbound)[1]
    ]
    if flags.json:
        _say(orjson.dumps({"files": len(flags.file), "faults": found}).decode())
    else:
        for each in found:
            _say(f"{each['file']}:{each['line']}: {each['path']}: {each['message']} [{each['reason']}]")
        _say(f"{len(flags.file)} journeys, {len(found)} faults")
    return 1 if found else 0


def _library(flags: argparse.Namespace) -> int:
    """The ready-made journeys, or one of them to write themes into."""
    shipped = library()
    if flags.journey:
        if flags.journey not in shipped:
            sys.stderr.write(f"NOT_FOUND: there is no {flags.journey}; there are {', '.join(shipped)}\n")
            return 1
        _say(shipped[flags.journey].rstrip("\n"))
        return 0
    titles = {name: program.document.title for name, text in shipped.items() if (program := programs.read(text, False)[0])}
    if flags.json:
        _say(orjson.dumps(titles).decode())
    else:
        for name, title in titles.items():
            _say(f"{name}: {title}")
    return 0


def _named(flags: argparse.Namespace) -> dict[str, Any]:
    return {"name": flags.name}


def _versioned(flags: argparse.Namespace) -> dict[str, Any]:
    return {"name": flags.name, "version": flags.version}


def _written(flags: argparse.Namespace) -> dict[str, Any]:
    return {"document": flags.file.read_text(encoding="utf-8")}


# Verb of the command line → (RPC, request, what makes the request, help).
_ASKED: Final[dict[str, tuple[str, Any, Callable[[argparse.Namespace], dict[str, Any]], str]]] = {
    "validate": ("ValidateJourney", pb.ValidateJourneyRequest, _written, "what is wrong with a file, asking all rooms"),
    "create": ("CreateJourney", pb.CreateJourneyRequest, _written, "make a journey from a file"),
    "update": (
        "UpdateJourney",
        pb.UpdateJourneyRequest,
        lambda flags: _versioned(flags) | _written(flags),
        "make a new version from a file",
    ),
    "submit": ("SubmitJourney", pb.SubmitJourneyRequest, _versioned, "ask somebody else to approve a version"),
    "approve": ("ApproveJourney", pb.ApproveJourneyRequest, _versioned, "approve a version that somebody else wrote"),
    "start": ("StartJourney", pb.StartJourneyRequest, _named, "let people enter"),
    "pause": ("PauseJourney", pb.PauseJourneyRequest, _named, "stop everybody where she stands"),
    "resume": ("ResumeJourney", pb.ResumeJourneyRequest, _named, "go on after a pause"),
    "finish": ("FinishJourney", pb.FinishJourneyRequest, _named, "end a journey for good"),
    "show": ("GetJourney", pb.GetJourneyRequest, _named, "a journey and its versions"),
    "list": ("ListJourneys", pb.ListJourneysRequest, lambda _: {"page_size": 500}, "all journeys"),
    "statistics": ("GetJourneyStatistics", pb.GetJourneyStatisticsRequest, _named, "who stands where, who left and why"),
    "enrolments": (
        "ListEnrolments",
        pb.ListEnrolmentsRequest,
        lambda flags: {"person_id": flags.person},
        "what a person is or was in",
    ),
    "explain": (
        "ExplainEnrolment",
        pb.ExplainEnrolmentRequest,
        lambda flags: {"enrolment_id": flags.enrolment},
        "a person's way with moments",
    ),
    "simulate": (
        "SimulateJourney",
        pb.SimulateJourneyRequest,
        lambda flags: _written(flags) | {"person_id": flags.person, "events": [_event(text) for text in flags.event]},
        "what a file would do with a person",
    ),
    "count": ("CountEntrants", pb.CountEntrantsRequest, _written, "how many a file's trigger would let in today"),
}
_FILES: Final = frozenset({"validate", "create", "update", "simulate", "count"})
_NAMES: Final = frozenset({"update", "submit", "approve", "start", "pause", "resume", "finish", "show", "statistics"})
_VERSIONS: Final = frozenset({"update", "submit", "approve"})
_PERSONS: Final = frozenset({"enrolments", "simulate"})


def _event(text: str) -> pb.AssumedEvent:
    """From "SECONDS:NAME" or "SECONDS:NAME:{JSON}"."""
    after, _, rest = text.partition(":")
    name, _, properties = rest.partition(":")
    try:
        return pb.AssumedEvent(event=name, after_s=int(after), properties_json=properties.encode())
    except ValueError:
        raise SystemExit(f"{text} is not SECONDS:NAME or SECONDS:NAME:JSON") from None


async def _ask(channel: grpc.aio.Channel, flags: argparse.Namespace) -> int:
    method, request, made, _ = _ASKED[flags.action]
    answer = await getattr(JourneyServiceStub(channel), method)(request(**made(flags)), timeout=TIMEOUT_S)
    told = MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=flags.json)
    _say(orjson.dumps(told).decode() if flags.json else "\n".join(lines(told)))
    return 1 if flags.action == "validate" and answer.faults else 0


def lines(told: Any, depth: int = 0) -> list[str]:
    """An answer for people: names and values, indented."""
    pad = "  " * depth
    if isinstance(told, dict):
        found = []
        for key, value in told.items():
            if isinstance(value, (dict, list)):
                found += [f"{pad}{key}:", *lines(value, depth + 1)]
            else:
                found += [f"{pad}{key}: {str(value).rstrip()}".replace("\n", f"\n{pad}  ")]
        return found
    if isinstance(told, list):
        return [
            line for each in told for line in ([f"{pad}-", *lines(each, depth + 1)] if isinstance(each, dict) else [str(each)])
        ]
    return [f"{pad}{told}"]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    words = parser.add_subparsers(dest="action", required=True)
    check = words.add_parser("check", help="what is wrong with files by themselves, without a service")
    check.add_argument("file", nargs="+", type=Path)
    check.add_argument("--unbound", action="store_true", help="themes and offers may still stand empty")
    shipped = words.add_parser("library", help="the journeys that come with the release")
    shipped.add_argument("journey", nargs="?", default="", help="print this one's document")
    for name, (_, _, _, text) in _ASKED.items():
        each = words.add_parser(name, help=text)
        if name in _NAMES:
            each.add_argument("name", help='"journeys/12"')
        if name in _VERSIONS:
            each.add_argument("version", type=int)
        if name in _FILES:
            each.add_argument("file", type=Path, help="the document, YAML")
        if name in _PERSONS:
            each.add_argument("person", type=int)
        if name == "explain":
            each.add_argument("enrolment", type=int)
        if name == "simulate":
            each.add_argument("--event", action="append", default=[], metavar="SECONDS:NAME[:JSON]", help="assume this happens")
        terminal.door_arguments(each, "orchestrator", 7004)
    for each in (check, shipped):
        each.add_argument("--json", action="store_true", help="for programs")


VERBS = (PlainVerb("journeys", "write, approve, run and explain journeys", run, arguments),)
