"""Tables of tags. Facts and values are documents: one row per anchor and per entity, however many tags it has.

An event touches 2 rows where one row per fact would touch some 6, and a merge is a read, a pure function and a write. The
price is that a document is rewritten whole; with hundreds of tags per anchor that would have to be looked at again.
"""

from sqlalchemy import JSON, BigInteger, Boolean, Column, Index, SmallInteger, Table, Text

from chassis.db import new_metadata

metadata = new_metadata("tags")

# An anchor, who owns it at which version of the graph, and {tag: [value, occurred_at_us, tie, received_at_us]}.
anchor = Table(
    "anchor",
    metadata,
    Column("entity_kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("entity_id", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("facts", JSON, nullable=False),
)
Index("ix_anchor_entity_kind_entity_id", anchor.c.entity_kind, anchor.c.entity_id)

# An entity, {tag: value}, and {tag: [value, scored_at_us, received_at_us]} for scores, which belong to no anchor.
entity = Table(
    "entity",
    metadata,
    Column("entity_kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("entity_id", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    Column("present", Boolean, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("scores", JSON, nullable=False),
)

# The catalogue that all entities were last derived with.
derivation = Table(
    "derivation",
    metadata,
    Column("entity_kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
)

# What sources said about a person's anchor and a vehicle's anchor.
relation = Table(
    "relation",
    metadata,
    Column("person_anchor", BigInteger, primary_key=True, autoincrement=False),
    Column("vehicle_anchor", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
)
Index("ix_relation_vehicle_anchor", relation.c.vehicle_anchor)

# The view of it over the present owners; rows stay when removed, so that versions go on.
entity_relation = Table(
    "entity_relation",
    metadata,
    Column("person_id", BigInteger, primary_key=True, autoincrement=False),
    Column("vehicle_id", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("removed", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False),
)
Index("ix_entity_relation_vehicle_id", entity_relation.c.vehicle_id)

# Relations between entities as identity tells them: until when they held (0: still), and where in the stream it was said.
told_relation = Table(
    "told_relation",
    metadata,
    Column("person_id", BigInteger, primary_key=True, autoincrement=False),
    Column("vehicle_id", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("valid_from_us", BigInteger, primary_key=True, autoincrement=False),
    Column("valid_to_us", BigInteger, nullable=False),
    # True when identity took back what it had said.
    Column("void", Boolean, nullable=False),
    Column("sequence", BigInteger, nullable=False),
)

# Anchors of erased persons, numbers only: what comes late must not bring them back. `version` is the last that is known to
# have shown the anchor with the person.
erased_anchor = Table(
    "erased_anchor",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("person_id", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)
Index("ix_erased_anchor_person_id", erased_anchor.c.person_id)
