"""The schema as SQLAlchemy sees it; the migrations make it."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
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
from sqlalchemy.dialects.postgresql import JSONB

from chassis.db import new_metadata

metadata = new_metadata("scoring")

operation = Table(
    "operation",
    metadata,
    Column("operation_id", BigInteger, Identity(always=True), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("model", Text, nullable=False),
    # What was asked for, so that whoever takes over knows.
    Column("request", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("progress", Double, nullable=False, server_default=text("0")),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("detail", Text, nullable=False, server_default=text("''")),
    # Set in the transaction that stores the model: a takeover after it goes on with scoring.
    Column("version", Integer, nullable=False, server_default=text("0")),
    Column("persons_scored", BigInteger, nullable=False, server_default=text("0")),
    # Everybody up to this person is scored: a takeover goes on behind her.
    Column("cursor", BigInteger, nullable=False, server_default=text("0")),
    Column("metrics", JSONB, nullable=False, server_default=text("'{}'")),
    Column("verdict", Text, nullable=False, server_default=text("''")),
    # The process at work and until when it is believed to live; with nobody at work, when to begin.
    Column("owner", Text, nullable=False, server_default=text("''")),
    Column("lease_until", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("ended_at", DateTime(timezone=True)),
)
Index("ix_operation_running", operation.c.model, operation.c.kind, unique=True, postgresql_where=text("state = 'RUNNING'"))

model = Table(
    "model",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("in_use", Boolean, nullable=False),
    Column("card", JSONB, nullable=False),
    Column("format", Text, nullable=False),
    Column("artefact", LargeBinary, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
Index("ix_model_in_use", model.c.model, unique=True, postgresql_where=text("in_use"))

score = Table(
    "score",
    metadata,
    Column("model", Text, primary_key=True),
    Column("person_id", BigInteger, primary_key=True, autoincrement=False),
    Column("score", Double, nullable=False),
    Column("probability", Double, nullable=False),
    Column("label", Text, nullable=False, server_default=text("''")),
    Column("version", Integer, nullable=False),
    Column("scored_at", DateTime(timezone=True), nullable=False),
)

rescore = Table(
    "rescore",
    metadata,
    Column("model", Text, primary_key=True),
    Column("person_id", BigInteger, primary_key=True, autoincrement=False),
    Column("due_at", DateTime(timezone=True), nullable=False),
)
Index("ix_rescore_due_at", rescore.c.due_at)

# What both versions of a trial said of a person when she was first seen in it.
trial_score = Table(
    "trial_score",
    metadata,
    Column("operation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("person_id", BigInteger, primary_key=True, autoincrement=False),
    Column("champion", Double, nullable=False),
    Column("challenger", Double, nullable=False),
    Column("scored_at", DateTime(timezone=True), nullable=False),
)

# How a feature, or the score, was spread over everybody: the first time (reference), and the last.
distribution = Table(
    "distribution",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, primary_key=True),
    Column("reference", Boolean, primary_key=True),
    Column("edges", JSONB, nullable=False),
    Column("counts", JSONB, nullable=False),
    Column("looked_at", DateTime(timezone=True), nullable=False),
)

# What was said of personalisation through an anchor: the latest withdrawal, the latest grant and when that ends.
consent = Table(
    "consent",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("person_id", BigInteger, nullable=False),
    Column("withdrawn_us", BigInteger, nullable=False),
    Column("given_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    # Whether it has been noticed that the grant has ended.
    Column("lapsed", Boolean, nullable=False, server_default=text("false")),
)
Index("ix_consent_person_id", consent.c.person_id)
Index("ix_consent_expires_us", consent.c.expires_us, postgresql_where=text("NOT lapsed"))

# Whose an anchor is since it moved, as of a version of the graph.
Table(
    "anchor_owner",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("person_id", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

# How often something was said of a model of vehicles, by day.
opinion = Table(
    "opinion",
    metadata,
    Column("vehicle_model", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("sentiment", SmallInteger, primary_key=True, autoincrement=False),
    Column("day", Date, primary_key=True),
    Column("texts", BigInteger, nullable=False),
)

# Persons that were erased, numbers only: what comes late must not score them again.
Table("erased_person", metadata, Column("person_id", BigInteger, primary_key=True, autoincrement=False))
# Anchors of erased persons, and where in the stream that was said: what stands before it must not come back.
Table(
    "erased_anchor",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
)
