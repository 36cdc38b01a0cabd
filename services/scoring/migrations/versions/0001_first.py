"""Operations, models, trials, health, scores, texts and the persons to look at again."""

from alembic import op

from chassis.outbox import CREATE_TABLES

revision = "0001"
down_revision = None

TABLES = (
    "CREATE TABLE operation (operation_id bigint GENERATED ALWAYS AS IDENTITY, kind text NOT NULL, model text NOT NULL,"
    " request jsonb NOT NULL, state text NOT NULL, progress double precision NOT NULL DEFAULT 0,"
    " reason text NOT NULL DEFAULT '', detail text NOT NULL DEFAULT '', version integer NOT NULL DEFAULT 0,"
    " persons_scored bigint NOT NULL DEFAULT 0, cursor bigint NOT NULL DEFAULT 0, metrics jsonb NOT NULL DEFAULT '{}',"
    " verdict text NOT NULL DEFAULT '', owner text NOT NULL DEFAULT '', lease_until timestamptz NOT NULL DEFAULT now(),"
    " attempts integer NOT NULL DEFAULT 0, created_at timestamptz NOT NULL DEFAULT now(), ended_at timestamptz,"
    " CONSTRAINT pk_operation PRIMARY KEY (operation_id))",
    "CREATE UNIQUE INDEX ix_operation_running ON operation (model, kind) WHERE state = 'RUNNING'",
    "CREATE TABLE model (model text NOT NULL, version integer NOT NULL, in_use boolean NOT NULL, card jsonb NOT NULL,"
    " format text NOT NULL, artefact bytea NOT NULL, sha256 text NOT NULL, signature bytea NOT NULL,"
    " created_at timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_model PRIMARY KEY (model, version))",
    "CREATE UNIQUE INDEX ix_model_in_use ON model (model) WHERE in_use",
    "CREATE TABLE score (model text NOT NULL, person_id bigint NOT NULL, score double precision NOT NULL,"
    " probability double precision NOT NULL, label text NOT NULL DEFAULT '', version integer NOT NULL,"
    " scored_at timestamptz NOT NULL, CONSTRAINT pk_score PRIMARY KEY (model, person_id))",
    "CREATE TABLE rescore (model text NOT NULL, person_id bigint NOT NULL, due_at timestamptz NOT NULL,"
    " CONSTRAINT pk_rescore PRIMARY KEY (model, person_id))",
    "CREATE INDEX ix_rescore_due_at ON rescore (due_at)",
    "CREATE TABLE trial_score (operation_id bigint NOT NULL, person_id bigint NOT NULL,"
    " champion double precision NOT NULL, challenger double precision NOT NULL, scored_at timestamptz NOT NULL,"
    " CONSTRAINT pk_trial_score PRIMARY KEY (operation_id, person_id))",
    "CREATE TABLE distribution (model text NOT NULL, version integer NOT NULL, name text NOT NULL,"
    " reference boolean NOT NULL, edges jsonb NOT NULL, counts jsonb NOT NULL, looked_at timestamptz NOT NULL,"
    " CONSTRAINT pk_distribution PRIMARY KEY (model, version, name, reference))",
    "CREATE TABLE consent (anchor_id bigint NOT NULL, person_id bigint NOT NULL, withdrawn_us bigint NOT NULL,"
    " given_us bigint NOT NULL, expires_us bigint NOT NULL, lapsed boolean NOT NULL DEFAULT false,"
    " CONSTRAINT pk_consent PRIMARY KEY (anchor_id))",
    "CREATE INDEX ix_consent_person_id ON consent (person_id)",
    "CREATE INDEX ix_consent_expires_us ON consent (expires_us) WHERE NOT lapsed",
    "CREATE TABLE anchor_owner (anchor_id bigint NOT NULL, person_id bigint NOT NULL, version bigint NOT NULL,"
    " CONSTRAINT pk_anchor_owner PRIMARY KEY (anchor_id))",
    "CREATE TABLE opinion (vehicle_model text NOT NULL, topic text NOT NULL, sentiment smallint NOT NULL, day date NOT NULL,"
    " texts bigint NOT NULL, CONSTRAINT pk_opinion PRIMARY KEY (vehicle_model, topic, sentiment, day))",
    "CREATE TABLE erased_person (person_id bigint NOT NULL, CONSTRAINT pk_erased_person PRIMARY KEY (person_id))",
    "CREATE TABLE erased_anchor (anchor_id bigint NOT NULL, sequence bigint NOT NULL,"
    " CONSTRAINT pk_erased_anchor PRIMARY KEY (anchor_id))",
)


def upgrade() -> None:
    """Makes them."""
    for statement in (*CREATE_TABLES, *TABLES):
        op.execute(statement)
