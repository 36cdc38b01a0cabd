"""First tables."""

from alembic import op

from chassis.outbox import CREATE_TABLES

revision = "0001"
down_revision = None

STATEMENTS = (
    "CREATE TABLE theme (theme_id bigint GENERATED ALWAYS AS IDENTITY, request_id text, version integer NOT NULL,"
    " approved_version integer, owner text NOT NULL, state smallint NOT NULL, salt bytea NOT NULL,"
    " launch_failure text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), launched_at timestamptz,"
    " finished_at timestamptz, CONSTRAINT pk_theme PRIMARY KEY (theme_id))",
    "CREATE UNIQUE INDEX ix_theme_request_id ON theme (request_id)",
    "CREATE INDEX ix_theme_launched_at ON theme (launched_at) WHERE launched_at IS NOT NULL",
    "CREATE INDEX ix_theme_under_way ON theme (theme_id) WHERE state BETWEEN 3 AND 5",
    "CREATE TABLE wave (theme_id bigint, layer smallint, version integer NOT NULL, persons bigint,"
    " from_score double precision, verdict smallint, pushes bigint NOT NULL, goals bigint NOT NULL,"
    " low double precision NOT NULL, high double precision NOT NULL, words text NOT NULL,"
    " opened_at timestamptz NOT NULL DEFAULT now(), judged_at timestamptz,"
    " CONSTRAINT pk_wave PRIMARY KEY (theme_id, layer))",
    "CREATE TABLE theme_version (theme_id bigint, version integer, definition jsonb NOT NULL,"
    " offer_versions integer[] NOT NULL, author text NOT NULL, stated_at timestamptz NOT NULL DEFAULT now(),"
    " state smallint NOT NULL, submitter text NOT NULL, submitted_at timestamptz, reviewer text NOT NULL,"
    " reviewed_at timestamptz, reason text NOT NULL,"
    " CONSTRAINT pk_theme_version PRIMARY KEY (theme_id, version))",
    "CREATE TABLE launch (theme_id bigint, worker text, lease_until timestamptz NOT NULL, traceparent text NOT NULL,"
    " finished_at timestamptz, CONSTRAINT pk_launch PRIMARY KEY (theme_id))",
    "CREATE TABLE decision (theme_id bigint, person_id bigint, occasion bigint, theme_version integer NOT NULL DEFAULT 0,"
    " layer smallint NOT NULL DEFAULT 0,"
    " outcome text NOT NULL, reason text NOT NULL, due_at timestamptz, expires_at timestamptz NOT NULL, asked_offer_id bigint,"
    " offer_id bigint, channel text NOT NULL DEFAULT '', score double precision NOT NULL DEFAULT -1,"
    " probability double precision NOT NULL DEFAULT -1, value double precision NOT NULL DEFAULT 0,"
    " cost_fen bigint NOT NULL DEFAULT 0, position bigint NOT NULL DEFAULT 0, call_rank bigint NOT NULL DEFAULT 0,"
    " channels smallint NOT NULL DEFAULT 0, opted_out smallint NOT NULL DEFAULT 0, closed smallint NOT NULL DEFAULT 0,"
    " failing smallint NOT NULL DEFAULT 0,"
    " recent_pushes integer NOT NULL DEFAULT 0, dealer_code text NOT NULL DEFAULT '', time_zone text NOT NULL DEFAULT '',"
    " delivery_id text, decided_at timestamptz NOT NULL, CONSTRAINT pk_decision PRIMARY KEY (theme_id, person_id, occasion))",
    "CREATE UNIQUE INDEX ix_decision_delivery_id ON decision (delivery_id) WHERE delivery_id IS NOT NULL",
    "CREATE INDEX ix_decision_due ON decision (theme_id, due_at, value DESC) WHERE outcome = 'deferred'",
    "CREATE INDEX ix_decision_waiting ON decision (person_id) WHERE outcome = 'deferred'",
    "CREATE INDEX ix_decision_pushed ON decision (person_id, decided_at) WHERE outcome = 'push'",
    "CREATE TABLE spending (theme_id bigint, day date, contacts bigint NOT NULL, calls bigint NOT NULL,"
    " cost_fen bigint NOT NULL, CONSTRAINT pk_spending PRIMARY KEY (theme_id, day))",
    "CREATE TABLE dealer_calls (theme_id bigint, dealer_code text, day date, calls bigint NOT NULL,"
    " CONSTRAINT pk_dealer_calls PRIMARY KEY (theme_id, dealer_code, day))",
    "CREATE INDEX ix_dealer_calls_dealer_code_day ON dealer_calls (dealer_code, day)",
    "CREATE TABLE dealer_capacity (dealer_code text, calls_per_day integer NOT NULL,"
    " CONSTRAINT pk_dealer_capacity PRIMARY KEY (dealer_code))",
    "CREATE TABLE delivery (delivery_id text, state smallint NOT NULL, reason text NOT NULL, answer text NOT NULL,"
    " occurred_at timestamptz NOT NULL, CONSTRAINT pk_delivery PRIMARY KEY (delivery_id))",
    "CREATE TABLE goal (theme_id bigint, anchor_id bigint, person_id bigint NOT NULL, version bigint NOT NULL,"
    " occurred_at timestamptz NOT NULL, CONSTRAINT pk_goal PRIMARY KEY (theme_id, anchor_id))",
    "CREATE TABLE consent (anchor_id bigint, purpose text, channel text, separate boolean, person_id bigint NOT NULL,"
    " withdrawn_us bigint NOT NULL, given_us bigint NOT NULL, expires_us bigint NOT NULL,"
    " CONSTRAINT pk_consent PRIMARY KEY (anchor_id, purpose, channel, separate))",
    "CREATE INDEX ix_consent_personalisation ON consent (person_id) WHERE purpose = 'personalisation'",
    "CREATE INDEX ix_consent_person_id ON consent (person_id)",
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
    "CREATE TABLE offer_decision (decision_id bytea, person_id bigint NOT NULL, slot text NOT NULL, channel text NOT NULL,"
    " language text NOT NULL, offer_id bigint NOT NULL, offer_version integer NOT NULL, why smallint NOT NULL,"
    " propensity double precision NOT NULL, rate double precision NOT NULL, sd double precision NOT NULL,"
    " matched double precision NOT NULL, arms_id bigint NOT NULL, learnt bigint NOT NULL, codes bytea NOT NULL,"
    " active bytea NOT NULL, words jsonb NOT NULL, decided_at timestamptz NOT NULL, due_at timestamptz NOT NULL,"
    " outcomes smallint NOT NULL, rewarded_at timestamptz, state smallint NOT NULL,"
    " CONSTRAINT pk_offer_decision PRIMARY KEY (decision_id))",
    "CREATE INDEX ix_offer_decision_person_id ON offer_decision (person_id, decided_at)",
    "CREATE INDEX ix_offer_decision_due_at ON offer_decision (due_at)",
    "CREATE INDEX ix_offer_decision_waiting ON offer_decision (due_at) WHERE state = 1",
    "CREATE INDEX ix_offer_decision_won_late ON offer_decision (decision_id) WHERE state = 2 AND rewarded_at IS NOT NULL",
    # Read anew at each call (volatile), hence right even when the statement that asks began before an erasure.
    "CREATE FUNCTION is_erased(person bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ BEGIN"
    " PERFORM pg_advisory_xact_lock_shared(hashtext('orchestrator erasure'));"
    " RETURN EXISTS (SELECT FROM erased_anchor e WHERE e.person_id = person); END $$",
    "CREATE TABLE offer_arms (arms_id bigint GENERATED ALWAYS AS IDENTITY, fingerprint bytea NOT NULL,"
    " offers bigint[] NOT NULL, content jsonb NOT NULL, made_at timestamptz NOT NULL DEFAULT now(),"
    " CONSTRAINT pk_offer_arms PRIMARY KEY (arms_id))",
    "CREATE UNIQUE INDEX ix_offer_arms_fingerprint ON offer_arms (fingerprint)",
    "CREATE TABLE offer_sums (offer_id bigint, version bigint NOT NULL, outer_sum bytea NOT NULL, reward_sum bytea NOT NULL,"
    " CONSTRAINT pk_offer_sums PRIMARY KEY (offer_id))",
    "CREATE INDEX ix_offer_sums_version ON offer_sums (version)",
    "CREATE TABLE journey (journey_id bigint GENERATED ALWAYS AS IDENTITY, request_id text, state smallint NOT NULL,"
    " version integer NOT NULL, running_version integer, salt bytea NOT NULL, created_at timestamptz NOT NULL DEFAULT"
    " now(), started_at timestamptz, finished_at timestamptz, CONSTRAINT pk_journey PRIMARY KEY (journey_id))",
    "CREATE UNIQUE INDEX ix_journey_request_id ON journey (request_id)",
    "CREATE TABLE journey_version (journey_id bigint, version integer, document text NOT NULL, author text NOT NULL,"
    " submitted_by text, approved_by text, stated_at timestamptz NOT NULL DEFAULT now(), approved_at timestamptz,"
    " CONSTRAINT pk_journey_version PRIMARY KEY (journey_id, version))",
    "CREATE TABLE enrolment (enrolment_id bigint GENERATED ALWAYS AS IDENTITY, journey_id bigint NOT NULL, version integer"
    " NOT NULL, person_id bigint NOT NULL, present_id bigint NOT NULL, object text NOT NULL, step smallint NOT NULL, visit"
    " integer NOT NULL, phase smallint NOT NULL, due_at timestamptz NOT NULL, since_at timestamptz NOT NULL, entered_at"
    " timestamptz NOT NULL, arrived_at timestamptz NOT NULL, ended_at timestamptz, end_reason text NOT NULL, CONSTRAINT"
    " pk_enrolment PRIMARY KEY (enrolment_id))",
    "CREATE INDEX ix_enrolment_due ON enrolment (journey_id, due_at) WHERE ended_at IS NULL",
    "CREATE INDEX ix_enrolment_present_id ON enrolment (present_id, journey_id)",
    "CREATE UNIQUE INDEX ix_enrolment_under_way ON enrolment (journey_id, present_id, object) WHERE ended_at IS NULL",
    "CREATE TABLE journey_passage (enrolment_id bigint, visit integer, version integer NOT NULL, step smallint NOT NULL,"
    " outcome text NOT NULL, left_at timestamptz NOT NULL, effect_id bigint GENERATED ALWAYS AS IDENTITY, CONSTRAINT"
    " pk_journey_passage PRIMARY KEY (enrolment_id, visit))",
    "CREATE TABLE journey_side (journey_id bigint, person_id bigint, above smallint NOT NULL, scored_us bigint NOT NULL,"
    " CONSTRAINT pk_journey_side PRIMARY KEY (journey_id, person_id))",
    "CREATE INDEX ix_journey_side_person_id ON journey_side (person_id)",
    "CREATE TABLE journey_day (journey_id bigint, day date, CONSTRAINT pk_journey_day PRIMARY KEY (journey_id, day))",
    "CREATE TABLE referral_code (code text, person_id bigint NOT NULL, device bytea NOT NULL, made_at timestamptz NOT"
    " NULL, CONSTRAINT pk_referral_code PRIMARY KEY (code))",
    "CREATE UNIQUE INDEX ix_referral_code_person_id ON referral_code (person_id)",
    "CREATE TABLE referral (referral_id bigint GENERATED ALWAYS AS IDENTITY, code text NOT NULL, referrer_id bigint NOT"
    " NULL, referred_id bigint NOT NULL, device bytea NOT NULL, state smallint NOT NULL, referrer_fen bigint NOT NULL,"
    " referred_fen bigint NOT NULL, redeemed_at timestamptz NOT NULL, credited_at timestamptz, CONSTRAINT pk_referral"
    " PRIMARY KEY (referral_id))",
    "CREATE INDEX ix_referral_device ON referral (device) WHERE device <> ''",
    "CREATE UNIQUE INDEX ix_referral_referred_id ON referral (referred_id)",
    "CREATE INDEX ix_referral_referrer_id ON referral (referrer_id)",
    "CREATE TABLE lead_step (step_id bigint GENERATED ALWAYS AS IDENTITY, step_key bytea NOT NULL, anchor_id bigint NOT"
    " NULL, person_id bigint NOT NULL, version bigint NOT NULL, human_id bigint NOT NULL, lead_id bigint, stage smallint NOT"
    " NULL, reached boolean NOT NULL, interest text NOT NULL, brand text NOT NULL, area text NOT NULL, source text NOT NULL,"
    " dealer_code text NOT NULL, advisor text NOT NULL, reason text NOT NULL, author text NOT NULL, note text NOT NULL,"
    " occurred_at timestamptz NOT NULL, recorded_at timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_lead_step PRIMARY KEY"
    " (step_id))",
    "CREATE INDEX ix_lead_step_anchor_id ON lead_step (anchor_id) WHERE anchor_id > 0",
    "CREATE INDEX ix_lead_step_human_id ON lead_step (human_id)",
    "CREATE INDEX ix_lead_step_lead_id ON lead_step (lead_id)",
    "CREATE INDEX ix_lead_step_person_id ON lead_step (person_id)",
    "CREATE INDEX ix_lead_step_reached ON lead_step (dealer_code, occurred_at) WHERE reached",
    "CREATE UNIQUE INDEX ix_lead_step_step_key ON lead_step (step_key)",
    "CREATE TABLE lead (lead_id bigint GENERATED ALWAYS AS IDENTITY, founding_step_id bigint NOT NULL, human_id bigint NOT"
    " NULL, merged_into bigint, interest text NOT NULL, brand text NOT NULL, area text NOT NULL, source text NOT NULL,"
    " named_dealer text NOT NULL, stage smallint NOT NULL, furthest smallint NOT NULL, since timestamptz NOT NULL, opened_at"
    " timestamptz NOT NULL, last_at timestamptz NOT NULL, lost_reason text NOT NULL, dealer_code text NOT NULL DEFAULT '',"
    " advisor text NOT NULL DEFAULT '', assigned_at timestamptz, sla_due_at timestamptz, attempted_at timestamptz,"
    " escalated_at timestamptz, withheld text NOT NULL DEFAULT '', next_try_at timestamptz NOT NULL DEFAULT now(),"
    " CONSTRAINT pk_lead PRIMARY KEY (lead_id))",
    "CREATE UNIQUE INDEX ix_lead_founding_step_id ON lead (founding_step_id)",
    "CREATE INDEX ix_lead_human_id ON lead (human_id)",
    "CREATE INDEX ix_lead_last_at ON lead (last_at) WHERE merged_into IS NULL",
    "CREATE INDEX ix_lead_looked_after ON lead (dealer_code, advisor) WHERE dealer_code <> ''",
    "CREATE INDEX ix_lead_merged_into ON lead (merged_into) WHERE merged_into IS NOT NULL",
    "CREATE INDEX ix_lead_overdue ON lead (sla_due_at) WHERE sla_due_at IS NOT NULL",
    "CREATE INDEX ix_lead_to_assign ON lead (next_try_at) WHERE dealer_code = '' AND stage < 7 AND merged_into IS NULL AND"
    " escalated_at IS NULL",
    "CREATE TABLE lead_assignment (assignment_id bigint GENERATED ALWAYS AS IDENTITY, lead_id bigint NOT NULL, dealer_code"
    " text NOT NULL, advisor text NOT NULL, score double precision NOT NULL, parts jsonb NOT NULL, author text NOT NULL,"
    " assigned_at timestamptz NOT NULL DEFAULT now(), ended_at timestamptz, end_reason text NOT NULL DEFAULT '',"
    " told smallint NOT NULL DEFAULT 0, CONSTRAINT pk_lead_assignment PRIMARY KEY (assignment_id))",
    "CREATE INDEX ix_lead_assignment_assigned_at ON lead_assignment (assigned_at)",
    "CREATE INDEX ix_lead_assignment_lead_id ON lead_assignment (lead_id)",
    "CREATE INDEX ix_lead_assignment_untold ON lead_assignment (assignment_id) WHERE told = 0 OR (told = 1 AND ended_at IS"
    " NOT NULL)",
    "CREATE TABLE dealer (dealer_code text, version integer NOT NULL, areas text[] NOT NULL, brands text[] NOT NULL,"
    " capacity_per_day integer NOT NULL, sla_minutes integer NOT NULL, closed boolean NOT NULL, author text NOT NULL,"
    " stated_at timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_dealer PRIMARY KEY (dealer_code))",
    "CREATE TABLE advisor (dealer_code text, advisor text, brands text[] NOT NULL, capacity_per_day integer NOT NULL, away"
    " boolean NOT NULL, CONSTRAINT pk_advisor PRIMARY KEY (dealer_code, advisor))",
    "CREATE TABLE lead_task (task_id bigint GENERATED ALWAYS AS IDENTITY, task_key text NOT NULL, person_id bigint NOT"
    " NULL, lead_id bigint, theme_id bigint, kind text NOT NULL, words text NOT NULL, dealer_code text NOT NULL, advisor"
    " text NOT NULL, state smallint NOT NULL, attempt integer NOT NULL, result text NOT NULL, note text NOT NULL, author"
    " text NOT NULL, due_at timestamptz NOT NULL, expires_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(),"
    " completed_at timestamptz, CONSTRAINT pk_lead_task PRIMARY KEY (task_id))",
    "CREATE INDEX ix_lead_task_expires_at ON lead_task (expires_at) WHERE state = 1 AND expires_at IS NOT NULL",
    "CREATE INDEX ix_lead_task_lead_id ON lead_task (lead_id) WHERE lead_id IS NOT NULL",
    "CREATE INDEX ix_lead_task_open ON lead_task (dealer_code, due_at, task_id) WHERE state = 1",
    "CREATE INDEX ix_lead_task_person_id ON lead_task (person_id)",
    "CREATE UNIQUE INDEX ix_lead_task_task_key ON lead_task (task_key)",
    "CREATE TABLE dealer_target (dealer_code text, advisor text, month date, metric smallint, goal integer NOT NULL,"
    " value_fen bigint NOT NULL, values_fen jsonb NOT NULL, version integer NOT NULL, author text NOT NULL, stated_at"
    " timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_dealer_target PRIMARY KEY (dealer_code, advisor, month, metric))",
    "CREATE INDEX ix_dealer_target_month ON dealer_target (month)",
    "CREATE TABLE channel_health (channel text, failing boolean NOT NULL, reason text NOT NULL,"
    " pushes_left bigint, at timestamptz NOT NULL, CONSTRAINT pk_channel_health PRIMARY KEY (channel))",
    "CREATE TABLE channel_given (channel text, minute timestamptz, pushes bigint NOT NULL,"
    " CONSTRAINT pk_channel_given PRIMARY KEY (channel, minute))",
    "CREATE TABLE opportunity_day (dealer_code text, day date, worker text, lease_until timestamptz NOT NULL, finished_at"
    " timestamptz, failure text NOT NULL DEFAULT '', CONSTRAINT pk_opportunity_day PRIMARY KEY (dealer_code, day))",
    "CREATE INDEX ix_opportunity_day_unfinished ON opportunity_day (lease_until) WHERE finished_at IS NULL",
    "CREATE TABLE opportunity (dealer_code text, day date, metric smallint, person_id bigint, rank integer NOT NULL,"
    " own_rank integer NOT NULL, probability double precision NOT NULL, value_fen bigint NOT NULL, advisor text NOT NULL,"
    " CONSTRAINT pk_opportunity PRIMARY KEY (dealer_code, day, metric, person_id))",
    "CREATE INDEX ix_opportunity_person_id ON opportunity (person_id)",
)


def upgrade() -> None:
    """Makes all tables."""
    for statement in (*CREATE_TABLES, *STATEMENTS):
        op.execute(statement)
