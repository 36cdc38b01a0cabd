"""What a model's folder says of itself without training anything."""

from __future__ import annotations

from dataclasses import dataclass

from services.scoring.frame import Feature


@dataclass(frozen=True)
class Specification:
    """A model: its name, what it is for, which tags it reads, and the module whose `train` makes it."""

    name: str
    purpose: str
    features: tuple[Feature, ...]
    training_module: str

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags it reads, in order."""
        return tuple(feature.tag for feature in self.features)
