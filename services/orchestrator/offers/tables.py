"""Tables of decisions about offers; a block of the orchestrator's schema."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

MOMENT = DateTime(timezone=True)


def add_tables(metadata: MetaData) -> None:
    """Adds them to the service's metadata."""
    # One row per decision of a slot. `codes`: a byte per offer of the arms, why it could not stand; `active`: a byte per
    # feature that was 1; `words`: content of offers that was true of the person. `why`, `state` and the bits of `outcomes`
    # are numbered in offers/choosing.py and offers/offer_log.py. Who was erased has no rows.
    Table(
        "offer_decision",
        metadata,
        Column("decision_id", LargeBinary, primary_key=True),
        Column("person_id", BigInteger, nullable=False),
        Column("slot", Text, nullable=False),
        Column("channel", Text, nullable=False),
        Column("language", Text, nullable=False),
        Column("offer_id", BigInteger, nullable=False),
        Column("offer_version", Integer, nullable=False),
        Column("why", SmallInteger, nullable=False),
        Column("propensity", Double, nullable=False),
        Column("rate", Double, nullable=False),
        Column("sd", Double, nullable=False),
        Column("matched", Double, nullable=False),
        Column("arms_id", BigInteger, nullable=False),
        Column("learnt", BigInteger, nullable=False),
        Column("codes", LargeBinary, nullable=False),
        Column("active", LargeBinary, nullable=False),
        Column("words", JSONB, nullable=False),
        Column("decided_at", MOMENT, nullable=False),
        Column("due_at", MOMENT, nullable=False),
        Column("outcomes", SmallInteger, nullable=False),
        Column("rewarded_at", MOMENT),
        Column("state", SmallInteger, nullable=False),
        Index("ix_offer_decision_person_id", "person_id", "decided_at"),
        Index("ix_offer_decision_due_at", "due_at"),
        Index("ix_offer_decision_waiting", "due_at", postgresql_where=text("state = 1")),
        Index("ix_offer_decision_won_late", "decision_id", postgresql_where=text("state = 2 AND rewarded_at IS NOT NULL")),
    )
    # Which offers competed, in order of id, and what each was about; written once per change of the catalogue.
    Table(
        "offer_arms",
        metadata,
        Column("arms_id", BigInteger, Identity(always=True), primary_key=True),
        Column("fingerprint", LargeBinary, nullable=False),
        Column("offers", ARRAY(BigInteger), nullable=False),
        Column("content", JSONB, nullable=False),
        Column("made_at", MOMENT, nullable=False, server_default=func.now()),
        Index("ix_offer_arms_fingerprint", "fingerprint", unique=True),
    )
    # What was learnt of each offer: sums of x x' and of r x as little-endian doubles. Versions are one series for all offers.
    Table(
        "offer_sums",
        metadata,
        Column("offer_id", BigInteger, primary_key=True, autoincrement=False),
        Column("version", BigInteger, nullable=False),
        Column("outer_sum", LargeBinary, nullable=False),
        Column("reward_sum", LargeBinary, nullable=False),
        Index("ix_offer_sums_version", "version"),
    )
