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
    "CREATE SEQUENCE component_id_seq",
    "CREATE SEQUENCE subject_key_id_seq",
    "CREATE SEQUENCE graph_version_seq",
    """CREATE TABLE source (
        id smallint GENERATED ALWAYS AS IDENTITY,
        name text NOT NULL,
        CONSTRAINT pk_source PRIMARY KEY (id))""",
    "CREATE UNIQUE INDEX ix_source_name ON source (name)",
    """CREATE TABLE scope (
        id integer GENERATED ALWAYS AS IDENTITY,
        name text NOT NULL,
        CONSTRAINT pk_scope PRIMARY KEY (id))""",
    "CREATE UNIQUE INDEX ix_scope_name ON scope (name)",
    # Room on each page for the views' updates, so that they need not touch the indexes' pages.
    """CREATE TABLE identifier (
        id bigint NOT NULL,
        kind smallint NOT NULL,
        scope_id integer NOT NULL,
        token bytea NOT NULL,
        next_token bytea,
        sealed bytea NOT NULL,
        subject_key_id bigint NOT NULL,
        anchor boolean NOT NULL,
        entity_id bigint NOT NULL,
        component_id bigint NOT NULL,
        version bigint NOT NULL,
        person_guard smallint NOT NULL,
        vehicle_guard smallint NOT NULL,
        cleared boolean NOT NULL,
        apart bigint[],
        first_seen_us bigint NOT NULL,
        last_seen_us bigint NOT NULL,
        CONSTRAINT pk_identifier PRIMARY KEY (id)) WITH (fillfactor = 80)""",
    "CREATE UNIQUE INDEX ix_identifier_token ON identifier (token)",
    "CREATE UNIQUE INDEX ix_identifier_next_token ON identifier (next_token) WHERE next_token IS NOT NULL",
    "CREATE INDEX ix_identifier_entity_id ON identifier (entity_id)",
    "CREATE INDEX ix_identifier_component_id ON identifier (component_id)",
    "CREATE INDEX ix_identifier_subject_key_id ON identifier (subject_key_id)",
    """CREATE TABLE subject_key (
        id bigint NOT NULL,
        kek_id text NOT NULL,
        wrapped bytea NOT NULL,
        CONSTRAINT pk_subject_key PRIMARY KEY (id))""",
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
        anchor_id bigint NOT NULL,
        value_id bigint NOT NULL,
        name bigint NOT NULL,
        source_id smallint NOT NULL,
        strength smallint NOT NULL,
        first_seen_us bigint NOT NULL,
        last_seen_us bigint NOT NULL,
        observations integer NOT NULL,
        CONSTRAINT pk_link PRIMARY KEY (anchor_id, value_id, name, source_id)) WITH (fillfactor = 80)""",
    "CREATE INDEX ix_link_value_id ON link (value_id)",
    """CREATE TABLE profile (
        anchor_id bigint NOT NULL,
        subject_key_id bigint NOT NULL,
        sealed bytea NOT NULL,
        name bigint NOT NULL,
        address bigint NOT NULL,
        seen_us bigint NOT NULL,
        CONSTRAINT pk_profile PRIMARY KEY (anchor_id)) WITH (fillfactor = 80)""",
    "CREATE INDEX ix_profile_address ON profile (address) WHERE address <> 0",
    "CREATE INDEX ix_profile_subject_key_id ON profile (subject_key_id)",
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
        moved bigint[] NOT NULL,
        cause bigint NOT NULL,
        version bigint NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_ledger PRIMARY KEY (op_id))""",
    """CREATE TABLE operation (
        id bigint GENERATED ALWAYS AS IDENTITY,
        request_id text NOT NULL,
        kind text NOT NULL,
        caller text NOT NULL,
        reason text NOT NULL,
        request_sha256 bytea NOT NULL,
        outcome bytea NOT NULL,
        undone_by bigint NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_operation PRIMARY KEY (id))""",
    "CREATE UNIQUE INDEX ix_operation_request_id ON operation (request_id)",
    """CREATE TABLE suggestion (
        id bigint GENERATED ALWAYS AS IDENTITY,
        anchor_a bigint NOT NULL,
        anchor_b bigint NOT NULL,
        probability real NOT NULL,
        explanation bytea NOT NULL,
        state text NOT NULL,
        decided_by text NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_suggestion PRIMARY KEY (id))""",
    "CREATE UNIQUE INDEX ix_suggestion_anchor_a_anchor_b ON suggestion (anchor_a, anchor_b)",
    "CREATE INDEX ix_suggestion_state_id ON suggestion (state, id)",
    """CREATE TABLE rejected (
        source_id smallint NOT NULL,
        kind text NOT NULL,
        reason text NOT NULL,
        identifiers bigint NOT NULL,
        CONSTRAINT pk_rejected PRIMARY KEY (source_id, kind, reason))""",
    """CREATE TABLE shared (
        identifier_id bigint NOT NULL,
        reason text NOT NULL,
        note text NOT NULL,
        links bigint NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_shared PRIMARY KEY (identifier_id))""",
    "CREATE INDEX ix_shared_links_identifier_id ON shared (links, identifier_id)",
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
