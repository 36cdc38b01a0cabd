"""Leads that come to dealers and leave them again, and which deliveries tell of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.touchpoints.domain.deliveries import ASSIGNED, REASSIGNED, WITHDRAWN, Channel, Delivery

# The contract's kinds of a handover.
GIVEN, PASSED_ON, TAKEN = 1, 2, 3
# How long a dealer who does not answer is told again: of a lead while it is fresh, of what must go for as long as it takes.
LEAD_LIFE, NOTICE_LIFE = timedelta(days=3), timedelta(days=30)
# Leads whose end the dealer brought about stay there: nothing is to be deleted.
ENDED_WELL = frozenset({"delivered", "lost"})
# Somebody who asked to be called is served.
_SERVICE = "service"


@dataclass(frozen=True)
class Handover:
    """A lead that came to a dealer or left it; `told_by` is the push that told this dealer of it before, if any."""

    lead: str
    revision: int
    person_id: int
    dealer_code: str
    advisor: str
    kind: int
    reason: str
    interest: str
    at: datetime
    due_at: datetime | None
    told_by: str

    @property
    def number(self) -> str:
        """The delivery that tells of it."""
        return delivery_of(self.lead, self.revision)

    @property
    def known_as(self) -> str:
        """The lead's number at the dealer: of who learnt of it by a push the push's, at first and for ever."""
        return self.told_by or self.lead

    @property
    def takes(self) -> bool:
        """Whether the dealer must give up what it has of the lead."""
        return self.kind == TAKEN and self.reason not in ENDED_WELL

    @property
    def before(self) -> list[str]:
        """Deliveries of this lead that may have told the same dealer earlier."""
        return [*tellers(self.lead, self.revision), *([self.told_by] if self.told_by else [])]

    def until(self, revision: int, known_as: str) -> Handover:
        """The handover that takes the lead away again at a later revision, under the number that the dealer was told then."""
        return replace(self, kind=TAKEN, revision=revision, told_by="" if known_as == self.lead else known_as)


def tellers(lead: str, before: int) -> list[str]:
    """Deliveries that may have told of "leads/12" before a revision; even ones tell that it is over."""
    return [delivery_of(lead, revision) for revision in range(1, before, 2)]


def delivery_of(lead: str, revision: int) -> str:
    """The delivery that tells of a revision of "leads/12": lead-12-3."""
    return f"lead-{lead.removeprefix('leads/')}-{revision}"


def told_before(notice: str, known_as: str) -> list[str]:
    """Deliveries that may have told a dealer of the lead that a notice such as "lead-12-4" takes away."""
    _, lead, revision = notice.split("-")
    return [*tellers(f"leads/{lead}", int(revision)), *([] if known_as.startswith("leads/") else [known_as])]


def told(given: Iterable[Handover]) -> Iterator[Delivery]:
    """The deliveries that tell of handovers; of what a push has told already, and of what ended well, there is none."""
    for each in given:
        if each.takes:
            details = {"lead_id": each.known_as, "revision": each.revision, "reason": each.reason}
            yield _delivery(each, WITHDRAWN, details, NOTICE_LIFE)
        elif each.kind == PASSED_ON or (each.kind == GIVEN and not each.told_by):
            details = {
                "lead_id": each.known_as,
                "revision": each.revision,
                "advisor": each.advisor,
                "interest": each.interest,
                "assigned_until": stamp(each.due_at) if each.due_at else None,
                "sla_seconds": max(0, round((each.due_at - each.at).total_seconds())) if each.due_at else None,
            }
            yield _delivery(each, ASSIGNED if each.kind == GIVEN else REASSIGNED, details, LEAD_LIFE)


def stamp(at: datetime) -> str:
    """An instant in UTC as dealers read it, to the second."""
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _delivery(each: Handover, kind: str, details: dict[str, object], life: timedelta) -> Delivery:
    return dealer_delivery(each.number, each.person_id, each.dealer_code, kind, details, each.at, life)


def dealer_delivery(
    number: str, person_id: int, dealer_code: str, kind: str, details: dict[str, object], at: datetime, life: timedelta
) -> Delivery:
    """What a dealer is told without anybody having decided on a push."""
    return Delivery(
        number,
        "",
        person_id,
        Channel.DEALER,
        (),
        offer="",
        title="",
        body="",
        purpose=_SERVICE,
        score=0.0,
        rank=0,
        reasons=(),
        dealer_code=dealer_code,
        decided_at=at,
        expires_at=at + life,
        due_at=at,
        kind=kind,
        details=json.dumps(details, ensure_ascii=False),
    )
