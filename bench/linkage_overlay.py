"""Who is who in the demo's overlay with its noise doubled: identity's resolver over all records, in any order, as they come.

The peer joins whatever shares a value, as graphs without guards do: what it gains in recall it pays with strangers made one.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from bench.identity_stream import NOW, resolve, vault
from bench.servers import servers
from chassis.testing import DatabaseFactory
from local.overlay.overlay import Overlay
from local.overlay.rates import OverlayRates
from services.identity.domain import names
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import Space
from services.identity.domain.observations import Observation, in_order, signature
from services.identity.vault import Vault

ROOT = Path(__file__).resolve().parent.parent
PERSONS, SEED = 20_000, 11
KINDS = ("mobile", "id_card", "email", "unionid", "device")


def observations(overlay: Overlay, keys: Vault) -> Iterator[tuple[Observation, int]]:
    """Every record as the door hands it on, and whose it really is."""
    for source in overlay.sources:
        for record, (_, person) in zip(overlay.records(source), overlay.truth.records(source), strict=True):
            given, vehicle = record["identifiers"], record.get("vehicle", {})
            raw = [("crm_id", source, record["record_id"]), *((kind, "", given[kind]) for kind in KINDS if kind in given)]
            if "openid" in given:
                raw.append(("openid", given["appid"], given["openid"]))
            raw += [(kind, "", vehicle[kind]) for kind in ("vin", "plate") if kind in vehicle]
            known = [k for each in raw if isinstance(k := keys.known(*each), Known)]
            persons, vehicles = in_order(known, Space.PERSON), in_order(known, Space.VEHICLE)
            name = names.clean(given.get("name", ""))
            sound = keys.name_hash(names.sound_key(name)) if name else 0
            relation = vehicle.get("relation", "")
            event_id = blake2b(f"{source}:{record['record_id']}".encode(), digest_size=16).digest()
            yield (
                Observation(
                    event_id=event_id,
                    source=source,
                    event="Record Updated",
                    occurred_us=NOW,
                    received_us=NOW,
                    persons=persons,
                    vehicles=vehicles,
                    person_name=name,
                    name=sound,
                    relation=relation,
                    properties=b"",
                    vehicle_properties=b"",
                    signature=signature(source, persons, vehicles, sound, 0, "", relation),
                ),
                person,
            )


def accuracy(found: Sequence[int], truth: Sequence[int]) -> dict[str, float | int]:
    """Pairwise, over all pairs of records."""

    def pairs(labels: Any) -> int:
        return sum(n * (n - 1) // 2 for n in Counter(labels).values())

    both, ours, true = pairs(zip(found, truth, strict=True)), pairs(found), pairs(truth)
    precision, recall = both / ours, both / true
    return {
        "precision": round(precision, 5),
        "recall": round(recall, 5),
        "f1": round(2 * precision * recall / (precision + recall), 5),
        "largest_cluster": max(Counter(found).values()),
    }


def without_guards(seen: Sequence[Observation]) -> list[int]:
    """The peer: one person is what any value connects."""
    node: dict[bytes, int] = {}
    one, other = [], []
    for o in seen:
        anchor = node.setdefault(o.persons[0].token, len(node))
        for known in o.persons[1:]:
            one.append(anchor)
            other.append(node.setdefault(known.token, len(node)))
    size = len(node)
    label = connected_components(coo_matrix((np.ones(len(one)), (one, other)), shape=(size, size)), directed=False)[1]
    return [int(label[node[o.persons[0].token]]) for o in seen]


async def measure(persons: int = PERSONS) -> dict[str, Any]:
    """Figures of the set `overlay`."""
    keys = vault()
    overlay = Overlay(persons, SEED, OverlayRates().doubled())
    entries = await asyncio.to_thread(lambda: list(observations(overlay, keys)))
    # Sources take turns, as they do at the doors.
    entries.sort(key=lambda entry: entry[0].event_id)
    seen, truth = [o for o, _ in entries], [person for _, person in entries]
    with tempfile.TemporaryDirectory(prefix="troika-bench-") as name:
        async with servers(Path(name)) as (dsn, _), DatabaseFactory(dsn, ROOT / "services").database("identity") as database:
            rate = await resolve(database, keys, seen)
            async with database.read() as uow:
                rows = await uow.fetch(
                    "SELECT o.event_id, i.entity_id FROM observation o JOIN identifier i ON i.id = o.person_anchor"
                )
    owner = {bytes(row[0]): row[1] for row in rows}
    return {
        "records": len(seen),
        "persons": persons,
        **accuracy([owner[o.event_id] for o in seen], truth),
        "records_per_s": round(rate),
        "without_guards": accuracy(without_guards(seen), truth),
    }
