"""Whatever persons merged into, came apart from and said, in whatever order it is told: once erased nothing here is theirs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from troika.identity.v1.events_pb2 import AnchorMove, AnchorOwner, ClusterChange, ConsentChange, EntitiesChanged, Erasure
from troika.orchestrator.v1.events_pb2 import DeliveriesRequested, LeadHandover, LeadsAssigned

from chassis.db import Database, UnitOfWork
from chassis.testing import DatabaseFactory
from services.touchpoints.handlers import follow_entities, hand_over_leads, take_over
from services.touchpoints.tables import metadata
from tests.integration.touchpoints.dealers import NOTICES
from tests.integration.touchpoints.room import request

HISTORIES = 15
# Numbers that keep the erased away, and nothing else.
TOMBSTONES = {"erased_person", "erased_anchor", "person_alias"}
Fact = EntitiesChanged | DeliveriesRequested | LeadsAssigned


@dataclass
class Society:
    """Identity's side: who owns which anchor, and what it tells."""

    draw: random.Random
    base: int
    owners: dict[int, int] = field(default_factory=dict)
    into: dict[int, int | None] = field(default_factory=dict)
    told: list[Fact] = field(default_factory=list)
    erased: int = 0
    gone: Sequence[int] = ()
    clock: int = 0

    def __post_init__(self) -> None:
        self.numbers = [self.base + n for n in range(1, 6)]
        # The last one has no anchor.
        self.owners = {10 * person + n: person for person in self.numbers[:-1] for n in range(self.draw.randint(1, 2))}

    def living(self) -> list[int]:
        return [person for person in self.numbers if not self.into.get(person) and person != self.erased]

    def family(self, root: int) -> set[int]:
        found, grown = {root}, True
        while grown:
            below = {person for person, survivor in self.into.items() if survivor in found} - found
            found, grown = found | below, bool(below)
        return found

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def move(self, anchors: Sequence[int], person: int, operation: str, survivor: int, other: int) -> None:
        self.owners |= dict.fromkeys(anchors, person)
        self.into[other] = survivor if operation == "merge" else None
        version = self.tick()
        moves = [AnchorMove(entity_kind=1, owner=AnchorOwner(anchor_id=a, entity_id=person, version=version)) for a in anchors]
        change = ClusterChange(op_id=version, entity_kind=1, operation=operation, survivor_id=survivor, other_id=other)
        # In one message or in two.
        if self.draw.random() < 0.5:
            self.told.append(EntitiesChanged(anchor_moves=moves, cluster_changes=[change]))
        else:
            self.told += [EntitiesChanged(anchor_moves=moves), EntitiesChanged(cluster_changes=[change])]

    def step(self) -> None:
        living = self.living()
        match self.draw.choice(["merge", "split", "new", "say", "push", "push", "lead"]):
            case "merge" if len(living) > 1:
                survivor, other = self.draw.sample(living, 2)
                self.move([a for a, p in self.owners.items() if p == other], survivor, "merge", survivor, other)
            case "split" if apart := [p for p, s in self.into.items() if s in living]:
                other = self.draw.choice(apart)
                survivor = self.into[other] or 0
                theirs = [a for a, p in self.owners.items() if p == survivor and a // 10 == other]
                self.move(theirs, other, "split", survivor, other)
            case "new" if rich := [a for a, p in self.owners.items() if p in living]:
                anchor = self.draw.choice(rich)
                self.numbers.append(self.base + len(self.numbers) + 1)
                self.move([anchor], self.numbers[-1], "split", self.owners[anchor], self.numbers[-1])
            case "say" if rich := [a for a, p in self.owners.items() if p in living]:
                anchor = self.draw.choice(rich)
                said = ConsentChange(anchor_id=anchor, person_id=self.owners[anchor], channel="app", opted_out=True)
                said.stated_at_us = self.tick()
                self.told.append(EntitiesChanged(consent_changes=[said]))
            case "push":
                # Of numbers, too, that are nobody's own any more: orchestrator may not have heard of it.
                person = self.draw.choice([p for p in self.numbers if self.erased not in (p, self.into.get(p))])
                self.told.append(DeliveriesRequested(requests=[request(f"d{self.base}-{self.tick()}", person, "app")]))
            case "lead":
                given = LeadHandover(lead=f"leads/{self.base + self.tick()}", revision=1, person_id=self.draw.choice(living))
                given.kind, given.dealer_code = 1, "D001"  # type: ignore[assignment]
                self.told.append(LeadsAssigned(handovers=[given]))

    def erase(self) -> None:
        # Often somebody whom others went into, now and then somebody without any anchor.
        self.erased = self.draw.choice([p for p in self.living() if len(self.family(p)) > 1] or self.living())
        self.gone = [anchor for anchor, person in self.owners.items() if person == self.erased]
        self.told.append(EntitiesChanged(erasures=[Erasure(erasure_id=1, person_id=self.erased, anchor_ids=self.gone)]))

    def late(self) -> Iterator[Fact]:
        """What was told, some of it late, some twice."""
        keyed = [(n + self.draw.choice([0.0] * 3 + [self.draw.uniform(0, 25)]), n) for n in range(len(self.told))]
        keyed += [(n + self.draw.uniform(0, 25), n) for n in range(len(self.told)) if self.draw.random() < 0.2]
        return (self.told[n] for _, n in sorted(keyed))


async def hear(uow: UnitOfWork, fact: Fact) -> None:
    payload = [fact.SerializeToString()]
    if isinstance(fact, EntitiesChanged):
        await follow_entities(uow, payload, NOTICES)
    elif isinstance(fact, LeadsAssigned):
        await hand_over_leads(uow, payload, "leads")
    else:
        await take_over(uow, payload, "pushes")


async def pushed_to(uow: UnitOfWork, society: Society, known: Sequence[int]) -> None:
    """Pushes under way reach people through anchors that are theirs, none of those erased (`known`), and leave traces."""
    for row in await uow.rows("SELECT delivery_id, person_id FROM delivery WHERE anchor_id = 0 AND person_id > 0"):
        owned = [a for a, p in society.owners.items() if p == row.person_id or a // 10 == row.person_id]
        if not (owned := [a for a in owned if a not in known]):
            continue
        given = {"id": row.delivery_id, "anchor": society.draw.choice(owned)}
        await uow.execute(
            "UPDATE delivery SET anchor_id = :anchor, endpoint = 'e', attempts = 1 WHERE delivery_id = :id", **given
        )
        await uow.execute("INSERT INTO push_call VALUES (:id, 'c', now()) ON CONFLICT DO NOTHING", id=row.delivery_id)
        await uow.execute(
            "INSERT INTO feedback VALUES (:id, 'k', '', '{}', now(), now()) ON CONFLICT DO NOTHING", id=row.delivery_id
        )


async def traces(database: Database, persons: set[int], anchors: Sequence[int]) -> list[tuple[str, str]]:
    """(table, column) of all that names one of them, or what went to them; whatever tables there are."""
    found = []
    async with database.read() as uow:
        for table in metadata.sorted_tables:
            for column, theirs in (("person_id", sorted(persons)), ("anchor_id", list(anchors))):
                if table.name not in TOMBSTONES and column in table.c:
                    sql = f"SELECT 1 FROM {table.name} WHERE {column} = ANY(CAST(:theirs AS bigint[]))"
                    found += [(table.name, column) for _ in await uow.rows(sql, theirs=theirs)]
            if "delivery_id" in table.c and table.name != "delivery":
                sql = f"SELECT 1 FROM {table.name} JOIN delivery d USING (delivery_id) WHERE d.person_id = 0"
                found += [(table.name, "delivery_id") for _ in await uow.rows(sql)]
    return found


async def test_nothing_of_an_erased_person_is_left_whatever_came_before_and_comes_late(databases: DatabaseFactory) -> None:
    pushes = apart = 0
    async with databases.database("touchpoints") as database:
        for seed in range(HISTORIES):
            society = Society(random.Random(seed), 1000 * (seed + 1))
            for _ in range(18):
                society.step()
            society.erase()
            erased = society.family(society.erased)
            for _ in range(4):
                society.step()
            known: Sequence[int] = ()
            for fact in society.late():
                if isinstance(fact, EntitiesChanged) and fact.erasures:
                    known = society.gone
                async with database.transaction() as uow:
                    await hear(uow, fact)
                    if society.draw.random() < 0.3:
                        await pushed_to(uow, society, known)
            assert [] == await traces(database, erased, society.gone), (seed, erased, society.gone)
            async with database.read() as uow:
                living = await uow.rows("SELECT person_id FROM delivery WHERE person_id > :base", base=society.base)
            pushes += len(living)
            apart += len({row.person_id for row in living})
    # The others are still there.
    assert pushes > 5 * HISTORIES and apart > 2 * HISTORIES, (pushes, apart)
