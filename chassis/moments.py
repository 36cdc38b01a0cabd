"""Times of the contracts as Python's own; what is none is refused by name."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.errors import InvalidArgument


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


def stamp(at: datetime | None) -> Timestamp | None:
    """A moment as the contracts have it; None for none."""
    if at is None:
        return None
    found = Timestamp()
    found.FromDatetime(at)
    return found
