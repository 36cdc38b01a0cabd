"""Verbs that ask a running orchestrator: one action of several, told in words or as JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from chassis import terminal

TIMEOUT_S: Final = 120.0
_SERVICE, _PORT = "orchestrator", 7004

Ask = Callable[[Any, argparse.Namespace], Awaitable[Message]]
Tell = Callable[[Any], str]


def action(
    actions: Any, name: str, about: str, ask: Ask, tell: Tell, stub: Callable[[grpc.aio.Channel], Any]
) -> argparse.ArgumentParser:
    """One action of a verb: whom to ask, what, and how its answer reads in words."""
    found: argparse.ArgumentParser = actions.add_parser(name, help=about)
    terminal.door_arguments(found, _SERVICE, _PORT)
    found.set_defaults(ask=ask, tell=tell, stub=stub)
    return found


def run(flags: argparse.Namespace) -> int:
    """Asks, and tells the answer."""

    async def use(channel: grpc.aio.Channel) -> int:
        answer = await flags.ask(flags.stub(channel), flags)
        if flags.json:
            told = MessageToJson(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        else:
            told = flags.tell(answer)
        sys.stdout.write(told + "\n")
        return 0

    return terminal.ask(flags, _SERVICE, use)
