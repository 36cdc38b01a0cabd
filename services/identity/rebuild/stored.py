"""The whole graph out of the tables, as arrays: millions of rows by COPY, none of them ever an object of Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chassis.db import UnitOfWork
from services.identity.domain.graphs import Graph, Ints, Small
from services.identity.domain.kinds import COUNTED, NUMBERS
from services.identity.store import Store

# Columns of one length only and never NULL: so all rows of a stream have one length.
NODES = {
    "id": "i8",
    "kind": "i2",
    "anchor": "?",
    "entity_id": "i8",
    "component_id": "i8",
    "person_guard": "i2",
    "vehicle_guard": "i2",
    "cleared": "?",
}
LINKS = {"anchor_id": "i8", "value_id": "i8", "name": "i8", "source_id": "i2", "strength": "i2"}

# https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format": signature, flags, length of an extension.
_HEADER_BYTES = 19
_TRAILER_BYTES = 2
_CHUNK_BYTES = 1 << 24
# Ids up to so many times their number are looked up in a table, others by halving.
_SPARSE = 8


@dataclass(frozen=True)
class Stored:
    """What the tables hold. Nodes are in the order of their ids; `graph` knows only the guards that somebody decided on."""

    ids: Ints
    anchor: npt.NDArray[np.bool_]
    entity: Ints
    component: Ints
    person_guard: Small
    vehicle_guard: Small
    graph: Graph
    # Links to or from identifiers that are not there; they are not in the graph.
    dangling: int


class _Rows:
    """Takes a binary COPY in pieces and keeps its columns."""

    def __init__(self, columns: dict[str, str]) -> None:
        row: list[tuple[str, str]] = [("fields", ">i2")]
        for name, kind in columns.items():
            row += [(f"{name}_bytes", ">i4"), (name, f">{kind}")]
        self._row = np.dtype(row)
        self._columns = columns
        self._skip = _HEADER_BYTES
        self._waiting = bytearray()
        self._parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in columns}

    async def take(self, data: bytes) -> None:
        """The next piece of the stream."""
        self._waiting += data
        if len(self._waiting) > _CHUNK_BYTES:
            self._cut()

    def _cut(self) -> None:
        del self._waiting[: self._skip]
        self._skip = 0
        whole = len(self._waiting) // self._row.itemsize
        rows = np.frombuffer(bytes(self._waiting[: whole * self._row.itemsize]), self._row)
        del self._waiting[: whole * self._row.itemsize]
        if len(rows) and ((rows["fields"] != len(self._columns)).any()):
            raise ValueError("a column of this COPY is not of one length")
        for name, kind in self._columns.items():
            self._parts[name].append(rows[name].astype(kind))

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """All that came, by column; call it once, at the end."""
        self._cut()
        if len(self._waiting) != _TRAILER_BYTES:
            raise ValueError("a column of this COPY is not of one length")
        # One after the other, so that only one column is held twice.
        return {name: np.concatenate(self._parts.pop(name)) for name in self._columns}


async def _columns(uow: UnitOfWork, table: str, columns: dict[str, str]) -> dict[str, npt.NDArray[Any]]:
    rows = _Rows(columns)
    await uow.copy_out(f"SELECT {', '.join(columns)} FROM {table}", rows.take)  # noqa: S608
    return rows.columns()


async def read(uow: UnitOfWork, store: Store) -> Stored:
    """Reads everything that one snapshot holds: about 90 bytes of memory per identifier and 50 per link."""
    nodes = await _columns(uow, "identifier", NODES)
    if len(nodes["id"]) and (np.diff(nodes["id"]) < 0).any():
        order = np.argsort(nodes["id"])
        nodes = {name: column[order] for name, column in nodes.items()}
    ids = nodes["id"]
    links = await _columns(uow, "link", LINKS)
    anchor, value = _places(ids, links.pop("anchor_id")), _places(ids, links.pop("value_id"))
    there = (anchor >= 0) & (value >= 0)
    dangling = int(len(there) - there.sum())
    if dangling:
        anchor, value = anchor[there], value[there]
        links = {name: column[there] for name, column in links.items()}
    marks = await uow.fetch("SELECT id, apart FROM identifier WHERE apart IS NOT NULL")
    marked = _places(ids, np.array([row[0] for row in marks], np.int64)).tolist()
    person, vehicle = nodes["person_guard"], nodes["vehicle_guard"]
    return Stored(
        ids=ids,
        anchor=nodes["anchor"],
        entity=nodes["entity_id"],
        component=nodes["component_id"],
        person_guard=person,
        vehicle_guard=vehicle,
        graph=Graph(
            kind=nodes["kind"],
            person_guard=_decided(person),
            vehicle_guard=_decided(vehicle),
            cleared=nodes["cleared"],
            anchor=anchor,
            value=value,
            name=links["name"],
            source=links["source_id"],
            strength=links["strength"],
            trust=await store.trust(uow),
            apart={at: tuple(row[1]) for at, row in zip(marked, marks, strict=True) if row[1]},
        ),
        dangling=dangling,
    )


def _decided(guard: Small) -> Small:
    """Guards without those that follow from counting links."""
    return np.where(np.isin(guard, [NUMBERS[reason] for reason in COUNTED]), np.int16(0), guard)


def _places(ids: Ints, wanted: Ints) -> Ints:
    """Where each of some ids stands among ordered ids; -1 where it does not."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    if ids[0] >= 0 and ids[-1] < _SPARSE * len(ids) + 1000:
        table = np.full(int(ids[-1]) + 1, -1, np.int64)
        table[ids] = np.arange(len(ids))
        found: Ints = table[np.clip(wanted, 0, len(table) - 1)]
    else:
        found = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[found] == wanted, found, -1)
