"""What a model's folder says of itself without training anything."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from chassis.consents import OPT_OUT


class Foretells(Enum):
    """What a model says of a person: whether she does it, by how much a push moves her, or which of several it is."""

    PROBABILITY = "probability"
    EFFECT = "effect"
    CLASS = "class"


@dataclass(frozen=True)
class Specification:
    """A model: its name, what it is for and what not, what it foretells, and the module whose `train` makes it.

    `consent`: whether persons have to allow it (opt_in), or may forbid it (opt_out); see `consents`.
    """

    name: str
    purpose: str
    limits: str
    training_module: str
    foretells: Foretells = Foretells.PROBABILITY
    consent: str = OPT_OUT
