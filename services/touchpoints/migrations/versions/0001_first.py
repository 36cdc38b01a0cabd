"""First tables."""

from alembic import op

from chassis.outbox import CREATE_TABLES

revision = "0001"
down_revision = None

STATEMENTS = (
    *CREATE_TABLES,
    """
    CREATE TABLE source (
        name text NOT NULL, user_id_kind smallint NOT NULL, appid text NOT NULL, write_key_sha256 bytea NOT NULL,
        server_key_sha256 bytea NOT NULL, CONSTRAINT pk_source PRIMARY KEY (name))
    """,
    """
    CREATE TABLE endpoint (
        name text NOT NULL, channel smallint NOT NULL, scope text NOT NULL, url text NOT NULL, secret bytea NOT NULL,
        settings jsonb NOT NULL, secrets bytea NOT NULL, disabled_at timestamptz,
        management_key_sha256 bytea NOT NULL DEFAULT '', previous_secret bytea NOT NULL DEFAULT '',
        previous_until timestamptz, event_types_off text[] NOT NULL DEFAULT '{}', verified_at timestamptz,
        tested_at timestamptz, CONSTRAINT pk_endpoint PRIMARY KEY (name))
    """,
    "CREATE UNIQUE INDEX ix_endpoint_channel_scope ON endpoint (channel, scope)",
    """
    CREATE TABLE wechat_allowance (
        account text NOT NULL, follower bytea NOT NULL, kind text NOT NULL, remaining integer NOT NULL,
        opened_us bigint NOT NULL, until_us bigint NOT NULL, anchor_id bigint NOT NULL,
        CONSTRAINT pk_wechat_allowance PRIMARY KEY (account, follower, kind))
    """,
    "CREATE INDEX ix_wechat_allowance_anchor_id ON wechat_allowance (anchor_id) WHERE anchor_id > 0",
    """
    CREATE TABLE wechat_spend (
        delivery_id text NOT NULL, account text NOT NULL, follower bytea NOT NULL, form text NOT NULL,
        template text NOT NULL, pays text NOT NULL, opened_us bigint NOT NULL,
        CONSTRAINT pk_wechat_spend PRIMARY KEY (delivery_id))
    """,
    "CREATE INDEX ix_wechat_spend_account_follower ON wechat_spend (account, follower)",
    """
    CREATE TABLE wecom_contact (
        endpoint text NOT NULL, contact bytea NOT NULL, sealed bytea NOT NULL, attempts integer NOT NULL DEFAULT 0,
        asked_at timestamptz NOT NULL DEFAULT now(), due_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_wecom_contact PRIMARY KEY (endpoint, contact))
    """,
    """
    CREATE TABLE provider_token (
        account text NOT NULL, token bytea NOT NULL, generation bigint NOT NULL, fetched_at timestamptz NOT NULL,
        fresh_until timestamptz NOT NULL, leased_until timestamptz NOT NULL,
        CONSTRAINT pk_provider_token PRIMARY KEY (account))
    """,
    """
    CREATE TABLE delivery (
        delivery_id text NOT NULL, theme text NOT NULL, person_id bigint NOT NULL, channel smallint NOT NULL,
        fallback_channels smallint[] NOT NULL, offer text NOT NULL, title text NOT NULL, body text NOT NULL,
        purpose text NOT NULL, score double precision NOT NULL, rank integer NOT NULL, reasons text[] NOT NULL,
        dealer_code text NOT NULL, decided_at timestamptz NOT NULL, expires_at timestamptz NOT NULL,
        state smallint NOT NULL, reason text NOT NULL DEFAULT '', attempts integer NOT NULL DEFAULT 0,
        due_at timestamptz NOT NULL, unsure_since timestamptz, endpoint text NOT NULL DEFAULT '',
        anchor_id bigint NOT NULL DEFAULT 0,
        provider_id text NOT NULL DEFAULT '', answer text NOT NULL DEFAULT '', answered_at timestamptz,
        updated_at timestamptz NOT NULL, kind text NOT NULL DEFAULT '', details text NOT NULL DEFAULT '',
        revoked_at timestamptz, quiet_hours text NOT NULL DEFAULT '', time_zone text NOT NULL DEFAULT '',
        caps text NOT NULL DEFAULT '', arrived bigint GENERATED ALWAYS AS IDENTITY, held text NOT NULL DEFAULT '',
        held_at timestamptz, slot_at timestamptz, sent_at timestamptz, CONSTRAINT pk_delivery PRIMARY KEY (delivery_id))
    """,
    "CREATE INDEX ix_delivery_held ON delivery (endpoint, arrived) WHERE held <> ''",
    "CREATE TABLE turn (endpoint text NOT NULL, delivery_id text NOT NULL, CONSTRAINT pk_turn PRIMARY KEY (endpoint))",
    """
    CREATE TABLE circuit (
        endpoint text NOT NULL, failures integer NOT NULL DEFAULT 0, trips integer NOT NULL DEFAULT 0, opened_at timestamptz,
        open_until timestamptz, probe_until timestamptz, paused_until timestamptz, pause_reason text NOT NULL DEFAULT '',
        CONSTRAINT pk_circuit PRIMARY KEY (endpoint))
    """,
    """
    CREATE TABLE bucket (
        name text NOT NULL, booked_until timestamptz NOT NULL, burst_s double precision NOT NULL,
        CONSTRAINT pk_bucket PRIMARY KEY (name))
    """,
    """
    CREATE TABLE call_slice (
        endpoint text NOT NULL, slice timestamptz NOT NULL, calls integer NOT NULL, accepted integer NOT NULL,
        failed integer NOT NULL, seconds double precision NOT NULL, took integer[] NOT NULL,
        CONSTRAINT pk_call_slice PRIMARY KEY (endpoint, slice))
    """,
    "CREATE INDEX ix_call_slice_slice ON call_slice (slice)",
    """
    CREATE TABLE health_report (
        one boolean NOT NULL, published_at timestamptz NOT NULL, said text NOT NULL,
        CONSTRAINT pk_health_report PRIMARY KEY (one))
    """,
    """
    CREATE TABLE replay (
        request_id text NOT NULL, endpoint text NOT NULL, theme text NOT NULL, reason text NOT NULL, held_from timestamptz,
        held_to timestamptz, made_at timestamptz NOT NULL, replayed bigint NOT NULL DEFAULT 0, finished_at timestamptz,
        CONSTRAINT pk_replay PRIMARY KEY (request_id))
    """,
    "CREATE INDEX ix_delivery_due_at ON delivery (due_at) WHERE state <= 2",
    "CREATE INDEX ix_delivery_provider_id ON delivery (provider_id) WHERE provider_id <> ''",
    "CREATE INDEX ix_delivery_theme ON delivery (theme)",
    "CREATE INDEX ix_delivery_listed ON delivery (endpoint, score DESC) WHERE channel = 8 AND state = 3",
    """
    CREATE INDEX ix_delivery_withdrawn ON delivery (split_part(delivery_id, '-', 2)) WHERE kind = 'lead.withdrawn'
    """,
    "CREATE INDEX ix_delivery_person_id ON delivery (person_id) WHERE person_id > 0",
    "CREATE INDEX ix_delivery_anchor_id ON delivery (anchor_id) WHERE anchor_id > 0",
    """
    CREATE TABLE feedback (
        delivery_id text NOT NULL, kind text NOT NULL, key text NOT NULL, data jsonb NOT NULL,
        occurred_at timestamptz NOT NULL, received_at timestamptz NOT NULL,
        CONSTRAINT pk_feedback PRIMARY KEY (delivery_id, kind, key))
    """,
    """
    CREATE TABLE consent (
        anchor_id bigint NOT NULL, purpose text NOT NULL, channel text NOT NULL, separate boolean NOT NULL,
        person_id bigint NOT NULL, withdrawn_us bigint NOT NULL, given_us bigint NOT NULL, expires_us bigint NOT NULL,
        CONSTRAINT pk_consent PRIMARY KEY (anchor_id, purpose, channel, separate))
    """,
    "CREATE INDEX ix_consent_person_id ON consent (person_id)",
    """
    CREATE TABLE anchor_owner (
        anchor_id bigint NOT NULL, person_id bigint NOT NULL, version bigint NOT NULL,
        CONSTRAINT pk_anchor_owner PRIMARY KEY (anchor_id))
    """,
    "CREATE INDEX ix_anchor_owner_person_id ON anchor_owner (person_id)",
    """
    CREATE TABLE erased_anchor (
        anchor_id bigint NOT NULL, person_id bigint NOT NULL, CONSTRAINT pk_erased_anchor PRIMARY KEY (anchor_id))
    """,
    "CREATE TABLE erased_person (person_id bigint NOT NULL, CONSTRAINT pk_erased_person PRIMARY KEY (person_id))",
    """
    CREATE TABLE person_alias (
        person_id bigint NOT NULL, survivor_id bigint, op_id bigint NOT NULL,
        CONSTRAINT pk_person_alias PRIMARY KEY (person_id))
    """,
    "CREATE INDEX ix_person_alias_survivor_id ON person_alias (survivor_id) WHERE survivor_id IS NOT NULL",
    """
    CREATE TABLE import_job (
        id bigint GENERATED ALWAYS AS IDENTITY, source text NOT NULL, place text NOT NULL, file_name text NOT NULL,
        mapping text NOT NULL, file_sha256 bytea, state text NOT NULL, reason text NOT NULL, message text NOT NULL,
        dry_run boolean NOT NULL, lines bigint NOT NULL, lines_done bigint NOT NULL, taken bigint NOT NULL,
        refused bigint NOT NULL, sample text NOT NULL, caller text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
        attempts smallint NOT NULL DEFAULT 0, leased_until timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_import_job PRIMARY KEY (id))
    """,
    """
    CREATE TABLE import_error (
        import_id bigint NOT NULL, line bigint NOT NULL, field text NOT NULL, reason text NOT NULL,
        CONSTRAINT pk_import_error PRIMARY KEY (import_id, line))
    """,
    """
    CREATE TABLE arrival_door (
        name text NOT NULL, dealer_code text NOT NULL, token_sha256 bytea NOT NULL, previous_sha256 bytea,
        previous_until timestamptz, networks text[] NOT NULL, min_confidence smallint NOT NULL,
        repeat_minutes smallint NOT NULL, direction text NOT NULL, disabled_at timestamptz,
        CONSTRAINT pk_arrival_door PRIMARY KEY (name))
    """,
    "CREATE UNIQUE INDEX ix_arrival_door_token_sha256 ON arrival_door (token_sha256)",
    """
    CREATE TABLE arrival_presence (
        dealer_code text NOT NULL, subject bytea NOT NULL, device text NOT NULL, camera_at timestamptz,
        last_seen timestamptz NOT NULL, arrival_id text NOT NULL,
        CONSTRAINT pk_arrival_presence PRIMARY KEY (dealer_code, subject))
    """,
    "CREATE INDEX ix_arrival_presence_last_seen ON arrival_presence (last_seen)",
    """
    CREATE TABLE arrival (
        arrival_id text NOT NULL, door text NOT NULL, dealer_code text NOT NULL, arrived_at timestamptz NOT NULL,
        state smallint NOT NULL, reason text NOT NULL DEFAULT '', left_out text[] NOT NULL DEFAULT '{}', sealed bytea NOT NULL,
        due_at timestamptz NOT NULL, attempts integer NOT NULL DEFAULT 0, CONSTRAINT pk_arrival PRIMARY KEY (arrival_id))
    """,
    "CREATE INDEX ix_arrival_due_at ON arrival (due_at) WHERE state = 1",
    "CREATE INDEX ix_arrival_arrived_at ON arrival (arrived_at)",
    """
    CREATE TABLE event_type (
        name text NOT NULL, version integer NOT NULL, title text NOT NULL, description text NOT NULL, schema text NOT NULL,
        sources text[] NOT NULL, retired boolean NOT NULL, aliases text[] NOT NULL, author text NOT NULL,
        saved_at timestamptz NOT NULL, CONSTRAINT pk_event_type PRIMARY KEY (name, version))
    """,
    """
    CREATE TABLE tracking_plan (
        one boolean NOT NULL, unplanned smallint NOT NULL, CONSTRAINT pk_tracking_plan PRIMARY KEY (one))
    """,
    """
    CREATE TABLE unplanned_event (
        day date NOT NULL, source text NOT NULL, event text NOT NULL, events bigint NOT NULL,
        CONSTRAINT pk_unplanned_event PRIMARY KEY (day, source, event))
    """,
    """
    CREATE TABLE quarantined (
        id bigint GENERATED ALWAYS AS IDENTITY, event_id bytea NOT NULL, source text NOT NULL, event text NOT NULL,
        reason text NOT NULL, field text NOT NULL, message text NOT NULL, schema_path text NOT NULL,
        received_at timestamptz NOT NULL, sealed bytea NOT NULL, CONSTRAINT pk_quarantined PRIMARY KEY (id))
    """,
    "CREATE UNIQUE INDEX ix_quarantined_event_id ON quarantined (event_id)",
    "CREATE INDEX ix_quarantined_event ON quarantined (event, id)",
    "CREATE INDEX ix_quarantined_received_at ON quarantined (received_at)",
    # Ciphertext does not compress.
    "ALTER TABLE quarantined ALTER sealed SET STORAGE EXTERNAL",
    """
    CREATE TABLE quarantine_replay (
        replay_id text NOT NULL, wanted text NOT NULL, patch text NOT NULL, position bigint NOT NULL DEFAULT 0,
        up_to bigint NOT NULL, total bigint NOT NULL, examined bigint NOT NULL DEFAULT 0, healed bigint NOT NULL DEFAULT 0,
        done boolean NOT NULL DEFAULT false, created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_quarantine_replay PRIMARY KEY (replay_id))
    """,
    """
    CREATE TABLE device_token (
        token_id bigint GENERATED ALWAYS AS IDENTITY, provider text NOT NULL, app text NOT NULL, environment text NOT NULL,
        digest bytea NOT NULL, owner bytea NOT NULL, sealed bytea NOT NULL, user_sealed bytea NOT NULL,
        anchor_id bigint NOT NULL DEFAULT 0,
        registered_at timestamptz NOT NULL, last_success_at timestamptz, invalid_at timestamptz,
        invalid_reason text NOT NULL DEFAULT '', CONSTRAINT pk_device_token PRIMARY KEY (token_id))
    """,
    "CREATE UNIQUE INDEX ix_device_token_digest ON device_token (provider, app, environment, digest)",
    "CREATE INDEX ix_device_token_owner ON device_token (owner)",
    "CREATE INDEX ix_device_token_anchor_id ON device_token (anchor_id) WHERE anchor_id > 0",
    "CREATE INDEX ix_device_token_unlinked ON device_token (token_id) WHERE anchor_id = 0",
    """
    CREATE TABLE push_call (
        delivery_id text NOT NULL, call_id text NOT NULL, made_at timestamptz NOT NULL,
        CONSTRAINT pk_push_call PRIMARY KEY (delivery_id))
    """,
    "CREATE INDEX ix_push_call_made_at ON push_call (made_at)",
    """
    CREATE TABLE delivery_attempt (
        delivery_id text NOT NULL, attempt_id bigint GENERATED ALWAYS AS IDENTITY, endpoint text NOT NULL,
        outcome text NOT NULL, reason text NOT NULL, milliseconds integer NOT NULL, attempted_at timestamptz NOT NULL,
        CONSTRAINT pk_delivery_attempt PRIMARY KEY (delivery_id, attempt_id))
    """,
    "CREATE INDEX ix_delivery_attempt_endpoint ON delivery_attempt (endpoint, attempt_id)",
    "CREATE INDEX ix_delivery_attempt_attempted_at ON delivery_attempt USING brin (attempted_at)",
    """
    CREATE TABLE provider_balance (
        endpoint text NOT NULL, balance bigint NOT NULL, told_at timestamptz NOT NULL,
        CONSTRAINT pk_provider_balance PRIMARY KEY (endpoint))
    """,
    """
    CREATE TABLE ad_list (
        name text NOT NULL, endpoint text NOT NULL, predicate text NOT NULL, every_s double precision NOT NULL,
        state text NOT NULL, reason text NOT NULL DEFAULT '', pass_no bigint NOT NULL DEFAULT 0,
        passing boolean NOT NULL DEFAULT false, page_token text NOT NULL DEFAULT '', looked_at bigint NOT NULL DEFAULT 0,
        added bigint NOT NULL DEFAULT 0, removed bigint NOT NULL DEFAULT 0, failures integer NOT NULL DEFAULT 0,
        passed_at timestamptz, pass_at timestamptz NOT NULL DEFAULT now(), due_at timestamptz NOT NULL DEFAULT now(),
        woken boolean NOT NULL DEFAULT false, leased_until timestamptz NOT NULL DEFAULT now(),
        created_at timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_ad_list PRIMARY KEY (name))
    """,
    """
    CREATE TABLE ad_member (
        list text NOT NULL, digest bytea NOT NULL, sealed bytea NOT NULL, person_id bigint NOT NULL, seen bigint NOT NULL,
        called boolean NOT NULL DEFAULT false, sent boolean NOT NULL DEFAULT false, leaving boolean NOT NULL DEFAULT false,
        CONSTRAINT pk_ad_member PRIMARY KEY (list, digest))
    """,
    "CREATE INDEX ix_ad_member_leaving ON ad_member (list, digest) WHERE leaving",
    "CREATE INDEX ix_ad_member_person_id ON ad_member (person_id) WHERE person_id > 0",
    """
    CREATE TABLE ad_click (
        anchor_id bigint NOT NULL, endpoint text NOT NULL, clicked_us bigint NOT NULL, person_id bigint NOT NULL,
        sealed bytea NOT NULL, CONSTRAINT pk_ad_click PRIMARY KEY (anchor_id, endpoint, clicked_us))
    """,
    "CREATE INDEX ix_ad_click_person_id ON ad_click (person_id)",
    "CREATE INDEX ix_ad_click_clicked_us ON ad_click USING brin (clicked_us)",
)


def upgrade() -> None:
    """Makes the tables that tables.py describes."""
    for statement in STATEMENTS:
        op.execute(statement)
