"""Tables of who said what and who is whom; a block of touchpoints' schema."""

from sqlalchemy import BigInteger, Boolean, Column, Index, MetaData, Table, Text
from sqlalchemy import text as sql


def add_tables(metadata: MetaData) -> None:
    """Adds them to the service's metadata."""
    # Of the statements through one anchor on one purpose and channel ("all" for every one) the latest withdrawal and the
    # latest grant, microseconds since the epoch, -1 without any; `expires_us` is that of the grant, the largest number when
    # it has no end.
    consent = Table(
        "consent",
        metadata,
        Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
        Column("purpose", Text, primary_key=True),
        Column("channel", Text, primary_key=True),
        # Whether it was asked for by itself.
        Column("separate", Boolean, primary_key=True),
        # Whose the anchor was when the latest statement was made.
        Column("person_id", BigInteger, nullable=False),
        Column("withdrawn_us", BigInteger, nullable=False),
        Column("given_us", BigInteger, nullable=False),
        Column("expires_us", BigInteger, nullable=False),
    )
    Index("ix_consent_person_id", consent.c.person_id)

    anchor_owner = Table(
        "anchor_owner",
        metadata,
        Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
        Column("person_id", BigInteger, nullable=False),
        Column("version", BigInteger, nullable=False),
    )
    Index("ix_anchor_owner_person_id", anchor_owner.c.person_id)

    # Persons who went into others; `survivor_id` empty once they came apart again.
    alias = Table(
        "person_alias",
        metadata,
        Column("person_id", BigInteger, primary_key=True, autoincrement=False),
        Column("survivor_id", BigInteger),
        Column("op_id", BigInteger, nullable=False),
    )
    Index("ix_person_alias_survivor_id", alias.c.survivor_id, postgresql_where=sql("survivor_id IS NOT NULL"))

    # Erased persons and their anchors, numbers only: what comes late must not bring them back. Who went into an erased
    # person is erased, too, by the table before.
    Table("erased_person", metadata, Column("person_id", BigInteger, primary_key=True, autoincrement=False))
    Table(
        "erased_anchor",
        metadata,
        Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
        Column("person_id", BigInteger, nullable=False),
    )
