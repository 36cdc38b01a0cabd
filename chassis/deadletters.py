"""Look at and replay what could not be processed: `python -m chassis.deadletters list|replay --help`.

Payloads are not shown: they are protobuf, and what is personal in them is sealed. Where NATS is spoken to by TLS, the
certificates are those that the services have: TROIKA_TLS_FOLDER, TROIKA_NATS_CA_FILE. In a pod all of it is set.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

import orjson

from chassis.bus import DEAD_LETTERS, Bus, Message
from chassis.tls import Certificates


def line(letter: Message) -> dict[str, object]:
    """What a person wants to know of a dead letter."""
    return {
        "sequence": letter.sequence,
        "consumer": letter.subject.removeprefix("troika.deadletters."),
        "reason": letter.headers.get("troika-reason", ""),
        "origin": letter.headers.get("troika-origin", ""),
        "trace": letter.headers.get("traceparent", ""),
        "bytes": len(letter.data),
    }


async def work(flags: argparse.Namespace) -> int:
    """Runs one verb; returns the exit code."""
    folder = os.environ.get("TROIKA_TLS_FOLDER")
    certificates = Certificates(folder) if folder and flags.nats_url.startswith("tls://") else None
    bus = Bus(flags.nats_url, "deadletters", certificates=certificates, ca_file=os.environ.get("TROIKA_NATS_CA_FILE", ""))
    await bus.connect()
    try:
        await bus.declare(DEAD_LETTERS)
        letters = await bus.dead_letters(
            flags.limit,
            lambda m: flags.sequence in (None, m.sequence) and flags.reason in (None, m.headers.get("troika-reason")),
        )
        for letter in letters:
            if flags.verb == "replay":
                if not letter.headers.get("troika-origin"):
                    sys.stderr.write(f"{letter.sequence}: has no origin and cannot be replayed\n")
                    continue
                await bus.replay(letter)
            sys.stdout.write(orjson.dumps(line(letter)).decode() + "\n")
    finally:
        await bus.close()
    return 0 if letters else 1


def main() -> None:
    """Reads the flags. Exit code 1 when nothing matched."""
    parser = argparse.ArgumentParser(prog="python -m chassis.deadletters", description=__doc__)
    parser.add_argument("verb", choices=("list", "replay"), help="show them, or publish them on their origin again")
    parser.add_argument("--nats-url", default=os.environ.get("TROIKA_NATS_URL"), help="default: TROIKA_NATS_URL")
    parser.add_argument("--limit", type=int, default=100, help="how many at most, oldest first (default 100)")
    parser.add_argument("--sequence", type=int, help="only this one")
    parser.add_argument("--reason", help="only those with this reason")
    flags = parser.parse_args()
    if not flags.nats_url:
        parser.error("say where NATS is: --nats-url or TROIKA_NATS_URL")
    sys.exit(asyncio.run(work(flags)))


if __name__ == "__main__":
    main()
