"""`python -m local up` keeps the suite running; `python -m local demo` runs the main job and stops."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from local.keys import PEOPLE
from local.supervisor import ROOT, StartError, Suite

STATE = ROOT / ".troika"


def main() -> int:
    """Reads the command line, runs one verb, returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local", description="Troika on one machine, no server to install.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="start the suite and keep it running until Ctrl-C")
    demo = verbs.add_parser(
        "demo",
        help="run the whole loop on a real campaign, report, stop",
        description="Runs the whole loop on a real campaign and writes .troika/demo/report.json and report.png.",
    )
    default = int(os.environ.get("DEMO_PERSONS", "33095"))
    demo.add_argument("--persons", type=int, default=default, help="how many (default: DEMO_PERSONS or all 33095 contacts)")
    demo.add_argument("--seed", type=int, default=7, help="of everything that is made (default 7)")
    arguments = parser.parse_args()
    if arguments.verb == "up":
        return _run(_up())
    from local.demo.run import demo as run_demo

    return _run(run_demo(arguments.persons, arguments.seed, STATE / "demo"))


async def _up() -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    print("starting; the first time takes a few seconds longer", flush=True)
    async with Suite(STATE / "up", usual_ports=True, say=lambda text: print(text, flush=True)) as suite:
        print("\nservice         gRPC              HTTP (/livez /readyz /metrics)")
        for service in suite.ports.grpc:
            print(f"{service:<15} {suite.address(service, 'grpc'):<17} {suite.url(service)}")
        print(f"\nPostgreSQL      {'embedded, port ' + str(suite.ports.postgres) if 'postgres' in suite.children else 'yours'}")
        print(f"NATS            {suite.nats_url if 'nats' in suite.children else 'yours'}")
        for person in PEOPLE:
            print(f"{person + ' token':<15} {suite.token_file(person)}  (gRPC metadata `authorization: Bearer <token>`)")
        print(f"logs            {suite.logs}\n\nCtrl-C stops everything.", flush=True)
        await stopping.wait()
        print("stopping", flush=True)
    return 0


def _run(work: Coroutine[Any, Any, int]) -> int:
    async def cancellable() -> int:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    try:
        return asyncio.run(cancellable())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    except StartError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
