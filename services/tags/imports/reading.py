"""Reads a file in chunks, flat in memory; what is wrong with the file as such is said before anything is applied.

CSV is read by Python's own reader and not by pyarrow's: it says on which line each row began, refuses single rows, and keeps
to limits of a line. Lines are split before they are decoded, which UTF-8, GBK and GB18030 all allow.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from chassis.errors import InvalidArgument
from services.tags.imports.mapping import FileMapping

CHUNK_LINES: Final = 5000
MAX_LINE: Final = 16 * 1024 * 1024
_BLOCK: Final = 1024 * 1024
_PARQUET: Final = b"PAR1"
_OTHER_BOMS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
WRONG_NUMBER_OF_CELLS: Final = "WRONG_NUMBER_OF_CELLS"


class FileFault(InvalidArgument):
    """The file cannot be used as a whole; nothing of it was applied."""

    default_reason = "INVALID_FILE"


class Row(NamedTuple):
    """A line and its cells in the order of the mapping's columns; `fault` when it has no cells to speak of."""

    line: int
    cells: Sequence[Any]
    fault: str = ""


@dataclass
class Chunk:
    """Consecutive rows, and the line or row that ended last: where to go on."""

    rows: list[Row] = field(default_factory=list)
    end: int = 0


@dataclass(frozen=True)
class Checked:
    """A file that was read through: its digest and its number of lines with data."""

    sha256: bytes
    lines: int


def check(file: io.BufferedReader, mapping: FileMapping, name: str) -> Checked:
    """Reads all of it once. Raises FileFault for what is wrong with it as such."""
    if name.lower().endswith(".parquet") and not file.peek(4).startswith(_PARQUET):
        raise FileFault("the file is no Parquet file", reason="BROKEN_PARQUET", field="file")
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    file.seek(0)
    lines = sum(len(chunk.rows) for chunk in chunks(file, mapping, 0))
    return Checked(digest.digest(), lines)


def chunks(file: io.BufferedReader, mapping: FileMapping, after: int, size: int = CHUNK_LINES) -> Iterator[Chunk]:
    """Rows behind a line, in chunks. Raises FileFault."""
    file.seek(0)
    head = file.peek(4)[:4]
    if head == _PARQUET:
        return _parquet(file, mapping, after, size)
    if head.startswith(_OTHER_BOMS):
        raise FileFault("the file is UTF-16: write it as UTF-8", reason="INVALID_ENCODING", field="file")
    if not head:
        raise FileFault("the file is empty", reason="EMPTY_FILE", field="file")
    return _csv(file, mapping, after, size)


def _csv(file: io.BufferedReader, mapping: FileMapping, after: int, size: int) -> Iterator[Chunk]:
    # Cells of any length up to a line's: they are judged one by one later.
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(_lines(file, mapping.encoding), delimiter=mapping.delimiter, strict=True)
    head = _next(reader)
    if head is None:
        raise FileFault("the file is empty", reason="EMPTY_FILE", field="file")
    places = _places([name.strip() for name in head], mapping)
    chunk = Chunk(end=max(after, reader.line_num))
    while True:
        line = reader.line_num + 1
        row = _next(reader)
        if row is None:
            break
        if line <= after or not row:
            continue
        if len(row) == len(head):
            chunk.rows.append(Row(line, [row[place] for place in places]))
        else:
            chunk.rows.append(Row(line, (), WRONG_NUMBER_OF_CELLS))
        chunk.end = reader.line_num
        if len(chunk.rows) == size:
            yield chunk
            chunk = Chunk(end=chunk.end)
    if chunk.rows:
        yield chunk


def _next(reader: Any) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise FileFault(f"line {reader.line_num}: {error}", reason="INVALID_CSV", field="file") from None


def _lines(file: io.BufferedReader, encoding: str) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise FileFault(f"line {number} is longer than {MAX_LINE:,} bytes", reason="LINE_TOO_LONG", field="file")
        if number == 1 and line.startswith(codecs.BOM_UTF8):
            if encoding != "utf-8":
                raise FileFault(f"the file is UTF-8, and the mapping says {encoding}", reason="INVALID_ENCODING", field="file")
            line = line[len(codecs.BOM_UTF8) :]
        try:
            yield line.decode(encoding)
        except UnicodeDecodeError:
            raise FileFault(
                f"line {number} is not {encoding}: the mapping says it under format.encoding",
                reason="INVALID_ENCODING",
                field="file",
            ) from None


def _parquet(file: io.BufferedReader, mapping: FileMapping, after: int, size: int) -> Iterator[Chunk]:
    try:
        parquet = pq.ParquetFile(pa.PythonFile(file, "r"))
        places = _places(parquet.schema_arrow.names, mapping)
        names = parquet.schema_arrow.names
        columns = [names[place] for place in places]
        row = 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if row + rows <= after:
                row += rows
                continue
            for batch in parquet.iter_batches(size, row_groups=[group], columns=columns):
                cells = [_cells(batch.column(name)) for name in columns]
                numbered = [Row(at, found) for at, found in enumerate(zip(*cells, strict=True), start=row + 1) if at > after]
                row += batch.num_rows
                chunk = Chunk(numbered, row)
                if chunk.rows:
                    yield chunk
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError, OverflowError, ValueError) as error:
        # The library's text may quote what it stumbled over.
        raise FileFault(f"the Parquet file is broken ({type(error).__name__})", reason="BROKEN_PARQUET", field="file") from None


def _cells(column: Any) -> list[Any]:
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        # Python knows no nanoseconds.
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return list(column.to_pylist())


def _places(head: Sequence[str], mapping: FileMapping) -> list[int]:
    """Where the mapping's columns stand."""
    twice = [name for name, times in Counter(head).items() if name and times > 1]
    if twice:
        raise FileFault(f"the head names {twice[0]} twice", reason="DUPLICATE_COLUMN", field="file")
    missing = [name for name in mapping.columns if name not in head]
    if missing:
        raise FileFault(f"the file has no column {missing[0]}, which the mapping names", reason="UNKNOWN_COLUMN", field="file")
    return [head.index(name) for name in mapping.columns]
