"""The mixture of `learning.propensity`: nothing of it is particular to this model."""

from __future__ import annotations

from services.scoring.learning.propensity import train

__all__ = ["train"]
