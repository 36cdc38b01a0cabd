"""Commands that ask a running service over gRPC, in the name of whose token is shown."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from chassis import rpc
from chassis.tls import Certificates

# Codes of a service that is not there, or not any more.
SILENT: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def door_arguments(parser: argparse.ArgumentParser, service: str, port: int) -> None:
    """--target, --token-file and --json of a command that asks `service`."""
    variable = f"TROIKA_{service.upper()}_TARGET"
    target = os.environ.get(variable, f"127.0.0.1:{port}")
    parser.add_argument("--target", default=target, help=f"host:port of the gRPC door of {service}; {variable}")
    parser.add_argument("--token-file", type=Path, help="file with CALLER.TOKEN of who asks; else TROIKA_TOKEN")
    parser.add_argument(
        "--server-name", help="name in the door's certificate, where --target is another one's (a forwarded port)"
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def ask(flags: argparse.Namespace, service: str, use: Callable[[grpc.aio.Channel], Awaitable[int]]) -> int:
    """Connects, uses the channel, and says in one line what was refused; 1 then, else what `use` gives.

    Who asks is named by the certificate in TROIKA_TLS_FOLDER, or else by the token; that goes by TLS where TROIKA_AUTHORITIES,
    a file, says whose certificates doors may show.
    """
    options = [("grpc.ssl_target_name_override", flags.server_name)] if flags.server_name else []
    folder, authorities = os.environ.get("TROIKA_TLS_FOLDER"), os.environ.get("TROIKA_AUTHORITIES")
    try:
        token = flags.token_file.read_text() if flags.token_file else os.environ.get("TROIKA_TOKEN", "")
        certificates = Certificates(folder) if folder else None
        trusted = Path(authorities).read_bytes() if authorities and not folder else b""
    except OSError as error:
        sys.stderr.write(f"TOKEN_NOT_READ: {error}\n")
        return 1
    except ValueError as error:
        sys.stderr.write(f"CERTIFICATE_NOT_READ: {error}\n")
        return 1
    caller, _, secret = ("", "", "") if certificates else token.strip().partition(".")

    def connect() -> grpc.aio.Channel:
        return rpc.connect(flags.target, caller, secret, certificates, authorities=trusted, options=options)

    return asyncio.run(_used(connect, flags.target, service, use))


async def _used(
    connect: Callable[[], grpc.aio.Channel], target: str, service: str, use: Callable[[grpc.aio.Channel], Awaitable[int]]
) -> int:
    async with connect() as channel:
        try:
            return await use(channel)
        except grpc.aio.AioRpcError as error:
            reason, field = rpc.reason_of(error)
            about = f" ({field})" if field else ""
            if not reason and error.code() in SILENT:
                reason, about = f"{service.upper()}_UNAVAILABLE", f" ({target})"
            sys.stderr.write(f"{reason or error.code().name}{about}: {error.details()}\n")
            return 1


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
