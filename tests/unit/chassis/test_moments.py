"""Times of contracts: what is one comes through, what is none is named."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.errors import InvalidArgument
from chassis.moments import moment, seconds


def test_moments_and_durations_come_through() -> None:
    assert datetime(2026, 1, 1, 0, 0, 0, 500_000, UTC) == moment(Timestamp(seconds=1_767_225_600, nanos=500_000_000), "since")
    assert 90.25 == seconds(Duration(seconds=90, nanos=250_000_000), "horizon")


@pytest.mark.parametrize(
    "stamp", [Timestamp(seconds=1, nanos=-1), Timestamp(seconds=1, nanos=2_000_000_000), Timestamp(seconds=10**12)]
)
def test_what_is_no_moment_is_named(stamp: Timestamp) -> None:
    with pytest.raises(InvalidArgument) as caught:
        moment(stamp, "since")
    assert ("INVALID_TIME", "since") == (caught.value.reason, caught.value.field)


def test_what_is_no_duration_is_named() -> None:
    with pytest.raises(InvalidArgument) as caught:
        seconds(Duration(seconds=10**14), "horizon")
    assert ("INVALID_TIME", "horizon") == (caught.value.reason, caught.value.field)
