"""The orchestrator's schema; migrations/ makes it, a house test compares the two."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
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
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from chassis.db import new_metadata
from services.orchestrator.arbiter import tables as arbiter_tables
from services.orchestrator.journeys import tables as journey_tables
from services.orchestrator.leads import tables as lead_tables
from services.orchestrator.offers import tables as decision_tables
from services.orchestrator.waves import tables as wave_tables

metadata = new_metadata("orchestrator")

MOMENT = DateTime(timezone=True)

# What a version says stands in theme_version; `version` is the latest, `approved_version` the one that decides.
Table(
    "theme",
    metadata,
    Column("theme_id", BigInteger, Identity(always=True), primary_key=True),
    Column("request_id", Text),
    Column("version", Integer, nullable=False),
    Column("approved_version", Integer),
    Column("owner", Text, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("launch_failure", Text, nullable=False),
    Column("created_at", MOMENT, nullable=False, server_default=func.now()),
    Column("launched_at", MOMENT),
    Column("finished_at", MOMENT),
    Index("ix_theme_request_id", "request_id", unique=True),
    Index("ix_theme_launched_at", "launched_at", postgresql_where=text("launched_at IS NOT NULL")),
    Index("ix_theme_under_way", "theme_id", postgresql_where=text("state BETWEEN 3 AND 5")),
)

# `offer_versions` aligned with the definition's offers; empty until somebody was asked to approve them.
Table(
    "theme_version",
    metadata,
    Column("theme_id", BigInteger, primary_key=True, autoincrement=False),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("definition", JSONB, nullable=False),
    Column("offer_versions", ARRAY(Integer), nullable=False),
    Column("author", Text, nullable=False),
    Column("stated_at", MOMENT, nullable=False, server_default=func.now()),
    Column("state", SmallInteger, nullable=False),
    Column("submitter", Text, nullable=False),
    Column("submitted_at", MOMENT),
    Column("reviewer", Text, nullable=False),
    Column("reviewed_at", MOMENT),
    Column("reason", Text, nullable=False),
)

# Furthest state of each push; numbers as in touchpoints.v1.DeliveryState.
Table(
    "delivery",
    metadata,
    Column("delivery_id", Text, primary_key=True),
    Column("state", SmallInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("occurred_at", MOMENT, nullable=False),
)

# How channels do, as touchpoints said last; `pushes_left` empty where nobody counts.
Table(
    "channel_health",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("failing", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("pushes_left", BigInteger),
    Column("at", MOMENT, nullable=False),
)

# First goal event of each anchor in each theme, whoever was decided on: whose it is, is a view.
Table(
    "goal",
    metadata,
    Column("theme_id", BigInteger, primary_key=True, autoincrement=False),
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("person_id", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("occurred_at", MOMENT, nullable=False),
)

# Of the statements through one anchor on one purpose and channel ("all" for every one) the latest withdrawal and the latest
# grant, microseconds since the epoch, -1 without any; `expires_us` is that of the grant, the largest number when it has no end.
Table(
    "consent",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("purpose", Text, primary_key=True),
    Column("channel", Text, primary_key=True),
    # Whether it was asked for by itself.
    Column("separate", Boolean, primary_key=True),
    Column("person_id", BigInteger, nullable=False),
    Column("withdrawn_us", BigInteger, nullable=False),
    Column("given_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    # For those who ask about some persons; planners read it all.
    Index("ix_consent_personalisation", "person_id", postgresql_where=text("purpose = 'personalisation'")),
    Index("ix_consent_person_id", "person_id"),
)

# Owners of the anchors that ever moved; others still belong to whom they were first seen with.
Table(
    "anchor_owner",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("person_id", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Index("ix_anchor_owner_person_id", "person_id"),
)

# Persons that went into others; `survivor_id` empty once they came apart again.
Table(
    "person_alias",
    metadata,
    Column("person_id", BigInteger, primary_key=True, autoincrement=False),
    Column("survivor_id", BigInteger),
    Column("op_id", BigInteger, nullable=False),
    Column("changed_at", MOMENT, nullable=False, server_default=func.now()),
    Index("ix_person_alias_changed_at", "changed_at"),
    Index("ix_person_alias_survivor_id", "survivor_id", postgresql_where=text("survivor_id IS NOT NULL")),
)

# Anchors of erased persons, numbers only: what comes late must not bring them back. `version` is the last that is known to
# have shown the anchor with the person.
Table(
    "erased_anchor",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("person_id", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Index("ix_erased_anchor_person_id", "person_id"),
)

# A layer's salt draws its persons into buckets; its row is locked while ranges of buckets are given out.
Table(
    "experiment_layer",
    metadata,
    Column("layer", Text, primary_key=True),
    Column("salt", LargeBinary, nullable=False),
)

# `definition` stands still once started; layer and buckets stand beside it for the check that ranges do not meet.
Table(
    "experiment",
    metadata,
    Column("experiment_id", BigInteger, Identity(always=True), primary_key=True),
    Column("request_id", Text),
    Column("layer", Text, nullable=False),
    Column("bucket_from", Integer, nullable=False),
    Column("bucket_to", Integer, nullable=False),
    Column("definition", JSONB, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("stop_reason", Text, nullable=False),
    Column("created_at", MOMENT, nullable=False, server_default=func.now()),
    Column("started_at", MOMENT),
    Column("stopped_at", MOMENT),
    Index("ix_experiment_request_id", "request_id", unique=True),
    Index("ix_experiment_not_over", "layer", postgresql_where=text("state < 3")),
)

# The first exposure of each person as it was then; who became whom is asked when results are. `segments`: a list of words.
Table(
    "exposure",
    metadata,
    Column("experiment_id", BigInteger, primary_key=True, autoincrement=False),
    Column("person_id", BigInteger, primary_key=True, autoincrement=False),
    Column("variant", SmallInteger, nullable=False),
    Column("covariate", Double),
    Column("segments", JSONB, nullable=False),
    Column("exposed_at", MOMENT, nullable=False),
)

# Events that a metric (by its position) measures, of everybody: who belongs to whom may change after they happened.
Table(
    "experiment_event",
    metadata,
    Column("experiment_id", BigInteger, primary_key=True, autoincrement=False),
    Column("metric", SmallInteger, primary_key=True, autoincrement=False),
    Column("event_id", LargeBinary, primary_key=True),
    Column("anchor_id", BigInteger, nullable=False),
    Column("person_id", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("occurred_at", MOMENT, nullable=False),
    Column("amount", Double, nullable=False),
    Index("ix_experiment_event_anchor_id", "anchor_id"),
)

# Offers; what a version says stands in offer_version, `stock` (all pieces, empty: no limit) is that of the present one.
Table(
    "offer",
    metadata,
    Column("offer_id", BigInteger, Identity(always=True), primary_key=True),
    Column("request_id", Text),
    Column("version", Integer, nullable=False),
    Column("stock", BigInteger),
    Column("reserved", BigInteger, nullable=False),
    Column("taken", BigInteger, nullable=False),
    Column("created_at", MOMENT, nullable=False, server_default=func.now()),
    Column("retired_at", MOMENT),
    CheckConstraint("reserved >= 0 AND taken >= 0 AND (stock IS NULL OR reserved + taken <= stock)", "ck_offer_stock"),
    Index("ix_offer_request_id", "request_id", unique=True),
)

Table(
    "offer_version",
    metadata,
    Column("offer_id", BigInteger, primary_key=True, autoincrement=False),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("definition", JSONB, nullable=False),
    Column("author", Text, nullable=False),
    Column("stated_at", MOMENT, nullable=False, server_default=func.now()),
)

# Pieces of stock by the caller's own id, which tells of nobody: 1 reserved, 2 taken, 3 released.
Table(
    "offer_hold",
    metadata,
    Column("offer_id", BigInteger, primary_key=True, autoincrement=False),
    Column("hold_id", Text, primary_key=True),
    Column("state", SmallInteger, nullable=False),
    Column("expires_at", MOMENT, nullable=False),
    Column("changed_at", MOMENT, nullable=False, server_default=func.now()),
    Index("ix_offer_hold_expires_at", "offer_id", "expires_at", postgresql_where=text("state = 1")),
)

# What operators say of a slot.
Table(
    "slot_rules",
    metadata,
    Column("slot", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("pinned", ARRAY(BigInteger), nullable=False),
    Column("excluded", ARRAY(BigInteger), nullable=False),
    Column("ordered", ARRAY(BigInteger), nullable=False),
    Column("author", Text, nullable=False),
    Column("stated_at", MOMENT, nullable=False, server_default=func.now()),
)

decision_tables.add_tables(metadata)

wave_tables.add_tables(metadata)

lead_tables.add_tables(metadata)

journey_tables.add_tables(metadata)
arbiter_tables.add_tables(metadata)
