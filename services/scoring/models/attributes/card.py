"""What a reader of the model card is told."""

from __future__ import annotations

PURPOSE = (
    "Inferred {name}: the likeliest value, with its probability, for persons who have not told it, learnt from persons who"
    " have. For the choice of words and offers, and for audiences that say that they hold guesses."
)
LIMITS = (
    "A guess about a group, not knowledge of a person: used only for persons who have switched personalisation on, never in"
    " place of what she says herself, never for prices, credit, insurance or any decision with legal effect on her. The"
    " probability comes true on average over persons like those of the cut; those who tell an attribute may differ from those"
    " who do not, and no figure here can show that. Attributes of a sensitive class (health, finance, whereabouts, belief,"
    " origin, politics, sexuality, biometrics, minors) are refused as targets, whatever the data could tell."
)
