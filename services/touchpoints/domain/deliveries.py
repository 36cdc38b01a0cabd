"""The life of a push: its states, what an attempt can end in, and when to try again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum


class Channel(IntEnum):
    """How a person can be reached; numbers are those of the contract."""

    APP = 1
    # The service account; its mini-program and WeCom are channels of their own.
    WECHAT = 2
    DEALER = 3
    WECHAT_MINI = 4
    WECOM = 5
    SMS = 6
    PUSH = 7
    CALL_LIST = 8
    WEB = 9
    ADS = 10

    @property
    def label(self) -> str:
        """The name in requests and events."""
        return self.name.lower()

    @property
    def consent_channel(self) -> str:
        """The channel, in identity's words, that people allow or forbid when they speak of this one."""
        return _CONSENTS.get(self, self.label)


CHANNELS = {channel.label: channel for channel in Channel}
# Nobody thinks of a mini-program apart from WeChat, or of a notification apart from the app that shows it.
_CONSENTS = {Channel.WECHAT_MINI: "wechat", Channel.WECOM: "wechat", Channel.PUSH: "app", Channel.CALL_LIST: "phone"}


class State(IntEnum):
    """States of a push; numbers are those of the contract and only ever grow."""

    QUEUED = 1
    SENDING = 2
    ACCEPTED = 3
    DELIVERED = 4
    OPENED = 5
    CLICKED = 6
    ANSWERED = 7
    GOAL = 8
    FAILED = 9
    SUPPRESSED = 10
    EXPIRED = 11


def furthest(states: Iterable[State]) -> State:
    """The state after any number of updates: the largest, so their order and repetition do not matter."""
    return max(states)


@dataclass(frozen=True)
class Cap:
    """No more than so many pushes to one person within so many seconds, through one channel (its number) or any (0)."""

    channel: int
    pushes: int
    seconds: float


# Types of webhooks to dealers (CONVENTIONS 5.3).
ASSIGNED, REASSIGNED, WITHDRAWN = "lead.assigned", "lead.reassigned", "lead.withdrawn"
ERASED, CONSENT = "customer.erased", "consent.changed"
# What a receiver is told for the sake of the person alone: it needs no consent, least of all when that was withdrawn. It never
# ends before it was heard: after its time, or when it is refused, it is parked until somebody replays it.
NOTICES = frozenset({WITHDRAWN, ERASED, CONSENT})


@dataclass(frozen=True)
class Delivery:
    """A push that is to be sent."""

    delivery_id: str
    theme: str
    person_id: int
    channel: Channel
    fallback_channels: tuple[Channel, ...]
    offer: str
    title: str
    body: str
    purpose: str
    score: float
    rank: int
    reasons: tuple[str, ...]
    dealer_code: str
    decided_at: datetime
    expires_at: datetime
    due_at: datetime
    attempts: int = 0
    # Seconds since the first call whose outcome is still not known; None when all outcomes are.
    unsure_s: float | None = None
    # "21:00-09:00" on the clock of `time_zone`: then it is not sent. Empty for at any hour.
    quiet_hours: str = ""
    time_zone: str = ""
    caps: tuple[Cap, ...] = ()
    # What it tells where that is no message: the type of the webhook; and JSON that only its channel reads.
    kind: str = ""
    details: str = ""


@dataclass(frozen=True)
class Accepted:
    """The provider took it. `provider_id` is the provider's own number of the message, if it gives any."""

    provider_id: str = ""


@dataclass(frozen=True)
class Retry:
    """It may have been taken or not; the same idempotency key goes again, at the earliest after `after_s`."""

    reason: str
    after_s: float = 0.0
    # False when the provider said that it did not send.
    sent_perhaps: bool = True
    # The fault concerns the whole endpoint: nothing else goes there either until then.
    pauses_endpoint: bool = False
    # The receiver is in trouble, whatever is sent to it; many in a row open its circuit.
    faults_endpoint: bool = False
    # The receiver asks for fewer at once.
    throttles: bool = False


@dataclass(frozen=True)
class Refused:
    """It will never be taken."""

    reason: str
    # The receiver is gone for good (HTTP 410).
    disables_endpoint: bool = False
    # Its owner may mend what the receiver could not take: it is parked, not at its end.
    mendable: bool = False


Outcome = Accepted | Retry | Refused


@dataclass(frozen=True)
class Change:
    """What an attempt, or the lack of one, makes of a push. Back to QUEUED: it goes to its next channel."""

    delivery_id: str
    state: State
    reason: str = ""
    provider_id: str = ""
    # Seconds from now until it is due again; only while the state is not final.
    due_in_s: float | None = None
    # Whether every call so far has a known outcome.
    sure: bool = False
    # How many calls through which channel it rests on, if on any: of somebody who called since then it says nothing.
    attempts: int | None = None
    channel: int = 0
    # Whether the call counts among those that a push has.
    counts: bool = True
    # Why it goes no more until somebody replays it.
    parked: str = ""


# Why pushes are parked that were called, and why notices are whose time is over.
REFUSED, EXHAUSTED, UNHEARD = "refused", "retries_exhausted", "unheard"
# First steps are short: most faults are a lost connection or a busy second. Seconds after the n-th failure.
LADDER_S: Sequence[float] = (0.5, 2, 5, 30, 300, 1800, 7200, 18000)
JITTER = 0.2


def retry_delay_s(attempts: int, after_s: float, luck: float) -> float:
    """Seconds to wait after the `attempts`-th failed call; `luck` in [0, 1) spreads the retries of a burst."""
    step = LADDER_S[min(max(attempts, 1), len(LADDER_S)) - 1]
    return max(step, after_s) * (1 + JITTER * luck)


def unsent(delivery: Delivery, reason: str, attempts: int, *, sure: bool, ends: State = State.FAILED) -> Change:
    """What becomes of a push that its channel cannot send: the next channel's if it surely went nowhere yet, else it ends."""
    state = State.QUEUED if sure and delivery.fallback_channels else ends
    return Change(delivery.delivery_id, state, reason, sure=sure, attempts=attempts, channel=delivery.channel)


def _parked(change: Change, why: str) -> Change:
    """What somebody may replay has no end yet, unless it goes to another channel."""
    return change if change.state is State.QUEUED else replace(change, state=State.SENDING, parked=why)


def after_attempt(delivery: Delivery, attempts: int, outcome: Outcome, most_attempts: int, luck: float) -> Change:
    """The change that an attempt's outcome makes; `attempts` counts this one.

    That this call was not sent says nothing of an earlier one: beyond the provider's memory that one must not be repeated.
    """
    if isinstance(outcome, Accepted):
        return Change(delivery.delivery_id, State.ACCEPTED, provider_id=outcome.provider_id)
    sent_perhaps = isinstance(outcome, Retry) and outcome.sent_perhaps
    sure, notice = delivery.unsure_s is None and not sent_perhaps, delivery.kind in NOTICES
    if isinstance(outcome, Refused):
        change = unsent(delivery, outcome.reason, attempts, sure=sure)
        return _parked(change, REFUSED) if notice or outcome.mendable else change
    # What stops a whole endpoint is no push's fault, and uses none up.
    counts = sent_perhaps or not outcome.pauses_endpoint
    if counts and attempts >= most_attempts and not notice:
        return _parked(unsent(delivery, outcome.reason, attempts, sure=sure), EXHAUSTED)
    return Change(
        delivery.delivery_id,
        State.SENDING,
        outcome.reason,
        due_in_s=retry_delay_s(attempts, outcome.after_s, luck),
        sure=sure,
        attempts=attempts,
        channel=delivery.channel,
        counts=counts,
    )
