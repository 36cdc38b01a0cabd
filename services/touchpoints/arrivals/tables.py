"""Tables of arrivals; a block of touchpoints' schema."""

from sqlalchemy import ARRAY, Column, DateTime, Index, Integer, LargeBinary, MetaData, SmallInteger, Table, Text
from sqlalchemy import text as sql


def add_tables(metadata: MetaData) -> None:
    """Adds them to the service's metadata."""
    # Doors of forecourts. A token is in the address that devices post to; only its hash is here.
    arrival_door = Table(
        "arrival_door",
        metadata,
        Column("name", Text, primary_key=True),
        Column("dealer_code", Text, nullable=False),
        Column("token_sha256", LargeBinary, nullable=False),
        Column("previous_sha256", LargeBinary),
        Column("previous_until", DateTime(timezone=True)),
        # Where devices post from; empty: anywhere.
        Column("networks", ARRAY(Text), nullable=False),
        Column("min_confidence", SmallInteger, nullable=False),
        Column("repeat_minutes", SmallInteger, nullable=False),
        Column("direction", Text, nullable=False),
        Column("disabled_at", DateTime(timezone=True)),
    )
    Index("ix_arrival_door_token_sha256", arrival_door.c.token_sha256, unique=True)

    # Who was on a forecourt lately, as keyed hashes of plates and persons: whoever is seen again has not arrived again.
    arrival_presence = Table(
        "arrival_presence",
        metadata,
        Column("dealer_code", Text, primary_key=True),
        Column("subject", LargeBinary, primary_key=True),
        Column("device", Text, nullable=False),
        # By the device's own clock.
        Column("camera_at", DateTime(timezone=True)),
        Column("last_seen", DateTime(timezone=True), nullable=False),
        Column("arrival_id", Text, nullable=False),
    )
    Index("ix_arrival_presence_last_seen", arrival_presence.c.last_seen)

    # Arrivals and what became of their cards. Whom a card is about is sealed, and gone as soon as the card has its end.
    arrival = Table(
        "arrival",
        metadata,
        Column("arrival_id", Text, primary_key=True),
        Column("door", Text, nullable=False),
        Column("dealer_code", Text, nullable=False),
        Column("arrived_at", DateTime(timezone=True), nullable=False),
        Column("state", SmallInteger, nullable=False),
        Column("reason", Text, nullable=False, server_default=""),
        # Parts that the card went without.
        Column("left_out", ARRAY(Text), nullable=False, server_default="{}"),
        Column("sealed", LargeBinary, nullable=False),
        # When a process may take it: the retry's time, or the end of the lease of the one that has it.
        Column("due_at", DateTime(timezone=True), nullable=False),
        Column("attempts", Integer, nullable=False, server_default="0"),
    )
    Index("ix_arrival_due_at", arrival.c.due_at, postgresql_where=sql("state = 1"))
    Index("ix_arrival_arrived_at", arrival.c.arrived_at)
