"""Tables of leads and of dealers' targets; a block of the orchestrator's schema."""

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
    # What happened on the way from interest to delivery, append-only. `human_id` (who the anchor, or where there is none
    # the person, is now), `lead_id` (the lead that it founded or belongs to now) and `reached` (the first of its stage in
    # its cycle) are views that leads/store.py keeps. Humans below 0 were erased and mean nobody.
    Table(
        "lead_step",
        metadata,
        Column("step_id", BigInteger, Identity(always=True), primary_key=True),
        Column("step_key", LargeBinary, nullable=False),
        Column("anchor_id", BigInteger, nullable=False),
        Column("person_id", BigInteger, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("human_id", BigInteger, nullable=False),
        Column("lead_id", BigInteger),
        Column("stage", SmallInteger, nullable=False),
        Column("reached", Boolean, nullable=False),
        Column("interest", Text, nullable=False),
        Column("brand", Text, nullable=False),
        Column("area", Text, nullable=False),
        Column("source", Text, nullable=False),
        Column("dealer_code", Text, nullable=False),
        Column("advisor", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("author", Text, nullable=False),
        Column("note", Text, nullable=False),
        Column("occurred_at", MOMENT, nullable=False),
        Column("recorded_at", MOMENT, nullable=False, server_default=func.now()),
        Index("ix_lead_step_step_key", "step_key", unique=True),
        Index("ix_lead_step_human_id", "human_id"),
        Index("ix_lead_step_anchor_id", "anchor_id", postgresql_where=text("anchor_id > 0")),
        Index("ix_lead_step_person_id", "person_id"),
        Index("ix_lead_step_lead_id", "lead_id"),
        Index("ix_lead_step_reached", "dealer_code", "occurred_at", postgresql_where=text("reached")),
    )

    # Leads by the step that founded each. All but the number and who looks after it is a view of the steps; duplicates of
    # one human and one interest are merged into the smallest number for as long as they are that. `attempted_at`: first try
    # to reach somebody.
    Table(
        "lead",
        metadata,
        Column("lead_id", BigInteger, Identity(always=True), primary_key=True),
        Column("founding_step_id", BigInteger, nullable=False),
        Column("human_id", BigInteger, nullable=False),
        Column("merged_into", BigInteger),
        Column("interest", Text, nullable=False),
        Column("brand", Text, nullable=False),
        Column("area", Text, nullable=False),
        Column("source", Text, nullable=False),
        Column("named_dealer", Text, nullable=False),
        Column("stage", SmallInteger, nullable=False),
        Column("furthest", SmallInteger, nullable=False),
        Column("since", MOMENT, nullable=False),
        Column("opened_at", MOMENT, nullable=False),
        Column("last_at", MOMENT, nullable=False),
        Column("lost_reason", Text, nullable=False),
        Column("dealer_code", Text, nullable=False, server_default=text("''")),
        Column("advisor", Text, nullable=False, server_default=text("''")),
        Column("assigned_at", MOMENT),
        Column("sla_due_at", MOMENT),
        Column("attempted_at", MOMENT),
        Column("escalated_at", MOMENT),
        Column("withheld", Text, nullable=False, server_default=text("''")),
        Column("next_try_at", MOMENT, nullable=False, server_default=func.now()),
        Index("ix_lead_founding_step_id", "founding_step_id", unique=True),
        Index("ix_lead_human_id", "human_id"),
        Index("ix_lead_merged_into", "merged_into", postgresql_where=text("merged_into IS NOT NULL")),
        Index(
            "ix_lead_to_assign",
            "next_try_at",
            postgresql_where=text("dealer_code = '' AND stage < 7 AND merged_into IS NULL AND escalated_at IS NULL"),
        ),
        Index("ix_lead_overdue", "sla_due_at", postgresql_where=text("sla_due_at IS NOT NULL")),
        Index("ix_lead_looked_after", "dealer_code", "advisor", postgresql_where=text("dealer_code <> ''")),
        Index("ix_lead_last_at", "last_at", postgresql_where=text("merged_into IS NULL")),
    )

    # Who was given a lead when and why, and how that ended: '' while it lasts.
    Table(
        "lead_assignment",
        metadata,
        Column("assignment_id", BigInteger, Identity(always=True), primary_key=True),
        Column("lead_id", BigInteger, nullable=False),
        Column("dealer_code", Text, nullable=False),
        Column("advisor", Text, nullable=False),
        Column("score", Double, nullable=False),
        Column("parts", JSONB, nullable=False),
        Column("author", Text, nullable=False),
        Column("assigned_at", MOMENT, nullable=False, server_default=func.now()),
        Column("ended_at", MOMENT),
        Column("end_reason", Text, nullable=False, server_default=text("''")),
        # What the bus was told: 0 nothing yet, 1 that it began, 2 that it ended, 3 nothing for it had ended already.
        Column("told", SmallInteger, nullable=False, server_default=text("0")),
        Index("ix_lead_assignment_lead_id", "lead_id"),
        Index("ix_lead_assignment_assigned_at", "assigned_at"),
        Index(
            "ix_lead_assignment_untold",
            "assignment_id",
            postgresql_where=text("told = 0 OR (told = 1 AND ended_at IS NOT NULL)"),
        ),
    )

    # Empty lists of areas and brands: all of them.
    Table(
        "dealer",
        metadata,
        Column("dealer_code", Text, primary_key=True),
        Column("version", Integer, nullable=False),
        Column("areas", ARRAY(Text), nullable=False),
        Column("brands", ARRAY(Text), nullable=False),
        Column("capacity_per_day", Integer, nullable=False),
        Column("sla_minutes", Integer, nullable=False),
        Column("closed", Boolean, nullable=False),
        Column("author", Text, nullable=False),
        Column("stated_at", MOMENT, nullable=False, server_default=func.now()),
    )

    # Staff by number; never by name.
    Table(
        "advisor",
        metadata,
        Column("dealer_code", Text, primary_key=True),
        Column("advisor", Text, primary_key=True),
        Column("brands", ARRAY(Text), nullable=False),
        Column("capacity_per_day", Integer, nullable=False),
        Column("away", Boolean, nullable=False),
    )

    # What an advisor is to do about somebody. `state`: 1 open, 2 done, 3 cancelled.
    Table(
        "lead_task",
        metadata,
        Column("task_id", BigInteger, Identity(always=True), primary_key=True),
        Column("task_key", Text, nullable=False),
        Column("person_id", BigInteger, nullable=False),
        Column("lead_id", BigInteger),
        Column("theme_id", BigInteger),
        Column("kind", Text, nullable=False),
        Column("words", Text, nullable=False),
        Column("dealer_code", Text, nullable=False),
        Column("advisor", Text, nullable=False),
        Column("state", SmallInteger, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("result", Text, nullable=False),
        Column("note", Text, nullable=False),
        Column("author", Text, nullable=False),
        Column("due_at", MOMENT, nullable=False),
        Column("expires_at", MOMENT),
        Column("created_at", MOMENT, nullable=False, server_default=func.now()),
        Column("completed_at", MOMENT),
        Index("ix_lead_task_task_key", "task_key", unique=True),
        Index("ix_lead_task_person_id", "person_id"),
        Index("ix_lead_task_lead_id", "lead_id", postgresql_where=text("lead_id IS NOT NULL")),
        Index("ix_lead_task_open", "dealer_code", "due_at", "task_id", postgresql_where=text("state = 1")),
        Index("ix_lead_task_expires_at", "expires_at", postgresql_where=text("state = 1 AND expires_at IS NOT NULL")),
    )

    # What a dealer, or one advisor ('' for the whole dealer), is to reach in a month; `values_fen` by interest.
    Table(
        "dealer_target",
        metadata,
        Column("dealer_code", Text, primary_key=True),
        Column("advisor", Text, primary_key=True),
        Column("month", Date, primary_key=True),
        Column("metric", SmallInteger, primary_key=True, autoincrement=False),
        Column("goal", Integer, nullable=False),
        Column("value_fen", BigInteger, nullable=False),
        Column("values_fen", JSONB, nullable=False),
        Column("version", Integer, nullable=False),
        Column("author", Text, nullable=False),
        Column("stated_at", MOMENT, nullable=False, server_default=func.now()),
        Index("ix_dealer_target_month", "month"),
    )

    # Lists of one dealer's one day: who is at work on it, until when.
    Table(
        "opportunity_day",
        metadata,
        Column("dealer_code", Text, primary_key=True),
        Column("day", Date, primary_key=True),
        Column("worker", Text),
        Column("lease_until", MOMENT, nullable=False),
        Column("finished_at", MOMENT),
        Column("failure", Text, nullable=False, server_default=text("''")),
        Index("ix_opportunity_day_unfinished", "lease_until", postgresql_where=text("finished_at IS NULL")),
    )

    # The list as it stood that day, so that it can be measured; `own_rank` is the place by the dealer's usual order, oldest
    # first.
    Table(
        "opportunity",
        metadata,
        Column("dealer_code", Text, primary_key=True),
        Column("day", Date, primary_key=True),
        Column("metric", SmallInteger, primary_key=True, autoincrement=False),
        Column("person_id", BigInteger, primary_key=True, autoincrement=False),
        Column("rank", Integer, nullable=False),
        Column("own_rank", Integer, nullable=False),
        Column("probability", Double, nullable=False),
        Column("value_fen", BigInteger, nullable=False),
        Column("advisor", Text, nullable=False),
        Index("ix_opportunity_person_id", "person_id"),
    )
