"""Tags are added, changed and retired while replicas derive, and none of them is ever behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from chassis.db import Database
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.tags import consumers, rederivation
from services.tags.catalogue import stored, yaml_files
from services.tags.catalogue.changing import Changing, Draft, Outcome
from services.tags.catalogue.following import LiveCatalogue
from services.tags.catalogue.indexing import IndexColumns
from services.tags.catalogue.stored import Version
from services.tags.catalogue.uses import Sizes, UseKind
from services.tags.domain.catalogue import Kind
from services.tags.handlers import TagRules
from services.tags.index import loading
from services.tags.index.index import AudienceIndex
from tests.integration.tags import world
from tests.integration.tags.world import batch, event, message

FILES = """
person:
  app_opens: {type: number, description: d, expression: COUNT(*) FILTER (WHERE event = 'App Opened')}
  age: {type: number, title: 年龄, description: d, expression: LAST(age) FILTER (WHERE event = 'Record Updated')}
  has_housing_loan: {type: category, description: d, sensitivity: sensitive, expression: LAST(loan)}
"""
OFTEN = {"type": "boolean", "title": "常来", "description": "Opens the app often.", "expression": "app_opens >= 2"}


class Replica:
    """What a process of the service has of the catalogue."""

    def __init__(self, database: Database) -> None:
        self.database, self.rules = database, TagRules(yaml_files.parse(FILES))
        self.live = LiveCatalogue(database, self.rules)
        self.resolved = consumers.consumers(self.rules)[0]
        self.index = AudienceIndex(self.rules.catalogue)
        self.columns = IndexColumns(self.index, self._heal)
        self.live.listen(self.columns.become)

    def _heal(self, torn: Mapping[Kind, set[int]]) -> None:
        for kind, ids in torn.items():
            self.index.torn[kind] |= ids

    async def opens(self, *numbers: int) -> None:
        """Persons open the app, each in an event of its own, all in one batch."""
        async with self.database.transaction() as uow:
            made = [event(1000 * n + at, person=(n, n, 1)) for at, n in enumerate(numbers)]
            await self.resolved.handle(uow, [message(batch(*made))])

    async def create(self, *drafts: Draft, dry_run: bool = False) -> list[Outcome]:
        async with self.database.transaction() as uow:
            return await (await self._changing(uow, dry_run)).create(drafts, "operator", dry_run)

    async def update(self, body: dict[str, Any], *, name: str = "often", dry_run: bool = False, seen: int = 0) -> Outcome:
        async with self.database.transaction() as uow:
            draft = Draft(Kind.PERSON, name, body, seen)
            return await (await self._changing(uow, dry_run)).update(draft, "operator", dry_run)

    async def retire(self, name: str = "often", *, dry_run: bool = False) -> Outcome:
        async with self.database.transaction() as uow:
            return await (await self._changing(uow, dry_run)).retire(Kind.PERSON, name, "operator", dry_run)

    async def _changing(self, uow: Any, dry_run: bool) -> Changing:
        if not dry_run:
            await self.live.begin(uow)
        return Changing(uow, self.live.files, self.rules.catalogue, self.index)


@pytest.fixture
def replicas(database: Database) -> tuple[Replica, Replica]:
    return Replica(database), Replica(database)


def often(**changed: Any) -> Draft:
    return Draft(Kind.PERSON, "often", OFTEN | changed)


async def test_the_next_batch_of_any_replica_knows_an_added_tag(database: Database, replicas: tuple[Replica, Replica]) -> None:
    one, other = replicas
    await one.create(often())
    await other.opens(1, 1, 2)
    assert {1: True, 2: False} == {entity: tags["often"] for entity, tags in (await world.tags(database)).items()}


async def test_what_was_there_before_gets_the_tag_by_deriving_anew(
    database: Database, replicas: tuple[Replica, Replica]
) -> None:
    one, other = replicas
    await one.opens(1, 1, 2)
    await other.create(often())
    await one.live.refresh()
    await rederivation.run(database, one.rules)
    assert {1: True, 2: False} == {entity: tags["often"] for entity, tags in (await world.tags(database)).items()}


async def test_a_change_waits_for_the_batches_under_way(database: Database, replicas: tuple[Replica, Replica]) -> None:
    one, other = replicas
    async with database.transaction() as uow:
        await one.resolved.handle(uow, [message(batch(event(1, person=(1, 1, 1))))])
        change = asyncio.create_task(other.create(often()))
        await asyncio.sleep(0.3)
        assert not change.done()
    await change


async def test_a_predicate_may_ask_for_an_added_tag_by_its_title_and_the_index_has_a_column_for_it(
    replicas: tuple[Replica, Replica],
) -> None:
    one, other = replicas
    await one.create(often())
    await other.live.refresh()
    assert "often" == other.rules.catalogue.known_as(Kind.PERSON)["常来"].name
    assert "often" in other.index.columns(Kind.PERSON)


async def test_what_was_told_of_a_tag_before_a_replica_knew_it_is_read_again(replicas: tuple[Replica, Replica]) -> None:
    one, other = replicas
    other.columns.changed({Kind.PERSON: {7}})
    await one.create(often())
    await other.live.refresh()
    assert {7} == other.index.torn[Kind.PERSON]


async def test_a_change_says_first_what_it_does_to_itself_to_tags_to_audiences_and_to_shares(
    database: Database, replicas: tuple[Replica, Replica]
) -> None:
    one, _ = replicas
    rare = {"type": "boolean", "title": "少来", "description": "d", "expression": "NOT often"}
    await one.create(often(), Draft(Kind.PERSON, "rarely", rare))
    await one.opens(1, 2, 2, 3, 3, 3)
    await loading.load(one.index, database)
    async with database.transaction() as uow:
        await uow.execute(
            "INSERT INTO audience (name, entity_kind, version, predicate, description, owner)"
            " VALUES ('rares', 1, 1, 'rarely AND app_opens > 1', '', ''), ('others', 1, 1, 'app_opens > 1', '', '')"
        )
    outcome = await one.update(OFTEN | {"expression": "app_opens >= 3"}, dry_run=True)
    assert {
        (UseKind.ITSELF, "often", Sizes(2, 1, 1)),
        (UseKind.TAG, "rarely", Sizes(1, 2, 0)),
        (UseKind.AUDIENCE, "rares", Sizes(0, 1, 0)),
    } == {(use.kind, use.name, use.sizes) for use in outcome.uses}
    async with database.read() as uow:
        assert [1, 1] == [version.version for version in await stored.current(uow)]


async def test_a_new_tag_says_how_many_would_have_it(database: Database, replicas: tuple[Replica, Replica]) -> None:
    one, _ = replicas
    await one.opens(1, 2, 2, 3, 3, 3)
    await loading.load(one.index, database)
    band = {
        "type": "category",
        "title": "频次",
        "description": "d",
        "expression": "CASE WHEN often THEN 'a' WHEN app_opens > 0 AND app_opens < 2 THEN 'b' END",
    }
    outcomes = await one.create(often(), Draft(Kind.PERSON, "band", band), dry_run=True)
    assert [Sizes(0, 2, 0), Sizes(0, 3, 0)] == [outcome.uses[0].sizes for outcome in outcomes]


async def test_of_several_tags_all_are_added_or_none(database: Database, replicas: tuple[Replica, Replica]) -> None:
    one, _ = replicas
    with pytest.raises(InvalidArgument) as caught:
        await one.create(often(), Draft(Kind.PERSON, "wrong", OFTEN | {"title": "错", "expression": "TRUE AND oftn"}))
    assert ("UNKNOWN_TAG", "definition.expression", {"position": "10"}) == (
        caught.value.reason,
        caught.value.field,
        caught.value.metadata,
    )
    assert "did you mean often" in caught.value.message
    async with database.read() as uow:
        assert [] == await stored.current(uow)
        assert 0 == await stored.epoch(uow)


@pytest.mark.parametrize(
    ("draft", "reason", "field"),
    [
        (Draft(Kind.PERSON, "age", OFTEN), "TAG_OF_FILE", "name"),
        (often(title="年龄"), "DEFINED_TWICE", "definition.title"),
        (often(expression="app_opens"), "TYPE_MISMATCH", "definition.expression"),
        (often(expression="often"), "CYCLE", "definition.expression"),
        (often(expression="app_opens / 0 > 1"), "DIVISION_BY_ZERO", "definition.expression"),
        (often(expression=f"{'(' * 40}TRUE{')' * 40}"), "TOO_COMPLEX", "definition.expression"),
        (often(expression=" OR ".join(["app_opens = 1"] * 2000)), "TOO_COMPLEX", "definition.expression"),
        (often(expression="has_housing_loan = 'yes'"), "SENSITIVITY", "definition.expression"),
        (often(description=""), "NO_DESCRIPTION", "definition.description"),
        (often(type="bool"), "WRONG_VALUE", "definition.type"),
        (Draft(Kind.PERSON, "Often", OFTEN), "NAME", "definition.name"),
    ],
)
async def test_a_definition_that_cannot_work_is_refused_by_name(
    replicas: tuple[Replica, Replica], draft: Draft, reason: str, field: str
) -> None:
    with pytest.raises((InvalidArgument, FailedPrecondition)) as caught:
        await replicas[0].create(draft)
    assert (reason, field) == (caught.value.reason, caught.value.field)


async def test_a_tag_in_use_is_not_retired_and_a_name_is_not_used_twice(
    database: Database, replicas: tuple[Replica, Replica]
) -> None:
    one, other = replicas
    await one.create(often())
    await one.create(Draft(Kind.PERSON, "rarely", OFTEN | {"title": "少来", "expression": "NOT often"}))
    with pytest.raises(FailedPrecondition, match="used by tag rarely"):
        await other.retire()
    await other.retire("rarely")
    await one.opens(1, 1)
    await other.retire()
    await rederivation.run(database, one.rules)
    assert "often" not in (await world.tags(database))[1]
    with pytest.raises(FailedPrecondition, match="names are not used twice"):
        await one.create(often())
    with pytest.raises(NotFound):
        await one.update(OFTEN)


async def test_an_audience_in_use_is_never_broken(database: Database, replicas: tuple[Replica, Replica]) -> None:
    one, _ = replicas
    await one.create(often())
    async with database.transaction() as uow:
        await uow.execute(
            "INSERT INTO audience (name, entity_kind, version, predicate, description, owner)"
            " VALUES ('regulars', 1, 1, '常来', '', '')"
        )
    with pytest.raises(FailedPrecondition, match="audience regulars could not be asked any more") as caught:
        await one.update(OFTEN | {"title": "常客"})
    assert "TAG_IN_USE" == caught.value.reason


async def test_two_changes_of_what_both_have_seen_do_not_overwrite_each_other(replicas: tuple[Replica, Replica]) -> None:
    one, other = replicas
    await one.create(often())
    await one.update(OFTEN | {"expression": "app_opens >= 3"}, seen=1)
    with pytest.raises(FailedPrecondition, match="at version 2 now"):
        await other.update(OFTEN | {"expression": "app_opens >= 4"}, seen=1)


async def test_what_a_base_tag_counts_stays_what_it_is(replicas: tuple[Replica, Replica]) -> None:
    one, _ = replicas
    clicks = {
        "type": "number",
        "title": "点击",
        "description": "d",
        "expression": "COUNT(*) FILTER (WHERE event = 'Ad Clicked')",
    }
    await one.create(Draft(Kind.PERSON, "clicks", clicks))
    await one.update(clicks | {"description": "Advertisements clicked."}, name="clicks")
    with pytest.raises(FailedPrecondition) as caught:
        await one.update(clicks | {"expression": "COUNT(*)"}, name="clicks")
    assert "BASE_TAG_FIXED" == caught.value.reason


async def test_a_release_that_brings_the_same_name_sets_the_added_tag_aside_and_starts(
    database: Database, replicas: tuple[Replica, Replica]
) -> None:
    one, _ = replicas
    async with database.transaction() as uow:
        await stored.begin(uow)
        await stored.add(
            uow,
            [
                Version(Kind.PERSON, "age", 1, OFTEN, False, "operator"),
                Version(Kind.PERSON, "often", 1, OFTEN, False, "operator"),
                Version(Kind.PERSON, "lost", 1, OFTEN | {"title": "", "expression": "no_more"}, False, "operator"),
            ],
        )
    await one.live.refresh()
    known = one.rules.catalogue.of(Kind.PERSON)
    assert "number" == known["age"].type.value
    assert "often" in known
    assert "lost" not in known
