"""Rows of a file one after the other, flat in memory. A row that cannot be read takes no other with it.

CSV is read by Python's own reader, one row at a time: only quotes that are never closed join lines, and then no more than
MOST_LINES of them before the first one is refused by itself.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from chassis.errors import InvalidArgument

MAX_LINE: Final = 1024 * 1024
# An address with line breaks has a few.
MOST_LINES: Final = 100
_BLOCK: Final = 1024 * 1024
_PARQUET: Final = b"PAR1"
_PARQUET_ROWS: Final = 2000
# What one row group may unpack to, of the columns that are read.
MOST_GROUP: Final = 256 * 1024 * 1024
_OTHER_BOMS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class FileFault(InvalidArgument):
    """The file cannot be used as a whole; nothing of it was taken."""

    default_reason = "INVALID_FILE"


@dataclass(frozen=True)
class Layout:
    """How a file is written: csv, parquet or jsonl, and which columns are read; without any a row is the line's object."""

    kind: str
    columns: tuple[str, ...] = ()
    encoding: str = "utf-8"
    delimiter: str = ","


class Row(NamedTuple):
    """The line on which a row ends (Parquet: its number), that on which it begins, and its cells; or why it has none."""

    end: int
    line: int
    cells: Any
    fault: str = ""


# A line's number, and the line without its end; None in the place of one that is too long.
Line = tuple[int, bytes | None]


class Looked(NamedTuple):
    """What one look through a file says: its digest, and its lines (Parquet: rows)."""

    sha256: bytes
    lines: int


def look(file: io.BufferedReader, layout: Layout) -> Looked:
    """Reads all bytes once. Raises FileFault for what is wrong with the file as such."""
    looked = look_bytes(file)
    if layout.kind == "parquet":
        looked = looked._replace(lines=_opened(file).metadata.num_rows)
    # Its head is read as well: a column that is missing is said before anything is taken.
    next(rows(file, layout, 0), None)
    return looked


def look_bytes(file: io.BufferedReader, most: int | None = None) -> Looked:
    """The digest of a file, and how many ends of lines it has. Raises FileFault for one of more than `most` bytes."""
    digest, lines, size, last = hashlib.sha256(), 0, 0, b"\n"
    while block := file.read(_BLOCK):
        digest.update(block)
        lines += block.count(b"\n")
        last, size = block[-1:], size + len(block)
        if most is not None and size > most:
            raise FileFault(f"the file is larger than {most} bytes", reason="FILE_TOO_LARGE", field="file")
    return Looked(digest.digest(), lines + (last != b"\n"))


def rows(file: io.BufferedReader, layout: Layout, after: int) -> Iterator[Row]:
    """Rows that begin behind a line. Raises FileFault."""
    file.seek(0)
    head = file.peek(4)[:4]
    if layout.kind == "parquet":
        return _parquet(file, layout, after)
    if head.startswith(_OTHER_BOMS):
        raise FileFault("the file is UTF-16: write it as UTF-8", reason="INVALID_ENCODING", field="file")
    if head == _PARQUET:
        raise FileFault("the file is Parquet: name it so, or say format.kind", reason="WRONG_KIND", field="file")
    if not head:
        raise FileFault("the file is empty", reason="EMPTY_FILE", field="file")
    return _csv(file, layout, after) if layout.kind == "csv" else _json_lines(file, layout, after)


class _Lines:
    """Lines with their numbers; those that were read too far can be put back."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file, self._number, self._waiting = file, 0, deque[Line]()

    def next(self) -> Line | None:
        """The next line, None at the end of the file."""
        if self._waiting:
            return self._waiting.popleft()
        line = self._file.readline(MAX_LINE)
        if not line:
            return None
        self._number += 1
        if self._number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) >= MAX_LINE and not line.endswith(b"\n"):
            while rest := self._file.readline(MAX_LINE):
                if rest.endswith(b"\n"):
                    break
            return self._number, None
        return self._number, line.rstrip(b"\r\n")

    def back(self, lines: Sequence[Line]) -> None:
        """Puts lines back, in their order."""
        self._waiting.extendleft(reversed(lines))


class _Read(NamedTuple):
    """A row of CSV: where it begins, its cells, and the further lines that it takes; or why it has no cells."""

    line: int
    cells: Sequence[str]
    more: Sequence[Line] = ()
    fault: str = ""


def _csv(file: io.BufferedReader, layout: Layout, after: int) -> Iterator[Row]:
    lines = _Lines(file)
    head = (_next(lines, layout, 0) or _Read(0, ())).cells
    places = _places([name.strip() for name in head], layout)
    while (read := _next(lines, layout, after)) is not None:
        line, cells, more, fault = read
        if fault:
            yield Row(line, line, (), fault)
        elif len(cells) == len(head):
            yield Row(more[-1][0] if more else line, line, [cells[place] for place in places])
        else:
            # Where lines were joined the quote may be a stray one, and the others rows of their own.
            lines.back(more)
            yield Row(line, line, (), "UNCLOSED_QUOTE" if more else "WRONG_NUMBER_OF_CELLS")


def _next(lines: _Lines, layout: Layout, after: int) -> _Read | None:
    """The next row that begins behind a line, blank ones left out; None at the end."""
    while (found := lines.next()) is not None:
        line, text = found
        if line <= after or text == b"":
            continue
        if text is None:
            return _Read(line, (), fault="LINE_TOO_LONG")
        if (cells := _cells(text, layout)) is not None:
            return _Read(line, cells)
        whole, more = _joined(lines, text)
        if whole is not None and (cells := _cells(whole, layout, joined=True)) is not None:
            return _Read(line, cells, more)
        lines.back(more)
        return _Read(line, (), fault="UNCLOSED_QUOTE")
    return None


def _joined(lines: _Lines, text: bytes) -> tuple[bytes | None, list[Line]]:
    """A line with those that its open quote spans, and these; None when it is never closed."""
    parts, more, quotes, size = [text], list[Line](), text.count(b'"'), len(text)
    while quotes % 2:
        found = lines.next()
        if found is None:
            return None, more
        more.append(found)
        if found[1] is None or len(more) == MOST_LINES or size > MAX_LINE:
            return None, more
        parts.append(found[1])
        quotes += found[1].count(b'"')
        size += len(found[1])
    return b"\n".join(parts), more


def _cells(text: bytes, layout: Layout, *, joined: bool = False) -> list[str] | None:
    """The cells of a row; None when it ends within quotes.

    Other quotes out of place are letters, but not where lines were joined.
    """
    # What is no text of the encoding stays recognisable, and spoils its own cell only.
    decoded = text.decode(layout.encoding, "surrogateescape")
    if '"' not in decoded:
        return decoded.split(layout.delimiter)
    csv.field_size_limit(MAX_LINE * 2)
    try:
        return next(csv.reader([decoded], delimiter=layout.delimiter, strict=True), [])
    except csv.Error as error:
        if joined or str(error) == "unexpected end of data":
            return None
    try:
        return next(csv.reader([decoded], delimiter=layout.delimiter), [])
    except csv.Error:
        return [decoded]


def _json_lines(file: io.BufferedReader, layout: Layout, after: int) -> Iterator[Row]:
    lines = _Lines(file)
    while (found := lines.next()) is not None:
        line, text = found
        if line <= after or text == b"":
            continue
        if text is None:
            yield Row(line, line, (), "LINE_TOO_LONG")
            continue
        try:
            given = orjson.loads(text)
        except orjson.JSONDecodeError:
            yield Row(line, line, (), "NOT_JSON")
            continue
        if not layout.columns:
            yield Row(line, line, given)
        elif isinstance(given, dict):
            yield Row(line, line, [_within(given, column) for column in layout.columns])
        else:
            yield Row(line, line, (), "NOT_AN_OBJECT")


def _within(given: dict[str, Any], column: str) -> Any:
    """The value under a key, or under keys parted by points."""
    if column in given or "." not in column:
        return given.get(column)
    found: Any = given
    for key in column.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _opened(file: io.BufferedReader, **how: Any) -> Any:
    file.seek(0)
    try:
        return pq.ParquetFile(pa.PythonFile(file, "r"), **how)
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError, OverflowError, ValueError) as error:
        raise _broken(error) from None


def _parquet(file: io.BufferedReader, layout: Layout, after: int) -> Iterator[Row]:
    parquet = _opened(file)
    names = parquet.schema_arrow.names
    columns = [names[place] for place in _places(names, layout)]
    _checked(parquet, columns)
    # As dictionaries: a long word that stands in each row is in memory once, and not once a row.
    words = [name for name in columns if _is_word(parquet.schema_arrow.field(name).type)]
    parquet = _opened(file, metadata=parquet.metadata, read_dictionary=words)
    row = 0
    try:
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            if row + size <= after:
                row += size
                continue
            for batch in parquet.iter_batches(_PARQUET_ROWS, row_groups=[group], columns=columns):
                read = [_values(batch.column(name)) for name in columns]
                for cells in zip(*read, strict=True):
                    row += 1
                    if row > after:
                        yield Row(row, row, cells)
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError, OverflowError, ValueError) as error:
        raise _broken(error) from None


def _checked(parquet: Any, columns: Sequence[str]) -> None:
    """Raises FileFault for columns that hold no values, and for groups that would not fit into memory."""
    for name in columns:
        if pa.types.is_nested(kind := parquet.schema_arrow.field(name).type):
            raise FileFault(
                f"column {name} holds {str(kind).partition('<')[0]}s, not values: write what is within as columns",
                reason="NESTED_COLUMN",
                field="file",
            )
    for number in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(number)
        sizes = (group.column(n) for n in range(group.num_columns))
        size = sum(abs(chunk.total_uncompressed_size) for chunk in sizes if chunk.path_in_schema in columns)
        if size > MOST_GROUP:
            raise FileFault(
                f"row group {number + 1} unpacks to {size} bytes, the most is {MOST_GROUP}: write smaller row groups",
                reason="ROW_GROUP_TOO_LARGE",
                field="file",
            )


def _is_word(kind: Any) -> bool:
    types = pa.types
    return any(fits(kind) for fits in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary))


def _broken(error: Exception) -> FileFault:
    # The library's text may quote what it stumbled over.
    return FileFault(f"the Parquet file is broken ({type(error).__name__})", reason="BROKEN_PARQUET", field="file")


def _values(column: Any) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        # Of a dictionary for a whole row group a batch needs little.
        used = column.indices.unique()
        words = dict(zip(used.to_pylist(), column.dictionary.take(used).to_pylist(), strict=True))
        return [words[index] for index in column.indices.to_pylist()]
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        # Python knows no nanoseconds.
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return list(column.to_pylist())


def _places(head: Sequence[str], layout: Layout) -> list[int]:
    """Where the mapping's columns stand."""
    twice = [name for name, times in Counter(head).items() if times > 1 and name in layout.columns]
    if twice:
        raise FileFault(f"the head names {twice[0]} twice", reason="DUPLICATE_COLUMN", field="file")
    missing = [name for name in layout.columns if name not in head]
    if missing:
        raise FileFault(f"the file has no column {missing[0]}, which the mapping names", reason="UNKNOWN_COLUMN", field="file")
    return [head.index(name) for name in layout.columns]
