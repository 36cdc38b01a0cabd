"""How large clusters are and what waits for stewards, counted now and then, for dashboards and alerts.

One cluster that grows without end is what a One-ID fears most: some value that everybody has was taken for a person's own.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from prometheus_client import Gauge

from chassis.db import Database
from chassis.errors import is_operational

log = logging.getLogger(__name__)

# It reads one index from end to end: seconds for tens of millions of identifiers.
EVERY_S: Final = 1800.0
RETRY_S: Final = 10.0

LARGEST = Gauge("troika_identity_largest_cluster", "Identifiers of the entity that has most.")
ENTITIES = Gauge("troika_identity_entities", "Entities that have identifiers.")
SHARED = Gauge("troika_identity_shared_values", "Values that too many share, hence link nobody.")
SUGGESTIONS = Gauge("troika_identity_suggestions_waiting", "Probable pairs that nobody has decided on, at most 10,000.")
OPERATIONS = Gauge("troika_identity_ledger_entries", "Merges and splits so far.")

_CLUSTERS = """
    SELECT coalesce(max(identifiers), 0) AS largest, count(*) AS entities
    FROM (SELECT count(*) AS identifiers FROM identifier WHERE entity_id <> 0 GROUP BY entity_id) AS cluster
"""
_OTHERS = """
    SELECT (SELECT count(*) FROM shared) AS shared, (SELECT coalesce(max(op_id), 0) FROM ledger) AS operations,
        (SELECT count(*) FROM (SELECT 1 FROM suggestion WHERE state = 'pending' LIMIT 10000) AS waiting) AS suggestions
"""


async def run(database: Database) -> None:
    """Counts until cancelled."""
    while True:
        try:
            await count(database)
            await asyncio.sleep(EVERY_S)
        except Exception as error:
            if not is_operational(error):
                log.exception("census failed")
            await asyncio.sleep(RETRY_S)


async def count(database: Database) -> None:
    """Once."""
    [clusters] = await database.fetch(_CLUSTERS)
    LARGEST.set(clusters["largest"])
    ENTITIES.set(clusters["entities"])
    [others] = await database.fetch(_OTHERS)
    SHARED.set(others["shared"])
    SUGGESTIONS.set(others["suggestions"])
    OPERATIONS.set(others["operations"])
