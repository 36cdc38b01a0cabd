"""Cells of a file to values of a record. A reason never quotes the cell."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

# What is longer is something else than a value.
MAX_CELL: Final = 10_000
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")
# As most people write large numbers. In a comma that stands elsewhere another country sees a decimal point.
_THOUSANDS: Final = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")
_YES: Final = frozenset({"true", "yes", "y", "1", "是", "有"})
_NO: Final = frozenset({"false", "no", "n", "0", "否", "无"})


class BadCell(ValueError):
    """A cell that is refused; `reason` is UPPER_SNAKE."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def as_it_is(cell: Any) -> Any:
    """A cell without blanks around it, None for an empty one; Parquet's own types as JSON has them. Raises BadCell."""
    if isinstance(cell, str):
        return _plain(cell)
    if cell is None or isinstance(cell, (bool, int)):
        return cell
    if isinstance(cell, (float, Decimal)):
        return _plain_number(float(cell))
    if isinstance(cell, datetime):
        return (cell if cell.tzinfo else cell.replace(tzinfo=UTC)).isoformat()
    if isinstance(cell, date):
        return cell.isoformat()
    raise BadCell("NOT_A_VALUE")


def _plain(cell: str) -> str | None:
    if len(cell) > MAX_CELL:
        raise BadCell("CELL_TOO_LONG")
    cell = cell.strip()
    # Bytes that are none of the encoding were kept as lone surrogates by the reader.
    if not cell.isascii() and any("\ud800" <= char <= "\udfff" for char in cell):
        raise BadCell("INVALID_ENCODING")
    return cell or None


def _plain_number(cell: float) -> float | int | None:
    if not math.isfinite(cell):
        # How data frames say that there is nothing.
        return None
    return int(cell) if cell.is_integer() and abs(cell) < 2**53 else cell


def text(cell: Any) -> Any:
    """A word; numbers as they are written."""
    value = as_it_is(cell)
    if isinstance(value, (bool, float)):
        raise BadCell("NOT_A_WORD")
    return None if value is None else str(value)


def number(cell: Any) -> Any:
    """A number; commas between thousands are no part of it."""
    value = as_it_is(cell)
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    plain = value if isinstance(value, str) else ""
    if _THOUSANDS.fullmatch(plain):
        plain = plain.replace(",", "")
    if not _NUMBER.fullmatch(plain):
        raise BadCell("NOT_A_NUMBER")
    found = float(plain)
    if not math.isfinite(found):
        raise BadCell("NOT_A_NUMBER")
    return int(found) if found.is_integer() and abs(found) < 2**53 else found


def boolean(cell: Any) -> Any:
    """Yes or no, in the words that people write."""
    value = as_it_is(cell)
    if value is None or isinstance(value, bool):
        return value
    word = str(value).casefold()
    if word not in _YES | _NO:
        raise BadCell("NOT_YES_OR_NO")
    return word in _YES


def moment(cell: Any, formats: Sequence[str], zone: ZoneInfo) -> str | None:
    """A time in ISO 8601 with its zone, None for what is none; without formats it must be in ISO 8601 already."""
    if isinstance(cell, datetime):
        found: datetime | None = cell
    elif isinstance(cell, date):
        found = datetime(cell.year, cell.month, cell.day)
    else:
        found = _read(cell, formats)
    if found is None:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=zone)).isoformat()


def _read(cell: Any, formats: Sequence[str]) -> datetime | None:
    if isinstance(cell, int) and not isinstance(cell, bool):
        cell = str(cell)
    if not isinstance(cell, str) or len(cell) > 60:
        return None
    if not formats:
        try:
            return datetime.fromisoformat(cell)
        except ValueError:
            return None
    for each in formats:
        try:
            return datetime.strptime(cell, each)
        except ValueError:
            continue
    return None


def is_format(given: str) -> bool:
    """Whether strptime takes it, and it names at least a year."""
    try:
        written = datetime(2026, 3, 1, 8, 30, tzinfo=UTC).strftime(given)
        datetime.strptime(written, given)
    except ValueError:
        return False
    return any(code in given for code in ("%Y", "%y", "%c", "%x", "%G"))


def translated(words: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Their words to ours; one that is not named is refused."""

    def convert(cell: Any) -> Any:
        value = as_it_is(cell)
        if value is None:
            return None
        key = str(value).lower() if isinstance(value, bool) else str(value)
        if key not in words:
            raise BadCell("UNKNOWN_WORD")
        return words[key]

    return convert


def converter(kind: str, formats: Sequence[str], zone: ZoneInfo) -> Callable[[Any], Any]:
    """What makes a cell a value of a type; "" leaves it what it is."""
    if kind not in ("date", "time"):
        return {"": as_it_is, "text": text, "number": number, "boolean": boolean}[kind]

    def convert(cell: Any) -> Any:
        if not isinstance(cell, date):
            cell = as_it_is(cell)
        if cell is None:
            return None
        found = moment(cell, formats, zone)
        if found is None:
            raise BadCell("NOT_A_DATE" if kind == "date" else "NOT_A_TIME")
        # A date is a date wherever it is read.
        return found[:10] if kind == "date" else found

    return convert
