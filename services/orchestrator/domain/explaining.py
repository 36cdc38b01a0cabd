"""Why a decision came out as it did, told from what was stored with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.orchestrator.domain.deciding import ALL_BITS, CHANNELS, DEALER_BIT, WECHAT_BIT
from services.orchestrator.domain.themes import MARKETING, PersonId
from services.orchestrator.themes.definitions import ThemeDefinition


@dataclass(frozen=True)
class Decision:
    """A stored decision and the evidence behind it; masks are of the channel bits, texts empty where there is none."""

    person_id: PersonId
    outcome: str
    channel: str
    score: float
    probability: float
    delivery_id: str
    decided_at: datetime
    position: int
    call_rank: int
    channels: int
    opted_out: int
    recent_pushes: int
    dealer_code: str


def explain(decision: Decision, theme: ThemeDefinition, frequency_cap: int) -> list[str]:
    """The rules that were asked, in order, each with what it saw; ends with the rule that decided."""
    rules = {
        "opted_out": _consent(decision),
        "frequency_cap": f"frequency: {decision.recent_pushes} of at most {frequency_cap} pushes lately",
        "no_score": _score(decision, theme),
        "no_channel": _channel(decision, theme),
        "budget": f"budget: place {decision.position} of at most {theme.budget.max_contacts}",
        "holdout": f"holdout: {'kept out' if decision.outcome == 'holdout' else 'not kept out'}, share {theme.holdout_share:g}",
        "merged": "merged: the person turned out to be another one who is pushed already",
    }
    asked = list(rules)
    if decision.outcome in ("push", "holdout"):
        return [rules[name] for name in asked[: asked.index("holdout") + 1]]
    if decision.outcome == "erased":
        return ["erased: the person was erased before the push went out, and what was known with it"]
    if decision.outcome == "merged":
        return list(rules.values())
    return [rules[name] for name in asked[: asked.index(decision.outcome) + 1]]


def _names(mask: int) -> str:
    return ", ".join(name for code, name in enumerate(CHANNELS) if mask >> code & 1) or "none"


def _consent(decision: Decision) -> str:
    if decision.opted_out == ALL_BITS:
        return "consent: closes everything"
    return f"consent: closes {_names(decision.opted_out)}"


def _score(decision: Decision, theme: ThemeDefinition) -> str:
    if not theme.model:
        return "score: none is asked for"
    if decision.score < 0:
        return f"score: none from {theme.model}"
    return f"score: {decision.score:.0f} from {theme.model}, probability {decision.probability:.4f}"


def _channel(decision: Decision, theme: ThemeDefinition) -> str:
    usable = decision.channels & ~decision.opted_out
    notes = []
    if theme.purpose == MARKETING and usable & WECHAT_BIT:
        usable &= ~WECHAT_BIT
        notes.append("WeChat carries no marketing")
    if usable & DEALER_BIT:
        notes.append(f"at most {theme.budget.max_calls} calls")
    band = theme.band(decision.score)
    notes.append(f"from score {band.from_score:g} on: {', '.join(band.channels) or 'nobody'}")
    taken = f"{decision.channel}, " if decision.channel else ""
    return "; ".join([f"channel: {taken}open are {_names(usable)}", *notes])
