"""Why a decision came out as it did, told from what was stored with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.orchestrator.arbiter import deciding as d
from services.orchestrator.domain.channels import ALL_BITS, CHANNELS, PERSONAL, SERVICE_ONLY, mask_of, may_carry, names_of
from services.orchestrator.domain.themes import MARKETING, PersonId
from services.orchestrator.themes.definitions import Pacing, ThemeDefinition


@dataclass(frozen=True)
class Decision:
    """A stored decision and the evidence behind it; masks are of the channel bits, texts empty where there is none.

    `reason` says why it was put off, until `due_at`; `offer_id` None unless somebody is pushed.
    """

    person_id: PersonId
    occasion: int
    theme_version: int
    outcome: str
    reason: str
    due_at: datetime | None
    expires_at: datetime
    offer_id: int | None
    channel: str
    score: float
    probability: float
    value: float
    cost_fen: int
    position: int
    call_rank: int
    channels: int
    opted_out: int
    closed: int
    failing: int
    recent_pushes: int
    dealer_code: str
    time_zone: str
    delivery_id: str
    decided_at: datetime


# What was asked, in that order; each decision ends at one of them.
_ORDER = (
    d.MERGED, d.LEFT_AUDIENCE, d.GLOBAL_HOLDOUT, d.OPTED_OUT, d.NO_SCORE, d.NO_CHANNEL, d.NO_OFFER, d.EXCLUSION,
    d.FREQUENCY_CAP, d.QUIET_HOURS, d.PRIORITY, d.NO_VALUE, d.STOCK, d.QUOTA, d.CAPACITY, d.PACING, d.BUDGET, d.HOLDOUT,
)  # fmt: skip
_ENDS = {
    d.ERASED: "erased: the person was erased, and what was known with it",
    d.EXPIRED: "expired: the proposal ended before it could be decided on",
    d.THEME_FINISHED: "theme: it was finished while the proposal waited",
    d.PROPOSED: "proposed: waits for its moment",
}


def explain(decision: Decision, theme: ThemeDefinition) -> list[str]:
    """The rules that were asked, in order, each with what it saw; ends with the rule that decided.

    `theme` in the version that decided.
    """
    rule = decision.reason if decision.outcome == d.DEFERRED else decision.outcome
    if rule in _ENDS:
        return [_ENDS[rule] + _until(decision)]
    last = _ORDER.index(d.HOLDOUT if rule == d.PUSH else rule)
    # What it would have been is of no interest: only rules that say something of everybody, and the one that decided.
    told = [_sentence(name, name == rule, decision, theme) for name in _ORDER[: last + 1]]
    sentences = [sentence for sentence in told if sentence]
    sentences[-1] += _until(decision)
    return sentences


def _until(decision: Decision) -> str:
    return f"; decided again at {decision.due_at.isoformat()}" if decision.due_at else ""


def _sentence(rule: str, decides: bool, decision: Decision, theme: ThemeDefinition) -> str:
    """What a rule saw; empty where it has nothing to say unless it decides."""
    budget = theme.budget
    always = {
        d.OPTED_OUT: f"consent: closes {'everything' if decision.opted_out == ALL_BITS else names_of(decision.opted_out)}",
        d.NO_SCORE: _score(decision, theme),
        d.NO_CHANNEL: _channel(decision, theme),
        d.FREQUENCY_CAP: f"frequency: {decision.recent_pushes} pushes lately, caps close {names_of(decision.closed)}",
        d.QUIET_HOURS: f"quiet hours: {'now' if decides else 'not now'} in {decision.time_zone or 'the usual zone'}",
        d.BUDGET: _budget(decision, theme),
        d.HOLDOUT: f"holdout: {'kept out' if decides else 'not kept out'}, share {theme.holdout_share:g}",
    }
    if rule in always:
        return always[rule]
    if theme.goal.value_fen and rule == d.NO_VALUE:
        verdict = "costs more than it brings" if decides else f"{decision.value:.0f} fen more than it costs are expected"
        return f"value: {verdict}, probability {decision.probability:.4f} of {theme.goal.value_fen} fen"
    only = {
        d.MERGED: "merged: the person turned out to be another one who was decided on already",
        d.LEFT_AUDIENCE: "audience: the person is not in it any more",
        d.GLOBAL_HOLDOUT: "global holdout: kept out of all marketing",
        d.NO_OFFER: "offer: none that is for the person can be told on an open channel",
        d.EXCLUSION: f"exclusion: pushed lately by another theme of group {theme.exclusion.group if theme.exclusion else ''}",
        d.PRIORITY: f"priority: a theme above {theme.priority} has something for the person",
        d.NO_VALUE: "value: none is expected",
        d.STOCK: "stock: nothing is left of the offer",
        d.CAPACITY: f"capacity: {_desk(decision)} speaks to nobody else today",
        d.QUOTA: "quota: providers take no more of the open channels today",
        d.PACING: f"pacing: today's share is spent, {'evenly' if budget.pacing is Pacing.EVEN else 'as soon as possible'}",
    }
    return only[rule] if decides else ""


def _desk(decision: Decision) -> str:
    return f"dealer {decision.dealer_code}" if decision.dealer_code else "whoever would speak to the person"


def _score(decision: Decision, theme: ThemeDefinition) -> str:
    if not theme.model:
        return "score: none is asked for"
    if decision.score < 0:
        return f"score: none from {theme.model}"
    return f"score: {decision.score:.0f} from {theme.model}, probability {decision.probability:.4f}"


def _channel(decision: Decision, theme: ThemeDefinition) -> str:
    band = theme.band(decision.score)
    usable = decision.channels & ~decision.opted_out & mask_of(band.channels)
    notes = []
    if theme.purpose == MARKETING and decision.channels & ~decision.opted_out & mask_of(SERVICE_ONLY):
        notes.append("WeChat carries no marketing")
    if usable & mask_of(CHANNELS[code] for code in PERSONAL):
        notes.append(f"at most {theme.budget.max_calls} calls")
    preferred = ", ".join(band.channels) or "none"
    taken = f"{decision.channel}, " if decision.channel else ""
    opened = names_of(usable & may_carry(theme.purpose))
    if decision.failing:
        notes.append(f"{names_of(decision.failing)} did not work and came last")
    return "; ".join([f"channel: {taken}open are {opened} of {preferred} from score {band.from_score:g} on", *notes])


def _budget(decision: Decision, theme: ThemeDefinition) -> str:
    if not decision.position:
        return f"budget: spent, of {theme.budget.max_contacts} contacts"
    cost = f", costs {decision.cost_fen} fen" if decision.cost_fen else ""
    return f"budget: place {decision.position} of at most {theme.budget.max_contacts}{cost}"
