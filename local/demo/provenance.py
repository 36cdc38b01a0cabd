"""Which part of the demo is real and which is made; printed, and written into the report."""

from __future__ import annotations

CONTACTS = 33_095

REAL = (
    "the contacts of an outbound-call campaign with their attributes and their yes or no (UCI Bank Marketing, CC BY 4.0;"
    " the column `duration`, known only after a call, is never read)",
    "who answers what when pushed: the receivers replay each contact's own answer",
    "PostgreSQL, NATS, five services, and the protocols between them and the receivers",
)
MADE = (
    "names, phones, ids, cars, records from several sources and their typing noise: a seeded overlay with its truth",
    "behaviour in app and WeChat; it predicts nothing",
    "prices of a contact: app 0.05, WeChat 0.08, a dealer's call 20 yuan",
    "a seeded 20 % of the new leads who really said yes would have come by themselves: they are what the holdout shows",
    "the three receivers and the failures they inject",
)


def made(persons: int) -> list[str]:
    """What is made in a run of so many persons."""
    if persons <= CONTACTS:
        return list(MADE)
    drawn = f"{persons:,} persons, drawn from {CONTACTS:,} contacts with replacement; copies share answer and side"
    return [*MADE, drawn]
