"""What every room here calls a dealer, and how dealers read scores."""

from __future__ import annotations

# Lower bounds of the bands, the same as the tag score_band.
_BANDS = ((800, "A"), (600, "B"), (400, "C"))


def name_of(dealer_code: str) -> str:
    """A dealer as source of events, scope of its customers' numbers, and recipient of pseudonyms."""
    return f"dealer:{dealer_code}"


def band_of(score: float) -> str:
    """The band of a score."""
    return next((band for floor, band in _BANDS if score >= floor), "D")
