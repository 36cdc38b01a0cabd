"""Hours in which nobody is disturbed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone, tzinfo

_WINDOW = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


@dataclass(frozen=True)
class QuietHours:
    """From `start` until before `end`, local time of `zone`; may span midnight."""

    start: time
    end: time
    zone: tzinfo

    @classmethod
    def parse(cls, window: str, utc_offset_hours: float) -> QuietHours | None:
        """Reads "21:00-09:00"; empty is None, no quiet hours; raises ValueError for anything else."""
        if not window:
            return None
        found = _WINDOW.fullmatch(window)
        if not found:
            raise ValueError('must be like "21:00-09:00" or empty')
        h1, m1, h2, m2 = map(int, found.groups())
        if (h1, m1) == (h2, m2):
            raise ValueError("start and end are the same: leave it empty for no quiet hours")
        return cls(time(h1, m1), time(h2, m2), timezone(timedelta(hours=utc_offset_hours)))

    def earliest(self, now: datetime) -> datetime:
        """`now` (aware) when it is not quiet, else the moment when the quiet hours end."""
        local = now.astimezone(self.zone)
        clock = local.time()
        spans_midnight = self.start > self.end
        quiet = (clock >= self.start or clock < self.end) if spans_midnight else (self.start <= clock < self.end)
        if not quiet:
            return now
        day = local.date() + timedelta(days=1) if spans_midnight and clock >= self.start else local.date()
        return datetime.combine(day, self.end, self.zone).astimezone(now.tzinfo)
