"""Rows of the lake: one per event and kind of entity that it is about, its properties by type.

A property of an unexpected type is in no map of the other types, as it says nothing there. Rows of one file are sorted and
free of repeats, so that the same rows are always the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from services.tags.domain.facts import MAX_TEXT, MAX_WORD
from services.tags.domain.language import seconds

# Longer names belong to no tag's property. Of longer words no tag takes more (as in domain.facts), a category nothing.
MAX_NAME: Final = 200
MAX_NESTED: Final = 8_192

_WORD_MAP = pa.map_(pa.string(), pa.string())
_NUMBER_MAP = pa.map_(pa.string(), pa.float64())
_FLAG_MAP = pa.map_(pa.string(), pa.bool_())

# To add a column, append it: files without it read as null. Properties need no column.
SCHEMA: Final = pa.schema(
    [
        ("event_id", pa.binary(16)),
        # Orders events of the same microsecond.
        ("tie", pa.int64()),
        ("entity_kind", pa.int16()),
        ("anchor_id", pa.int64()),
        ("source", pa.string()),
        ("event", pa.string()),
        ("occurred_us", pa.int64()),
        ("received_us", pa.int64()),
        ("numbers", _NUMBER_MAP),
        ("words", _WORD_MAP),
        ("flags", _FLAG_MAP),
        # Words that are ISO dates or times, as seconds since the epoch, in addition.
        ("moments", _NUMBER_MAP),
        # What is nested, as JSON text; empty where it is too long to keep.
        ("other", _WORD_MAP),
        # The message's place in the stream: what came before a tag was added and what came after.
        ("sequence", pa.int64()),
    ]
)
_ORDER = ("entity_kind", "anchor_id", "occurred_us", "tie", "event_id")


class Properties:
    """The properties of many rows, as the columns that Arrow makes maps of."""

    def __init__(self) -> None:
        self._numbers, self._words, self._flags, self._moments, self._other = _Map(), _Map(), _Map(), _Map(), _Map()

    def add(self, properties_json: bytes) -> None:
        """Adds one row's properties; what is no JSON object has none."""
        if properties_json:
            for name, value in _object(properties_json).items():
                kind = type(value)
                if kind is str:
                    self._words.add(name, value if len(value) <= MAX_TEXT else value[:MAX_TEXT])
                    if (moment := _moment(value)) is not None:
                        self._moments.add(name, moment)
                elif kind is float or kind is int:
                    number = float(value)
                    if math.isfinite(number):
                        self._numbers.add(name, number)
                elif kind is bool:
                    self._flags.add(name, value)
                elif value is not None:
                    text = orjson.dumps(value)
                    self._other.add(name, text.decode() if len(text) <= MAX_NESTED else "")
        for column in (self._numbers, self._words, self._flags, self._moments, self._other):
            column.close()

    def arrays(self) -> list[pa.Array]:
        """numbers, words, flags, moments, other."""
        return [
            self._numbers.array(_NUMBER_MAP),
            self._words.array(_WORD_MAP),
            self._flags.array(_FLAG_MAP),
            self._moments.array(_NUMBER_MAP),
            self._other.array(_WORD_MAP),
        ]


class _Map:
    def __init__(self) -> None:
        self._offsets, self._keys, self._items = [0], list[str](), list[Any]()

    def add(self, key: str, item: Any) -> None:
        if len(key) <= MAX_NAME:
            self._keys.append(key)
            self._items.append(item)

    def close(self) -> None:
        self._offsets.append(len(self._keys))

    def array(self, kind: pa.MapType) -> pa.Array:
        return pa.MapArray.from_arrays(
            pa.array(self._offsets, pa.int32()),
            pa.array(self._keys, kind.key_type),
            pa.array(self._items, kind.item_type),
            kind,
        )


def _object(properties_json: bytes) -> Mapping[str, Any]:
    try:
        found = orjson.loads(properties_json)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _moment(word: str) -> float | None:
    # A look at the first letter spares most words the attempt.
    if not 7 <= len(word) <= MAX_WORD or not "0" <= word[0] <= "9":
        return None
    try:
        return seconds(word)
    except (ValueError, OverflowError):
        return None


def merged(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows in the order of a file, each event of a kind once."""
    table = pa.concat_tables([conformed(table) for table in tables]).combine_chunks()
    table = table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in (*_ORDER, "received_us", "sequence")]))
    repeats = repeated(table)
    return table.filter(pa.array(~repeats)).combine_chunks() if repeats.any() else table.combine_chunks()


def repeated(table: pa.Table, last: tuple[Any, ...] | None = None) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows of a sorted table are the same event of the same kind as the row before; `last` is the row before all."""
    if not len(table):
        return np.zeros(0, np.bool_)
    ids = ids_of(table)
    keys = [table.column(name).to_numpy() for name in ("entity_kind", "anchor_id")]
    same = np.zeros(len(table), np.bool_)
    same[1:] = np.logical_and.reduce([key[1:] == key[:-1] for key in (*keys, ids)])
    same[0] = last is not None and last == (keys[0][0], keys[1][0], ids[0])
    return same


def last_key(table: pa.Table) -> tuple[Any, ...]:
    """What `repeated` wants to know of the row before a table."""
    return table.column("entity_kind")[-1].as_py(), table.column("anchor_id")[-1].as_py(), ids_of(table)[-1]


def ids_of(table: pa.Table) -> Any:
    """Event ids as numpy keys of 16 bytes."""
    chunk = pa.concat_arrays(table.column("event_id").chunks)
    data = chunk.buffers()[1]
    return np.frombuffer(data, "V16", count=len(chunk), offset=chunk.offset * 16)


def conformed(table: pa.Table) -> pa.Table:
    """A table of an older or newer file in the present columns."""
    if table.schema.equals(SCHEMA):
        return table
    columns = [
        table.column(field.name).cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in SCHEMA
    ]
    return pa.table(columns, schema=SCHEMA)
