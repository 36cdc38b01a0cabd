"""First tables."""

from alembic import op

from chassis.outbox import CREATE_TABLES

revision = "0001"
down_revision = None

STATEMENTS = (
    "CREATE TABLE theme (theme_id bigint GENERATED ALWAYS AS IDENTITY, request_id text, title text NOT NULL,"
    " audience text NOT NULL, goal_event text NOT NULL, goal_field text NOT NULL, goal_value text NOT NULL,"
    " offer_name text NOT NULL, offer_title text NOT NULL, offer_body text NOT NULL, purpose text NOT NULL,"
    " max_contacts bigint NOT NULL, max_calls bigint NOT NULL, unit_cost_fen jsonb NOT NULL,"
    " holdout_share double precision NOT NULL, model text NOT NULL, call_score double precision NOT NULL,"
    " state smallint NOT NULL, salt bytea NOT NULL, launch_failure text NOT NULL,"
    " created_at timestamptz NOT NULL DEFAULT now(), launched_at timestamptz, CONSTRAINT pk_theme PRIMARY KEY (theme_id))",
    "CREATE UNIQUE INDEX ix_theme_request_id ON theme (request_id)",
    "CREATE INDEX ix_theme_launched ON theme (state) WHERE state > 1",
    "CREATE TABLE launch (theme_id bigint, worker text, lease_until timestamptz NOT NULL, frequency_cap integer NOT NULL,"
    " traceparent text NOT NULL, planned_at timestamptz, finished_at timestamptz, CONSTRAINT pk_launch PRIMARY KEY (theme_id))",
    "CREATE TABLE decision (theme_id bigint, person_id bigint, outcome text NOT NULL, channel text NOT NULL,"
    " score double precision NOT NULL, probability double precision NOT NULL, position bigint NOT NULL,"
    " call_rank bigint NOT NULL, channels smallint NOT NULL, opted_out smallint NOT NULL, recent_pushes integer NOT NULL,"
    " dealer_code text NOT NULL, delivery_id text, decided_at timestamptz NOT NULL, handed_over_at timestamptz,"
    " CONSTRAINT pk_decision PRIMARY KEY (theme_id, person_id))",
    "CREATE UNIQUE INDEX ix_decision_delivery_id ON decision (delivery_id) WHERE delivery_id IS NOT NULL",
    "CREATE INDEX ix_decision_to_hand_over ON decision (theme_id, position) WHERE outcome = 'push' AND handed_over_at IS NULL",
    "CREATE INDEX ix_decision_pushed_lately ON decision (decided_at, person_id) WHERE outcome = 'push'",
    "CREATE TABLE delivery (delivery_id text, state smallint NOT NULL, reason text NOT NULL, answer text NOT NULL,"
    " occurred_at timestamptz NOT NULL, CONSTRAINT pk_delivery PRIMARY KEY (delivery_id))",
    "CREATE TABLE goal (theme_id bigint, anchor_id bigint, person_id bigint NOT NULL, version bigint NOT NULL,"
    " occurred_at timestamptz NOT NULL, CONSTRAINT pk_goal PRIMARY KEY (theme_id, anchor_id))",
    "CREATE TABLE consent (anchor_id bigint, purpose text, channel text, separate boolean, person_id bigint NOT NULL,"
    " withdrawn_us bigint NOT NULL, given_us bigint NOT NULL, expires_us bigint NOT NULL,"
    " CONSTRAINT pk_consent PRIMARY KEY (anchor_id, purpose, channel, separate))",
    "CREATE INDEX ix_consent_personalisation ON consent (person_id) WHERE purpose = 'personalisation'",
    "CREATE TABLE anchor_owner (anchor_id bigint, person_id bigint NOT NULL, version bigint NOT NULL,"
    " CONSTRAINT pk_anchor_owner PRIMARY KEY (anchor_id))",
    "CREATE INDEX ix_anchor_owner_person_id ON anchor_owner (person_id)",
    "CREATE TABLE person_alias (person_id bigint, survivor_id bigint, op_id bigint NOT NULL,"
    " changed_at timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_person_alias PRIMARY KEY (person_id))",
    "CREATE INDEX ix_person_alias_changed_at ON person_alias (changed_at)",
    "CREATE INDEX ix_person_alias_survivor_id ON person_alias (survivor_id) WHERE survivor_id IS NOT NULL",
    "CREATE TABLE erased_anchor (anchor_id bigint, person_id bigint NOT NULL, version bigint NOT NULL,"
    " CONSTRAINT pk_erased_anchor PRIMARY KEY (anchor_id))",
    "CREATE INDEX ix_erased_anchor_person_id ON erased_anchor (person_id)",
    "CREATE TABLE experiment_layer (layer text, salt bytea NOT NULL, CONSTRAINT pk_experiment_layer PRIMARY KEY (layer))",
    "CREATE TABLE experiment (experiment_id bigint GENERATED ALWAYS AS IDENTITY, request_id text, layer text NOT NULL,"
    " bucket_from integer NOT NULL, bucket_to integer NOT NULL, definition jsonb NOT NULL, state smallint NOT NULL,"
    " version integer NOT NULL, salt bytea NOT NULL, stop_reason text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),"
    " started_at timestamptz, stopped_at timestamptz, CONSTRAINT pk_experiment PRIMARY KEY (experiment_id))",
    "CREATE UNIQUE INDEX ix_experiment_request_id ON experiment (request_id)",
    "CREATE INDEX ix_experiment_not_over ON experiment (layer) WHERE state < 3",
    "CREATE TABLE exposure (experiment_id bigint, person_id bigint, variant smallint NOT NULL, covariate double precision,"
    " segments jsonb NOT NULL, exposed_at timestamptz NOT NULL, CONSTRAINT pk_exposure PRIMARY KEY (experiment_id, person_id))",
    "CREATE TABLE experiment_event (experiment_id bigint, metric smallint, event_id bytea, anchor_id bigint NOT NULL,"
    " person_id bigint NOT NULL, version bigint NOT NULL, occurred_at timestamptz NOT NULL, amount double precision NOT NULL,"
    " CONSTRAINT pk_experiment_event PRIMARY KEY (experiment_id, metric, event_id))",
    "CREATE INDEX ix_experiment_event_anchor_id ON experiment_event (anchor_id)",
    "CREATE TABLE offer (offer_id bigint GENERATED ALWAYS AS IDENTITY, request_id text, version integer NOT NULL, stock bigint,"
    " reserved bigint NOT NULL, taken bigint NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), retired_at timestamptz,"
    " CONSTRAINT pk_offer PRIMARY KEY (offer_id), CONSTRAINT ck_offer_stock"
    " CHECK (reserved >= 0 AND taken >= 0 AND (stock IS NULL OR reserved + taken <= stock)))",
    "CREATE UNIQUE INDEX ix_offer_request_id ON offer (request_id)",
    "CREATE TABLE offer_version (offer_id bigint, version integer, definition jsonb NOT NULL, author text NOT NULL,"
    " stated_at timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_offer_version PRIMARY KEY (offer_id, version))",
    "CREATE TABLE offer_hold (offer_id bigint, hold_id text, state smallint NOT NULL, expires_at timestamptz NOT NULL,"
    " changed_at timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_offer_hold PRIMARY KEY (offer_id, hold_id))",
    "CREATE INDEX ix_offer_hold_expires_at ON offer_hold (offer_id, expires_at) WHERE state = 1",
    "CREATE TABLE slot_rules (slot text, version integer NOT NULL, pinned bigint[] NOT NULL, excluded bigint[] NOT NULL,"
    " ordered bigint[] NOT NULL, author text NOT NULL, stated_at timestamptz NOT NULL DEFAULT now(),"
    " CONSTRAINT pk_slot_rules PRIMARY KEY (slot))",
)


def upgrade() -> None:
    """Makes all tables."""
    for statement in (*CREATE_TABLES, *STATEMENTS):
        op.execute(statement)
