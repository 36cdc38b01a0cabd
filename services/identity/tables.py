"""Tables of identity. Times are microseconds since the epoch, UTC, as on the bus."""

from __future__ import annotations

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import new_metadata

metadata = new_metadata("identity")

source = Table(
    "source",
    metadata,
    Column("id", SmallInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Index("ix_source_name", "name", unique=True),
)

# Names of scopes (appids, sources of record ids); identifiers carry the number.
scope = Table(
    "scope",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Index("ix_scope_name", "name", unique=True),
)

# One row per distinct valid value. `entity_id` is the view: 0 where the value is nobody's; `version` is that of its last
# move. `component_id` names all that hangs together over values that are not shared, whatever guards make of it: the
# neighbourhood that a change may touch; 0 for values that are shared in both spaces or erased.
identifier = Table(
    "identifier",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, nullable=False),
    Column("scope_id", Integer, nullable=False),
    # HMAC of the normal form; the first byte is the number of the token key. Beside it, while keys rotate, the next one.
    Column("token", LargeBinary, nullable=False),
    Column("next_token", LargeBinary),
    # The value under the key of its subject; empty when erased.
    Column("sealed", LargeBinary, nullable=False),
    Column("subject_key_id", BigInteger, nullable=False),
    Column("anchor", Boolean, nullable=False),
    Column("entity_id", BigInteger, nullable=False),
    # The entity that an anchor was numbered with, first or after a split: what comes apart gets its own number back.
    Column("born_id", BigInteger, nullable=False),
    Column("component_id", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    # Why the value does not link persons (vehicles); 0 when it does.
    Column("person_guard", SmallInteger, nullable=False),
    Column("vehicle_guard", SmallInteger, nullable=False),
    # An operator says that the value is somebody's: counted guards do not apply.
    Column("cleared", Boolean, nullable=False),
    # Anchors that are out of use came with it: not all links that count for its guards lie in its component.
    Column("outside", Boolean, nullable=False, server_default=text("false")),
    # Operations that were undone and keep this anchor apart from others: +op on one side, -op on the other.
    Column("apart", ARRAY(BigInteger)),
    Column("first_seen_us", BigInteger, nullable=False),
    Column("last_seen_us", BigInteger, nullable=False),
    Index("ix_identifier_token", "token", unique=True),
    Index("ix_identifier_next_token", "next_token", unique=True, postgresql_where=text("next_token IS NOT NULL")),
    Index("ix_identifier_entity_id", "entity_id"),
    Index("ix_identifier_component_id", "component_id"),
    Index("ix_identifier_subject_key_id", "subject_key_id"),
)

# Data keys, one per subject (the record under which values came first), wrapped under a key-encryption key. Deleting a row
# shreds all that was sealed under it, in backups of the other tables, too.
subject_key = Table(
    "subject_key",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("kek_id", Text, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
)

# Every event once; also what de-duplicates events that come again in another message.
observation = Table(
    "observation",
    metadata,
    Column("event_id", LargeBinary, primary_key=True),
    Column("source_id", SmallInteger, nullable=False),
    Column("person_anchor", BigInteger, nullable=False),
    Column("vehicle_anchor", BigInteger, nullable=False),
    Column("occurred_us", BigInteger, nullable=False),
    Column("received_us", BigInteger, nullable=False),
)

# What one source says together, by hash: an event whose claim is known needs no graph work.
claim = Table(
    "claim",
    metadata,
    Column("signature", LargeBinary, primary_key=True),
    Column("person_anchor", BigInteger, nullable=False),
    Column("vehicle_anchor", BigInteger, nullable=False),
    Column("last_seen_us", BigInteger, nullable=False),
)

# The evidence: this anchor came with this value under this name (a keyed hash, 0: nameless), says this source. The space is
# that of the anchor's kind. `strength` is 0 for what was observed (then the kind's rules say it) and stated for operators'
# and probable links. `observations` counts each claim at most once a day.
link = Table(
    "link",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("value_id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", BigInteger, primary_key=True, autoincrement=False),
    Column("source_id", SmallInteger, primary_key=True, autoincrement=False),
    Column("strength", SmallInteger, nullable=False),
    Column("first_seen_us", BigInteger, nullable=False),
    Column("last_seen_us", BigInteger, nullable=False),
    Column("observations", Integer, nullable=False),
    Index("ix_link_value_id", "value_id"),
)

# What a record says of its person beside identifiers: name, address, birth date, sealed as JSON; the latest replaces older
# ones. Hashes: `name` of its sound, `address` of its normal form (0: none), for matching without opening.
profile = Table(
    "profile",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("subject_key_id", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("name", BigInteger, nullable=False),
    Column("address", BigInteger, nullable=False),
    Column("seen_us", BigInteger, nullable=False),
    Index("ix_profile_address", "address", postgresql_where=text("address <> 0")),
    Index("ix_profile_subject_key_id", "subject_key_id"),
)

# What events and records showed of relations, by anchors: one row per month and source, a bit for each day. Kinds up to 9 are
# about a person and a vehicle, 10 to 19 about a vehicle and a dealer, from 20 on about a person and a dealer. Rows only grow.
relation_evidence = Table(
    "relation_evidence",
    metadata,
    Column("subject_id", BigInteger, primary_key=True, autoincrement=False),
    Column("object_id", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("source_id", SmallInteger, primary_key=True, autoincrement=False),
    Column("month", SmallInteger, primary_key=True, autoincrement=False),
    Column("days", Integer, nullable=False),
    Column("observations", Integer, nullable=False),
    Column("first_seen_us", BigInteger, nullable=False),
    Column("last_seen_us", BigInteger, nullable=False),
    # The day on which the vehicle was first sold, as the record says; 0 when it does not.
    Column("since_us", BigInteger, nullable=False),
    Index("ix_relation_evidence_object_id", "object_id", postgresql_where=text("kind <= 9")),
)

# Relations of entities as they were last told on the bus; what holds now follows from the evidence.
relation = Table(
    "relation",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("subject_kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("subject_id", BigInteger, primary_key=True, autoincrement=False),
    Column("object_kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("object_id", BigInteger, primary_key=True, autoincrement=False),
    Column("valid_from_us", BigInteger, primary_key=True, autoincrement=False),
    Column("valid_to_us", BigInteger, nullable=False),
    Column("confidence", REAL, nullable=False),
    Column("stated", Boolean, nullable=False),
    Index("ix_relation_subject_id", "subject_id", "subject_kind"),
    Index("ix_relation_object_id", "object_id", "object_kind"),
)

# Anchors whose relations may have changed: by evidence, or because they left an entity (`left_id`, 0 otherwise).
inference_queue = Table(
    "inference_queue",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("anchor_id", BigInteger, nullable=False),
    Column("left_id", BigInteger, nullable=False),
    Index("ix_inference_queue_anchor_id", "anchor_id"),
)

dealer = Table(
    "dealer",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("code", Text, nullable=False),
    # Hash of its own postal address, which is nobody's home; 0 when not known.
    Column("address", BigInteger, nullable=False),
    Index("ix_dealer_code", "code", unique=True),
)

# Device identifiers as entities: dense ids of their own.
device = Table(
    "device",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("identifier_id", BigInteger, nullable=False),
    Index("ix_device_identifier_id", "identifier_id", unique=True),
)

household = Table(
    "household",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# Members stand by the record that speaks for them, so that they follow it through merges and splits. Ended, never deleted.
household_member = Table(
    "household_member",
    metadata,
    Column("household_id", BigInteger, primary_key=True, autoincrement=False),
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("valid_from_us", BigInteger, nullable=False),
    # 0 while it lasts.
    Column("valid_to_us", BigInteger, nullable=False),
    Column("confidence", REAL, nullable=False),
    Column("suggestion_id", BigInteger, nullable=False),
    Index("ix_household_member_anchor_id", "anchor_id"),
)

# Two records whose persons may live together. `evidence` is JSON of what they share, no values.
household_suggestion = Table(
    "household_suggestion",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("anchor_a", BigInteger, nullable=False),
    Column("anchor_b", BigInteger, nullable=False),
    Column("confidence", REAL, nullable=False),
    Column("evidence", LargeBinary, nullable=False),
    Column("since_us", BigInteger, nullable=False),
    # pending, accepted, rejected
    Column("state", Text, nullable=False),
    Column("decided_by", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_household_suggestion_anchor_a_anchor_b", "anchor_a", "anchor_b", unique=True),
    Index("ix_household_suggestion_anchor_b", "anchor_b"),
    Index("ix_household_suggestion_state_confidence_id", "state", "confidence", "id"),
)

# Merges and splits; rows are never changed. `evidence`: identifiers that made the difference; `moved`: anchors that changed
# hands, `kept`: those of the survivor; `cause`: the operation that asked for it, 0 when evidence alone did.
ledger = Table(
    "ledger",
    metadata,
    Column("op_id", BigInteger, Identity(always=True), primary_key=True),
    Column("space", SmallInteger, nullable=False),
    Column("operation", Text, nullable=False),
    Column("survivor_id", BigInteger, nullable=False),
    Column("other_id", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", ARRAY(BigInteger), nullable=False),
    Column("moved", ARRAY(BigInteger), nullable=False),
    Column("kept", ARRAY(BigInteger), nullable=False),
    Column("cause", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_ledger_survivor_id", "survivor_id"),
    Index("ix_ledger_other_id", "other_id"),
)

# What operators asked for: merges and their undoing. `request_id` makes them idempotent: the same gives `outcome` again.
operation = Table(
    "operation",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("request_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("caller", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("request_sha256", LargeBinary, nullable=False),
    # The answer as it was given, and whether it was undone since.
    Column("outcome", LargeBinary, nullable=False),
    Column("undone_by", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_operation_request_id", "request_id", unique=True),
)

# What linkage supposes: two anchors may be one person. `explanation` is JSON of match weights by comparison, no values.
suggestion = Table(
    "suggestion",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("anchor_a", BigInteger, nullable=False),
    Column("anchor_b", BigInteger, nullable=False),
    Column("probability", REAL, nullable=False),
    Column("explanation", LargeBinary, nullable=False),
    # pending, linked (above the threshold), accepted, rejected
    Column("state", Text, nullable=False),
    Column("decided_by", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_suggestion_anchor_a_anchor_b", "anchor_a", "anchor_b", unique=True),
    Index("ix_suggestion_state_id", "state", "id"),
)

rejected = Table(
    "rejected",
    metadata,
    Column("source_id", SmallInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("identifiers", BigInteger, nullable=False),
)

# Values that are shared, with their degree: kept up as links come, so that nobody need count twenty thousand links.
shared = Table(
    "shared",
    metadata,
    Column("identifier_id", BigInteger, primary_key=True, autoincrement=False),
    Column("reason", Text, nullable=False),
    # Whose it is, where somebody said so.
    Column("note", Text, nullable=False),
    Column("links", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_shared_links_identifier_id", "links", "identifier_id"),
)

# What persons allowed and forbade, one line per statement. Lines are added, never changed (a trigger refuses it); what holds
# is computed from them (domain/consents.py).
consent = Table(
    "consent",
    metadata,
    # Of the event, purpose and channel, or of the caller and the caller's own id.
    Column("statement_id", LargeBinary, primary_key=True),
    Column("number", BigInteger, Identity(always=True), nullable=False),
    Column("anchor_id", BigInteger, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("given", Boolean, nullable=False),
    Column("stated_us", BigInteger, nullable=False),
    # 0: when it is withdrawn.
    Column("expires_us", BigInteger, nullable=False),
    # The text that was shown, and where.
    Column("text_version", Text, nullable=False),
    Column("text_sha256", LargeBinary, nullable=False),
    Column("language", Text, nullable=False),
    Column("screen", Text, nullable=False),
    # The observed event that said so, or the caller's own id; the source of the event, or the caller.
    Column("event_id", LargeBinary, nullable=False),
    Column("consent_id", Text, nullable=False),
    Column("source", Text, nullable=False),
    # Why it never counted; empty when it does.
    Column("void", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_consent_anchor_id_number", "anchor_id", "number"),
)

# Who saw whose addresses and why; never the addresses.
reveal_audit = Table(
    "reveal_audit",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("caller", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("person_ids", ARRAY(BigInteger), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# Persons that were erased: what went, in numbers. `tombstones`: identifiers whose tokens stay so that the person is not
# imported again; `destroyed_keys`: data keys that are gone for ever; `removed`: JSON of rows by table.
erasure = Table(
    "erasure",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("request_id", Text, nullable=False),
    Column("person_id", BigInteger, nullable=False),
    Column("caller", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("anchors", ARRAY(BigInteger), nullable=False),
    Column("tombstones", ARRAY(BigInteger), nullable=False),
    Column("destroyed_keys", ARRAY(BigInteger), nullable=False),
    Column("removed", LargeBinary, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_erasure_request_id", "request_id", unique=True),
    Index("ix_erasure_person_id", "person_id"),
)

# Values that are turned away: under any name (0) those that were an erased person's alone, under the person's names those
# that others use too.
suppression = Table(
    "suppression",
    metadata,
    Column("identifier_id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", BigInteger, primary_key=True, autoincrement=False),
    Column("erasure_id", BigInteger, nullable=False),
    Index("ix_suppression_erasure_id", "erasure_id"),
)

# Suppressions that were taken back, because the person came again by their own will or the value is somebody else's now.
suppression_lift = Table(
    "suppression_lift",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("identifier_ids", ARRAY(BigInteger), nullable=False),
    Column("erasure_ids", ARRAY(BigInteger), nullable=False),
    Column("caller", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# A key that is shared with a partner, by its fingerprint, and how far its hashes are made. `complete`: they once were all.
# `seen_at`: when a process with that key last said so; keys that no process has any more go, with their hashes.
partner_key = Table(
    "partner_key",
    metadata,
    Column("id", SmallInteger, Identity(always=True), primary_key=True),
    Column("partner", Text, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("filled_to", BigInteger, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_partner_key_partner_fingerprint", "partner", "fingerprint", unique=True),
)

# Hashes as a partner makes them, hashed once more under a key of ours: who has the partner's key and steals the table reads
# nothing in it.
partner_hash = Table(
    "partner_hash",
    metadata,
    Column("partner_key_id", SmallInteger, primary_key=True, autoincrement=False),
    Column("token", LargeBinary, primary_key=True),
    Column("identifier_id", BigInteger, nullable=False),
    Index("ix_partner_hash_identifier_id", "identifier_id"),
)

# Which partner asked about how many and how many matched.
match_audit = Table(
    "match_audit",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("caller", Text, nullable=False),
    Column("partner", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("asked", BigInteger, nullable=False),
    Column("matched", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_match_audit_partner_at", "partner", "at"),
)
