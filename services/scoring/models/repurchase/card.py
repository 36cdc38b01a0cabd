"""What a reader of the model card is told."""

from __future__ import annotations

PURPOSE = (
    "Repurchase: how likely an owner is to buy or order another vehicle within the time that the goal of the training names."
    " For the order in which dealers speak to owners whose vehicle grows old."
)
LIMITS = (
    "Learnt from owners at moments of the past that lie far enough back for the goal's time to have passed: owners of a model"
    " that is new have no such past, and their score is that of the nearest owners who have. Purchases at others are not"
    " seen, so the probability is of buying here. Model changes, subsidies and prices move the rate faster than any person"
    " changes: columns that tell the date rather than the person are left out unless later blocks proved them. Not for"
    " credit, trade-in prices or any decision with legal effect on a person."
)
