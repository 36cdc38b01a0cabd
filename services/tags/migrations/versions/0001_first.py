"""First tables."""

from alembic import op

from chassis.outbox import CREATE_TABLES

revision = "0001"
down_revision = None

# Documents are rewritten in place many times; free space in the page keeps those updates off the indexes (HOT).
_ROOM = "WITH (fillfactor = 70)"


def upgrade() -> None:
    """Makes all tables."""
    for statement in CREATE_TABLES:
        op.execute(statement)
    op.execute(
        "CREATE TABLE anchor (entity_kind smallint NOT NULL, anchor_id bigint NOT NULL, entity_id bigint NOT NULL,"
        " version bigint NOT NULL, facts json NOT NULL,"
        f" CONSTRAINT pk_anchor PRIMARY KEY (entity_kind, anchor_id)) {_ROOM}"
    )
    op.execute("CREATE INDEX ix_anchor_entity_kind_entity_id ON anchor (entity_kind, entity_id)")
    op.execute(
        "CREATE TABLE entity (entity_kind smallint NOT NULL, entity_id bigint NOT NULL, version bigint NOT NULL,"
        " present boolean NOT NULL, tags json NOT NULL, scores json NOT NULL,"
        f" CONSTRAINT pk_entity PRIMARY KEY (entity_kind, entity_id)) {_ROOM}"
    )
    op.execute(
        "CREATE TABLE derivation (entity_kind smallint NOT NULL, digest text NOT NULL,"
        " CONSTRAINT pk_derivation PRIMARY KEY (entity_kind))"
    )
    op.execute(
        "CREATE TABLE relation (person_anchor bigint NOT NULL, vehicle_anchor bigint NOT NULL, kind text NOT NULL,"
        " CONSTRAINT pk_relation PRIMARY KEY (person_anchor, vehicle_anchor, kind))"
    )
    op.execute("CREATE INDEX ix_relation_vehicle_anchor ON relation (vehicle_anchor)")
    op.execute(
        "CREATE TABLE entity_relation (person_id bigint NOT NULL, vehicle_id bigint NOT NULL, kind text NOT NULL,"
        " removed boolean NOT NULL, version bigint NOT NULL,"
        " CONSTRAINT pk_entity_relation PRIMARY KEY (person_id, vehicle_id, kind))"
    )
    op.execute("CREATE INDEX ix_entity_relation_vehicle_id ON entity_relation (vehicle_id)")
    op.execute(
        "CREATE TABLE told_relation (person_id bigint NOT NULL, vehicle_id bigint NOT NULL, kind text NOT NULL,"
        " valid_from_us bigint NOT NULL, valid_to_us bigint NOT NULL, void boolean NOT NULL, sequence bigint NOT NULL,"
        " CONSTRAINT pk_told_relation PRIMARY KEY (person_id, vehicle_id, kind, valid_from_us))"
    )
    op.execute(
        "CREATE TABLE erased_anchor (anchor_id bigint NOT NULL, person_id bigint NOT NULL, version bigint NOT NULL,"
        " CONSTRAINT pk_erased_anchor PRIMARY KEY (anchor_id))"
    )
    op.execute("CREATE INDEX ix_erased_anchor_person_id ON erased_anchor (person_id)")
