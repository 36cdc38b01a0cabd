"""Small groups: what would tell how single persons behaved is not told."""

from __future__ import annotations

from collections.abc import Mapping


def too_small(sizes: Mapping[str, int], least: int) -> frozenset[str]:
    """Parts whose rates stay untold: those of fewer than `least` persons, and as many more, the smallest first, as are needed
    so that what is untold is not the difference between the whole and the rest. Parts of nobody hide nothing.
    """
    some = sorted((size, part) for part, size in sizes.items() if size)
    hidden = [entry for entry in some if entry[0] < least]
    for entry in some[len(hidden) :]:
        if not hidden or sum(size for size, _ in hidden) >= least:
            break
        hidden.append(entry)
    return frozenset(part for _, part in hidden)
