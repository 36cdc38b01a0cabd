"""Rows to observed events: by a mapping, as records already are, or as ADF leads; and what people are shown of a dry run."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from services.touchpoints.domain import adf, records
from services.touchpoints.domain.observed import Invalid, Observed, Source
from services.touchpoints.imports import mapping, reading
from services.touchpoints.imports.mapping import FileMapping, MappingError
from services.touchpoints.imports.reading import FileFault, Layout, Row
from services.touchpoints.ingest import small

_ADF: Final = "adf"
_ENDINGS: Final = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".xml": _ADF,
    ".adf": _ADF,
}
# Leads of a year of one dealer; a tree of elements takes some ten times the file.
MOST_ADF_BYTES: Final = 16 * 1024 * 1024
# What identifies a person or car is shown by its ends only.
_SHORT: Final = 6


@dataclass(frozen=True)
class Plan:
    """How one file is read, and what becomes of its rows."""

    layout: Layout
    mapping: FileMapping | None

    @property
    def is_adf(self) -> bool:
        """Whether the file is a document of leads."""
        return self.layout.kind == _ADF


def plan(text: str, file_name: str) -> Plan:
    """How to read a file by a mapping (YAML, or nothing where the file needs none). Raises MappingError."""
    ending = "." + file_name.lower().rpartition(".")[2]
    given = mapping.parse(text) if text.strip() else None
    kind = (given.kind if given else "") or _ENDINGS.get(ending, "")
    if kind == _ADF:
        if given:
            raise MappingError("leads in ADF take no mapping", field="mapping")
        return Plan(Layout(_ADF), None)
    if given is None and kind != "jsonl":
        raise MappingError(f"a {kind or ending} file needs a mapping", reason="MAPPING_MISSING", field="mapping")
    if not given:
        return Plan(Layout(kind), None)
    delimiter = "\t" if ending == ".tsv" and given.delimiter == "," else given.delimiter
    return Plan(Layout(kind or "csv", given.columns, given.encoding, delimiter), given)


def look(file: io.BufferedReader, how: Plan) -> reading.Looked:
    """Reads all bytes once. Raises FileFault."""
    if not how.is_adf:
        return reading.look(file, how.layout)
    looked = reading.look_bytes(file, MOST_ADF_BYTES)
    return reading.Looked(looked.sha256, len(_leads(file)))


def rows(file: io.BufferedReader, how: Plan, after: int) -> Iterator[Row]:
    """Rows behind a line; of leads behind so many of them. Raises FileFault."""
    if not how.is_adf:
        return reading.rows(file, how.layout, after)
    return (Row(number, number, lead) for number, lead in enumerate(_leads(file), 1) if number > after)


def _leads(file: io.BufferedReader) -> list[Any]:
    file.seek(0)
    try:
        return adf.leads(file.read(MOST_ADF_BYTES))
    except Invalid as error:
        raise FileFault(f"the file {error.message}", reason=error.reason, field="file") from None


def observer(how: Plan, source: Source, at_us: int, oldest_us: int) -> Callable[[Row], Observed]:
    """What makes rows events, as of one moment; that raises Invalid naming the part at fault."""
    given, arrival = how.mapping, adf.Arrival(source, at_us, oldest_us)

    def observe(row: Row) -> Observed:
        if row.fault:
            raise Invalid("", row.fault, row.fault.lower())
        if how.is_adf:
            event = adf.observe(row.cells, arrival)
        else:
            event = records.observe(given.record(row.cells) if given else row.cells, source, at_us, oldest_us)
        small(event)
        return event

    return observe


def shown(event: Observed) -> dict[str, Any]:
    """An event as a dry run shows it: identifiers masked, the rest as tags would see it."""
    return {
        "event": event.name,
        "occurred_at_us": event.occurred_at_us,
        "identifiers": {kind: masked(value) for kind, _, value in event.identifiers},
        "name": masked(event.person_name),
        "has_address": bool(event.address),
        "has_birth_date": bool(event.birth_date),
        "relation": event.relation,
        "attributes": orjson.loads(event.properties or b"{}"),
        "vehicle": orjson.loads(event.vehicle_properties or b"{}"),
    }


def masked(value: str) -> str:
    """Enough of a value to see that the right column was taken, too little to know it."""
    if not value:
        return ""
    ends = 2 if len(value) > _SHORT else 1 if len(value) > 2 else 0
    return value[:ends] + "*" * (len(value) - 2 * ends) + value[len(value) - ends :] if ends else "*" * len(value)
