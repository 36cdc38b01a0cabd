"""WeChat's error codes as data: what each means for the message, the token and the account (CONVENTIONS 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum, auto

from services.touchpoints.domain.deliveries import Accepted, Outcome, Refused, Retry


class Action(Enum):
    """What to do about an errcode."""

    DONE = auto()
    REFRESH_TOKEN = auto()
    RETRY = auto()
    PAUSE_ACCOUNT = auto()
    PAUSE_UNTIL_MIDNIGHT = auto()
    REFUSE = auto()


@dataclass(frozen=True)
class Rule:
    """An action with its reason and, for waits, seconds."""

    action: Action
    reason: str
    wait_s: float = 0.0


def _same(codes: tuple[int, ...], rule: Rule) -> dict[int, Rule]:
    return dict.fromkeys(codes, rule)


RULES: dict[int, Rule] = {
    0: Rule(Action.DONE, ""),
    # A repeat of a client_msg_id: the first one went out.
    **_same((40241, 45065), Rule(Action.DONE, "")),
    45066: Rule(Action.RETRY, "wechat_repeat_too_soon", 60),
    **_same((-1, -1000), Rule(Action.RETRY, "wechat_busy", 1)),
    **_same((40001, 40014, 41001, 42001), Rule(Action.REFRESH_TOKEN, "wechat_token")),
    # Nothing goes out for anybody until a person mends the account: wait, and shout in the log.
    **_same((40013, 40125, 41002, 41004, 40164, 61004), Rule(Action.PAUSE_ACCOUNT, "wechat_credentials", 300)),
    **_same((48001, 48003, 48004), Rule(Action.PAUSE_ACCOUNT, "wechat_api_not_granted", 300)),
    45009: Rule(Action.PAUSE_UNTIL_MIDNIGHT, "wechat_daily_quota"),
    45011: Rule(Action.PAUSE_ACCOUNT, "wechat_minute_quota", 60),
    43117: Rule(Action.RETRY, "wechat_too_frequent", 3600),
    **_same((40003, 46004), Rule(Action.REFUSE, "bad_address")),
    **_same((43004, 43019, 48002, 50002), Rule(Action.REFUSE, "unreachable")),
    43101: Rule(Action.REFUSE, "no_permission"),
    **_same((40033, 40037, 41030, 45002, 47001, 47003), Rule(Action.REFUSE, "content_refused")),
    **_same((45015, 45047), Rule(Action.REFUSE, "outside_window")),
}
_SHANGHAI = timezone(timedelta(hours=8))


def rule(errcode: int) -> Rule:
    """The rule of a code; unknown ones are tried again, under their number."""
    return RULES.get(errcode) or Rule(Action.RETRY, f"wechat_{errcode}")


def outcome(found: Rule, now: datetime) -> Outcome:
    """What a rule makes of the call that got it; a token's fault that outlived its refresh is a fault of the account."""
    match found.action:
        case Action.DONE:
            return Accepted()
        case Action.REFUSE:
            return Refused(found.reason)
        case Action.RETRY:
            return Retry(found.reason, found.wait_s, sent_perhaps=False)
        case Action.PAUSE_ACCOUNT:
            return Retry(found.reason, found.wait_s, sent_perhaps=False, pauses_endpoint=True)
        case Action.PAUSE_UNTIL_MIDNIGHT:
            return Retry(found.reason, _until_midnight_s(now), sent_perhaps=False, pauses_endpoint=True)
        case Action.REFRESH_TOKEN:
            return Retry(found.reason, 5, sent_perhaps=False)


def _until_midnight_s(now: datetime) -> float:
    there = now.astimezone(_SHANGHAI)
    midnight = there.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return (midnight - there).total_seconds()
