"""Progress of a bench, beside the figures and not among them."""

from __future__ import annotations

import sys
from datetime import UTC, datetime


def say(what: str) -> None:
    """One line with the time."""
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {what}\n")
