"""How much of a budget may be spent today."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo


def days_left(today: date, ends_at: datetime, zone: ZoneInfo) -> int:
    """Days from today to the last one on which a schedule runs, both counted; at least 1."""
    last = (ends_at.astimezone(zone) - timedelta(microseconds=1)).date()
    return max(1, (last - today).days + 1)


def today_left(total: int, before_today: int, today: int, days: int | None) -> tuple[int, int]:
    """(what is left in all, what is left for today) of a total; `days` left when it is spread evenly, None when not.

    Each day's share is what was left in the morning divided by the days left then, rounded up: what one day does not spend
    goes to all that follow.
    """
    left = total - before_today - today
    if days is None:
        return left, left
    return left, min(left, -(-(total - before_today) // days) - today)


def next_day(now: datetime, zone: ZoneInfo) -> datetime:
    """The first moment of tomorrow; where clocks are changed at midnight, the first that exists."""
    tomorrow = datetime.combine(now.astimezone(zone).date() + timedelta(days=1), time(0), zone)
    return tomorrow.astimezone(now.tzinfo)
