"""Write an overlay to files: `python -m local.overlay --persons 1000 --seed 7 --out DIR`."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from local.overlay import Overlay, OverlayRates

_BUFFER = 1 << 20


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("wb", buffering=_BUFFER) as file:
        for row in rows:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    return count


def _file_name(source: str) -> str:
    return source.replace(":", "_") + ".ndjson"


def main() -> None:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(
        prog="python -m local.overlay",
        description="Make identities around the contacts of the shipped campaign and write them as JSON lines: "
        "records/SOURCE.ndjson, events/SOURCE.ndjson (call_center holds the past campaign's real answers), truth.json. "
        "Contacts, attributes and answers are real; persons, cars, records and behaviour are made.",
    )
    parser.add_argument("--persons", type=int, default=1000, help="how many; above 33095 contacts are resampled (default 1000)")
    parser.add_argument("--seed", type=int, default=7, help="same seed, same bytes (default 7)")
    parser.add_argument("--doubled-noise", action="store_true", help="double every noise rate")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to; made if missing")
    args = parser.parse_args()
    if args.persons < 1 or args.seed < 0:
        parser.error("--persons must be at least 1 and --seed at least 0")
    rates = OverlayRates().doubled() if args.doubled_noise else OverlayRates()
    overlay = Overlay(args.persons, args.seed, rates)
    records = sum(_write(args.out / "records" / _file_name(source), overlay.records(source)) for source in overlay.sources)
    events = _write(args.out / "events" / _file_name("call_center"), overlay.past_events())
    for source in overlay.event_sources:
        events += _write(args.out / "events" / _file_name(source), overlay.behaviour_events(source))
    for source in overlay.sources:
        if source.startswith("dealer:"):
            events += _write(args.out / "events" / _file_name(source), overlay.workshop_events(source))
    with (args.out / "truth.json").open("wb", buffering=_BUFFER) as file:
        file.writelines(overlay.truth.json_chunks())
    print(f"{args.persons} persons, {records} records from {len(overlay.sources)} sources, {events} events in {args.out}")


if __name__ == "__main__":
    main()
