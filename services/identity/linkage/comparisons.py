"""Levels that many comparisons share, as SQL."""

from __future__ import annotations

from services.identity.linkage.profile import Level


def same(column: str, *, by_frequency: bool = True) -> Level:
    """Equal values; rare ones weigh more unless told otherwise."""
    return Level(f"same {column}", f"{column}_l = {column}_r", column if by_frequency else None)


def typos(column: str, at_most: int, *, longer_than: int = 0) -> Level:
    """Equal but for insertions, deletions, substitutions and neighbours swapped (Damerau–Levenshtein)."""
    long_enough = f" and length({column}_l) > {longer_than}" if longer_than else ""
    return Level(f"{column} within {at_most}", f"damerau_levenshtein({column}_l, {column}_r) <= {at_most}{long_enough}")


def alike(column: str, at_least: float) -> Level:
    """Jaro–Winkler similarity, for names: early letters count more."""
    return Level(f"{column} like {at_least}", f"jaro_winkler_similarity({column}_l, {column}_r) >= {at_least}")


def listed(column: str, listing: str) -> Level:
    """The one's value is among the other's values, in either direction."""
    return Level(
        f"{column} among {listing}",
        f"coalesce(list_contains({listing}_l, {column}_r), false) or coalesce(list_contains({listing}_r, {column}_l), false)",
    )


def overlap(listing: str) -> Level:
    """Any element in common."""
    return Level(f"some {listing}", f"arrays_overlap({listing}_l, {listing}_r)")


def within(column: str, at_most: int) -> Level:
    """Numbers no further apart."""
    return Level(f"{column} within {at_most}", f"abs({column}_l - {column}_r) <= {at_most}")
