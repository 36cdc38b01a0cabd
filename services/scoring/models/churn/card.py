"""What a reader of the model card is told."""

from __future__ import annotations

PURPOSE = (
    "Churn: how likely a customer is to leave (to cancel, or not to come back to the workshop) within the time that the goal"
    " of the training names. For choosing whom to call and what to put right; the score is the risk, so high is bad news."
)
LIMITS = (
    "Learnt from customers who were active at the moments of the cut, with what was known of them then; the goal has to say"
    " what leaving is, and a customer who merely is quiet looks to it like one who left. It says who will leave, not whom a"
    " call would keep: that is an effect, and the uplift model's question. Not for prices, warranty or any decision with legal"
    " effect on a person. A tag that is written when somebody leaves (a last status, a reason) is refused or reported. When"
    " the rate of leaving moves, ranks hold longer than probabilities: recalibrate as outcomes come in, then train again."
)
