"""What a reader of the model card is told."""

from __future__ import annotations

PURPOSE = (
    "Purchase intent: how likely a person is to say yes to the offer when asked once more. For ranking people within a"
    " campaign and for choosing the channel."
)
LIMITS = (
    "Not for prices, credit or any decision with legal effect on a person. Measured on persons of the same campaigns: when"
    " the economic figures leave the range of the training cut, train again. Unknown tags are allowed; a person of whom"
    " nothing is known gets roughly the usual score, which says nothing of them."
)
