"""What a reader of the model card is told."""

from __future__ import annotations

NAME = "feedback_text"
PURPOSE = (
    "Feedback text: what a Chinese text says of which topic (negative, neutral, positive) and what it is for (praise,"
    " complaint, enquiry, purchase intent, other), with the places that decided. For routing feedback, for tags on the"
    " person and for counting opinions per vehicle model."
)
DATA = (
    "Trained on labelled texts that whoever runs the product supplies (text, topic, sentiment; an empty topic means the"
    " text as a whole). No model is shipped: the public sets it was measured on carry no open licence."
)
METHOD = (
    "Small networks (vectors of characters and of pairs, filters over three places, one attention per topic) and a"
    " regression on n-grams of characters (topics by distinct grams, sentiment by those of the whole text and those near the"
    " place that says most of the topic), averaged on the scale of log-odds; the two err differently. The networks' vectors"
    " start from the company that characters keep in the training texts. Praise and complaint come from the networks'"
    " sentiment of the whole text; enquiry and purchase intent are rules written by hand (services/scoring/text/kinds.toml),"
    " not learnt, and their confidence was not measured. What the places that decided add is exact: it sums to the decision."
)
LIMITS = (
    "Not for judging a person, and not the only ground of any decision that concerns one. Neutral is what human labellers"
    " disagree on most: expect one opinion in three to have another sentiment than a given labeller would write, and irony"
    " and comparisons between two products to be misread. Traditional characters are not turned into simplified ones: what"
    " the training texts did not hold is read as unknown. Other languages than Chinese give no opinions worth having."
    " Confidence is the model's own probability, not calibrated afterwards."
)
