"""An index as named parts, each a few buffers, and back: what a snapshot's files hold.

The order matters. A snapshot is fuzzy, because changes go on while it is written, and becomes right when they are applied
again. Versions come first: what they say was applied is in every part that is taken later, what was applied later is applied
again and comes out the same. Of a pair's edges those that keep the versions come before those that lead back, likewise.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from services.tags.domain.catalogue import Kind
from services.tags.index.columns import BooleanColumn, CategoryColumn, Column, NumberColumn, SetColumn, TextColumn
from services.tags.index.index import AudienceIndex

Buffer = bytes | memoryview
# Gives a file's content, which the caller may keep and change.
Read = Callable[[str], bytearray]
Entry = dict[str, Any]


class Unreadable(ValueError):
    """The parts are not those of an index of this catalogue."""


@dataclass(frozen=True)
class Part:
    """One file: an array, or bitmaps one behind the other. `entry` is what the manifest says of it."""

    file: str
    buffers: Sequence[Buffer]
    entry: Entry


def parts(index: AudienceIndex) -> Iterator[Part]:
    """Everything in the order in which it must be taken; each part is as of the moment it is asked for.

    Arrays of numbers are not copied: they may change while they are written, cell by cell.
    """
    for kind, versions in index.versions.items():
        yield _array(f"{_named(kind)}.versions.npy", versions, {"part": "versions", "kind": int(kind)})
    for kind, present in index.present.items():
        yield _bitmaps(f"{_named(kind)}.present.roaring", [present], {"part": "present", "kind": int(kind)})
    for kind in Kind:
        for place, (tag, column) in enumerate(list(index.columns(kind).items())):
            yield from _column(f"{_named(kind)}.{place:04}", column, {"part": "column", "kind": int(kind), "tag": tag})
    for (one, other), edges in index.relations.edges.items():
        for name, array in edges.state().items():
            entry = {"part": "edges", "one": int(one), "other": int(other), "name": name}
            yield _array(f"{_named(one)}-{_named(other)}.{name}.npy", array, entry)


def assemble(index: AudienceIndex, entries: Mapping[str, Entry], read: Read) -> None:
    """Fills an empty index from the manifest's entries by file name. Raises Unreadable, or an error of a part's own."""
    edges: dict[tuple[Kind, Kind], dict[str, NDArray[np.generic]]] = {pair: {} for pair in index.relations.edges}
    numbers: dict[tuple[int, str], NDArray[np.float64]] = {}
    for file, entry in entries.items():
        match entry["part"]:
            case "versions":
                index.versions[Kind(entry["kind"])] = _read_array(read(file))
            case "present":
                (index.present[Kind(entry["kind"])],) = _read_bitmaps(read(file), entry)
            case "numbers":
                numbers[entry["kind"], entry["tag"]] = _read_array(read(file))
            case "column":
                column = index.column(Kind(entry["kind"]), entry["tag"])
                if type(column).__name__ != entry["type"]:
                    raise Unreadable(f"{entry['tag']} has another type")
                _fill(column, _read_bitmaps(read(file), entry), entry, numbers.pop((entry["kind"], entry["tag"]), None))
            case "edges":
                edges[Kind(entry["one"]), Kind(entry["other"])][entry["name"]] = _read_array(read(file))
            case other:
                raise Unreadable(f"unknown part {other}")
    for pair, arrays in edges.items():
        index.relations.edges[pair].restore(arrays)


def _column(name: str, column: Column, entry: Entry) -> Iterator[Part]:
    entry |= {"type": type(column).__name__}
    match column:
        case NumberColumn():
            yield _array(f"{name}.npy", column.values, entry | {"part": "numbers"})
            bitmaps = [column.known()]
        case BooleanColumn():
            bitmaps = [column.yes, column.no]
        case CategoryColumn():
            bitmaps = list(column.members.values())
            entry |= {"words": list(column.members)}
        case SetColumn():
            bitmaps = [column.known(), *column.members.values()]
            entry |= {"words": list(column.members)}
        case TextColumn():
            bitmaps = [column.known()]
        case _:
            assert_never(column)
    yield _bitmaps(f"{name}.roaring", bitmaps, entry)


def _fill(column: Column, bitmaps: list[BitMap], entry: Entry, numbers: NDArray[np.float64] | None) -> None:
    match column:
        case NumberColumn():
            if numbers is None:
                raise Unreadable(f"{entry['tag']} has no numbers")
            column.fill(numbers, bitmaps[0])
        case BooleanColumn():
            column.fill(*bitmaps)
        case CategoryColumn():
            column.fill(dict(zip(entry["words"], bitmaps, strict=True)))
        case SetColumn():
            column.fill(dict(zip(entry["words"], bitmaps[1:], strict=True)), bitmaps[0])
        case TextColumn():
            column.fill(bitmaps[0])
        case _:
            assert_never(column)


def _named(kind: Kind) -> str:
    return kind.name.lower()


def _array(file: str, array: NDArray[Any], entry: Entry) -> Part:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return Part(file, [head.getvalue(), array.data.cast("B")] if len(array) else [head.getvalue()], entry)


def _read_array(data: bytearray) -> Any:
    """The array in place of the file's bytes; changing it is allowed."""
    head = io.BytesIO(data[:4096])
    if np.lib.format.read_magic(head) != (1, 0):
        raise Unreadable("an array of another format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(head)
    return np.frombuffer(data, dtype, shape[0], head.tell()) if shape[0] else np.zeros(0, dtype)


def _bitmaps(file: str, bitmaps: Sequence[BitMap], entry: Entry) -> Part:
    buffers = [members.serialize() for members in bitmaps]
    return Part(file, buffers, entry | {"lengths": [len(buffer) for buffer in buffers]})


def _read_bitmaps(data: bytearray, entry: Entry) -> list[BitMap]:
    made, start = [], 0
    for length in entry["lengths"]:
        made.append(BitMap.deserialize(bytes(memoryview(data)[start : start + length])))
        start += length
    if start != len(data):
        raise Unreadable("bitmaps of another length")
    return made
