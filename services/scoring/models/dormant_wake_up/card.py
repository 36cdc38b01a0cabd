"""What a reader of the model card is told."""

from __future__ import annotations

PURPOSE = (
    "Dormant wake-up: how likely a customer who has been silent is to come back (open, visit, book) within the time that the"
    " goal of the training names. For choosing whom of the silent to write to at all, and whom to leave in peace."
)
LIMITS = (
    "Learnt only from customers who were silent at the moments of the cut; the cut has to say what silent is, and a score of"
    " an active customer means nothing. Few come back: fifty of them are the least that a training takes, and with few more"
    " the interval on the card is wide. Whoever comes back may have come without the message: for the effect of a message ask"
    " the uplift model. Nobody who has forbidden messages is to be written to because of a high score. Not for prices or any"
    " decision with legal effect on a person."
)
