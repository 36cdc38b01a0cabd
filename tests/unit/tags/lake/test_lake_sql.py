"""SQL over the lake gives what folding the events one by one gives."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from troika.identity.v1 import events_pb2 as identity

from services.tags.domain.catalogue import Kind
from services.tags.domain.predicates import parse_predicate
from services.tags.lake import sql
from services.tags.lake.dialects import DUCKDB, SPARK
from services.tags.lake.engines import GIVEN, DuckDb, audience_as_of, duckdb_engine, tags_as_of
from tests.unit.tags.lake.lake_worlds import BASE_US, CATALOGUE, LakeWorld, lake_worlds

PREDICATES = {
    Kind.PERSON: (
        "good",
        "NOT good OR band = '车主'",
        "spent IS NULL AND ANY(vehicle, worn IS NOT TRUE)",
        "COUNT(vehicle, mileage > 10) > COUNT(vehicle, model = 'X5')",
        "old_car OR models_count BETWEEN 1 AND 2",
        "ANY(vehicle, well_owned AND ANY(person, NOT CONTAINS(models, 'zz')))",
        "first_model IN ('it''s', '') OR last_seen > NOW() - INTERVAL '20 seconds'",
        "ratio IS NULL",
        "DAYS_SINCE(sold) >= 28",
    ),
    Kind.VEHICLE: ("owner.good IS NOT TRUE", "owner.spent > 1 AND worn", "well_owned"),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[DuckDb]:
    with duckdb_engine() as engine:
        yield engine


def register(engine: DuckDb, world: LakeWorld) -> None:
    for name, table in world.tables().items():
        engine.register(name, table)


def plain(table: pa.Table) -> dict[int, dict[str, object]]:
    return {row.pop("entity_id"): {n: v for n, v in row.items() if v is not None} for row in table.to_pylist()}


@settings(max_examples=25, deadline=None)
@given(world=lake_worlds(), at=st.integers(-130_000_000, 2_000_000))
def test_every_tag_is_as_the_first_execution_has_it(engine: DuckDb, world: LakeWorld, at: int) -> None:
    register(engine, world)
    expected = world.tags(BASE_US + at)
    for kind in (Kind.PERSON, Kind.VEHICLE):
        assert expected[kind] == plain(tags_as_of(engine, CATALOGUE, kind, BASE_US + at))


def test_a_mean_of_large_numbers_is_the_same_to_the_last_digit(engine: DuckDb) -> None:
    """A sum of millionths past 2**53 is no float."""
    events = [
        identity.ResolvedEvent(
            event_id=bytes([number]) * 16,
            source="app",
            name="Order Placed",
            occurred_at_us=BASE_US,
            person=identity.AnchorOwner(anchor_id=5),
            properties_json=orjson.dumps({"amount": amount}),
        )
        for number, amount in enumerate((1e12, 0.25, 1e12), start=1)
    ]
    world = LakeWorld(events, {(Kind.PERSON, 5): 3}, [])
    register(engine, world)
    found = plain(tags_as_of(engine, CATALOGUE, Kind.PERSON, BASE_US, ["mean"]))
    assert {3: {"mean": world.tags(BASE_US)[Kind.PERSON][3]["mean"]}} == found


@settings(max_examples=8, deadline=None)
@given(world=lake_worlds(), at=st.integers(-130_000_000, 2_000_000))
def test_every_audience_is_as_the_first_execution_has_it(engine: DuckDb, world: LakeWorld, at: int) -> None:
    register(engine, world)
    for kind, predicates in PREDICATES.items():
        for text in predicates:
            term = parse_predicate(text, kind, CATALOGUE)
            found = audience_as_of(engine, CATALOGUE, kind, term, BASE_US + at).to_pylist()
            assert (text, world.audience(kind, term, BASE_US + at)) == (text, found)


def test_only_what_is_asked_is_computed() -> None:
    query = sql.tags_query(DUCKDB, CATALOGUE, Kind.PERSON, BASE_US, ["orders"])
    assert ["events_person", "base_person", "tags_person"] == [name for name, _ in query.steps]
    assert "amount" not in query.text


def test_long_predicates_do_not_nest_as_deep_as_they_are_long(engine: DuckDb) -> None:
    register(engine, LakeWorld([], {}, []))
    text = " OR ".join(f"last_amount = {number}.5" for number in range(700))
    term = parse_predicate(text, Kind.PERSON, CATALOGUE)
    assert [] == audience_as_of(engine, CATALOGUE, Kind.PERSON, term, BASE_US).to_pylist()


def test_scores_are_as_they_were_given(engine: DuckDb) -> None:
    from services.tags.domain.catalogue import Catalogue, FromScore, TagDefinition, TagType

    catalogue = Catalogue([TagDefinition(Kind.PERSON, "lead", TagType.NUMBER, "made", FromScore("m"))])
    world = LakeWorld([], {}, [])
    tables = world.tables()
    event = pa.table(
        {n: [v] for n, v in {"event_id": b"0" * 16, "tie": 0, "entity_kind": 1, "anchor_id": 1, "occurred_us": 1}.items()}
    )
    from services.tags.lake.rows import conformed

    casted = event.set_column(0, "event_id", event.column("event_id").cast(pa.binary(16)))
    engine.register("events", conformed(casted))
    engine.register("owners", pa.table([[1], [7], [1]], schema=tables["owners"].schema))
    engine.register("relations", tables["relations"])
    rows = [(1, 7, "lead", 0.4, None, None, None, 10), (1, 7, "lead", 0.9, None, None, None, 20)]
    engine.register("given", pa.table(list(map(list, zip(*rows, strict=True))), schema=GIVEN))
    assert {7: {"lead": 0.4}} == plain(tags_as_of(engine, catalogue, Kind.PERSON, 19, given=True))
    assert {7: {"lead": 0.9}} == plain(tags_as_of(engine, catalogue, Kind.PERSON, 20, given=True))
    assert {7: {}} == plain(tags_as_of(engine, catalogue, Kind.PERSON, 20))


def test_spark_quotes_what_it_would_otherwise_read_as_an_escape() -> None:
    assert r"'a\\b\'c'" == SPARK.word("a\\b'c")
    assert "'a\\b''c'" == DUCKDB.word("a\\b'c")
