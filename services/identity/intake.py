"""What a micro-batch claims, on its way into the graph: which values are known, what hangs together with them, new rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from chassis.db import UnitOfWork
from services.identity import graph_store, neighbourhoods
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import GUARDS, Names, Space
from services.identity.domain.observations import Observation
from services.identity.neighbourhoods import LinkKey, Neighbourhood
from services.identity.token_keys import require_token_keys
from services.identity.vault import Subject, Vault, identifier_place

# What is known is noted again once a day: a chatty app must not cost a write per event.
NOTED_EVERY_US = 86_400_000_000
# As anchors, these need a link to themselves that says under which name they came; a record's own id means one person anyway.
_NAMED = frozenset(int(kind) for kind, guard in GUARDS[Space.PERSON].items() if guard.names is Names.SPLIT)


@dataclass
class Batch:
    """Distinct values, numbered in the order they came, in columns that run in parallel, and the links among them.

    `under`: the number of the anchor that a value came with first, under whose data key it is sealed when it is new.
    """

    number: dict[bytes, int] = field(default_factory=dict)
    known: list[Known] = field(default_factory=list)
    anchor: list[bool] = field(default_factory=list)
    under: list[int] = field(default_factory=list)
    first_us: list[int] = field(default_factory=list)
    last_us: list[int] = field(default_factory=list)
    # When each link was seen last; its ends are numbers of the batch before they are ids.
    links: dict[LinkKey, int] = field(default_factory=dict)
    # Person and vehicle anchor of each observation, -1 for none.
    anchors: list[tuple[int, int]] = field(default_factory=list)

    def add(self, o: Observation, source: int) -> None:
        """Takes in what one observation claims; cars are evidence on persons, too, beside a name."""
        at, name = o.occurred_us, o.name
        person, values = self._group(o.persons, at)
        vehicle, parts = self._group(o.vehicles, at)
        self.anchors.append((person, vehicle))
        links = self.links
        if person >= 0:
            if name:
                values += [vehicle, *parts] if vehicle >= 0 else []
                if o.persons[0].kind in _NAMED:
                    values.append(person)
            for value in values:
                key = (person, value, name, source)
                if links.get(key, -1) < at:
                    links[key] = at
        for value in parts:
            key = (vehicle, value, 0, source)
            if links.get(key, -1) < at:
                links[key] = at

    def value(self, known: Known, at_us: int) -> int:
        """Takes in a value by itself; returns its number."""
        return self._number(known, at_us, -1)

    def _group(self, group: Sequence[Known], at_us: int) -> tuple[int, list[int]]:
        """Numbers of an anchor and of what came with it."""
        if not group:
            return -1, []
        anchor = self._number(group[0], at_us, -1)
        self.anchor[anchor] = True
        return anchor, [self._number(known, at_us, anchor) for known in group[1:]]

    def _number(self, known: Known, at_us: int, under: int) -> int:
        number = self.number.get(known.token)
        if number is None:
            number = self.number[known.token] = len(self.known)
            self.known.append(known)
            self.anchor.append(False)
            self.under.append(number if under < 0 else under)
            self.first_us.append(at_us)
            self.last_us.append(at_us)
        elif at_us > self.last_us[number]:
            self.last_us[number] = at_us
        elif at_us < self.first_us[number]:
            self.first_us[number] = at_us
        return number


async def near(uow: UnitOfWork, vault: Vault, batch: Batch, wide: bool = False) -> tuple[Neighbourhood, list[int]]:
    """All that hangs together with a batch's values, and the id of each value, 0 for those that are new.

    A row may stand under another key than the active one. `wide`: with all that is linked to the values themselves, even
    where they are shared.
    """
    tokens = list(batch.number)
    if not vault.rotating:
        rows = await graph_store.near_tokens(uow, tokens)
        own = dict(zip(tokens, tokens, strict=True))
    else:
        own, rows = await _under_any_key(uow, vault, batch)
    if wide:
        asked = set(own.values())
        rows = [*rows, *await graph_store.near_ids(uow, [row["id"] for row in rows if row["token"] in asked])]
    found = await neighbourhoods.near(uow, rows)
    by_token = {row[1]: row[0] for row in rows}
    ids = [by_token.get(own.get(token, token), 0) for token in tokens]
    for at, id_ in enumerate(ids):
        if id_:
            node = found.node[id_]
            if batch.anchor[at] and not found.anchor[node]:
                found.anchor[node] = True
                found.touched.add(node)
            if batch.last_us[at] > found.last_seen_us[node] + NOTED_EVERY_US:
                found.last_seen_us[node] = batch.last_us[at]
                found.touched.add(node)
    return found, ids


async def _under_any_key(uow: UnitOfWork, vault: Vault, batch: Batch) -> tuple[dict[bytes, bytes], Sequence[object]]:
    """Token under the active key → the token its row stands under, and the rows."""
    others = {token: vault.lookup_tokens(batch.known[at]) for token, at in batch.number.items()}
    wanted = {other for each in others.values() for other in each}
    # Rows that the rotation has reached answer to a second token.
    aliases = await graph_store.next_tokens(uow, wanted)
    rows = await graph_store.near_tokens(uow, wanted | set(aliases.values()))
    present = {row["token"] for row in rows}
    own = {}
    for token, each in others.items():
        candidates = [*each, *(aliases[other] for other in each if other in aliases)]
        own[token] = next((other for other in candidates if other in present), token)
    return own, rows


async def add_identifiers(
    uow: UnitOfWork, vault: Vault, found: Neighbourhood, batch: Batch, ids: list[int], scopes: Mapping[str, int]
) -> dict[int, Subject]:
    """Gives new values their ids (in `ids`) and rows, sealed; returns the data keys of anchors by id."""
    new = [at for at, id_ in enumerate(ids) if not id_]
    if not new:
        return {}
    # A value is new only if no row under a key that is missing here can be it.
    await require_token_keys(uow, vault)
    first_id, first_key = await graph_store.draw_rows(uow, len(new), len(new))
    subjects: dict[int, Subject] = {}
    number = dict(zip(new, range(first_id, first_id + len(new)), strict=True))
    sealed, keys = [], []
    for at, id_ in number.items():
        ids[at] = id_
        under = batch.under[at]
        subject = subjects.get(under)
        if subject is None:
            subject = subjects[under] = vault.subject(first_key + len(subjects))
        sealed.append(subject.seal(identifier_place(id_), batch.known[at].value))
        keys.append(subject.key_id)
    known = [batch.known[at] for at in new]
    found.add(
        ids=list(number.values()),
        kind=[int(each.kind) for each in known],
        scope_id=[scopes.get(each.scope, 0) for each in known],
        token=[each.token for each in known],
        next_token=[vault.next_token(each) for each in known] if vault.rotating else [None] * len(new),
        sealed=sealed,
        subject_key_id=keys,
        anchor=[batch.anchor[at] for at in new],
        first_seen_us=[batch.first_us[at] for at in new],
        last_seen_us=[batch.last_us[at] for at in new],
    )
    await store_keys(uow, subjects.values())
    return {ids[under]: subject for under, subject in subjects.items()}


async def store_keys(uow: UnitOfWork, subjects: Iterable[Subject]) -> None:
    """Keeps new data keys, wrapped."""
    await uow.copy("subject_key", ("id", "kek_id", "wrapped"), [(s.key_id, s.kek_id, s.wrapped) for s in subjects])
