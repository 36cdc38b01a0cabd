"""What a post of a camera or terminal amounts to, in whatever dialect; pictures and what they show of people are not in it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

# Identifiers of devices, of terminals' users and of posts.
MOST_ID: Final = 128
_ID: Final = re.compile(r"[!-~ ]{1,128}")
# A camera's clock that is ahead, or further behind than it takes to post, is wrong.
_AHEAD, _BEHIND = timedelta(seconds=5), timedelta(minutes=2)
# Of posts that a camera kept while it was offline its own clock is all there is to go by.
_KEPT: Final = timedelta(days=2)


class Unreadable(ValueError):
    """A post that is not what its dialect says; `field` names the part at fault. Its message never quotes the post."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field, self.message = field, message


@dataclass(frozen=True)
class Heartbeat:
    """The device lives; or it told of something that is no arrival. `why` is a word for metrics."""

    why: str = "heartbeat"


@dataclass(frozen=True)
class CarSeen:
    """A plate was read. `confidence` in percent, None when the camera does not say."""

    plate_text: str = field(repr=False)
    device: str
    post: str
    camera_time: datetime | None
    confidence: float | None
    direction: str
    # Kept by the camera while it was offline: it happened, but nobody stands there any more.
    late: bool = False


@dataclass(frozen=True)
class VisitorSeen:
    """A terminal let somebody identify themselves. `face`: by the face, else by a card or code."""

    employee: str = field(repr=False)
    code: str = field(repr=False)
    face: bool
    device: str
    post: str
    camera_time: datetime | None


Seen = Heartbeat | CarSeen | VisitorSeen


def text_of(value: Any, name: str, most: int = 200) -> str:
    """A text, empty without one; whole numbers become text. Raises Unreadable for anything else."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**18 else ""
    if not isinstance(value, str):
        raise Unreadable(name, "must be a string")
    found = value.strip()
    if len(found) > most:
        raise Unreadable(name, f"must have at most {most} characters")
    return found


def id_of(value: Any, name: str) -> str:
    """An identifier in printable ASCII; empty for none, and for what no device would call itself."""
    found = text_of(value, name, 1000)
    return found if _ID.fullmatch(found) and set(found) - set("0-") else ""


def number_of(value: Any, name: str) -> float | None:
    """A finite number, also as text; None without one. Raises Unreadable."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)) or (isinstance(value, str) and len(value) > 40):
            raise ValueError
        found = float(value)
    except (ValueError, OverflowError):
        raise Unreadable(name, "must be a number") from None
    if not math.isfinite(found):
        raise Unreadable(name, "must be a finite number")
    return found


def time_of(value: Any) -> datetime | None:
    """A camera's time in UTC; None when it says none, no zone, or nonsense: the time of reception serves as well."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        found = datetime.fromisoformat(value.strip())
        return found.astimezone(UTC) if found.tzinfo else None
    except (ValueError, OverflowError):
        return None


def object_of(value: Any, name: str) -> Mapping[str, Any]:
    """An object, empty without one; raises Unreadable."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Unreadable(name, "must be an object")
    return value


def happened(camera_time: datetime | None, received: datetime, late: bool = False) -> datetime:
    """When it happened: by the camera's clock where that is believable, else when it was received.

    A post that the camera kept may be two days old; any other one comes within two minutes, so that a clock which says
    otherwise is wrong.
    """
    if camera_time is not None and -_AHEAD <= received - camera_time <= (_KEPT if late else _BEHIND):
        return min(camera_time, received)
    return received
