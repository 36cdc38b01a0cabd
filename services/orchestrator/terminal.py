"""Commands that ask a running orchestrator over gRPC, in the name of whose token is shown."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from chassis import rpc

TIMEOUT_S: Final = 120.0
_SILENT: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

Ask = Callable[[Any, argparse.Namespace], Awaitable[Message]]
Tell = Callable[[Any], str]


def action(
    actions: Any, name: str, about: str, ask: Ask, tell: Tell, stub: Callable[[grpc.aio.Channel], Any]
) -> argparse.ArgumentParser:
    """One action of a verb: whom to ask, what, and how its answer reads in words."""
    found: argparse.ArgumentParser = actions.add_parser(name, help=about)
    target = os.environ.get("TROIKA_ORCHESTRATOR_TARGET", "127.0.0.1:7004")
    found.add_argument("--target", default=target, help="host:port of the gRPC door; TROIKA_ORCHESTRATOR_TARGET")
    found.add_argument("--token-file", type=Path, help="file with CALLER.TOKEN of who asks; else TROIKA_TOKEN")
    found.add_argument("--json", action="store_true", help="for programs")
    found.set_defaults(ask=ask, tell=tell, stub=stub)
    return found


def run(flags: argparse.Namespace) -> int:
    """Connects, asks, and says in one line what was refused; 1 then."""
    try:
        token = flags.token_file.read_text() if flags.token_file else os.environ.get("TROIKA_TOKEN", "")
    except OSError as error:
        sys.stderr.write(f"TOKEN_NOT_READ: {error}\n")
        return 1
    caller, _, secret = token.strip().partition(".")
    return asyncio.run(_asked(flags, caller, secret))


async def _asked(flags: argparse.Namespace, caller: str, secret: str) -> int:
    async with rpc.connect(flags.target, caller, secret) as channel:
        try:
            answer = await flags.ask(flags.stub(channel), flags)
        except grpc.aio.AioRpcError as error:
            reason, field = rpc.reason_of(error)
            about = f" ({field})" if field else ""
            if not reason and error.code() in _SILENT:
                reason, about = "ORCHESTRATOR_UNAVAILABLE", f" ({flags.target})"
            sys.stderr.write(f"{reason or error.code().name}{about}: {error.details()}\n")
            return 1
    if flags.json:
        told = MessageToJson(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    else:
        told = flags.tell(answer)
    sys.stdout.write(told + "\n")
    return 0


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their widest word; "none" without rows."""
    lines = [[str(word) for word in row] for row in rows]
    if not lines:
        return "none"
    widths = [max(len(line[n]) for line in [list(titles), *lines]) for n in range(len(titles))]
    return "\n".join(
        "  ".join(f"{word:<{width}}" for word, width in zip(line, widths, strict=True)).rstrip() for line in [titles, *lines]
    )


def shown(stamp: Timestamp) -> str:
    """A moment in UTC, to the minute; nothing for none."""
    return f"{stamp.ToDatetime():%Y-%m-%d %H:%M}" if stamp.seconds else ""


def moment(text: str) -> datetime:
    """A day or a moment in ISO 8601; UTC unless it says otherwise."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
