"""What to do next about a customer: one table of rules, read from the top; the first that fits says it."""

from __future__ import annotations

from dataclasses import dataclass

from services.orchestrator.leads.chain import Stage

LONG_AGO = 10_000.0


@dataclass(frozen=True)
class Rule:
    """Fits leads in one of the stages (None: customers without a lead), so many days after somebody last spoke to them."""

    stages: tuple[Stage | None, ...]
    from_days: float
    from_score: float
    action: str
    words: str


RULES = (
    Rule((Stage.ORDER,), 7, 0, "say_when_delivered", "tell them how their order stands and agree on the day of delivery"),
    Rule((Stage.ORDER,), 0, 0, "prepare_delivery", "prepare the delivery; they heard from us this week"),
    Rule((Stage.TEST_DRIVE,), 3, 0, "make_offer", "make an offer: the test drive is some days ago"),
    Rule((Stage.TEST_DRIVE,), 0, 0, "ask_impression", "ask how they liked the test drive"),
    Rule((Stage.VISIT,), 14, 0, "invite_again", "invite them again: they were here and left"),
    Rule((Stage.VISIT,), 0, 0, "offer_test_drive", "offer a test drive"),
    Rule((Stage.INVITED,), 7, 0, "invite_again", "agree on another day: they said they would come and nothing was heard"),
    Rule((Stage.INVITED,), 0, 0, "confirm_visit", "confirm the visit"),
    Rule((Stage.CONTACTED,), 30, 600, "call_with_news", "call with something new: a month without a word, and still likely"),
    Rule((Stage.CONTACTED,), 3, 0, "invite_to_showroom", "invite them to the showroom"),
    Rule((Stage.CONTACTED,), 0, 0, "keep_word", "keep what was promised in the last talk"),
    Rule((Stage.LEAD,), 0, 0, "call_now", "call now: they asked and nobody has spoken to them"),
    Rule((Stage.LOST, Stage.DELIVERED, None), 0, 600, "invite_test_drive", "invite them to a test drive"),
    Rule((Stage.LOST, Stage.DELIVERED, None), 0, 0, "call_to_ask", "call and ask whether they think of a new car"),
)


def next_action(stage: Stage | None, days_since_contact: float | None, score: float) -> Rule:
    """The rule that fits; nobody ever spoken to counts as long ago."""
    days = LONG_AGO if days_since_contact is None else max(0.0, days_since_contact)
    points = max(0.0, score)
    return next(rule for rule in RULES if stage in rule.stages and days >= rule.from_days and points >= rule.from_score)
