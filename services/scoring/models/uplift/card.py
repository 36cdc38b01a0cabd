"""What a reader of the model card is told."""

from __future__ import annotations

PURPOSE = (
    "Uplift: by how much a push makes a person likelier to say yes, against not pushing her. For choosing whom to push: those"
    " who would say yes anyway need no push, and some are put off by one. 500 is no effect, 750 two more of a hundred, 800"
    " three more, below 500 a push does harm; 500 + 500 * effect / (|effect| + 0.02), the same in every version."
)
LIMITS = (
    "Learnt from campaigns in which chance decided who was pushed, and only from those: a cut from whose tags or times one can"
    " tell who was pushed is refused (NOT_RANDOMISED), and so is one that proves no effect (NO_PROVEN_EFFECT). Nobody shows her"
    " own effect, so the score of one person is a guess about people like her: most of its spread is taken back, and where"
    " `ranking_proven` is 0 persons' scores differ by less than is known. `effect_proven` 0 says that a push of everybody has"
    " no proven effect, though a push of the best may have. It holds for the push that was tried, in its season and channel."
    " Where little is to be ranked, learners differ by less than chance makes of them: on a public campaign like that"
    " (hillstrom_email, the men's message) no ranking, ours or others', is proven better than another."
    " Not for prices, credit or any decision with legal effect on a person."
)
