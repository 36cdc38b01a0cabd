"""Tables of decisions and of what they spend; a block of the orchestrator's schema."""

from sqlalchemy import BigInteger, Column, Date, DateTime, Double, Index, Integer, MetaData, SmallInteger, Table, Text, text

MOMENT = DateTime(timezone=True)


def add_tables(metadata: MetaData) -> None:
    """Adds them to the service's metadata."""
    # One row per launch under way or done; `worker` and `lease_until` say who is at it.
    Table(
        "launch",
        metadata,
        Column("theme_id", BigInteger, primary_key=True, autoincrement=False),
        Column("worker", Text),
        Column("lease_until", MOMENT, nullable=False),
        Column("traceparent", Text, nullable=False),
        Column("finished_at", MOMENT),
    )

    # What became of each proposal, with what was known then. `occasion` 0 is the theme's launch, others are numbers of whoever
    # proposes. Persons below 0 were erased and mean nobody (store/erasures.py). Deferred ones are decided again at `due_at`.
    # `channels`, `opted_out`, `closed` are masks: what reached the person, what consent closed, what caps closed.
    Table(
        "decision",
        metadata,
        Column("theme_id", BigInteger, primary_key=True, autoincrement=False),
        Column("person_id", BigInteger, primary_key=True, autoincrement=False),
        Column("occasion", BigInteger, primary_key=True, autoincrement=False),
        Column("theme_version", Integer, nullable=False, server_default=text("0")),
        # Of a theme that opens in waves, which one; 0 for others.
        Column("layer", SmallInteger, nullable=False, server_default=text("0")),
        Column("outcome", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("due_at", MOMENT),
        Column("expires_at", MOMENT, nullable=False),
        Column("asked_offer_id", BigInteger),
        Column("offer_id", BigInteger),
        Column("channel", Text, nullable=False, server_default=text("''")),
        Column("score", Double, nullable=False, server_default=text("-1")),
        Column("probability", Double, nullable=False, server_default=text("-1")),
        Column("value", Double, nullable=False, server_default=text("0")),
        Column("cost_fen", BigInteger, nullable=False, server_default=text("0")),
        Column("position", BigInteger, nullable=False, server_default=text("0")),
        Column("call_rank", BigInteger, nullable=False, server_default=text("0")),
        Column("channels", SmallInteger, nullable=False, server_default=text("0")),
        Column("opted_out", SmallInteger, nullable=False, server_default=text("0")),
        Column("closed", SmallInteger, nullable=False, server_default=text("0")),
        # Channels that did not work then.
        Column("failing", SmallInteger, nullable=False, server_default=text("0")),
        Column("recent_pushes", Integer, nullable=False, server_default=text("0")),
        Column("dealer_code", Text, nullable=False, server_default=text("''")),
        Column("time_zone", Text, nullable=False, server_default=text("''")),
        Column("delivery_id", Text),
        Column("decided_at", MOMENT, nullable=False),
        Index("ix_decision_delivery_id", "delivery_id", unique=True, postgresql_where=text("delivery_id IS NOT NULL")),
        Index("ix_decision_due", "theme_id", "due_at", text("value DESC"), postgresql_where=text("outcome = 'deferred'")),
        Index("ix_decision_waiting", "person_id", postgresql_where=text("outcome = 'deferred'")),
        Index("ix_decision_pushed", "person_id", "decided_at", postgresql_where=text("outcome = 'push'")),
    )

    # What a theme has spent on each day of the house's zone; contacts include those kept out.
    Table(
        "spending",
        metadata,
        Column("theme_id", BigInteger, primary_key=True, autoincrement=False),
        Column("day", Date, primary_key=True),
        Column("contacts", BigInteger, nullable=False),
        Column("calls", BigInteger, nullable=False),
        Column("cost_fen", BigInteger, nullable=False),
    )

    Table(
        "dealer_calls",
        metadata,
        Column("theme_id", BigInteger, primary_key=True, autoincrement=False),
        Column("dealer_code", Text, primary_key=True),
        Column("day", Date, primary_key=True),
        Column("calls", BigInteger, nullable=False),
        Index("ix_dealer_calls_dealer_code_day", "dealer_code", "day"),
    )

    # Pushes given to channels whose providers count, by minute: of the last ones touchpoints had not heard when it told.
    Table(
        "channel_given",
        metadata,
        Column("channel", Text, primary_key=True),
        Column("minute", MOMENT, primary_key=True),
        Column("pushes", BigInteger, nullable=False),
    )

    # Dealers that take another number of calls a day than the setting says.
    Table(
        "dealer_capacity",
        metadata,
        Column("dealer_code", Text, primary_key=True),
        Column("calls_per_day", Integer, nullable=False),
    )
