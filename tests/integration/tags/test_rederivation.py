"""A changed catalogue reaches entities that no event touches."""

from chassis.db import Database
from services.tags import events, rederivation
from services.tags.catalogue import yaml_files
from services.tags.domain.catalogue import Catalogue
from services.tags.handlers import TagRules
from tests.integration.tags import world
from tests.integration.tags.world import RULES, event

MORE = Catalogue(
    [
        *RULES.catalogue.definitions,
        *(
            each.definition
            for each in yaml_files.read("person:\n  often: {type: boolean, description: d, expression: app_opens >= 2}")[0]
        ),
    ]
)


async def test_a_new_business_tag_is_derived_for_all_and_published(database: Database) -> None:
    await rederivation.run(database, RULES)
    await world.resolved(database, *(event(n, person=(n, n // 2 + 1, 1)) for n in range(1, 1101)))
    await world.empty_outbox(database)
    await rederivation.run(database, RULES)
    assert [] == await world.published(database)
    await rederivation.run(database, TagRules(MORE))
    changes = [e.tags for m in await world.published(database) for e in events.told(m)]
    assert {"often"} == {tag for tags in changes for tag in tags}
    assert 551 == len(changes) == len(await world.tags(database))
    assert 549 == sum(tags["often"] is True for tags in changes)
