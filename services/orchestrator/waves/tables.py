"""The table of layers; a block of the orchestrator's schema."""

from sqlalchemy import BigInteger, Column, DateTime, Double, Integer, MetaData, SmallInteger, Table, Text, func

MOMENT = DateTime(timezone=True)


def add_tables(metadata: MetaData) -> None:
    """Adds it to the service's metadata."""
    # Layers that opened: so many persons in it and before at most, or from a score on. `version` of the theme that judged.
    Table(
        "wave",
        metadata,
        Column("theme_id", BigInteger, primary_key=True, autoincrement=False),
        Column("layer", SmallInteger, primary_key=True, autoincrement=False),
        Column("version", Integer, nullable=False),
        Column("persons", BigInteger),
        Column("from_score", Double),
        Column("verdict", SmallInteger),
        Column("pushes", BigInteger, nullable=False),
        Column("goals", BigInteger, nullable=False),
        Column("low", Double, nullable=False),
        Column("high", Double, nullable=False),
        Column("words", Text, nullable=False),
        Column("opened_at", MOMENT, nullable=False, server_default=func.now()),
        Column("judged_at", MOMENT),
    )
