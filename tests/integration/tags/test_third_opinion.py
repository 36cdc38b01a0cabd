"""PostgreSQL's opinion of a predicate, beside our two executions."""

import asyncpg
import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.tags.domain.catalogue import Catalogue, Kind, Value
from services.tags.domain.evaluation import compile_term
from services.tags.domain.predicates import parse_predicate
from services.tags.index.algebra import audience
from tests.conftest import Servers
from tests.unit.tags.worlds import PG_TYPES, World, predicates, worlds


def _recordset(parameter: int, catalogue: Catalogue, kind: Kind) -> str:
    columns = ", ".join(f"{d.name} {PG_TYPES[d.type]}" for d in catalogue.of(kind).values())
    return f"SELECT * FROM jsonb_to_recordset(${parameter}) AS x(id bigint, {columns})"


def _records(entities: dict[int, dict[str, Value]]) -> str:
    return orjson.dumps([{"id": id_} | tags for id_, tags in entities.items()]).decode()


async def _selected(connection: asyncpg.Connection, world: World, predicate: str) -> list[int]:
    rows = await connection.fetch(
        f"WITH p AS ({_recordset(1, world.catalogue, Kind.PERSON)}), v AS ({_recordset(2, world.catalogue, Kind.VEHICLE)}),"
        " r AS (SELECT * FROM unnest($3::bigint[], $4::bigint[]) AS x(p, v))"
        f" SELECT id FROM p WHERE {predicate} ORDER BY id",
        _records(world.entities[Kind.PERSON]),
        _records(world.entities[Kind.VEHICLE]),
        [person for person, _ in world.relations],
        [vehicle for _, vehicle in world.relations],
    )
    return [row["id"] for row in rows]


@given(st.data(), worlds())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_postgresql_agrees_with_both_executions(servers: Servers, data: st.DataObject, world: World) -> None:
    written = data.draw(predicates(world.catalogue, Kind.PERSON))
    term = parse_predicate(written.ours, Kind.PERSON, world.catalogue)
    connection = await asyncpg.connect(servers.postgres_dsn)
    try:
        expected = await _selected(connection, world, written.postgres)
    finally:
        await connection.close()
    truth = compile_term(term)
    assert expected == [person for person in world.entities[Kind.PERSON] if truth(world.seen(person)) is True]
    assert expected == list(audience(world.index(), Kind.PERSON, term, 0.0))
