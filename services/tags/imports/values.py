"""Cells to statements: types, words, times, and the reason where a cell is none. A reason never quotes the cell."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from services.tags.domain.catalogue import TagType, Value
from services.tags.domain.facts import MAX_TEXT, MAX_WORD
from services.tags.domain.imported import Statement
from services.tags.domain.states import MOST_WORDS
from services.tags.imports.mapping import FileMapping, TagColumn
from services.tags.imports.reading import Row

# A cell is a word, a number, a time: what is longer is something else.
MAX_CELL: Final = 10_000
_DAY_US: Final = 86_400_000_000
# 1 January 1900: what is older is a placeholder.
_OLDEST_US: Final = -2_208_988_800_000_000
_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")
_YES: Final = frozenset({"true", "yes", "y", "1", "是", "有"})
_NO: Final = frozenset({"false", "no", "n", "0", "否", "无"})
# Mobiles, id cards, addresses: no tag holds what identifies a person (DESIGN promise 6).
_PERSONAL: Final = re.compile(
    r"(?<!\d)(?:\+?86[ -]?)?1[3-9]\d(?:[ -]?\d){8}(?!\d)|(?<!\d)[1-9]\d{16}[\dXx](?![\dXx])|[\w.+-]+@[\w-]+\.[\w.-]+"
)


class BadCell(ValueError):
    """A cell that is refused; `reason` is UPPER_SNAKE."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Fault(NamedTuple):
    """What was refused: where, and why."""

    line: int
    column: str
    reason: str


@dataclass
class Read:
    """What a chunk's rows say; `faults` of whole lines have the hash, time or confidence column or none, others a tag's.

    `lines`: (line, hash of 32 bytes, statements). Rows without a word about any tag are among them: their match counts.
    """

    lines: list[tuple[int, bytes, list[Statement]]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    refused_lines: int = 0
    refused_values: int = 0


class CellReader:
    """Reads the rows of one mapping as of one moment, microseconds since the epoch."""

    def __init__(self, mapping: FileMapping, now_us: int) -> None:
        self._mapping, self._latest_us = mapping, now_us + _DAY_US
        self._zone = ZoneInfo(mapping.zone)
        self._place = {name: at for at, name in enumerate(mapping.columns)}

    def read(self, rows: Iterable[Row]) -> Read:
        """Everything that rows say, and what of them is refused."""
        read, mapping = Read(), self._mapping
        for row in rows:
            column = ""
            try:
                if row.fault:
                    raise BadCell(row.fault)
                column = mapping.hash_column
                hashed = _hash(self._cell(row, column))
                column = mapping.time_column
                occurred_us = self._time_us(self._cell(row, column)) if column else mapping.time_us
                column = mapping.confidence_column
                confidence = _confidence(self._cell(row, column)) if column else mapping.confidence
            except BadCell as bad:
                read.faults.append(Fault(row.line, column, bad.reason))
                read.refused_lines += 1
                continue
            read.lines.append((row.line, hashed, self._statements(row, occurred_us, confidence, read)))
        return read

    def _statements(self, row: Row, occurred_us: int, confidence: float, read: Read) -> list[Statement]:
        statements = []
        for tag in self._mapping.tags:
            try:
                value = typed(tag, self._cell(row, tag.column), self._zone)
            except BadCell as bad:
                # A column may make several tags; it is refused once.
                fault = Fault(row.line, tag.column, bad.reason)
                if fault[:2] not in (known[:2] for known in read.faults[-len(self._mapping.tags) :]):
                    read.faults.append(fault)
                read.refused_values += 1
                continue
            if value is not None:
                until = None if tag.lasts_us is None else occurred_us + tag.lasts_us
                statements.append(Statement(tag.tag, value, occurred_us, confidence, until))
        return statements

    def _cell(self, row: Row, column: str) -> Any:
        cell = row.cells[self._place[column]]
        if isinstance(cell, str):
            if len(cell) > MAX_CELL:
                raise BadCell("CELL_TOO_LONG")
            return cell.strip()
        if isinstance(cell, (bytes, list)) and len(cell) > MAX_CELL:
            raise BadCell("CELL_TOO_LONG")
        return cell

    def _time_us(self, cell: Any) -> int:
        moment = _moment(cell, self._zone)
        if moment is None:
            raise BadCell("TIME_MISSING")
        if not _OLDEST_US <= (at_us := round(moment * 1e6)) <= self._latest_us:
            raise BadCell("TIME_OUT_OF_RANGE")
        return at_us


def typed(tag: TagColumn, cell: Any, zone: ZoneInfo) -> Value | None:
    """A cell as its tag's type; None when it says nothing. Raises BadCell."""
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if tag.type is TagType.SET:
        parts = cell if isinstance(cell, list) else str(cell).split(tag.separator)
        if any(not isinstance(part, str) for part in parts):
            raise BadCell("NOT_A_WORD")
        words = {_word(_translated(tag, part.strip()), MAX_WORD) for part in parts if part.strip()}
        if len(words) > MOST_WORDS:
            raise BadCell("TOO_MANY_WORDS")
        return sorted(words) or None
    return _single(tag.type, _translated(tag, cell), zone)


def _single(tag_type: TagType, made: Any, zone: ZoneInfo) -> Value | None:
    match tag_type:
        case TagType.NUMBER:
            return _number(made)
        case TagType.BOOLEAN:
            return _boolean(made)
        case TagType.TIME:
            return _moment(made, zone)
        case TagType.TEXT:
            return _word(made, MAX_TEXT)
        case _:
            # A code of the partner's may be written as a number.
            return _word(str(made) if isinstance(made, int) and not isinstance(made, bool) else made, MAX_WORD)


def _translated(tag: TagColumn, cell: Any) -> Any:
    if not tag.words:
        return cell
    key = str(cell).lower() if isinstance(cell, bool) else str(cell)
    if key not in tag.words:
        raise BadCell("UNKNOWN_WORD")
    return tag.words[key]


def _number(cell: Any) -> float:
    if isinstance(cell, bool) or not isinstance(cell, (int, float, Decimal, str)):
        raise BadCell("NOT_A_NUMBER")
    try:
        # float() also takes "1_000" and "infinity".
        number = float(cell) if not isinstance(cell, str) or re.fullmatch(r"[+-]?[\d.]+(?:[eE][+-]?\d+)?", cell) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not abs(number) < 1e300:
        raise BadCell("NOT_A_NUMBER")
    return number


def _boolean(cell: Any) -> bool:
    if isinstance(cell, bool):
        return cell
    word = str(cell).casefold() if isinstance(cell, (str, int)) else ""
    if word not in _YES | _NO:
        raise BadCell("NOT_YES_OR_NO")
    return word in _YES


def _moment(cell: Any, zone: ZoneInfo) -> float | None:
    """Seconds since the epoch; what bears no zone is in the mapping's."""
    if cell is None or cell == "":
        return None
    try:
        if isinstance(cell, str):
            cell = datetime.fromisoformat(cell if len(cell) <= 40 else "")
        if isinstance(cell, datetime):
            return (cell if cell.tzinfo else cell.replace(tzinfo=zone)).timestamp()
        if isinstance(cell, date):
            return datetime(cell.year, cell.month, cell.day, tzinfo=zone).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        pass
    raise BadCell("NOT_A_TIME")


def _word(cell: Any, longest: int) -> str:
    if not isinstance(cell, str):
        raise BadCell("NOT_A_WORD")
    if len(cell) > longest:
        raise BadCell("TOO_LONG")
    if any(ord(char) < 32 or 0xD800 <= ord(char) <= 0xDFFF for char in cell):
        raise BadCell("CONTROL_CHARACTER")
    if _PERSONAL.search(cell):
        raise BadCell("LOOKS_PERSONAL")
    return cell


def _hash(cell: Any) -> bytes:
    if isinstance(cell, bytes) and len(cell) == 32:
        return cell
    if isinstance(cell, str) and _HASH.fullmatch(cell):
        return bytes.fromhex(cell)
    raise BadCell("INVALID_HASH" if cell else "HASH_MISSING")


def _confidence(cell: Any) -> float:
    try:
        confidence = _number(cell)
    except BadCell:
        raise BadCell("INVALID_CONFIDENCE") from None
    if not 0 <= confidence <= 1:
        raise BadCell("INVALID_CONFIDENCE")
    return confidence


def tags_of(statements: Sequence[Statement]) -> set[str]:
    """Tags that something is said of."""
    return {statement.tag for statement in statements}
