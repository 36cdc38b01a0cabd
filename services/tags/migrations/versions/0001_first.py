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
        " present boolean NOT NULL, tags json NOT NULL, scores json NOT NULL, due_us bigint,"
        f" CONSTRAINT pk_entity PRIMARY KEY (entity_kind, entity_id)) {_ROOM}"
    )
    op.execute("CREATE INDEX ix_entity_due_us ON entity (due_us) WHERE due_us IS NOT NULL")
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
        "CREATE TABLE entity_relation (subject_kind smallint NOT NULL, subject_id bigint NOT NULL,"
        " object_kind smallint NOT NULL, object_id bigint NOT NULL, kind text NOT NULL,"
        " removed boolean NOT NULL, version bigint NOT NULL,"
        " CONSTRAINT pk_entity_relation PRIMARY KEY (subject_kind, subject_id, object_kind, object_id, kind))"
    )
    op.execute("CREATE INDEX ix_entity_relation_object_kind_object_id ON entity_relation (object_kind, object_id)")
    op.execute(
        "CREATE TABLE told_relation (subject_kind smallint NOT NULL, subject_id bigint NOT NULL,"
        " object_kind smallint NOT NULL, object_id bigint NOT NULL, kind text NOT NULL,"
        " valid_from_us bigint NOT NULL, valid_to_us bigint NOT NULL, void boolean NOT NULL, sequence bigint NOT NULL,"
        " CONSTRAINT pk_told_relation PRIMARY KEY (subject_kind, subject_id, object_kind, object_id, kind, valid_from_us))"
    )
    op.execute(
        "CREATE TABLE erased_anchor (anchor_id bigint NOT NULL, person_id bigint NOT NULL, version bigint NOT NULL,"
        " CONSTRAINT pk_erased_anchor PRIMARY KEY (anchor_id))"
    )
    op.execute("CREATE INDEX ix_erased_anchor_person_id ON erased_anchor (person_id)")
    op.execute(
        "CREATE TABLE lake_erasure (anchor_id bigint NOT NULL, queued_at timestamptz NOT NULL DEFAULT now(),"
        " rewritten_at timestamptz, CONSTRAINT pk_lake_erasure PRIMARY KEY (anchor_id))"
    )
    _sharing()
    _audiences()


# An entry of the ledger stands as it was written, whoever asks; so does who was in it, but for what an erasure destroys.
_APPEND_ONLY = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$
"""
_ONLY_FORGOTTEN = """
CREATE FUNCTION refuse_all_but_forgetting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.number = OLD.number AND NEW.position = OLD.position AND NEW.anchor_id = 0 AND NEW.line = 0 AND NEW.nonce IS NULL
        AND NEW.leaf = sha256(decode('00', 'hex') || OLD.nonce || int8send(OLD.anchor_id) || int8send(OLD.line)) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'of % only anchors may be forgotten', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$
"""


def _sharing() -> None:
    """Shares, the data-use ledger, points, and consents to sharing."""
    op.execute(
        "CREATE TABLE share (share_id bigint GENERATED ALWAYS AS IDENTITY, request_id text NOT NULL, recipient text NOT NULL,"
        " purpose text NOT NULL, form smallint NOT NULL, tags text[] NOT NULL, predicate text NOT NULL,"
        " min_group_size integer NOT NULL, points integer NOT NULL, expires_at timestamptz NOT NULL, key_id text NOT NULL,"
        " created_by text NOT NULL, created_at timestamptz NOT NULL, revoked_at timestamptz, revoke_reason text NOT NULL,"
        " CONSTRAINT pk_share PRIMARY KEY (share_id))"
    )
    op.execute("CREATE UNIQUE INDEX ix_share_request_id ON share (request_id)")
    op.execute("CREATE INDEX ix_share_recipient_share_id ON share (recipient, share_id)")
    op.execute(
        "CREATE TABLE data_use (number bigint NOT NULL, share_id bigint NOT NULL, recipient text NOT NULL,"
        " purpose text NOT NULL, form smallint NOT NULL, tags text[] NOT NULL, predicate text NOT NULL,"
        " min_group_size integer NOT NULL, key_id text NOT NULL, persons bigint NOT NULL, suppressed bigint NOT NULL,"
        " without_consent bigint NOT NULL, points integer NOT NULL, inclusions bigint NOT NULL, root bytea NOT NULL,"
        " used_at_us bigint NOT NULL, previous bytea NOT NULL, hash bytea NOT NULL,"
        " CONSTRAINT pk_data_use PRIMARY KEY (number))"
    )
    op.execute("CREATE INDEX ix_data_use_share_id_number ON data_use (share_id, number)")
    op.execute(
        "CREATE TABLE data_use_inclusion (number bigint NOT NULL, position bigint NOT NULL, anchor_id bigint NOT NULL,"
        " line bigint NOT NULL, nonce bytea, leaf bytea, CONSTRAINT pk_data_use_inclusion PRIMARY KEY (number, position),"
        " CHECK ((nonce IS NULL) <> (leaf IS NULL)))"
    )
    op.execute(
        "CREATE UNIQUE INDEX ix_data_use_inclusion_anchor_id_number ON data_use_inclusion (anchor_id, number)"
        " WHERE anchor_id > 0"
    )
    op.execute(_APPEND_ONLY)
    op.execute(_ONLY_FORGOTTEN)
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON data_use"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON data_use_inclusion"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER only_forgotten BEFORE UPDATE ON data_use_inclusion"
        " FOR EACH ROW EXECUTE FUNCTION refuse_all_but_forgetting()"
    )
    # Who owns a table may give these back to itself; a program that only forgets itself may not.
    op.execute("REVOKE UPDATE, DELETE, TRUNCATE ON data_use FROM CURRENT_USER")
    op.execute("REVOKE UPDATE, DELETE, TRUNCATE ON data_use_inclusion FROM CURRENT_USER")
    op.execute("GRANT UPDATE (anchor_id, line, nonce, leaf) ON data_use_inclusion TO CURRENT_USER")
    op.execute(
        "CREATE TABLE points_spent (anchor_id bigint NOT NULL, number bigint NOT NULL, points bigint NOT NULL,"
        " CONSTRAINT pk_points_spent PRIMARY KEY (anchor_id, number))"
    )
    op.execute(
        "CREATE TABLE spending (op_id text NOT NULL, person_id bigint NOT NULL, anchor_id bigint NOT NULL,"
        " points bigint NOT NULL, reason text NOT NULL, balance bigint NOT NULL, caller text NOT NULL,"
        " spent_at timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_spending PRIMARY KEY (op_id))"
    )
    op.execute("CREATE INDEX ix_spending_anchor_id ON spending (anchor_id)")
    op.execute(
        "CREATE TABLE import_job (id bigint GENERATED ALWAYS AS IDENTITY, partner text NOT NULL, entity_kind smallint NOT NULL,"
        " source text NOT NULL, file_name text NOT NULL, mapping text NOT NULL, mapping_sha256 bytea NOT NULL,"
        " file_sha256 bytea, state text NOT NULL, reason text NOT NULL, message text NOT NULL, dry_run boolean NOT NULL,"
        " lines bigint NOT NULL, lines_done bigint NOT NULL, matched bigint NOT NULL, unmatched bigint NOT NULL,"
        " refused_lines bigint NOT NULL, values_new bigint NOT NULL, values_changed bigint NOT NULL,"
        " values_unchanged bigint NOT NULL, values_refused bigint NOT NULL, values_repeated bigint NOT NULL,"
        " caller text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),"
        " leased_until timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_import_job PRIMARY KEY (id))"
    )
    op.execute(
        "CREATE UNIQUE INDEX ix_import_job_partner_file_sha256_mapping_sha256"
        " ON import_job (partner, file_sha256, mapping_sha256) WHERE NOT dry_run AND state IN ('running', 'done')"
    )
    op.execute(
        "CREATE TABLE import_line (import_id bigint NOT NULL, anchor_id bigint NOT NULL, line bigint NOT NULL,"
        " CONSTRAINT pk_import_line PRIMARY KEY (import_id, anchor_id))"
    )
    op.execute("CREATE INDEX ix_import_line_anchor_id ON import_line (anchor_id)")
    op.execute(
        "CREATE TABLE import_error (import_id bigint NOT NULL, line bigint NOT NULL, column_name text NOT NULL,"
        " reason text NOT NULL, CONSTRAINT pk_import_error PRIMARY KEY (import_id, line, column_name))"
    )
    op.execute(
        "CREATE TABLE tag_definition (entity_kind smallint NOT NULL, name text NOT NULL, version integer NOT NULL,"
        " body json NOT NULL, retired boolean NOT NULL, created_by text NOT NULL,"
        " created_at timestamptz NOT NULL DEFAULT now(),"
        " CONSTRAINT pk_tag_definition PRIMARY KEY (entity_kind, name, version))"
    )
    op.execute(
        "CREATE TABLE backfill (id bigint GENERATED ALWAYS AS IDENTITY, entity_kind smallint NOT NULL, tags text[] NOT NULL,"
        " cut bigint NOT NULL, after_anchor bigint NOT NULL, anchors bigint NOT NULL,"
        " started_at timestamptz NOT NULL DEFAULT now(), finished_at timestamptz, CONSTRAINT pk_backfill PRIMARY KEY (id))"
    )
    op.execute(
        "CREATE TABLE catalogue_epoch (id smallint NOT NULL, epoch bigint NOT NULL,"
        " CONSTRAINT pk_catalogue_epoch PRIMARY KEY (id))"
    )
    op.execute("INSERT INTO catalogue_epoch (id, epoch) VALUES (1, 0)")


def _audiences() -> None:
    """Named audiences, what was told of them, how large they were, and consents that reach depends on."""
    op.execute(
        "CREATE TABLE audience (audience_id bigint GENERATED ALWAYS AS IDENTITY, name text NOT NULL,"
        " entity_kind smallint NOT NULL, version integer NOT NULL, predicate text NOT NULL, description text NOT NULL,"
        " owner text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),"
        " deleted_at timestamptz, CONSTRAINT pk_audience PRIMARY KEY (audience_id))"
    )
    op.execute("CREATE UNIQUE INDEX ix_audience_name ON audience (name)")
    op.execute(
        "CREATE TABLE audience_version (audience_id bigint NOT NULL, version integer NOT NULL, predicate text NOT NULL,"
        " description text NOT NULL, owner text NOT NULL, caller text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),"
        " CONSTRAINT pk_audience_version PRIMARY KEY (audience_id, version))"
    )
    op.execute(
        "CREATE TABLE audience_told (audience_id bigint NOT NULL, number bigint NOT NULL, version integer NOT NULL,"
        " position bigint NOT NULL, as_of_us bigint NOT NULL, members bigint NOT NULL,"
        " CONSTRAINT pk_audience_told PRIMARY KEY (audience_id))"
    )
    op.execute(
        "CREATE TABLE audience_member (audience_id bigint NOT NULL, block integer NOT NULL, members bytea NOT NULL,"
        " CONSTRAINT pk_audience_member PRIMARY KEY (audience_id, block))"
    )
    op.execute(
        "CREATE TABLE audience_size (audience_id bigint NOT NULL, sampled_at timestamptz NOT NULL, members bigint NOT NULL,"
        " base bigint NOT NULL, version integer NOT NULL, CONSTRAINT pk_audience_size PRIMARY KEY (audience_id, sampled_at))"
    )
    op.execute(
        "CREATE TABLE consent (anchor_id bigint NOT NULL, purpose text NOT NULL, channel text NOT NULL,"
        " separate boolean NOT NULL, person_id bigint NOT NULL, withdrawn_us bigint NOT NULL, given_us bigint NOT NULL,"
        " expires_us bigint NOT NULL, CONSTRAINT pk_consent PRIMARY KEY (anchor_id, purpose, channel, separate))"
    )
    op.execute("CREATE INDEX ix_consent_person_id ON consent (person_id)")
