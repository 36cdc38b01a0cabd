"""The best persons of an audience by their stored scores."""

from __future__ import annotations

import numpy as np

from chassis.db import Database
from services.scoring import store
from services.scoring.domain import Floats
from services.scoring.frame import Ids
from services.scoring.tag_door import TagDoor


async def best(database: Database, tags: TagDoor, model: str, predicate: str, limit: int) -> tuple[int, Ids, Floats]:
    """(version in use, persons, scores), the best first; at most `limit` (0: all). Version 0: none is in use.

    Raises InvalidArgument for a wrong predicate.
    """
    if predicate:
        await tags.count(predicate, "predicate")
    version, persons, scores = await store.all_scores(database, model)
    if predicate:
        meant = np.isin(persons, await tags.audience(predicate), assume_unique=True)
        persons, scores = persons[meant], scores[meant]
    if 0 < limit < len(persons):
        # Every one that is as good as the last one wanted, so that ties end the same way whatever the order.
        worst = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        kept = scores >= worst
        persons, scores = persons[kept], scores[kept]
    order = np.lexsort((persons, -scores))[: limit or None]
    return version, persons[order], scores[order]
