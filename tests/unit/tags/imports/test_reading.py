"""Files: every kind of broken file is told as such, and lines keep their numbers wherever the reading begins."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from services.tags.imports import reading
from services.tags.imports.files import ImportFiles
from services.tags.imports.reading import FileFault
from tests.unit.tags.imports.catalogue import HASH, HEAD, MAPPING, cells, csv, opened, plan, rows

SMALL = "partner: acme\nmatch: {column: phone, kind: mobile}\ntime: 2026-03-01\ntags: {income_band: income}"
CHINESE = SMALL + "\nformat: {encoding: gbk}"


def test_columns_are_found_by_name_and_others_are_left_out() -> None:
    found = rows("secret,income,phone\nx,low,h1\ny,high,h2\n", SMALL)
    assert [["h1", "low"], ["h2", "high"]] == cells(found)
    assert [2, 3] == [row.line for row in found]


def test_a_byte_order_mark_and_carriage_returns_are_no_part_of_the_head() -> None:
    assert [["h1", "低"]] == cells(rows(b"\xef\xbb\xbfphone,income\r\nh1,\xe4\xbd\x8e\r\n", SMALL))


def test_gbk_is_read_where_the_mapping_says_so_and_told_where_it_does_not() -> None:
    content = "phone,income\nh1,中等\n".encode("gbk")
    assert [["h1", "中等"]] == cells(rows(content, CHINESE))
    with pytest.raises(FileFault, match="line 2 is not utf-8") as error:
        rows(content, SMALL)
    assert "INVALID_ENCODING" == error.value.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "EMPTY_FILE"),
        (b"phone,income,phone\nh,l,h\n", "DUPLICATE_COLUMN"),
        (b"phone,incme\nh,l\n", "UNKNOWN_COLUMN"),
        (b"\xff\xfep\0h\0", "INVALID_ENCODING"),
        (b'phone,income\nh1,"low\nh2,high\n', "INVALID_CSV"),
        (b'phone,income\nh1,"lo"w\n', "INVALID_CSV"),
        (b"phone,income\n" + b"x" * (reading.MAX_LINE + 1), "LINE_TOO_LONG"),
        (b"PAR1 and nothing else", "BROKEN_PARQUET"),
    ],
)
def test_a_broken_file_is_told_as_a_whole(content: bytes, reason: str) -> None:
    with pytest.raises(FileFault) as error:
        reading.check(opened(content), plan(SMALL), "f.csv")
    assert reason == error.value.reason and "file" == error.value.field


def test_a_parquet_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileFault) as error:
        reading.check(opened(b"phone,income\n"), plan(SMALL), "delivery.parquet")
    assert "BROKEN_PARQUET" == error.value.reason


def test_a_row_of_another_width_is_refused_alone_and_a_huge_cell_passes_to_its_judge() -> None:
    found = rows(f"phone,income\nh1\nh2,low\nh3,{'x' * 1_000_000}\n\nh4,low,more\n", SMALL)
    assert [(2, reading.WRONG_NUMBER_OF_CELLS), (3, ""), (4, ""), (6, reading.WRONG_NUMBER_OF_CELLS)] == [
        (row.line, row.fault) for row in found
    ]
    assert 1_000_000 == len(str(found[2].cells[1]))


def test_a_quoted_line_break_counts_as_a_line_and_the_row_bears_the_number_of_its_first() -> None:
    found = rows('phone,income\nh1,"a\nb"\nh2,low\n', SMALL)
    assert [(2, ["h1", "a\nb"]), (4, ["h2", "low"])] == [(row.line, list(row.cells)) for row in found]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters='"\r\0', exclude_categories=("Cs",)), max_size=8)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=30), st.integers(1, 7), st.integers(0, 12))
def test_reading_goes_on_behind_any_chunk_without_loss_or_repetition(
    table: list[tuple[str, str]], size: int, stop: int
) -> None:
    content = "phone,income\n" + "".join(f'"{one}","{other}"\n' for one, other in table)
    whole = rows(content, SMALL)
    assert [list(row) for row in table] == cells(whole)
    begun, end = [], 0
    for chunk in list(reading.chunks(opened(content), plan(SMALL), 0, size))[:stop]:
        begun += chunk.rows
        end = chunk.end
    assert whole == begun + rows(content, SMALL, after=end, size=size)


def parquet(table: pa.Table, rows_in_group: int = 3) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=rows_in_group)
    return sink.getvalue()


def test_parquet_is_read_by_row_with_its_own_types_and_goes_on_anywhere() -> None:
    table = pa.table(
        {
            "other": ["x"] * 10,
            "phone": pa.array([bytes([n]) * 32 for n in range(10)], pa.binary(32)),
            "income": [str(n) for n in range(10)],
        }
    )
    content = parquet(table)
    whole = rows(content, SMALL)
    assert [(n + 1, [bytes([n]) * 32, str(n)]) for n in range(10)] == [(row.line, list(row.cells)) for row in whole]
    for after in range(11):
        assert whole[after:] == rows(content, SMALL, after=after, size=2)
    assert 10 == reading.check(opened(content), plan(SMALL), "f.parquet").lines


def test_a_torn_parquet_file_is_told_before_anything_is_taken_from_it() -> None:
    whole = parquet(pa.table({"phone": [HASH] * 5000, "income": [f"{n}" for n in range(5000)]}), 1000)
    for torn in (
        whole[: len(whole) // 2],
        whole[:-8],
        b"PAR1" + b"\0" * 50 + whole[54:],
        whole[:2000] + b"\xff" * 4000 + whole[6000:],
    ):
        with pytest.raises(FileFault) as error:
            reading.check(opened(torn), plan(SMALL), "f.parquet")
        assert "BROKEN_PARQUET" == error.value.reason
    with pytest.raises(FileFault) as error:
        rows(parquet(pa.table({"phone": [HASH]})), SMALL)
    assert "UNKNOWN_COLUMN" == error.value.reason


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    with path.open("w") as file:
        file.write(HEAD + "\n")
        for number in range(60_000):
            file.write(f"{number:064x},2026-03-01,0.5,1,3,yes,golf;tea,2026-01-01,text {number}\n")
    with ImportFiles(None).open(ImportFiles.of_path(path)) as file:
        tracemalloc.start()
        checked = reading.check(file, plan(MAPPING), path.name)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert 60_000 == checked.lines and peak < 10 * 1024 * 1024 < 2 * path.stat().st_size


def test_an_upload_is_its_parts_in_any_order_and_says_where_to_go_on(tmp_path: Path) -> None:
    files = ImportFiles(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))
    content = csv(*(f"{n},2026-03-01" for n in range(100)), head="phone,as_of").encode()
    assert 0 == files.keep_part("upload-1", 200, content[200:300])
    assert 100 == files.keep_part("upload-1", 0, content[:100])
    with pytest.raises(Exception, match="part of the upload is missing"):
        files.of_upload("upload-1")
    assert 300 == files.keep_part("upload-1", 50, content[50:250])
    assert len(content) == files.keep_part("upload-1", 300, content[300:])
    assert len(content) == files.keep_part("upload-1", 0, content[:100])
    source = files.of_upload("upload-1")
    with files.open(source) as file:
        assert content == file.read()
        file.seek(-7, io.SEEK_END)
        assert content[-7:] == file.read()
    files.forget(source)
    with pytest.raises(FileNotFoundError):
        files.open(source)


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.csv", "a/../../b.csv", "uploads/upload-1/0", "", "a\\b"])
def test_a_path_out_of_the_store_is_refused(tmp_path: Path, path: str) -> None:
    files = ImportFiles(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))
    with pytest.raises(Exception, match="a path below the import store"):
        files.of_store(path)
