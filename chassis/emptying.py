"""Making a used database equal to its template again, which is a tenth of the work of copying a template's hundreds of files.

Rows and sequences are undone. Whoever changed anything else (tables, rights, functions, statistics of the planner) leaves a
database that is not equal; `restore` says so, and it is to be dropped.
"""
# Names in statements are those of PostgreSQL's catalogues and of what these list.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# Of a table that was never analysed PostgreSQL believes that it has ten pages, however empty it is: up to there nobody can
# tell whether dead rows are left. Beyond, a table gets a new file, which costs as much as deleting thousands of rows.
PAGES: Final = 10
_PAGE: Final = 8192
# Objects that are not PostgreSQL's own begin here.
_OWN: Final = 16384
# What makes a row of a catalogue another one is its transaction; emptying a table gives it another row in pg_class alone.
_CATALOGUES: Final = {
    "pg_attrdef": "adrelid",
    "pg_attribute": "attrelid",
    "pg_constraint": "oid",
    "pg_event_trigger": "oid",
    "pg_extension": "oid",
    "pg_index": "indexrelid",
    "pg_policy": "polrelid",
    "pg_proc": "oid",
    "pg_rewrite": "oid",
    "pg_sequence": "seqrelid",
    "pg_statistic": "starelid",
    "pg_trigger": "oid",
    "pg_type": "oid",
}
_SHAPE: Final = (
    "SELECT sum(hashtextextended(part, 0))::text FROM (SELECT concat_ws(' ', 'pg_class', oid, relname, relnamespace, relkind,"
    " relowner, relnatts, relchecks, relhasindex, relhasrules, relhastriggers, relrowsecurity, relpersistence, relacl,"
    f" reloptions, relkind = 'r' AND reltuples >= 0) FROM pg_class WHERE oid >= {_OWN} AND relpersistence <> 't'"
    " UNION ALL SELECT concat_ws(' ', 'pg_namespace', oid, nspname, nspowner, nspacl) FROM pg_namespace"
    r" WHERE nspname !~ '^pg_(toast_)?temp_'"
    " UNION ALL SELECT concat_ws(' ', setrole, setconfig) FROM pg_db_role_setting JOIN pg_database ON pg_database.oid ="
    " setdatabase WHERE datname = current_database()"
    + "".join(
        f" UNION ALL SELECT concat_ws(' ', '{name}', {key}, xmin) FROM {name} WHERE {key} >= {_OWN}"
        for name, key in _CATALOGUES.items()
    )
    + ") AS parts (part)"
)
_CONTENT: Final = (
    "SELECT c.oid::regclass::text AS name, c.relkind = 'S' AS counts, s.seqstart AS start, CASE c.relkind WHEN 'S' THEN"
    " coalesce(pg_sequence_last_value(c.oid), 0) ELSE pg_relation_size(c.oid) END AS amount"
    f" FROM pg_class c LEFT JOIN pg_sequence s ON s.seqrelid = c.oid WHERE c.oid >= {_OWN} AND c.relkind IN ('r', 'S')"
    " AND c.relpersistence <> 't' AND c.relnamespace <> 'pg_toast'::regnamespace"
)


@dataclass(frozen=True)
class Pristine:
    """What a database is like that nobody has used: its shape, the rows that migrations wrote, where sequences stand."""

    shape: str
    rows: Mapping[str, Sequence[str]]
    sequences: Mapping[str, int]

    @classmethod
    async def of(cls, connection: Any) -> Pristine:
        """Read from a superuser's connection to it."""
        content = await connection.fetch(_CONTENT)
        rows = {
            name: [row[0] for row in await connection.fetch(f"SELECT each::text FROM {name} AS each ORDER BY 1")]
            for name, counts, _, amount in content
            if amount and not counts
        }
        sequences = {name: amount for name, counts, _, amount in content if counts}
        return cls(await connection.fetchval(_SHAPE), rows, sequences)

    async def restore(self, connection: Any) -> bool:
        """Makes the database that a superuser is connected to like this one; False when it cannot be, and nothing was done."""
        if self.shape != await connection.fetchval(_SHAPE):
            return False
        # In this role no trigger fires, not even one that forbids deleting.
        steps, large = ["SET session_replication_role = replica"], []
        for name, counts, start, amount in await connection.fetch(_CONTENT):
            if counts:
                told = self.sequences[name]
                steps.append(f"SELECT setval('{name}', {told or start}, {bool(told)})")
            elif amount > PAGES * _PAGE:
                large.append(name)
            elif amount:
                steps.append(f"DELETE FROM {name}")
        if large:
            steps.append(f"TRUNCATE {', '.join(large)}")
        for name, rows in self.rows.items():
            literals = ", ".join("('" + row.replace("'", "''") + "')" for row in rows)
            steps.append(f"INSERT INTO {name} OVERRIDING SYSTEM VALUE SELECT (v::{name}).* FROM (VALUES {literals}) AS t (v)")
        await connection.execute("; ".join(steps))
        return True
