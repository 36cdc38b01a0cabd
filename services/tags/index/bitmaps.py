"""Masks and ids to roaring bitmaps and back, container by container instead of id by id.

The portable format of a bitmap without runs is a header and one container per 65,536 ids: up to 4,096 ids as a sorted array of
16-bit numbers, more as 8,192 bytes of bits, which are exactly numpy's packed bits.
"""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

Bits = NDArray[np.uint8]
Ids = NDArray[np.uint32]

BLOCK: Final = 65_536
_BYTES: Final = BLOCK // 8
_MOST_IN_ARRAY: Final = 4_096
_COOKIE: Final = 12_346


def bitmap(mask: NDArray[np.bool_] | Bits) -> BitMap:
    """Positions at which a mask is not zero."""
    return from_bits(np.packbits(mask, bitorder="little"))


def from_bits(bits: Bits) -> BitMap:
    """Positions of the set bits, lowest bit of each byte first."""
    size = -(-len(bits) // _BYTES)
    blocks = np.zeros((size, _BYTES), np.uint8)
    blocks.reshape(-1)[: len(bits)] = bits
    counts = np.bitwise_count(blocks.view(np.uint64)).sum(1, dtype=np.int64)
    keys = np.flatnonzero(counts)
    if not len(keys):
        return BitMap()
    if len(keys) < size:
        blocks, counts = blocks[keys], counts[keys]
    # Containers of few ids must come as arrays. Inverted they have many, and inverting them back is CRoaring's work: five
    # times faster than finding the ids here.
    few = np.flatnonzero(counts <= _MOST_IN_ARRAY)
    if not len(few):
        return _of_blocks(keys, blocks, counts)
    blocks[few] ^= 0xFF
    counts[few] = BLOCK - counts[few]
    made = _of_blocks(keys, blocks, counts)
    whole = np.full((len(few), _BYTES), 0xFF, np.uint8)
    made ^= _of_blocks(keys[few], whole, np.full(len(few), BLOCK, np.int64))
    return made


def from_ids(ids: NDArray[np.integer]) -> BitMap:
    """Ids in any order, with or without repetition."""
    return BitMap(array("I", np.ascontiguousarray(ids, np.uint32).tobytes()))


def ids_of(members: BitMap) -> Ids:
    """Ids, ascending."""
    return np.asarray(members.to_array(), np.uint32)


def bits_of(members: BitMap, size: int) -> Bits:
    """Packed bits of the ids below `size`, the last byte filled up with zeros or with ids above."""
    whole = -(-size // BLOCK)
    out = np.zeros((whole, _BYTES), np.uint8)
    data = members.serialize()
    cookie, count = np.frombuffer(data, np.uint32, 2).tolist()
    if cookie != _COOKIE:
        # Runs, which nothing here makes.
        mask = np.zeros(whole * BLOCK, np.bool_)
        ids = ids_of(members)
        mask[ids[ids < len(mask)]] = True
        return np.packbits(mask, bitorder="little")[: -(-size // 8)]
    header = np.frombuffer(data, np.uint16, 2 * count, 8).reshape(-1, 2)
    inside = int(np.searchsorted(header[:, 0], whole))
    keys, counts = header[:inside, 0].astype(np.int64), header[:inside, 1].astype(np.int64) + 1
    offsets = np.frombuffer(data, np.uint32, count, 8 + 4 * count)[:inside].astype(np.int64)
    dense = counts > _MOST_IN_ARRAY
    sparse = [
        np.frombuffer(data, np.uint16, size_, offset) + np.int64(key * BLOCK)
        for key, size_, offset in zip(keys[~dense].tolist(), counts[~dense].tolist(), offsets[~dense].tolist(), strict=True)
    ]
    if sparse:
        mask = np.zeros(whole * BLOCK, np.bool_)
        mask[np.concatenate(sparse)] = True
        out = np.packbits(mask, bitorder="little").reshape(whole, _BYTES)
    for key, offset in zip(keys[dense].tolist(), offsets[dense].tolist(), strict=True):
        out[key] = np.frombuffer(data, np.uint8, _BYTES, offset)
    return out.reshape(-1)[: -(-size // 8)]


def _of_blocks(keys: NDArray[np.int64], blocks: NDArray[np.uint8], counts: NDArray[np.int64]) -> BitMap:
    """Containers of more than 4,096 ids each, by ascending key."""
    size = len(keys)
    header = np.empty((size, 2), np.uint16)
    header[:, 0], header[:, 1] = keys, counts - 1
    offsets = np.arange(size, dtype=np.uint32) * _BYTES + 8 * (size + 1)
    head = np.array([_COOKIE, size], np.uint32)
    return BitMap.deserialize(b"".join((head.tobytes(), header.tobytes(), offsets.tobytes(), blocks.data)))
