"""Trainings, models, scores and the persons to look at again."""

from alembic import op

from chassis.outbox import CREATE_TABLES

revision = "0001"
down_revision = None

TABLES = (
    "CREATE TABLE training (training_id bigint GENERATED ALWAYS AS IDENTITY, model text NOT NULL,"
    " cut_predicate text NOT NULL, goal_predicate text NOT NULL, state text NOT NULL,"
    " progress double precision NOT NULL DEFAULT 0, reason text NOT NULL DEFAULT '', version integer NOT NULL DEFAULT 0,"
    " persons_scored bigint NOT NULL DEFAULT 0, owner text NOT NULL DEFAULT '',"
    " lease_until timestamptz NOT NULL DEFAULT now(), attempts integer NOT NULL DEFAULT 0,"
    " created_at timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_training PRIMARY KEY (training_id))",
    "CREATE UNIQUE INDEX ix_training_running ON training (model) WHERE state = 'RUNNING'",
    "CREATE TABLE model (model text NOT NULL, version integer NOT NULL, in_use boolean NOT NULL, card jsonb NOT NULL,"
    " format text NOT NULL, artefact bytea NOT NULL, sha256 text NOT NULL, signature bytea NOT NULL,"
    " created_at timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_model PRIMARY KEY (model, version))",
    "CREATE UNIQUE INDEX ix_model_in_use ON model (model) WHERE in_use",
    "CREATE TABLE score (model text NOT NULL, person_id bigint NOT NULL, score double precision NOT NULL,"
    " probability double precision NOT NULL, version integer NOT NULL, scored_at timestamptz NOT NULL,"
    " CONSTRAINT pk_score PRIMARY KEY (model, person_id))",
    "CREATE TABLE rescore (model text NOT NULL, person_id bigint NOT NULL, due_at timestamptz NOT NULL,"
    " CONSTRAINT pk_rescore PRIMARY KEY (model, person_id))",
    "CREATE INDEX ix_rescore_due_at ON rescore (due_at)",
    "CREATE TABLE erased_person (person_id bigint NOT NULL, CONSTRAINT pk_erased_person PRIMARY KEY (person_id))",
)


def upgrade() -> None:
    """Makes them."""
    for statement in (*CREATE_TABLES, *TABLES):
        op.execute(statement)
