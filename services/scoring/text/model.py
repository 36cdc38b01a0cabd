"""A text model in memory: texts in, readings out.

The networks and the regression are weighed on the scale of log-odds and margins, so that what a place adds to the one
and to the other adds up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from services.scoring.text.kinds import Told, tell
from services.scoring.text.network import SENTIMENTS, Float32s, Pass, sigmoid, softmax
from services.scoring.text.normalising import Normal, normalise
from services.scoring.text.packing import Trunk, unpack
from services.scoring.text.reading import MAX_CHARACTERS, NOTHING, Kind, Opinion, Reading, Span, TextTooLong
from services.scoring.text.regression import FEELING_SHARE, TOPIC_SHARE
from services.scoring.text.spans import given, stretches
from services.scoring.text.vocabulary import RARE, Encoded, Numbers, batched

# Places read at once: what fits the cache of a core.
PLACES = 4_096
# The likeliest topic of a text is told down to here; every other one from the model's threshold on.
LEAST = 0.1
# A question that is this surely angry is a complaint.
SURELY_COMPLAINT = 0.7
LIKELY = 0.45


@dataclass(frozen=True)
class Judged:
    """Texts by networks and regression: P(topic), P(sentiment | topic), the last topic being the whole text."""

    topics: Float32s
    feelings: Float32s


@dataclass(frozen=True)
class Taken:
    """What was taken from one text: its passes through the networks, at `place` of each, and its n-grams."""

    passes: Sequence[Pass]
    place: int
    numbers: Numbers


class TextModel:
    """Thread-safe. Made from bytes whose seal was checked, or from what training has in hand."""

    def __init__(self, trunk: Trunk) -> None:
        self._trunk = trunk
        self.topics = trunk.topics

    @classmethod
    def open(cls, artefact: bytes) -> TextModel:
        """Raises ArtefactRefused for bytes that are no text model."""
        return cls(unpack(artefact))

    def classify(self, texts: Sequence[str]) -> list[Reading]:
        """One reading per text, in their order; raises TextTooLong before anything is read."""
        for number, text in enumerate(texts):
            if len(text) > MAX_CHARACTERS:
                limit = {"limit": str(MAX_CHARACTERS), "given": str(len(text))}
                raise TextTooLong(f"a text may have {MAX_CHARACTERS:,} characters", field=f"texts[{number}]", metadata=limit)
        normals = [normalise(text) for text in texts]
        encoded = [self._trunk.vocabulary.encode(normal.characters) for normal in normals]
        readings = [_unread(normal) for normal in normals]
        for row, taken in self._taken(normals, encoded):
            readings[row] = self._reading(normals[row], taken)
        return readings

    def judge(self, texts: Sequence[str]) -> Judged:
        """The bare numbers: [n, t] and [n, t, 3]; of texts without a known character, zeros."""
        normals = [normalise(text) for text in texts]
        encoded = [self._trunk.vocabulary.encode(normal.characters) for normal in normals]
        topics = np.zeros((len(texts), len(self.topics) + 1), np.float32)
        feelings = np.zeros((*topics.shape, len(SENTIMENTS)), np.float32)
        for row, taken in self._taken(normals, encoded):
            topics[row], feelings[row] = self.probabilities(taken)
        return Judged(topics, feelings)

    def probabilities(self, taken: Taken) -> tuple[Float32s, Float32s]:
        """[t] and [t, 3] of one text."""
        log_odds = np.mean([read.topics[taken.place] for read in taken.passes], axis=0)
        margins = np.mean([read.feelings[taken.place] for read in taken.passes], axis=0)
        if self._trunk.regression:
            counted, felt = self._trunk.regression.read(taken.numbers)
            log_odds[:-1] += TOPIC_SHARE * (counted - log_odds[:-1])
            margins[:-1] += FEELING_SHARE * (felt - margins[:-1])
        return sigmoid(log_odds), softmax(margins)

    def told(self, topics: Float32s) -> list[int]:
        """Which topics of one text are told, by confidence [t], the surest first."""
        order = [int(topic) for topic in np.argsort(-topics, kind="stable")]
        return [topic for topic in order if topics[topic] >= (LEAST if topic == order[0] else self._trunk.threshold)]

    def _taken(self, normals: Sequence[Normal], encoded: Sequence[Encoded]) -> Iterator[tuple[int, Taken]]:
        """Row by row; those without a known character are left out."""
        for rows, passes in self._passes(encoded):
            for place, row in enumerate(rows):
                yield row, Taken(passes, place, self._trunk.grams.numbers(normals[row].characters))

    def _passes(self, encoded: Sequence[Encoded]) -> Iterator[tuple[list[int], list[Pass]]]:
        """Texts of similar length through every network."""
        readable = [row for row, text in enumerate(encoded) if len(text) and (text.characters > RARE).any()]
        readable.sort(key=lambda row: len(encoded[row]))
        rows: list[int] = []
        for row in readable:
            if rows and (len(rows) + 1) * len(encoded[row]) > PLACES:
                yield rows, self._read([encoded[row] for row in rows])
                rows = []
            rows.append(row)
        if rows:
            yield rows, self._read([encoded[row] for row in rows])

    def _read(self, texts: Sequence[Encoded]) -> list[Pass]:
        numbers = batched(texts)
        return [network.read(*numbers) for network in self._trunk.networks]

    def _reading(self, normal: Normal, taken: Taken) -> Reading:
        topics, feelings = self.probabilities(taken)
        confidences = topics[:-1] * feelings[:-1].max(1) if self.topics else np.empty(0, np.float32)
        opinions = []
        for topic in self.told(confidences):
            feeling = int(feelings[topic].argmax())
            spans = given(normal, stretches(self.shares(taken, topic, feeling)))
            opinions.append(Opinion(self.topics[topic], SENTIMENTS[feeling], float(confidences[topic]), spans))
        kind, confidence, spans = self._kind(normal, taken, feelings[-1])
        return Reading(kind, confidence, spans, tuple(opinions))

    def shares(self, taken: Taken, topic: int, feeling: int) -> Float32s:
        """What each place adds to the log-odds of the topic plus the lead of the feeling's margin over the mean of the others.

        Exact: with the biases they sum to it. The whole text has no log-odds, only the lead.
        """
        against = np.full(len(SENTIMENTS), -1 / (len(SENTIMENTS) - 1), np.float32)
        against[feeling] = 1
        named = topic < len(self.topics)
        regression = self._trunk.regression if named else None
        of_topics, of_feelings = (1 - TOPIC_SHARE, 1 - FEELING_SHARE) if regression else (1.0, 1.0)
        each = []
        for network, read in zip(self._trunk.networks, taken.passes, strict=True):
            attended = of_feelings * ((network.feeling_attended + network.feeling_of_topic[topic]) @ against)
            strongest = of_feelings * (network.feeling_strongest @ against)
            if named:
                attended = attended + of_topics * network.topic_attended[topic]
                strongest = strongest + of_topics * network.topic_strongest[:, topic]
            each.append(read.shares(taken.place, topic, attended, strongest)[: len(taken.numbers)])
        shares = np.asarray(np.mean(each, axis=0), np.float32)
        if regression:
            counted, felt = regression.shares(taken.numbers, topic, against)
            shares += TOPIC_SHARE * counted + FEELING_SHARE * felt
        return shares

    def _kind(self, normal: Normal, taken: Taken, whole: Float32s) -> tuple[Kind, float, tuple[Span, ...]]:
        """Rules say what is wanted, the networks how the writer feels; an angry question is a complaint."""
        told = tell(normal.characters)
        bad, _, good = (float(p) for p in whole)
        if told and (told.kind is Kind.PURCHASE_INTENT or bad < SURELY_COMPLAINT):
            return _by_rule(normal, told)
        feeling = 0 if bad >= good else 2
        if max(bad, good) < LIKELY:
            return Kind.OTHER, 1 - max(bad, good), ()
        shares = self.shares(taken, len(self.topics), feeling)
        return Kind.COMPLAINT if feeling == 0 else Kind.PRAISE, max(bad, good), given(normal, stretches(shares))


def _by_rule(normal: Normal, told: Told) -> tuple[Kind, float, tuple[Span, ...]]:
    return told.kind, told.confidence, given(normal, told.places)


def _unread(normal: Normal) -> Reading:
    """What is said of a text no character of which the networks know: the rules' word, or nothing."""
    told = tell(normal.characters) if normal.characters else None
    return Reading(*_by_rule(normal, told), ()) if told else NOTHING
