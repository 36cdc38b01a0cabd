"""Dahua's ITSAPI posts (CONVENTIONS 5.1): JSON with the picture in it, which is gone before anything reads it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from services.touchpoints.arrivals.sightings import CarSeen, Heartbeat, Seen, id_of, number_of, object_of, text_of, time_of

# Without it the camera sends the same post again and again.
ANSWER: Final = b'{"result":true,"message":"success"}'
# Which posts mean that the camera lives, by the last part of their path.
ALIVE: Final = frozenset({"keepalive", "deviceinfo"})


def from_json(document: Any) -> Seen:
    """A TollgateInfo; raises Unreadable."""
    picture = object_of(object_of(document, "body").get("Picture"), "Picture")
    if not picture:
        return Heartbeat("other_event")
    plate, snap = object_of(picture.get("Plate"), "Picture.Plate"), object_of(picture.get("SnapInfo"), "Picture.SnapInfo")
    if plate.get("IsExist") is False:
        return Heartbeat("no_plate")
    device = id_of(snap.get("DeviceID"), "Picture.SnapInfo.DeviceID")
    channel = number_of(plate.get("Channel"), "Picture.Plate.Channel")
    said = plate.get("Confidence")
    confidence = number_of(said, "Picture.Plate.Confidence")
    # Some firmwares say a share of one instead of per cent.
    if confidence is not None and isinstance(said, float) and 0 < confidence < 1:
        confidence *= 100
    return CarSeen(
        text_of(plate.get("PlateNumber"), "Picture.Plate.PlateNumber"),
        f"{device}/{int(channel) if channel is not None and abs(channel) < 1e6 else ''}",
        id_of(picture.get("UUID") or snap.get("SnapID"), "Picture.UUID"),
        _time(snap.get("AccurateTime"), snap.get("TimeZone")),
        confidence,
        text_of(snap.get("Direction"), "Picture.SnapInfo.Direction").lower(),
    )


def _time(value: Any, zone: Any) -> datetime | None:
    """`%Y-%m-%d %H:%M:%S.%f` in the camera's zone, hours east of Greenwich; without a zone nobody knows when that was."""
    if not isinstance(value, str):
        return None
    if isinstance(zone, str) and not zone.strip("+-").isdigit():
        return time_of(f"{value.strip()}{zone.strip().removeprefix('UTC').removeprefix('GMT')}")
    try:
        hours = int(zone)
        if not -12 <= hours <= 14:
            return None
        return datetime.fromisoformat(value.strip()).replace(tzinfo=UTC) - timedelta(hours=hours)
    except (ValueError, TypeError, OverflowError):
        return None
