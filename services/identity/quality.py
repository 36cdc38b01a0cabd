"""How good the records of each source are, counted in the tables: what is refused, shared, contradicted, doubled, missing."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from chassis.db import Database, UnitOfWork
from services.identity.domain.kinds import Kind
from services.identity.domain.relations import OWNS, Evidence
from services.identity.settings import Settings

PLACEHOLDER, ERASED = "PLACEHOLDER", "ERASED"
OPENED_BY_USERS = frozenset({"app", "wechat"})
REFUSED_LINK, OTHER_NAME, OTHER_OWNER = "REFUSED_LINK", "OTHER_NAME", "OTHER_OWNER"
# Values that one person alone has: where the record and the value are two persons', a guard refused the link.
_EXCLUSIVE = ", ".join(str(int(kind)) for kind in (Kind.ID_CARD, Kind.OPENID, Kind.UNIONID))
# Values that a family shares: there the name on the record was somebody else's.
_NAMED = ", ".join(str(int(kind)) for kind in (Kind.MOBILE, Kind.EMAIL))
_MOBILE, _ID_CARD, _CRM_ID = int(Kind.MOBILE), int(Kind.ID_CARD), int(Kind.CRM_ID)


@dataclass(frozen=True)
class Quality:
    """One source. Shares are of its records; `invalid` and `placeholder` are per event, for an event is refused each time."""

    source: str
    records: int
    events: int
    identifiers: int
    invalid: float
    placeholder: float
    shared: float
    conflicting: float
    duplicates: float
    missing: Mapping[str, float]
    refusals: Sequence[tuple[str, str, int]]
    conflicts: Mapping[str, int]

    @property
    def defects(self) -> float:
        """Defects per record: the order of the report.

        An id card is nothing that every record must bear, nor do accounts that people open themselves owe a name.
        """
        wrong = self.invalid + self.placeholder + self.shared + self.conflicting + self.duplicates
        return (
            wrong if self.source.partition(":")[0] in OPENED_BY_USERS else wrong + self.missing["mobile"] + self.missing["name"]
        )


# Records are the sources' own keys. Owners are those told last; a record contradicts them when it names an owner while the
# car was another's.
RECORDS = (
    "WITH record AS MATERIALIZED (SELECT i.id, i.entity_id, s.id AS source_id FROM identifier i"  # noqa: S608
    " JOIN scope sc ON sc.id = i.scope_id JOIN source s ON s.name = sc.name"
    f" WHERE i.kind = {_CRM_ID} AND i.anchor AND ($1 = '' OR s.name = $1)),"
    " owned AS MATERIALIZED (SELECT DISTINCT e.subject_id AS id FROM relation_evidence e JOIN record r ON r.id = e.subject_id"
    f" JOIN identifier v ON v.id = e.object_id WHERE e.kind = {int(Evidence.OWNS)} AND EXISTS (SELECT 1 FROM relation t"
    f" WHERE t.kind = '{OWNS}' AND t.object_kind = 2 AND t.object_id = v.entity_id AND t.subject_id <> r.entity_id"
    " AND t.valid_from_us <= e.last_seen_us AND (t.valid_to_us = 0 OR e.last_seen_us < t.valid_to_us))),"
    " held AS (SELECT r.id, r.source_id, r.entity_id, count(DISTINCT l.value_id) AS identifiers,"
    f" coalesce(bool_or(v.kind = {_MOBILE}), false) AS mobile, coalesce(bool_or(v.kind = {_ID_CARD}), false) AS id_card,"
    " coalesce(bool_or(l.name <> 0), false) OR coalesce(bool_or(p.name <> 0), false) AS name,"
    " coalesce(bool_or(v.person_guard <> 0), false) AS shared,"
    f" coalesce(bool_or(v.kind IN ({_EXCLUSIVE}) AND v.person_guard = 0 AND v.entity_id <> r.entity_id), false) AS refused,"
    f" coalesce(bool_or(v.kind IN ({_NAMED}) AND v.person_guard = 0 AND v.entity_id <> r.entity_id), false) AS other_name,"
    " bool_or(o.id IS NOT NULL) AS other_owner"
    " FROM record r LEFT JOIN link l ON l.anchor_id = r.id LEFT JOIN identifier v ON v.id = l.value_id"
    " LEFT JOIN profile p ON p.anchor_id = r.id LEFT JOIN owned o ON o.id = r.id GROUP BY r.id, r.source_id, r.entity_id)"
    " SELECT source_id, count(*), coalesce(sum(identifiers), 0)::bigint, count(*) - count(DISTINCT entity_id),"
    " count(*) FILTER (WHERE NOT mobile), count(*) FILTER (WHERE NOT name), count(*) FILTER (WHERE NOT id_card),"
    " count(*) FILTER (WHERE shared), count(*) FILTER (WHERE refused), count(*) FILTER (WHERE other_name),"
    " count(*) FILTER (WHERE other_owner), count(*) FILTER (WHERE refused OR other_name OR other_owner)"
    " FROM held GROUP BY source_id"
)
EVENTS = (
    "SELECT s.id, s.name, count(o.event_id) FROM source s LEFT JOIN observation o ON o.source_id = s.id"
    " WHERE $1 = '' OR s.name = $1 GROUP BY s.id, s.name"
)


async def report(uow: UnitOfWork, source: str = "") -> list[Quality]:
    """All sources, or the one named, worst first. Reads the tables through: minutes on hundreds of millions of events."""
    records = {row[0]: tuple(row)[1:] for row in await uow.fetch(RECORDS, source)}
    refusals: defaultdict[int, list[tuple[str, str, int]]] = defaultdict(list)
    for row in await uow.fetch(
        "SELECT source_id, kind, reason, identifiers FROM rejected ORDER BY identifiers DESC, kind, reason"
    ):
        refusals[row[0]].append((row[1], row[2], row[3]))
    sources = await uow.fetch(EVENTS, source)
    found = [_quality(name, events, records.get(id_, (0,) * 11), refusals[id_]) for id_, name, events in sources]
    return sorted(found, key=lambda quality: (-quality.defects, quality.source))


def _quality(name: str, events: int, counted: Sequence[int], refusals: Sequence[tuple[str, str, int]]) -> Quality:
    records, identifiers, doubled, *missing, shared, refused, other_name, other_owner, conflicting = counted
    placeholders = sum(count for _, reason, count in refusals if reason == PLACEHOLDER)
    # That somebody was erased is no fault of the source.
    invalid = sum(count for _, reason, count in refusals if reason not in (PLACEHOLDER, ERASED))
    # Events that brought nothing valid are not among the events, their refusals are.
    taken, whole = max(events, 1), max(records, 1)
    return Quality(
        source=name,
        records=records,
        events=events,
        identifiers=identifiers + records,
        invalid=invalid / taken,
        placeholder=placeholders / taken,
        shared=shared / whole,
        conflicting=conflicting / whole,
        duplicates=doubled / whole,
        missing={field: n / whole for field, n in zip(("mobile", "name", "id_card"), missing, strict=True)},
        refusals=refusals,
        conflicts={REFUSED_LINK: refused, OTHER_NAME: other_name, OTHER_OWNER: other_owner},
    )


_HEAD = ("source", "records", "events", "invalid", "placeh.", "shared", "conflict", "double", "no phone", "no name", "defects")


def table(sources: Sequence[Quality]) -> str:
    """The report for people: one line per source, shares in percent, then what was refused most."""
    rows: list[tuple[str, ...]] = [_HEAD]
    for q in sources:
        shares = (q.invalid, q.placeholder, q.shared, q.conflicting, q.duplicates, q.missing["mobile"], q.missing["name"])
        rows.append((q.source, f"{q.records:,}", f"{q.events:,}", *(f"{share:.2%}" for share in shares), f"{q.defects:.3f}"))
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEAD))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    most: defaultdict[tuple[str, str], int] = defaultdict(int)
    for q in sources:
        for kind, reason, count in q.refusals:
            most[kind, reason] += count
    top = sorted(most.items(), key=lambda entry: (-entry[1], entry[0]))[:8]
    lines += ["", "refused most: " + (", ".join(f"{kind} {reason} {count:,}" for (kind, reason), count in top) or "nothing")]
    return "\n".join(lines) + "\n"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("--json", action="store_true", help="one JSON object per source and line")
    parser.add_argument("--source", default="", help="only this one, for example dealer:D001")


async def show(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb `quality`."""
    database = Database(settings.postgres_dsn, "identity", 1)
    try:
        async with database.read() as uow:
            sources = await report(uow, flags.source)
    finally:
        await database.close()
    if flags.json:
        lines: list[Any] = [asdict(quality) | {"defects_per_record": quality.defects} for quality in sources]
        sys.stdout.write("".join(orjson.dumps(line).decode() + "\n" for line in lines))
    else:
        sys.stdout.write(table(sources))
