"""Rows of files: a bad one takes no other with it, and reading goes on behind any row as if it had never stopped."""

from __future__ import annotations

import csv
import io
import tracemalloc
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.touchpoints.imports import reading
from services.touchpoints.imports.reading import FileFault, Layout, Row

CSV = Layout("csv", ("a", "b"))
WORD = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\ufeff", exclude_categories=["Cs"]), max_size=6)


def opened(content: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(content))  # type: ignore[arg-type]  # any raw stream will do


def read(content: bytes, layout: Layout = CSV, after: int = 0) -> list[Row]:
    return list(reading.rows(opened(content), layout, after))


def test_columns_are_found_by_name_and_rows_know_their_lines() -> None:
    rows = read('\ufeffx,b,a\n1,2,3\n\n4,"5\n5",6\n7,8,9'.encode())
    assert [(2, 2, ["3", "2"]), (5, 4, ["6", "5\n5"]), (6, 6, ["9", "8"])] == [row[:3] for row in rows]


def test_a_bad_row_takes_no_other_with_it() -> None:
    content = b'a,b\n1,2\n3\n4,5,6\n"7,8\n9,10\n\xff,11\n' + b"x" * reading.MAX_LINE + b",y\n12,13\n"
    assert [
        (2, ""),
        (3, "WRONG_NUMBER_OF_CELLS"),
        (4, "WRONG_NUMBER_OF_CELLS"),
        (5, "UNCLOSED_QUOTE"),
        (6, ""),
        (7, ""),
        (8, "LINE_TOO_LONG"),
        (9, ""),
    ] == [(row.line, row.fault) for row in read(content)]


def test_a_quote_within_a_word_is_a_letter_and_one_that_is_never_closed_costs_its_own_row() -> None:
    lines = [f"{n},5 inch" if n % 50 else f'{n},5" screen' if n % 100 else f'{n},"5 inch' for n in range(1, 501)]
    rows = read(("a,b\n" + "\n".join(lines) + "\n").encode())
    assert [(101, "UNCLOSED_QUOTE"), (201, "UNCLOSED_QUOTE")] == [(row.line, row.fault) for row in rows if row.fault][:2]
    assert [500, 5, '5" screen'] == [len(rows), sum(bool(row.fault) for row in rows), rows[49].cells[1]]


@settings(max_examples=60)
@given(st.lists(st.tuples(WORD, WORD), max_size=12), st.integers(0, 14))
def test_what_a_csv_writer_wrote_is_read_and_read_on_behind_any_row(table: list[tuple[str, str]], stop: int) -> None:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *table])
    content = sink.getvalue().encode()
    rows = read(content)
    assert [list(pair) for pair in table] == [row.cells for row in rows]
    after = rows[stop].end if stop < len(rows) else 0
    assert [row for row in rows if row.line > after] == read(content, after=after)


@settings(max_examples=60)
@given(st.binary(max_size=200), st.integers(0, 30))
def test_whatever_the_bytes_are_reading_ends_and_goes_on_where_it_was(content: bytes, after: int) -> None:
    content = b"a,b\n" + content
    rows = read(content)
    ends = [row.end for row in rows]
    assert sorted(ends) == ends
    stop = max((end for end in ends if end <= after), default=0)
    assert [row for row in rows if row.end > stop] == read(content, after=stop)


def test_json_lines_are_objects_or_columns_by_name_or_path() -> None:
    content = b'{"a":1,"b":{"c":[2]}}\nnothing\n[1]\n\n{"b.c":3}'
    layout = Layout("jsonl", ("a", "b.c"))
    assert [(1, [1, [2]], ""), (2, (), "NOT_JSON"), (3, (), "NOT_AN_OBJECT"), (5, [None, 3], "")] == [
        row[1:] for row in read(content, layout)
    ]
    assert [{"a": 1, "b": {"c": [2]}}, (), [1], {"b.c": 3}] == [row.cells for row in read(content, Layout("jsonl"))]


def parquet(rows: int) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"b": [str(n) for n in range(rows)], "x": [1.5] * rows, "a": list(range(rows))})
    pq.write_table(table, sink, row_group_size=7)
    return sink.getvalue()


def test_parquet_is_read_on_behind_any_row() -> None:
    layout = Layout("parquet", ("a", "b"))
    content = parquet(30)
    rows = read(content, layout)
    assert [(n + 1, (n, str(n))) for n in range(30)] == [(row.line, row.cells) for row in rows]
    assert all(rows[after:] == read(content, layout, after) for after in (0, 6, 7, 13, 29, 30))
    assert 30 == reading.look(opened(content), layout).lines


def written(table: pa.Table, **how: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **how)
    return sink.getvalue()


def test_a_long_word_in_every_row_is_in_memory_once() -> None:
    """A few KB that would be 200 MB as rows."""
    words = pa.DictionaryArray.from_arrays(
        pa.array([n % 3 if n % 3 < 2 else None for n in range(200)], pa.int32()), ["x" * 1_000_000, "y"]
    )
    content = written(pa.table({"a": words}), dictionary_pagesize_limit=1 << 24, store_schema=False)
    assert len(content) < 100_000
    before, most, words_seen = pa.total_allocated_bytes(), 0, set[int]()
    for row in reading.rows(opened(content), Layout("parquet", ("a",)), 0):
        most = max(most, pa.total_allocated_bytes() - before)
        words_seen.add(id(row.cells[0]))
    assert 3 == len(words_seen)
    assert most < 20_000_000


@pytest.mark.parametrize("value", [[1], {"x": 1}, [("k", 1)]])
def test_a_column_that_holds_no_values_is_refused_by_its_name(value: Any) -> None:
    kind = pa.map_(pa.string(), pa.int64()) if isinstance(value, list) and isinstance(value[0], tuple) else None
    table = pa.table({"a": [1], "tel": pa.array([value], kind), "other": [[1]]})
    with pytest.raises(FileFault, match="column tel holds ") as fault:
        reading.look(opened(written(table)), Layout("parquet", ("a", "tel")))
    assert "NESTED_COLUMN" == fault.value.reason
    assert 1 == reading.look(opened(written(table)), Layout("parquet", ("a",))).lines


def test_a_row_group_that_would_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_GROUP", 20_000)
    table = pa.table({"a": range(4000), "b": range(4000)})
    with pytest.raises(FileFault, match="row group 1 unpacks to ") as fault:
        reading.look(opened(written(table, use_dictionary=False)), Layout("parquet", ("a", "b")))
    assert "ROW_GROUP_TOO_LARGE" == fault.value.reason
    content = written(table, row_group_size=1000, use_dictionary=False)
    assert 4000 == reading.look(opened(content), Layout("parquet", ("a", "b"))).lines


@pytest.mark.parametrize(
    ("content", "layout", "reason"),
    [
        (b"", CSV, "EMPTY_FILE"),
        (b"a,c\n1,2\n", CSV, "UNKNOWN_COLUMN"),
        (b"a,b,a\n1,2,3\n", CSV, "DUPLICATE_COLUMN"),
        ("a,b\n".encode("utf-16"), CSV, "INVALID_ENCODING"),
        (b"PAR1", CSV, "WRONG_KIND"),
        (b"PAR1garbagePAR1", Layout("parquet", ("a",)), "BROKEN_PARQUET"),
        (b"a,b\n", Layout("parquet", ("a",)), "BROKEN_PARQUET"),
    ],
)
def test_a_file_that_is_none_is_told_before_anything_is_taken(content: bytes, layout: Layout, reason: str) -> None:
    with pytest.raises(FileFault) as fault:
        reading.look(opened(content), layout)
    assert reason == fault.value.reason


def test_memory_does_not_grow_with_the_file() -> None:
    def peak(lines: int) -> int:
        content = b"a,b\n" + b'1234567,"some words, and more"\n' * lines
        file: Any = opened(content)
        tracemalloc.start()
        for _ in reading.rows(file, CSV, 0):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(40_000) < 1.5 * peak(4_000) + 100_000
