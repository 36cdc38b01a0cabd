"""What becomes of an event's properties, and that the same rows are the same bytes."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from troika.identity.v1 import events_pb2 as identity

from services.tags.lake import files
from services.tags.lake.rows import SCHEMA, Properties, conformed, merged
from services.tags.lake.writing import rows_of


def read(properties: bytes) -> dict[str, Any]:
    column = Properties()
    column.add(properties)
    numbers, words, flags, moments, other = (array.to_pylist()[0] for array in column.arrays())
    return {
        "numbers": dict(numbers),
        "words": dict(words),
        "flags": dict(flags),
        "moments": dict(moments),
        "other": dict(other),
    }


NOTHING: dict[str, Any] = {"numbers": {}, "words": {}, "flags": {}, "moments": {}, "other": {}}


def test_each_property_is_in_the_map_of_its_type() -> None:
    given_ = {"a": 1, "b": 2.5, "c": "X5", "d": True, "e": "2022-03-01", "f": None, "g": {"h": [1]}}
    expected = {
        "numbers": {"a": 1.0, "b": 2.5},
        "words": {"c": "X5", "e": "2022-03-01"},
        "flags": {"d": True},
        "moments": {"e": 1646092800.0},
        "other": {"g": '{"h":[1]}'},
    }
    assert expected == read(orjson.dumps(given_))


def test_rubbish_says_nothing_and_hurts_nobody() -> None:
    assert NOTHING == read(b"")
    assert NOTHING == read(b"[1,2]")
    assert NOTHING == read(b'{"a":NaN}')
    assert NOTHING == read(b'{"a":' * 5000 + b"1" + b"}" * 5000)
    long = read(orjson.dumps({"a": "2" * 1_000_000, "y" * 1_000_000: 1, "z": {"deep": "x" * 1_000_000}}))
    assert NOTHING | {"words": {"a": "2" * 2000}, "other": {"z": ""}} == long
    assert NOTHING | {"numbers": {"a": 1e300}} == read(b'{"a":1e300}')
    assert NOTHING | {"words": {"a": "99999999", "b": "2022-13-45"}} == read(b'{"a":"99999999","b":"2022-13-45"}')


EVENTS = st.builds(
    lambda number, anchor, at, car: identity.ResolvedEvent(
        event_id=hashlib.sha256(str(number).encode()).digest()[:16],
        source="app",
        name="Order Placed",
        # What an id stands for does not change from one delivery to the next.
        occurred_at_us=(number * 7_919) % 5,
        person=identity.AnchorOwner(anchor_id=1 + number % 4),
        vehicle=identity.AnchorOwner(anchor_id=number % 3),
        properties_json=orjson.dumps({"amount": number, "word": str(number)}),
    ),
    st.integers(0, 40),
    st.integers(),
    st.integers(),
    st.integers(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(EVENTS, max_size=8), min_size=1, max_size=5), st.randoms())
def test_the_same_events_in_any_batches_order_and_repetition_are_the_same_bytes(batches: list[list[Any]], random: Any) -> None:
    def written(parts: list[list[Any]]) -> bytes:
        table = SCHEMA.empty_table()
        for part in parts:
            made = rows_of([(1, identity.ResolvedBatch(events=part))], {})
            table = merged([table, *made.values()])
        return files.encoded(table).to_pybytes()

    events = [event for batch in batches for event in batch]
    once = written([events])
    shuffled = events + events[: len(events) // 2]
    random.shuffle(shuffled)
    assert once == written(batches)
    assert once == written([shuffled[i : i + 3] for i in range(0, len(shuffled), 3)])


def test_files_of_an_older_and_a_newer_layout_can_be_read() -> None:
    rows = rows_of([(1, identity.ResolvedBatch(events=[identity.ResolvedEvent(person=identity.AnchorOwner(anchor_id=1))]))], {})
    [table] = rows.values()
    old = table.drop_columns(["other", "moments", "received_us"])
    narrow = old.set_column(old.schema.get_field_index("entity_kind"), "entity_kind", pa.array([1], pa.int8()))
    sink = pa.BufferOutputStream()
    pq.write_table(narrow.append_column("of_tomorrow", pa.array(["?"])), sink)
    back = conformed(pq.ParquetFile(pa.BufferReader(sink.getvalue())).read())
    assert SCHEMA.equals(back.schema)
    assert [(1, 1, None, None)] == [
        (r["entity_kind"], r["anchor_id"], r["received_us"], r["moments"]) for r in back.to_pylist()
    ]
