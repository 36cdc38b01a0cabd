"""Tables of journeys and of referrals; a block of the orchestrator's schema."""

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    DateTime,
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

MOMENT = DateTime(timezone=True)


def add_tables(metadata: MetaData) -> None:
    """Adds them to the service's metadata."""
    # `version` is the latest, `running_version` the one that people enter (empty: none yet).
    Table(
        "journey",
        metadata,
        Column("journey_id", BigInteger, Identity(always=True), primary_key=True),
        Column("request_id", Text),
        Column("state", SmallInteger, nullable=False),
        Column("version", Integer, nullable=False),
        Column("running_version", Integer),
        Column("salt", LargeBinary, nullable=False),
        Column("created_at", MOMENT, nullable=False, server_default=func.now()),
        Column("started_at", MOMENT),
        Column("finished_at", MOMENT),
        Index("ix_journey_request_id", "request_id", unique=True),
    )
    Table(
        "journey_version",
        metadata,
        Column("journey_id", BigInteger, primary_key=True, autoincrement=False),
        Column("version", Integer, primary_key=True, autoincrement=False),
        Column("document", Text, nullable=False),
        Column("author", Text, nullable=False),
        Column("submitted_by", Text),
        Column("approved_by", Text),
        Column("stated_at", MOMENT, nullable=False, server_default=func.now()),
        Column("approved_at", MOMENT),
    )
    # A person (or her order, vehicle, day: `object`) on the way through a journey. `person_id`: as whom she entered;
    # `present_id`: who that is now. `step`: by number in that version; `visit`: steps passed before it; `phase`: see
    # journeys/advancing.py. `since_at`: what happened before it does not count for her.
    Table(
        "enrolment",
        metadata,
        Column("enrolment_id", BigInteger, Identity(always=True), primary_key=True),
        Column("journey_id", BigInteger, nullable=False),
        Column("version", Integer, nullable=False),
        Column("person_id", BigInteger, nullable=False),
        Column("present_id", BigInteger, nullable=False),
        Column("object", Text, nullable=False),
        Column("step", SmallInteger, nullable=False),
        Column("visit", Integer, nullable=False),
        Column("phase", SmallInteger, nullable=False),
        Column("due_at", MOMENT, nullable=False),
        Column("since_at", MOMENT, nullable=False),
        Column("entered_at", MOMENT, nullable=False),
        Column("arrived_at", MOMENT, nullable=False),
        Column("ended_at", MOMENT),
        Column("end_reason", Text, nullable=False),
        Index("ix_enrolment_due", "journey_id", "due_at", postgresql_where=text("ended_at IS NULL")),
        Index("ix_enrolment_present_id", "present_id", "journey_id"),
        Index(
            "ix_enrolment_under_way",
            "journey_id",
            "present_id",
            "object",
            unique=True,
            postgresql_where=text("ended_at IS NULL"),
        ),
    )
    # Every step that was left, once: the effect of the step and its row commit together. `effect_id` of a push is the
    # occasion of its proposal.
    Table(
        "journey_passage",
        metadata,
        Column("enrolment_id", BigInteger, primary_key=True, autoincrement=False),
        Column("visit", Integer, primary_key=True, autoincrement=False),
        Column("version", Integer, nullable=False),
        Column("step", SmallInteger, nullable=False),
        Column("outcome", Text, nullable=False),
        Column("left_at", MOMENT, nullable=False),
        Column("effect_id", BigInteger, Identity(always=True), nullable=False),
    )
    # On which side of a score trigger's line a person was seen last.
    Table(
        "journey_side",
        metadata,
        Column("journey_id", BigInteger, primary_key=True, autoincrement=False),
        Column("person_id", BigInteger, primary_key=True, autoincrement=False),
        Column("above", SmallInteger, nullable=False),
        Column("scored_us", BigInteger, nullable=False),
        Index("ix_journey_side_person_id", "person_id"),
    )
    # Days whose dates were looked for.
    Table(
        "journey_day",
        metadata,
        Column("journey_id", BigInteger, primary_key=True, autoincrement=False),
        Column("day", Date, primary_key=True),
    )
    # A person's code; whoever names it is referred by her. `device`: keyed hash of where it was made, empty when unknown.
    Table(
        "referral_code",
        metadata,
        Column("code", Text, primary_key=True),
        Column("person_id", BigInteger, nullable=False),
        Column("device", LargeBinary, nullable=False),
        Column("made_at", MOMENT, nullable=False),
        Index("ix_referral_code_person_id", "person_id", unique=True),
    )
    # One referral per referred person. State: 1 waits for the qualifying event, 2 credited. Amounts in fen.
    Table(
        "referral",
        metadata,
        Column("referral_id", BigInteger, Identity(always=True), primary_key=True),
        Column("code", Text, nullable=False),
        Column("referrer_id", BigInteger, nullable=False),
        Column("referred_id", BigInteger, nullable=False),
        Column("device", LargeBinary, nullable=False),
        Column("state", SmallInteger, nullable=False),
        Column("referrer_fen", BigInteger, nullable=False),
        Column("referred_fen", BigInteger, nullable=False),
        Column("redeemed_at", MOMENT, nullable=False),
        Column("credited_at", MOMENT),
        Index("ix_referral_device", "device", postgresql_where=text("device <> ''")),
        Index("ix_referral_referred_id", "referred_id", unique=True),
        Index("ix_referral_referrer_id", "referrer_id"),
    )
