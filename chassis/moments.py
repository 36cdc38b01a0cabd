"""Times of the contracts as Python's own; what is none is refused by name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.errors import InvalidArgument

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(stamp: Timestamp, field: str) -> datetime:
    """A moment in UTC; raises InvalidArgument naming `field` for one outside the years 1 to 9999 or with impossible nanos."""
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument("no such moment", reason="INVALID_TIME", field=field) from None


def seconds(duration: Duration, field: str) -> float:
    """How long; raises InvalidArgument naming `field` for what is no duration."""
    try:
        return duration.ToTimedelta().total_seconds()
    except (ValueError, OverflowError):
        raise InvalidArgument("no such duration", reason="INVALID_TIME", field=field) from None


def to_us(at: datetime) -> int:
    """Microseconds since the epoch, whole ones."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def from_us(microseconds: int) -> datetime:
    """The moment in UTC; raises OverflowError for one that no calendar has."""
    return _EPOCH + timedelta(microseconds=microseconds)


def stamp(at: datetime | None) -> Timestamp | None:
    """A moment as the contracts have it; None for none."""
    if at is None:
        return None
    found = Timestamp()
    found.FromDatetime(at)
    return found
