"""Bits, ids and bitmaps are the same positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from services.tags.index.bitmaps import bitmap, bits_of, from_ids, ids_of

# Of containers of 65,536: empty, an array's least and most, one more than an array holds, full.
COUNTS = st.lists(st.sampled_from((0, 1, 700, 4_096, 4_097, 30_000, 65_535, 65_536)), max_size=4)


@given(COUNTS, st.integers(0, 65_535), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_there_and_back(counts: list[int], cut: int, rnd: np.random.Generator) -> None:
    rng = np.random.default_rng(rnd.randint(0, 2**31))  # type: ignore[attr-defined]
    blocks = [np.isin(np.arange(65_536), rng.choice(65_536, count, replace=False)) for count in counts]
    mask = np.concatenate([*blocks, np.zeros(0, np.bool_)])[: max(0, 65_536 * len(counts) - cut)]
    expected = BitMap(np.flatnonzero(mask).tolist())
    made = bitmap(mask)
    assert expected == made
    assert expected == BitMap.deserialize(made.serialize())
    assert expected == from_ids(rng.permutation(ids_of(made)))
    bits = np.unpackbits(bits_of(made, len(mask)), bitorder="little")
    assert mask.tolist() == bits[: len(mask)].astype(np.bool_).tolist()


@pytest.mark.parametrize("size", [0, 1, 8, 70_000, 200_000])
def test_bits_below_a_size_are_as_many_as_it_takes(size: int) -> None:
    runs = BitMap(range(10, 100_000))
    runs.run_optimize()
    for members in (BitMap([3, 80_000, 150_000]), runs, BitMap(runs)):
        bits = bits_of(members, size)
        assert (size + 7) // 8 == len(bits)
        assert [i for i in members if i < size] == [
            i for i in np.flatnonzero(np.unpackbits(bits, bitorder="little")) if i < size
        ]
