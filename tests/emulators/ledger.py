"""What reached a receiver, what it made to fail, and the judgement that follows: was anybody pushed twice."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar

LAST_FAILING_ATTEMPT = 2
"""From the third attempt on nothing is made to fail, so that every message gets through."""

COUNTS = (
    "repeats",
    "bad_signatures",
    "malformed",
    "unknown_people",
    "feedback_retries",
    "feedback_rejected",
    "internal_errors",
)
"""Counts that every report shows, also while they are zero."""

Kind = TypeVar("Kind", bound=str)


def draw(seed: int, *parts: object) -> float:
    """A number in [0, 1) that depends on the seed and the parts alone, in every process and on every machine."""
    text = "|".join(map(str, (seed, *parts)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) / 2**64


@dataclass(frozen=True)
class FailurePlan(Generic[Kind]):
    """Which attempt of which message fails, and how."""

    seed: int
    rates: Mapping[Kind, float]

    def failure(self, message_id: str, attempt: int) -> Kind | None:
        """The failure due at this attempt (1 is the first), or None."""
        if attempt > LAST_FAILING_ATTEMPT:
            return None
        left = draw(self.seed, message_id, attempt)
        for kind, rate in self.rates.items():
            left -= rate
            if left < 0:
                return kind
        return None


@dataclass(frozen=True, slots=True)
class Push:
    """One message that reached somebody; `person` is the key by which this receiver knows them."""

    endpoint: str
    person: str
    theme: str
    delivery_id: str


class Ledger:
    """What reached this receiver: each push once, under its idempotency key, with the counts beside it."""

    def __init__(self) -> None:
        self.pushes: dict[str, Push] = {}
        self.notices: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()
        self._keys_of: defaultdict[tuple[str, str], list[str]] = defaultdict(list)

    def attempt(self, key: str) -> int:
        """The number of this attempt of a message that has not been accepted yet; 1 is the first."""
        self._attempts[key] += 1
        return self._attempts[key]

    def seen(self, key: str) -> bool:
        return key in self.pushes or key in self.notices

    def accept(self, key: str, push: Push | None) -> None:
        """A push, or what is said about somebody who was pushed before."""
        if push is None:
            self.notices.add(key)
            return
        self.pushes[key] = push
        self._keys_of[push.person, push.theme].append(key)

    def latest(self, person: str) -> Push | None:
        return next((push for push in reversed(self.pushes.values()) if push.person == person), None)

    def report(self) -> dict[str, object]:
        answered = (count for event, count in self.events.items() if event.partition(":")[0].endswith("answered"))
        return {
            "pushes": len(self.pushes),
            **dict.fromkeys(COUNTS, 0),
            **self.counts,
            "failures_injected": self.failures.total(),
            "failures_by_kind": dict(self.failures),
            "answers_sent": sum(answered),
            "events_sent": dict(self.events),
            "pushes_per_person_theme_max": max(map(len, self._keys_of.values()), default=0),
            "pushed_twice": [list(pair) for pair, keys in self._keys_of.items() if len(keys) > 1],
        }
