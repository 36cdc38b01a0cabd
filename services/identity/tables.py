"""Tables of identity. Times are microseconds since the epoch, UTC, as on the bus."""

from __future__ import annotations

from sqlalchemy import (
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

# One row per distinct valid value. entity_id is the view: 0 where the value is nobody's; version is that of its last move.
identifier = Table(
    "identifier",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, nullable=False),
    Column("scope", Text, nullable=False),
    Column("token", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("anchor", Boolean, nullable=False),
    Column("entity_id", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    # Why the value does not link persons (vehicles); 0 when it does.
    Column("person_guard", SmallInteger, nullable=False),
    Column("vehicle_guard", SmallInteger, nullable=False),
    Column("first_seen_us", BigInteger, nullable=False),
    Column("last_seen_us", BigInteger, nullable=False),
    Index("ix_identifier_token", "token", unique=True),
    Index("ix_identifier_entity_id_kind", "entity_id", "kind"),
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

# The evidence. An anchor's link to itself carries the name it was seen under. `observations` counts each claim at most once
# a day.
link = Table(
    "link",
    metadata,
    Column("space", SmallInteger, primary_key=True, autoincrement=False),
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("value_id", BigInteger, primary_key=True, autoincrement=False),
    Column("name_token", LargeBinary, primary_key=True),
    Column("source_id", SmallInteger, primary_key=True, autoincrement=False),
    Column("sealed_name", LargeBinary, nullable=False),
    Column("first_seen_us", BigInteger, nullable=False),
    Column("last_seen_us", BigInteger, nullable=False),
    Column("observations", Integer, nullable=False),
    Index("ix_link_space_value_id", "space", "value_id"),
)

relation = Table(
    "relation",
    metadata,
    Column("person_anchor", BigInteger, primary_key=True, autoincrement=False),
    Column("vehicle_anchor", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("first_seen_us", BigInteger, nullable=False),
    Column("last_seen_us", BigInteger, nullable=False),
    Index("ix_relation_vehicle_anchor", "vehicle_anchor"),
)

# Merges and splits; rows are never changed. `evidence`: identifiers that made the difference.
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
    Column("version", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

rejected = Table(
    "rejected",
    metadata,
    Column("source_id", SmallInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("identifiers", BigInteger, nullable=False),
)

registered = Table(
    "registered",
    metadata,
    Column("identifier_id", BigInteger, primary_key=True, autoincrement=False),
    Column("reason", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

consent = Table(
    "consent",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("channel", Text, primary_key=True),
    Column("opted_out", Boolean, nullable=False),
    Column("stated_us", BigInteger, nullable=False),
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
