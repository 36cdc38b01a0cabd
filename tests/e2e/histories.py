"""One seeded history, lived by several populations at once: one whose persons are never merged, and those whose are."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from local.overlay.identifiers import vin_check_digit

PAIRS = 6
APP, CALLS, DEALERS = "app", "call_center", ("dealer:D001", "dealer:D002")
SOURCES = (APP, CALLS, *DEALERS)
JOBS, MODELS = ("student", "retired", "services"), ("X3", "X5", "i4")
# Long enough ago that no clock of the machine comes near, recent enough for every door.
BEGAN = datetime.now(UTC).replace(hour=8, minute=0, second=0, microsecond=0) - timedelta(days=3)

# A person as the history calls it: ("T", 3) is the one that another one will be merged into, ("S", 3) that other one.
Name = tuple[str, int]
Record = tuple[str, str]


@dataclass(frozen=True)
class Step:
    """What reaches the doors before everybody waits: (source, record) and (source, call)."""

    records: list[tuple[str, dict[str, Any]]]
    calls: list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Population:
    """Persons of one history. `evidence`: in the middle of it the records of S bring the mobile of T.

    `proven`: the two records of S share more than a mobile; else nothing that holds S together is stronger than that evidence.
    """

    tag: str
    seed: int
    evidence: bool = False
    proven: bool = True

    @property
    def names(self) -> list[Name]:
        """Everybody."""
        return [(role, number) for number in range(PAIRS) for role in "TS"]

    def records_of(self, name: Name) -> list[Record]:
        """(source, record id) of a person's two records."""
        role, number = name
        other = DEALERS[number % 2] if role == "T" else CALLS
        return [(source, f"{self.tag}-{role}{number}") for source in (APP, other)]

    def mobile(self, name: Name) -> str:
        """The person's own number."""
        return f"139{random.Random(f'{self.tag} {name}').randrange(10_000_000, 99_999_999)}"

    def identifiers(self, name: Name) -> dict[str, str]:
        """What the person's records bring beside their own numbers."""
        more = {"unionid": f"o{self.tag}{name[1]}".ljust(28, "x")} if self.proven and name[0] == "S" else {}
        return {"mobile": self.mobile(name)} | more

    def vin(self, name: Name) -> str:
        """The person's car."""
        body = f"LBV8V310{random.Random(f'{self.tag} car {name}').randrange(10**7, 10**8)}"
        body = f"{body[:8]}0{body[8:]}"[:17]
        return body[:8] + vin_check_digit(body) + body[9:]

    def before(self) -> Step:
        """Two records of each person, found to be one by its mobile, a car, some life and some consents."""
        draw = random.Random(self.seed)
        records = [
            (source, self._record(draw, source, name, 0, self.identifiers(name)))
            for name in self.names
            for source, _ in self.records_of(name)
        ]
        calls = [call for name in self.names for call in self._life(draw, name, 1)]
        for name in self.names:
            said = {"purpose": "marketing", "channel": draw.choice(["sms", "app", "all"]), "kind": "general"}
            if draw.random() < 0.7:
                calls.append((APP, self._call(name, "Consent Given", 2, said)))
        return Step(records, calls)

    def meeting(self) -> Step:
        """The records of S come once more; where evidence is to merge, with the number of T."""
        draw = random.Random(self.seed + 1)
        records = []
        for number in range(PAIRS):
            name = ("S", number)
            mobile = self.mobile(("T", number) if self.evidence else name)
            records.append((CALLS, self._record(draw, CALLS, name, 10, {"mobile": mobile})))
        return Step(records, [])

    def together(self) -> Step:
        """What happens while some are merged: records, life, and an opt-out through one side of each pair."""
        draw = random.Random(self.seed + 2)
        records = [
            (source, self._record(draw, source, name, 20, {"mobile": self.mobile(name)}))
            for name in self.names
            for source, _ in self.records_of(name)
            if draw.random() < 0.5
        ]
        calls = [call for name in self.names for call in self._life(draw, name, 21)]
        for number in range(PAIRS):
            name = ("S" if number % 3 else "T", number)
            calls.append((APP, self._call(name, "Unsubscribed", 22, {"channel": ("app", "all")[number % 2]})))
        return Step(records, calls)

    def after(self) -> Step:
        """Life goes on."""
        draw = random.Random(self.seed + 3)
        return Step([], [call for name in self.names for call in self._life(draw, name, 30)])

    def sale(self) -> Step:
        """The car of the first T has a new owner, who was never seen before."""
        record = {
            "record_id": f"{self.tag}-buyer",
            "updated_at": (BEGAN + timedelta(hours=40)).isoformat(),
            "identifiers": {"mobile": self.mobile(("B", 0))},
            "vehicle": {"vin": self.vin(("T", 0)), "relation": "owns"},
        }
        return Step([(DEALERS[0], record)], [])

    def _record(
        self, draw: random.Random, source: str, name: Name, hour: int, identifiers: Mapping[str, str]
    ) -> dict[str, Any]:
        record_id = next(record for where, record in self.records_of(name) if where == source)
        record: dict[str, Any] = {
            "record_id": record_id,
            "updated_at": (BEGAN + timedelta(hours=hour, seconds=draw.randrange(3000))).isoformat(),
            "identifiers": dict(identifiers),
            "attributes": {"age": draw.randint(20, 70), "job": draw.choice(JOBS), "pdays": draw.randint(1, 20)},
        }
        if source != APP:
            attributes = {"model": draw.choice(MODELS), "mileage_km": draw.randint(1_000, 120_000)}
            record["vehicle"] = {"vin": self.vin(name), "relation": "owns", "attributes": attributes}
        return record

    def _life(self, draw: random.Random, name: Name, hour: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for _ in range(draw.randint(1, 5)):
            event = draw.choice(["App Opened", "Model Viewed", "Price Calculated", "Test Drive Page Viewed", "Offer Answered"])
            properties = {
                "Model Viewed": {"model": draw.choice(MODELS)},
                "Offer Answered": {"answer": draw.choice(["yes", "no"])},
            }
            yield APP, self._call(name, event, hour, properties.get(event, {}), draw.randrange(3000))

    def _call(self, name: Name, event: str, hour: int, properties: Mapping[str, Any], second: int = 0) -> dict[str, Any]:
        at = (BEGAN + timedelta(hours=hour, seconds=second)).isoformat()
        user = self.records_of(name)[0][1]
        return {
            "type": "track",
            "userId": user,
            "event": event,
            "timestamp": at,
            "messageId": f"{user} {event} {at}",
            "properties": dict(properties),
        }
