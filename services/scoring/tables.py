"""The schema as SQLAlchemy sees it; the migrations make it."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from chassis.db import new_metadata

metadata = new_metadata("scoring")

training = Table(
    "training",
    metadata,
    Column("training_id", BigInteger, Identity(always=True), primary_key=True),
    Column("model", Text, nullable=False),
    Column("cut_predicate", Text, nullable=False),
    Column("goal_predicate", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("progress", Double, nullable=False, server_default=text("0")),
    Column("reason", Text, nullable=False, server_default=text("''")),
    # Set in the transaction that stores the model: a takeover after it goes on with scoring.
    Column("version", Integer, nullable=False, server_default=text("0")),
    Column("persons_scored", BigInteger, nullable=False, server_default=text("0")),
    # The process at work and until when it is believed to live.
    Column("owner", Text, nullable=False, server_default=text("''")),
    Column("lease_until", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
Index("ix_training_running", training.c.model, unique=True, postgresql_where=text("state = 'RUNNING'"))

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

# Persons that were erased, numbers only: what comes late must not score them again.
Table("erased_person", metadata, Column("person_id", BigInteger, primary_key=True, autoincrement=False))
