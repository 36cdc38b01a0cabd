"""One reading of a share: decide what may be seen, record the use, and only then hand anything out.

All is decided before the first chunk: who is in the audience and agreed, and the values, so that what is sent is what was
judged. What is kept of each person until the last chunk are some numbers; names and messages are made chunk by chunk.
"""

from __future__ import annotations

import asyncio
import secrets
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chassis.db import Database, UnitOfWork
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.tags.consents import hold_off_erasures
from services.tags.domain.catalogue import Catalogue
from services.tags.domain.ledger import Tree, Use
from services.tags.domain.sharing import Form, Ints, Pseudonyms, Share, groups, large_enough, shown_counts
from services.tags.sharing import consents, ledger_store, share_store, terms
from services.tags.sharing.keys import SharingKeys
from services.tags.sharing.ledger_store import Head
from services.tags.sharing.source import IndexSource, SharedColumn

CHUNK = 10_000
_ASK = 20_000


@dataclass(frozen=True)
class Persons:
    """Persons who agreed, ascending; anchors of the one at `i` are anchors[starts[i]:starts[i + 1]]."""

    ids: Ints
    starts: Ints
    anchors: Ints
    without_consent: int


@dataclass(frozen=True)
class Counted:
    """A column's values that may be shown, with their counts; `incomplete` when others may not."""

    column: SharedColumn
    values: list[tuple[float, int]]
    incomplete: bool


@dataclass(frozen=True)
class Shown:
    """What a recipient sees: for rows the positions of persons in the order of sending, else counts."""

    positions: Ints
    counts: list[Counted]
    suppressed: int


@dataclass(frozen=True)
class Chunk:
    """Some rows: pseudonyms, and of each column the values."""

    pseudonyms: list[bytes]
    values: list[NDArray[np.generic]]


@dataclass(frozen=True)
class Reading:
    """A use that is recorded, and what goes out for it."""

    share: Share
    use: Use
    head: Head
    columns: list[SharedColumn]
    counts: list[Counted]
    _ids: Ints
    _pseudonyms: Pseudonyms

    def chunks(self) -> Iterator[Chunk]:
        """The rows, at most 10,000 at a time; none for counts."""
        for start in range(0, len(self._ids), CHUNK):
            end = start + CHUNK
            yield Chunk(self._pseudonyms.of(self._ids[start:end].tolist()), [c.values[start:end] for c in self.columns])


async def begin(
    database: Database, catalogue: Catalogue, source: IndexSource, keys: SharingKeys, share_id: int, caller: str
) -> Reading:
    """Decides, and records in one transaction what was decided: what this returns may leave.

    Raises NotFound for shares of others, FailedPrecondition for one that has ended, that the catalogue does not allow any
    more, or whose key is gone.
    """
    async with database.transaction() as uow:
        return await _begin(uow, database, catalogue, source, keys, share_id, caller)


async def _begin(
    uow: UnitOfWork,
    database: Database,
    catalogue: Catalogue,
    source: IndexSource,
    keys: SharingKeys,
    share_id: int,
    caller: str,
) -> Reading:
    share = await share_store.find(uow, share_id)
    if share is None or share.terms.recipient != caller:
        raise NotFound("no such share of yours", reason="SHARE_NOT_FOUND", field="share_id")
    pseudonyms = Pseudonyms(keys.of(share), share.terms.recipient, share.share_id)
    try:
        definitions, term = terms.recheck(catalogue, share.terms)
    except InvalidArgument as error:
        raise FailedPrecondition(error.message, reason="SHARE_NOT_ALLOWED_ANY_MORE", field="share_id") from None
    await require_open(uow, share)
    await hold_off_erasures(uow)
    audience = await source.audience(term)
    # One snapshot, or an anchor that moves meanwhile would be seen with both of its persons.
    async with database.read() as snapshot:
        persons = await _agreed(snapshot, audience)
    columns = await source.columns(definitions, persons.ids)
    shown = await asyncio.to_thread(decide, share, persons, columns, pseudonyms)
    use, head = await _record(uow, share, persons, shown)
    sent = shown.positions if share.terms.form is Form.ROWS else shown.positions[:0]
    taken = [SharedColumn(c.tag, c.type, c.values[sent], c.words) for c in columns]
    return Reading(share, use, head, taken, shown.counts, persons.ids[sent], pseudonyms)


async def require_open(uow: UnitOfWork, share: Share) -> None:
    """Raises FailedPrecondition when a share has ended by the database's clock."""
    match share.ended(await share_store.clock(uow)):
        case "SHARE_REVOKED":
            raise FailedPrecondition("this share was revoked", reason="SHARE_REVOKED", field="share_id")
        case "SHARE_EXPIRED":
            raise FailedPrecondition("this share has expired", reason="SHARE_EXPIRED", field="share_id")


async def _agreed(uow: UnitOfWork, audience: Ints) -> Persons:
    now_us = int((await share_store.clock(uow)).timestamp() * 1_000_000)
    ids, counts, anchors = array("q"), array("q", [0]), array("q")
    for start in range(0, len(audience), _ASK):
        found = await consents.agreed(uow, audience[start : start + _ASK].tolist(), now_us)
        for person_id, of_person in sorted(found):
            ids.append(person_id)
            counts.append(len(of_person))
            anchors.extend(of_person)
    starts = np.cumsum(np.array(counts, np.int64))
    return Persons(np.array(ids, np.int64), starts, np.array(anchors, np.int64), len(audience) - len(ids))


def decide(share: Share, persons: Persons, columns: Sequence[SharedColumn], pseudonyms: Pseudonyms) -> Shown:
    """What of the persons may be seen. Rows come in a random order: that of the ids would let recipients join by it."""
    size, k = len(persons.ids), share.terms.min_group_size
    order = np.random.default_rng(secrets.randbits(256)).permutation(size)
    if share.terms.form is Form.COUNTS:
        counts = [_counted(column, k, pseudonyms) for column in columns]
        hidden = sum(suppressed for _, suppressed in counts)
        return Shown(order if size >= k else order[:0], [counted for counted, _ in counts], hidden)
    visible = large_enough(groups([column.values for column in columns], size), k)
    return Shown(order[visible[order]], [], int(size - visible.sum()))


def _counted(column: SharedColumn, k: int, pseudonyms: Pseudonyms) -> tuple[Counted, int]:
    """The counts that may be shown, and how many may not."""
    found, counted = np.unique(column.values, return_counts=True)
    values, counts = found.tolist(), counted.tolist()
    order = pseudonyms.order([column.label(value) for value in values])
    visible = shown_counts([counts[at] for at in order], k)
    shown = [(values[at], counts[at]) for at, show in zip(order, visible, strict=True) if show]
    return Counted(column, sorted(shown, key=lambda pair: -pair[1]), sum(counts) < k or not all(visible)), visible.count(False)


async def _record(uow: UnitOfWork, share: Share, persons: Persons, shown: Shown) -> tuple[Use, Head]:
    """Appends the use to the ledger: each person shown or counted, by all anchors that she has now."""
    head = await ledger_store.lock_head(uow)
    tree = Tree()
    for start in range(0, len(shown.positions), CHUNK):
        positions = shown.positions[start : start + CHUNK]
        bounds = zip(persons.starts[positions].tolist(), persons.starts[positions + 1].tolist(), strict=True)
        anchors = [persons.anchors[first:end].tolist() for first, end in bounds]
        await ledger_store.include(uow, head.number + 1, tree, start + 1, anchors)
    agreed = share.terms
    use = Use(
        number=head.number + 1,
        share_id=share.share_id,
        recipient=agreed.recipient,
        purpose=agreed.purpose,
        form=int(agreed.form),
        tags=agreed.tags,
        predicate=agreed.predicate,
        min_group_size=agreed.min_group_size,
        key_id=share.key_id,
        persons=len(shown.positions),
        suppressed=shown.suppressed,
        without_consent=persons.without_consent,
        points=agreed.points,
        inclusions=tree.size,
        root=tree.root(),
        used_at_us=int((await share_store.clock(uow)).timestamp() * 1_000_000),
        previous=head.hash,
    )
    # Whoever waited for the head may have waited past the end.
    await require_open(uow, share)
    return use, await ledger_store.append(uow, use)
