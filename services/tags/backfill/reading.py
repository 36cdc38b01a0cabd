"""The past of some tags, out of the lake: what its events state, anchor by anchor in the order of their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

import orjson

from services.tags.domain.catalogue import Catalogue, FromEvents, Kind, TagDefinition
from services.tags.domain.facts import FactRules, Occurrence, Statement
from services.tags.lake.dialects import DUCKDB
from services.tags.lake.engines import DuckDb
from services.tags.lake.reading import Lake

_ROWS: Final = 10_000


class Past(NamedTuple):
    """What the events of one anchor state, in no order that matters."""

    anchor_id: int
    said: Sequence[tuple[Occurrence, Sequence[Statement]]]


def pasts(
    engine: DuckDb, lake: Lake, kind: Kind, definitions: Sequence[TagDefinition], cut: int, after_anchor: int
) -> Iterator[Past]:
    """Of messages up to `cut` all that says something of these tags, for anchors after one.

    Runs where it may block. Raises FileNotFoundError when files are tidied up meanwhile; begin again then, where one was.
    """
    rules = FactRules(Catalogue(definitions))
    engine.read(lake)
    reader = engine.stream(_query(kind, definitions, cut, after_anchor), _ROWS)
    rows = (row for batch in reader for row in batch.to_pylist())
    for anchor_id, own in groupby(rows, itemgetter("anchor_id")):
        # A row may be there twice: as what is late, and in its day.
        once = {row["event_id"]: row for row in own}.values()
        said = [(occurrence, stated) for row in once for occurrence, stated in [_stated(rules, kind, row)] if stated]
        if said:
            yield Past(anchor_id, said)


def _query(kind: Kind, definitions: Sequence[TagDefinition], cut: int, after_anchor: int) -> str:
    origins = [definition.origin for definition in definitions if isinstance(definition.origin, FromEvents)]
    names = {name for origin in origins for name in origin.events}
    every = any(not origin.events for origin in origins)
    wanted = "" if every else f" AND event IN ({', '.join(DUCKDB.word(name) for name in sorted(names))})"
    return (
        "SELECT anchor_id, event_id, source, event, occurred_us, received_us, numbers, words, flags, other FROM events"  # noqa: S608
        # Rows of before the lake kept it are older than any cut.
        f" WHERE entity_kind = {int(kind)} AND anchor_id > {after_anchor} AND COALESCE(sequence, 0) <= {cut}{wanted}"
        " ORDER BY anchor_id"
    )


def _stated(rules: FactRules, kind: Kind, row: dict[str, Any]) -> tuple[Occurrence, list[Statement]]:
    tie = int.from_bytes(row["event_id"][:8], "big") >> 1
    occurrence = Occurrence(row["source"], row["event"], row["occurred_us"], tie, row["received_us"])
    # What is nested is of no tag's type; it only counts as being there.
    properties: dict[str, Any] = {name: {} for name, _ in row["other"] or ()}
    for column in ("numbers", "words", "flags"):
        properties.update(row[column] or ())
    return occurrence, rules.stated(kind, occurrence, orjson.dumps(properties))
