"""All offers for one person, by a model of classes."""

from __future__ import annotations

from collections.abc import Mapping

from services.scoring.artefact import ServedModel
from services.scoring.frame import Matrix


def ranked(model: ServedModel, row: Matrix) -> list[tuple[str, float]]:
    """(offer, probability), the likeliest first; of equal ones by name."""
    [shares] = model.probabilities(row[None, :])
    return _ordered(dict(zip(model.classes, shares.tolist(), strict=True)))


def usual(model: ServedModel, shares: Mapping[str, float]) -> list[tuple[str, float]]:
    """The same for somebody of whom nothing may be said: by how often each was taken in the training cut.

    A class that the model knows and the cut does not is made of the rare ones.
    """
    rare = max(0.0, 1 - sum(shares.get(name, 0.0) for name in model.classes))
    return _ordered({name: shares.get(name, rare) for name in model.classes})


def _ordered(offers: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(offers.items(), key=lambda offer: (-offer[1], offer[0]))
