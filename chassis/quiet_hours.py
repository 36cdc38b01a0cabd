"""Hours in which nobody is disturbed, on the clock of a zone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

_WINDOW = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


@dataclass(frozen=True)
class QuietHours:
    """From `start` until before `end`, local time of `zone`; may span midnight."""

    start: time
    end: time
    zone: tzinfo

    @classmethod
    def parse(cls, window: str, zone: tzinfo) -> QuietHours | None:
        """Reads "21:00-09:00"; empty is None, no quiet hours; raises ValueError for anything else."""
        if not window:
            return None
        found = _WINDOW.fullmatch(window)
        if not found:
            raise ValueError('must be like "21:00-09:00" or empty')
        h1, m1, h2, m2 = map(int, found.groups())
        if (h1, m1) == (h2, m2):
            raise ValueError("start and end are the same: leave it empty for no quiet hours")
        return cls(time(h1, m1), time(h2, m2), zone)

    def at(self, zone: tzinfo) -> QuietHours:
        """The same hours on another clock."""
        return replace(self, zone=zone)

    def earliest(self, now: datetime) -> datetime:
        """`now` (aware) when it is not quiet, else the moment when the quiet hours end."""
        local = now.astimezone(self.zone)
        clock = local.time()
        spans_midnight = self.start > self.end
        quiet = (clock >= self.start or clock < self.end) if spans_midnight else (self.start <= clock < self.end)
        if not quiet:
            return now
        day = local.date() + timedelta(days=1) if spans_midnight and clock >= self.start else local.date()
        # Where clocks are put back, the end comes twice, and the first time may be behind us.
        ends = [datetime.combine(day, self.end, self.zone).replace(fold=fold).astimezone(now.tzinfo) for fold in (0, 1)]
        return next(end for end in (*ends, now + timedelta(hours=1)) if end > now)

    def begin(self, now: datetime) -> datetime:
        """When quiet hours begin next after `now`."""
        today = now.astimezone(self.zone).date()
        days = (today + timedelta(days=ahead) for ahead in (0, 1, 2))
        starts = (datetime.combine(day, self.start, self.zone).astimezone(now.tzinfo) for day in days)
        return next(start for start in starts if start > now)


@lru_cache(maxsize=1000)
def zone_of(name: str) -> ZoneInfo | None:
    """The zone of an IANA name; None when it is none."""
    try:
        return ZoneInfo(name) if name else None
    except (ValueError, OSError, KeyError):
        return None


def spans(quiet: QuietHours | None, names: Sequence[str], now: datetime) -> list[tuple[datetime | None, datetime | None]]:
    """(when the quiet hours end that `now` is in, when the next begin) in each zone; unknown names mean the hours' own zone."""
    if quiet is None:
        return [(None, None)] * len(names)
    found: list[tuple[datetime | None, datetime | None]] = []
    for name in names:
        hours = quiet.at(zone_of(name) or quiet.zone)
        end = hours.earliest(now)
        found.append((end if end > now else None, hours.begin(now)))
    return found
