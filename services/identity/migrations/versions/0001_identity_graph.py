"""The identity graph: identifiers, links, claims, observations, and what is kept beside them."""

from alembic import op

from chassis.outbox import CREATE_TABLES

revision = "0001"
down_revision = None

STATEMENTS = (
    *CREATE_TABLES,
    "CREATE SEQUENCE identifier_id_seq",
    "CREATE SEQUENCE person_id_seq",
    "CREATE SEQUENCE vehicle_id_seq",
    "CREATE SEQUENCE graph_version_seq",
    """CREATE TABLE source (
        id smallint GENERATED ALWAYS AS IDENTITY,
        name text NOT NULL,
        CONSTRAINT pk_source PRIMARY KEY (id))""",
    "CREATE UNIQUE INDEX ix_source_name ON source (name)",
    # Room on each page for the views' updates, so that they need not touch the indexes' pages.
    """CREATE TABLE identifier (
        id bigint NOT NULL,
        kind smallint NOT NULL,
        scope text NOT NULL,
        token bytea NOT NULL,
        sealed bytea NOT NULL,
        anchor boolean NOT NULL,
        entity_id bigint NOT NULL,
        version bigint NOT NULL,
        person_guard smallint NOT NULL,
        vehicle_guard smallint NOT NULL,
        first_seen_us bigint NOT NULL,
        last_seen_us bigint NOT NULL,
        CONSTRAINT pk_identifier PRIMARY KEY (id)) WITH (fillfactor = 80)""",
    "CREATE UNIQUE INDEX ix_identifier_token ON identifier (token)",
    "CREATE INDEX ix_identifier_entity_id_kind ON identifier (entity_id, kind)",
    """CREATE TABLE observation (
        event_id bytea NOT NULL,
        source_id smallint NOT NULL,
        person_anchor bigint NOT NULL,
        vehicle_anchor bigint NOT NULL,
        occurred_us bigint NOT NULL,
        received_us bigint NOT NULL,
        CONSTRAINT pk_observation PRIMARY KEY (event_id))""",
    """CREATE TABLE claim (
        signature bytea NOT NULL,
        person_anchor bigint NOT NULL,
        vehicle_anchor bigint NOT NULL,
        last_seen_us bigint NOT NULL,
        CONSTRAINT pk_claim PRIMARY KEY (signature)) WITH (fillfactor = 80)""",
    """CREATE TABLE link (
        space smallint NOT NULL,
        anchor_id bigint NOT NULL,
        value_id bigint NOT NULL,
        name_token bytea NOT NULL,
        source_id smallint NOT NULL,
        sealed_name bytea NOT NULL,
        first_seen_us bigint NOT NULL,
        last_seen_us bigint NOT NULL,
        observations integer NOT NULL,
        CONSTRAINT pk_link PRIMARY KEY (space, anchor_id, value_id, name_token, source_id)) WITH (fillfactor = 80)""",
    "CREATE INDEX ix_link_space_value_id ON link (space, value_id)",
    """CREATE TABLE relation (
        person_anchor bigint NOT NULL,
        vehicle_anchor bigint NOT NULL,
        kind text NOT NULL,
        first_seen_us bigint NOT NULL,
        last_seen_us bigint NOT NULL,
        CONSTRAINT pk_relation PRIMARY KEY (person_anchor, vehicle_anchor, kind)) WITH (fillfactor = 80)""",
    "CREATE INDEX ix_relation_vehicle_anchor ON relation (vehicle_anchor)",
    """CREATE TABLE ledger (
        op_id bigint GENERATED ALWAYS AS IDENTITY,
        space smallint NOT NULL,
        operation text NOT NULL,
        survivor_id bigint NOT NULL,
        other_id bigint NOT NULL,
        reason text NOT NULL,
        evidence bigint[] NOT NULL,
        version bigint NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_ledger PRIMARY KEY (op_id))""",
    """CREATE TABLE rejected (
        source_id smallint NOT NULL,
        kind text NOT NULL,
        reason text NOT NULL,
        identifiers bigint NOT NULL,
        CONSTRAINT pk_rejected PRIMARY KEY (source_id, kind, reason))""",
    """CREATE TABLE registered (
        identifier_id bigint NOT NULL,
        reason text NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_registered PRIMARY KEY (identifier_id))""",
    """CREATE TABLE consent (
        anchor_id bigint NOT NULL,
        channel text NOT NULL,
        opted_out boolean NOT NULL,
        stated_us bigint NOT NULL,
        CONSTRAINT pk_consent PRIMARY KEY (anchor_id, channel))""",
    """CREATE TABLE reveal_audit (
        id bigint GENERATED ALWAYS AS IDENTITY,
        caller text NOT NULL,
        purpose text NOT NULL,
        kind text NOT NULL,
        scope text NOT NULL,
        person_ids bigint[] NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_reveal_audit PRIMARY KEY (id))""",
)


def upgrade() -> None:
    """Makes everything."""
    for statement in STATEMENTS:
        op.execute(statement)
