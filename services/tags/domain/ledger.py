"""The arithmetic of the data-use ledger: a hash chain over uses, and a Merkle tree over who was in each.

An entry's hash covers its content and the hash before it. Of the persons it covers only the root of a tree whose leaves are
hashed with a random nonce each: as long as the nonce is kept it can be shown that somebody was in the use; once it is
destroyed the leaf is 32 bytes that say nothing, and the tree and the chain above it stay whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import NamedTuple

import orjson

GENESIS = bytes(32)
NONCE_BYTES = 16
# Signs and trees of other kinds must never pass for ours.
_MARK = b"troika data use v1\n"
_LEAF, _NODE = b"\0", b"\1"


@dataclass(frozen=True)
class Use:
    """The content of one entry. `points` are each person's; `inclusions` is the number of leaves under `root`."""

    number: int
    share_id: int
    recipient: str
    purpose: str
    form: int
    tags: tuple[str, ...]
    predicate: str
    min_group_size: int
    key_id: str
    persons: int
    suppressed: int
    without_consent: int
    points: int
    inclusions: int
    root: bytes
    used_at_us: int
    previous: bytes

    def content(self) -> bytes:
        """Canonical bytes: JSON without spaces, names in order, hashes in hexadecimal."""
        fields = asdict(self) | {"root": self.root.hex(), "previous": self.previous.hex()}
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)

    def hash(self) -> bytes:
        """What the next entry refers to."""
        return sha256(_MARK + self.content()).digest()


class Flaw(NamedTuple):
    """What is wrong with one entry."""

    number: int
    what: str


class Chain:
    """Follows entries in the order of their numbers; each must come right after, and refer to, the one before."""

    def __init__(self) -> None:
        self.number, self.hash = 0, GENESIS

    def follow(self, use: Use, recorded: bytes) -> list[Flaw]:
        """What is wrong with the next entry, whose hash was recorded as this."""
        flaws = []
        if use.number != self.number + 1:
            flaws.append(Flaw(self.number + 1, "is missing"))
        elif use.previous != self.hash:
            flaws.append(Flaw(use.number, f"does not continue entry {self.number}: one of the two was replaced"))
        if use.hash() != recorded:
            flaws.append(Flaw(use.number, "has another content than was recorded"))
        self.number, self.hash = use.number, recorded
        return flaws


def leaf(nonce: bytes, anchor_id: int, row: int) -> bytes:
    """The leaf of one anchor in one row of a use."""
    return sha256(_LEAF + nonce + anchor_id.to_bytes(8, "big") + row.to_bytes(8, "big")).digest()


class Tree:
    """Root over leaves that come one by one (RFC 9162, section 2.1), in memory that grows with their number's logarithm."""

    def __init__(self) -> None:
        self.size = 0
        # Complete trees of falling height: (height, root).
        self._peaks: list[tuple[int, bytes]] = []

    def add(self, leaf_hash: bytes) -> None:
        """Appends a leaf."""
        self.size += 1
        height, root = 0, leaf_hash
        while self._peaks and self._peaks[-1][0] == height:
            height, root = height + 1, _node(self._peaks.pop()[1], root)
        self._peaks.append((height, root))

    def root(self) -> bytes:
        """Over all leaves so far."""
        if not self._peaks:
            return sha256(b"").digest()
        root = self._peaks[-1][1]
        for _, left in self._peaks[-2::-1]:
            root = _node(left, root)
        return root


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over leaves."""
    tree = Tree()
    for each in leaves:
        tree.add(each)
    return tree.root()


def paths(leaves: Sequence[bytes], positions: Sequence[int]) -> list[list[bytes]]:
    """For each position the hashes beside the way from that leaf to the root, the lowest first."""
    level, places = list(leaves), list(positions)
    found: list[list[bytes]] = [[] for _ in positions]
    while len(level) > 1:
        for path, place in zip(found, places, strict=True):
            if (beside := place ^ 1) < len(level):
                path.append(level[beside])
        places = [place // 2 for place in places]
        # Who is left over at the end of a level goes up as it is.
        above = [_node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = above + level[2 * len(above) :]
    return found


def root_from(leaf_hash: bytes, position: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a proof leads to (RFC 9162, section 2.1.3.2); None when the path has the wrong length."""
    if not 0 <= position < size:
        return None
    place, last, root = position, size - 1, leaf_hash
    for beside in path:
        if last == 0:
            return None
        if place & 1 or place == last:
            root = _node(beside, root)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            root = _node(root, beside)
        place, last = place >> 1, last >> 1
    return root if last == 0 else None


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(_NODE + left + right).digest()
