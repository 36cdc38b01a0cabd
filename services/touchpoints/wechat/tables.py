"""Tables of WeChat and WeCom; a block of touchpoints' schema."""

from sqlalchemy import Column, DateTime, Integer, LargeBinary, MetaData, Table, Text, func


def add_tables(metadata: MetaData) -> None:
    """Adds them to the service's metadata."""
    # New contacts in WeCom, until WeCom has said who they are elsewhere. Their numbers are sealed.
    Table(
        "wecom_contact",
        metadata,
        Column("endpoint", Text, primary_key=True),
        # Its keyed hash.
        Column("contact", LargeBinary, primary_key=True),
        Column("sealed", LargeBinary, nullable=False),
        Column("attempts", Integer, nullable=False, server_default="0"),
        Column("asked_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("due_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )
