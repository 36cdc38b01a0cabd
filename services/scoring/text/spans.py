"""From what each place of a text adds to a decision to the stretches of text that decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.scoring.text.network import Float32s
from services.scoring.text.normalising import Normal
from services.scoring.text.reading import Span

# A place counts when it adds this share of what the strongest adds; so many stretches are told.
TELLING = 0.3
MOST = 3


def stretches(shares: Float32s) -> list[Span]:
    """The most telling stretches of a normalised text in their order; a place's pair reaches one further."""
    if not len(shares) or shares.max() <= 0:
        return []
    floor = TELLING * float(shares.max())
    spans = merged((place, min(place + 2, len(shares))) for place in range(len(shares)) if shares[place] >= floor)
    spans.sort(key=lambda span: -float(shares[span[0] : span[1]].sum()))
    return sorted(spans[:MOST])


def merged(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, those that touch or overlap as one."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def given(normal: Normal, spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans of the normalised text as spans of the text as given."""
    return tuple(merged((normal.places[start], normal.places[end - 1] + 1) for start, end in spans))
