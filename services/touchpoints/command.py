"""`troika source …`: who may write in, from a terminal."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

import grpc
import orjson
from troika.touchpoints.v1 import touchpoints_service_pb2 as pb
from troika.touchpoints.v1.touchpoints_service_pb2_grpc import TouchpointsServiceStub

from chassis import terminal
from chassis.run import PlainVerb

TIMEOUT_S: Final = 30.0
_SERVICE, _PORT = "touchpoints", 7005


def _run(flags: argparse.Namespace) -> int:
    async def use(channel: grpc.aio.Channel) -> int:
        stub: Any = TouchpointsServiceStub(channel)
        kind = pb.USER_ID_KIND_OPENID if flags.openids_of else pb.USER_ID_KIND_CRM_ID
        source = pb.Source(name=flags.name, user_id_kind=kind, appid=flags.openids_of)
        request = pb.CreateSourceRequest(source=source, server_side=flags.server_side)
        key = (await stub.CreateSource(request, timeout=TIMEOUT_S)).write_key
        told = orjson.dumps({"source": flags.name, "server_side": flags.server_side, "key": key}).decode()
        sys.stdout.write((told if flags.json else key) + "\n")
        return 0

    return terminal.ask(flags, _SERVICE, use)


def _arguments(parser: argparse.ArgumentParser) -> None:
    terminal.door_arguments(parser, _SERVICE, _PORT)
    parser.add_argument("name", help='for example "app" or "dealer:D001"')
    parser.add_argument("--openids-of", default="", metavar="APPID", help="its user ids are openids of this WeChat account")
    parser.add_argument(
        "--server-side", action="store_true", help="the key that stays on servers; without it the one for browsers and apps"
    )


VERBS = (PlainVerb("source", "register a source, or give it a new key; the key is shown once", _run, _arguments),)
