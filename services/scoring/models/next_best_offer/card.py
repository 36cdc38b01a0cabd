"""What a reader of the model card is told."""

from __future__ import annotations

PURPOSE = (
    "Next best offer: of the offers that persons have accepted, which one a person is likeliest to be won by. For the order"
    " in which offers are put to one person. Learns from persons who accepted an offer; the label is the offer."
)
LIMITS = (
    "The figures answer: if she accepts one, which? They do not say whether she accepts any (that is purchase intent), nor"
    " what she would have done with an offer that was never made to people like her: whoever was offered one thing only"
    " could accept nothing else. Where offers were handed out by habit, let the decision point explore before trusting the"
    " order. An offer that fewer than 50 persons of the cut accepted is not ranked by itself: together such offers are"
    " `other`, or are left out. A new offer is unknown until it has been accepted 50 times. Not for prices."
)
