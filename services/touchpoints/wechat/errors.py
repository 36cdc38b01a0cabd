"""Error codes as data: what each means for the message, the token and the account (CONVENTIONS 3.3, 3.7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum, auto

from services.touchpoints.domain.deliveries import Accepted, Outcome, Refused, Retry


class Action(Enum):
    """What to do about an errcode."""

    DONE = auto()
    REFRESH_TOKEN = auto()
    RETRY = auto()
    RETRY_ONCE = auto()
    PAUSE_ACCOUNT = auto()
    PAUSE_UNTIL_MIDNIGHT = auto()
    REFUSE = auto()


@dataclass(frozen=True)
class Rule:
    """An action with its reason and, for waits, seconds."""

    action: Action
    reason: str
    wait_s: float = 0.0


Rules = Mapping[int, Rule]
NO_PERMISSION, OUTSIDE_WINDOW, UNREACHABLE, BAD_ADDRESS = "no_permission", "outside_window", "unreachable", "bad_address"


def _same(codes: tuple[int, ...], rule: Rule) -> dict[int, Rule]:
    return dict.fromkeys(codes, rule)


# Nothing goes out for anybody until a person mends the account: wait, and shout in the log.
_CREDENTIALS = Rule(Action.PAUSE_ACCOUNT, "credentials_refused", 300)
_NOT_GRANTED = Rule(Action.PAUSE_ACCOUNT, "api_not_granted", 300)
_BUSY = Rule(Action.RETRY, "provider_busy", 1)
_TOKEN = Rule(Action.REFRESH_TOKEN, "token_refused", 5)
_CONTENT = Rule(Action.REFUSE, "content_refused")

RULES: Rules = {
    0: Rule(Action.DONE, ""),
    # A repeat of a client_msg_id: the first one went out.
    **_same((40241, 45065), Rule(Action.DONE, "")),
    45066: Rule(Action.RETRY, "repeated_too_soon", 60),
    **_same((-1, -1000), _BUSY),
    **_same((40001, 40014, 41001, 42001), _TOKEN),
    **_same((40013, 40125, 41002, 41004, 40164, 61004), _CREDENTIALS),
    **_same((48001, 48003, 48004), _NOT_GRANTED),
    45009: Rule(Action.PAUSE_UNTIL_MIDNIGHT, "daily_quota"),
    45011: Rule(Action.PAUSE_ACCOUNT, "minute_quota", 60),
    43117: Rule(Action.RETRY, "too_frequent", 3600),
    **_same((40003, 46004), Rule(Action.REFUSE, BAD_ADDRESS)),
    **_same((43004, 43019, 48002, 50002), Rule(Action.REFUSE, UNREACHABLE)),
    43101: Rule(Action.REFUSE, NO_PERMISSION),
    # Reported to come and go.
    40037: Rule(Action.RETRY_ONCE, "content_refused", 60),
    **_same((40033, 41030, 45002, 47001, 47003), _CONTENT),
    **_same((45015, 45047), Rule(Action.REFUSE, OUTSIDE_WINDOW)),
}
WECOM_RULES: Rules = {
    0: Rule(Action.DONE, ""),
    -1: _BUSY,
    **_same((40014, 41001, 42001), _TOKEN),
    # 40001 is a wrong secret here; 60020 an address that is not on the list of trusted ones.
    **_same((40001, 40013, 40091, 41002, 41004, 60020), _CREDENTIALS),
    **_same((40056, 41011, 48002, 60011, 301002), _NOT_GRANTED),
    **_same((45009, 45033), Rule(Action.PAUSE_ACCOUNT, "minute_quota", 60)),
    45029: Rule(Action.PAUSE_UNTIL_MIDNIGHT, "daily_quota"),
    **_same((40003, 40031, 60111, 81013, 84061), Rule(Action.REFUSE, BAD_ADDRESS)),
    **_same((40008, 40033, 40058, 41019, 44004, 45002, 47001), _CONTENT),
}
_SHANGHAI = timezone(timedelta(hours=8))


def rule(errcode: int, rules: Rules = RULES) -> Rule:
    """The rule of a code; unknown ones are tried again, under their number."""
    return rules.get(errcode) or Rule(Action.RETRY, f"errcode_{errcode}")


def outcome(found: Rule, now: datetime, attempts: int = 0) -> Outcome:
    """What a rule makes of the call that got it; a token's fault that outlived its refresh is a fault of the account."""
    match found.action:
        case Action.DONE:
            return Accepted()
        case Action.REFUSE:
            return Refused(found.reason)
        case Action.RETRY_ONCE if attempts > 0:
            return Refused(found.reason)
        case Action.RETRY | Action.RETRY_ONCE | Action.REFRESH_TOKEN:
            return Retry(found.reason, found.wait_s, sent_perhaps=False)
        case Action.PAUSE_ACCOUNT:
            return Retry(found.reason, found.wait_s, sent_perhaps=False, pauses_endpoint=True)
        case Action.PAUSE_UNTIL_MIDNIGHT:
            return Retry(found.reason, _until_midnight_s(now), sent_perhaps=False, pauses_endpoint=True)


def _until_midnight_s(now: datetime) -> float:
    there = now.astimezone(_SHANGHAI)
    midnight = there.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return (midnight - there).total_seconds()
