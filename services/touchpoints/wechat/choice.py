"""How to say something to a follower: which form the rules, the person's permissions and open windows leave. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from services.touchpoints.wechat.templates import MARKETING, Form, Template

# Seconds, messages (CONVENTIONS 3.2; a text of 2021 says 20 instead of 5, so that accounts may say otherwise).
WINDOWS: Mapping[str, tuple[int, int]] = {
    "message": (48 * 3600, 5),
    "click": (60, 3),
    "follow": (60, 3),
    "scan": (60, 3),
    "session": (60, 2),
}
WINDOW, CREDIT, GONE, OUT = "window:", "credit:", "gone", "out"
# A message that is on its way when the window closes comes too late.
MARGIN_US = 3_000_000
FOR_EVER = 2**63 - 1


@dataclass(frozen=True)
class Allowance:
    """So many messages until an instant (microseconds since the epoch)."""

    left: int
    until_us: int


@dataclass(frozen=True)
class Choice:
    """How a message goes, and which allowance pays for it (empty: none has to)."""

    form: Form
    template: str
    pays: str


@dataclass(frozen=True)
class Wish:
    """What is to be said."""

    purpose: str
    offer: str


def choose(
    wish: Wish, forms: Collection[Form], templates: Sequence[Template], allowances: Mapping[str, Allowance], now_us: int
) -> Choice | str:
    """The form that costs least of what cannot be had again, or a snake_case reason why there is none.

    Rights first (templates, which WeChat recognises when they are repeated), then windows, which close by themselves, and
    only then a yes that somebody gave.
    """
    open_now = {kind: a for kind, a in allowances.items() if a.until_us > now_us}
    if GONE in open_now:
        return "unreachable"
    if OUT in open_now or f"{OUT}:{wish.purpose}" in open_now:
        return "opted_out"
    fitting = [t for t in templates if t.form in forms and t.fits(wish.purpose, wish.offer)]
    windows = _windows(open_now, now_us) if Form.CUSTOM in forms else []
    return next(_ways(wish, fitting, windows, open_now), _why_not(wish, fitting, forms))


def _ways(
    wish: Wish, fitting: Sequence[Template], windows: Sequence[str], open_now: Mapping[str, Allowance]
) -> Iterator[Choice | str]:
    if wish.purpose != MARKETING:
        yield from (Choice(Form.TEMPLATE, t.id, "") for t in fitting if t.form is Form.TEMPLATE)
    yield from (Choice(Form.CUSTOM, "", window) for window in windows)
    for template in fitting:
        credit = open_now.get(CREDIT + template.id)
        if template.form is Form.SUBSCRIPTION and credit and credit.left > 0:
            yield Choice(Form.SUBSCRIPTION, template.id, CREDIT + template.id)


def _windows(open_now: Mapping[str, Allowance], now_us: int) -> list[str]:
    """Windows with room, the one that closes first before the others."""
    usable = [
        (a.until_us, kind)
        for kind, a in open_now.items()
        if kind.startswith(WINDOW) and a.left > 0 and a.until_us - now_us > MARGIN_US
    ]
    return [kind for _, kind in sorted(usable)]


def _why_not(wish: Wish, fitting: Sequence[Template], forms: Collection[Form]) -> str:
    if any(t.form is Form.SUBSCRIPTION for t in fitting):
        return "no_permission"
    return "outside_window" if wish.purpose != MARKETING and Form.CUSTOM in forms else "purpose_not_allowed"
