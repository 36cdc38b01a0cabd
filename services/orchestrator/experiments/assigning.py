"""Who is in an experiment and in which of its variants: hashes only, the same for the same person wherever it is asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.orchestrator.domain.hashing import key_of, units
from services.orchestrator.experiments.definitions import BUCKETS, Experiment, Variant

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
OUTSIDE = -1


def buckets(person_id: Ints, layer_salt: bytes) -> Ints:
    """The bucket of each person in a layer. Experiments of one layer have ranges that do not meet: nobody is in two."""
    return (units(person_id, layer_salt) * BUCKETS).astype(np.int64)


def in_global_holdout(person_id: Ints, salt: str, share: float) -> Flags:
    """Who is kept out of everything: in no experiment, and no marketing. For the arbiter, too.

    Another `salt` draws other people; a larger `share` keeps those who were in it.
    """
    held: Flags = units(person_id, key_of("global holdout", salt)) < share
    return held


def draw(person_id: Ints, salt: bytes, variants: Sequence[Variant]) -> Ints:
    """The variant of each person, by position.

    Weighted rendezvous hashing (Thaler & Ravishankar 1998; weights by -ln(u)/w): when a weight grows, people move to that
    variant only, never between the others, and the order of the variants means nothing.
    """
    # 1 - u lies in (0, 1], so that the logarithm is finite; an exponential race, won with chance w / sum of all w.
    races = [-np.log1p(-units(person_id, key_of(salt, variant.name))) / variant.weight for variant in variants]
    won: Ints = np.argmin(np.stack(races), axis=0).astype(np.int64)
    return won


def assign(person_id: Ints, experiment: Experiment) -> Ints:
    """The variant of each person by position, OUTSIDE for those of other buckets; neither holdout nor eligibility is asked."""
    stated = experiment.definition
    bucket = buckets(person_id, experiment.layer_salt)
    inside = (bucket >= stated.bucket_from) & (bucket < stated.bucket_to)
    found: Ints = np.where(inside, draw(person_id, experiment.salt, stated.variants), OUTSIDE)
    return found
