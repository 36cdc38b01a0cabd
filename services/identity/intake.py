"""Identifiers on their way into the graph: which are known, what hangs together with them, and rows for the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chassis.db import UnitOfWork
from services.identity import graph, graph_store
from services.identity.domain.identifiers import Known
from services.identity.graph import Neighbourhood
from services.identity.graph_store import NewIdentifier
from services.identity.token_keys import require_token_keys
from services.identity.vault import Subject, Vault, identifier_place

# What is known is noted again once a day: a chatty app must not cost a write per event.
NOTED_EVERY_US = 86_400_000_000


@dataclass(slots=True)
class Seen:
    """A value as a batch saw it: whether facts hang on it, and when it was seen first and last."""

    known: Known
    anchor: bool
    first_us: int
    last_us: int

    def again(self, anchor: bool, at_us: int) -> None:
        """The same batch saw it once more."""
        self.anchor |= anchor
        self.first_us, self.last_us = min(self.first_us, at_us), max(self.last_us, at_us)


async def near(uow: UnitOfWork, vault: Vault, seen: Mapping[bytes, Seen], wide: bool = False) -> Neighbourhood:
    """All that hangs together with values (by token), also where a row stands under another key than the active one.

    `wide`: with all that is linked to the values themselves, even where they are shared.
    """
    await require_token_keys(uow, vault)
    tokens: set[bytes] = set(seen)
    for value in seen.values():
        tokens.update(vault.lookup_tokens(value.known))
    # Rows that the rotation has reached answer to a second token.
    aliases = await graph_store.next_tokens(uow, tokens) if len(tokens) > len(seen) else {}
    tokens.update(aliases.values())
    rows = await graph_store.near_tokens(uow, tokens)
    if wide:
        rows = [*rows, *await graph_store.near_ids(uow, [row["id"] for row in rows if row["token"] in tokens])]
    found = await graph.near(uow, rows)
    by_token = found.by_token
    for token, own in aliases.items():
        if own in by_token:
            by_token.setdefault(token, by_token[own])
    return found


async def add_identifiers(
    uow: UnitOfWork, vault: Vault, found: Neighbourhood, seen: Mapping[bytes, Seen], scopes: Mapping[str, int]
) -> tuple[dict[bytes, int], dict[int, Subject]]:
    """Token → id of everything seen, and the data keys that new anchors came under. New values are sealed here."""
    ids: dict[bytes, int] = {}
    new: list[tuple[bytes, Seen]] = []
    for token, value in seen.items():
        id_ = found.by_token.get(token) or next(
            (found.by_token[t] for t in vault.lookup_tokens(value.known) if t in found.by_token), 0
        )
        if not id_:
            new.append((token, value))
            continue
        ids[token] = id_
        node = found.node[id_]
        if value.anchor and not found.anchor[node]:
            found.anchor[node] = True
            found.touched.add(node)
        if value.last_us > found.last_seen_us[node] + NOTED_EVERY_US:
            found.last_seen_us[node] = value.last_us
            found.touched.add(node)
    if not new:
        return ids, {}
    first_id, key_id = await graph_store.draw_rows(uow, len(new), len(new))
    # The anchor of a record comes before the values that came with it, and they share its data key.
    subject: Subject | None = None
    subjects: dict[int, Subject] = {}
    for id_, (token, value) in enumerate(new, first_id):
        if value.anchor or subject is None:
            subject = vault.subject(key_id)
            key_id += 1
            subjects[id_] = subject
        ids[token] = id_
        kind, scope, text, _ = value.known
        sealed = subject.seal(identifier_place(id_), text)
        found.add(
            NewIdentifier(
                id=id_,
                kind=int(kind),
                scope_id=scopes.get(scope, 0),
                token=token,
                next_token=vault.next_token(value.known),
                sealed=sealed,
                subject_key_id=subject.key_id,
                anchor=value.anchor,
                first_seen_us=value.first_us,
                last_seen_us=value.last_us,
            )
        )
    await store_keys(uow, subjects.values())
    return ids, subjects


async def store_keys(uow: UnitOfWork, subjects: Iterable[Subject]) -> None:
    """Keeps new data keys, wrapped."""
    await uow.copy("subject_key", ("id", "kek_id", "wrapped"), [(s.key_id, s.kek_id, s.wrapped) for s in subjects])
