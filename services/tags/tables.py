"""Tables of tags. Facts and values are documents: one row per anchor and per entity, however many tags it has.

An event touches 2 rows where one row per fact would touch some 6, and a merge is a read, a pure function and a write. The
price is that a document is rewritten whole; with hundreds of tags per anchor that would have to be looked at again.
"""

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)

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
    # When time alone changes the tags next (something leaves a window, a moment is long enough ago).
    Column("due_us", BigInteger),
)
Index("ix_entity_due_us", entity.c.due_us, postgresql_where=entity.c.due_us.isnot(None))

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

# Which entities are related, now; rows stay when removed, so that versions go on. Kinds of entities as in the contract.
entity_relation = Table(
    "entity_relation",
    metadata,
    Column("subject_kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("subject_id", BigInteger, primary_key=True, autoincrement=False),
    Column("object_kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("object_id", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("removed", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False),
)
Index("ix_entity_relation_object_kind_object_id", entity_relation.c.object_kind, entity_relation.c.object_id)

# Relations between entities as identity tells them: until when they held (0: still), and where in the stream it was said.
told_relation = Table(
    "told_relation",
    metadata,
    Column("subject_kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("subject_id", BigInteger, primary_key=True, autoincrement=False),
    Column("object_kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("object_id", BigInteger, primary_key=True, autoincrement=False),
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

# Anchors of erased persons that files of the event lake may still have. `rewritten_at`: since when no file that is read has
# them; the row goes when no file at all has.
lake_erasure = Table(
    "lake_erasure",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("queued_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("rewritten_at", DateTime(timezone=True)),
)

# What recipients may read, and until when.
share = Table(
    "share",
    metadata,
    Column("share_id", BigInteger, Identity(always=True), primary_key=True),
    Column("request_id", Text, nullable=False),
    Column("recipient", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("form", SmallInteger, nullable=False),
    Column("tags", ARRAY(Text), nullable=False),
    Column("predicate", Text, nullable=False),
    Column("min_group_size", Integer, nullable=False),
    Column("points", Integer, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("key_id", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
    Column("revoke_reason", Text, nullable=False),
)
Index("ix_share_request_id", share.c.request_id, unique=True)
Index("ix_share_recipient_share_id", share.c.recipient, share.c.share_id)

# The data-use ledger: one entry per use, chained by hashes. Nobody may update or delete here.
data_use = Table(
    "data_use",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("share_id", BigInteger, nullable=False),
    Column("recipient", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("form", SmallInteger, nullable=False),
    Column("tags", ARRAY(Text), nullable=False),
    Column("predicate", Text, nullable=False),
    Column("min_group_size", Integer, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("persons", BigInteger, nullable=False),
    Column("suppressed", BigInteger, nullable=False),
    Column("without_consent", BigInteger, nullable=False),
    Column("points", Integer, nullable=False),
    Column("inclusions", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("used_at_us", BigInteger, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)
Index("ix_data_use_share_id_number", data_use.c.share_id, data_use.c.number)

# Who was in a use: each anchor of each person, as leaves of the entry's tree; `line` is the person's row. Of an erased anchor
# only the leaf stays. That, and nothing else, may be changed.
data_use_inclusion = Table(
    "data_use_inclusion",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("anchor_id", BigInteger, nullable=False),
    Column("line", BigInteger, nullable=False),
    Column("nonce", LargeBinary),
    Column("leaf", LargeBinary),
)
Index(
    "ix_data_use_inclusion_anchor_id_number",
    data_use_inclusion.c.anchor_id,
    data_use_inclusion.c.number,
    unique=True,
    postgresql_where=text("anchor_id > 0"),
)

# How many of the points that an anchor got in a use were spent.
points_spent = Table(
    "points_spent",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("points", BigInteger, nullable=False),
)

# Commands that spent points; after an erasure of nobody (0).
spending = Table(
    "spending",
    metadata,
    Column("op_id", Text, primary_key=True),
    Column("person_id", BigInteger, nullable=False),
    Column("anchor_id", BigInteger, nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("balance", BigInteger, nullable=False),
    Column("caller", Text, nullable=False),
    Column("spent_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
Index("ix_spending_anchor_id", spending.c.anchor_id)

# Files of partners, one row per import. Counters are of lines and values; `lines_done` is where it goes on after a crash.
import_job = Table(
    "import_job",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("partner", Text, nullable=False),
    Column("entity_kind", SmallInteger, nullable=False),
    # Where the file is: "store:path" or "upload:id", and its name; "file:path" for the command line.
    Column("source", Text, nullable=False),
    Column("file_name", Text, nullable=False),
    Column("mapping", Text, nullable=False),
    Column("mapping_sha256", LargeBinary, nullable=False),
    # NULL until the file was read through.
    Column("file_sha256", LargeBinary),
    # queued, running, done, failed, undoing, undone
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("dry_run", Boolean, nullable=False),
    Column("lines", BigInteger, nullable=False),
    Column("lines_done", BigInteger, nullable=False),
    Column("matched", BigInteger, nullable=False),
    Column("unmatched", BigInteger, nullable=False),
    Column("refused_lines", BigInteger, nullable=False),
    Column("values_new", BigInteger, nullable=False),
    Column("values_changed", BigInteger, nullable=False),
    Column("values_unchanged", BigInteger, nullable=False),
    Column("values_refused", BigInteger, nullable=False),
    Column("values_repeated", BigInteger, nullable=False),
    Column("caller", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # Who works on it says so again and again; when it falls silent another one takes over.
    Column("leased_until", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
# A file is taken in once.
Index(
    "ix_import_job_partner_file_sha256_mapping_sha256",
    import_job.c.partner,
    import_job.c.file_sha256,
    import_job.c.mapping_sha256,
    unique=True,
    postgresql_where=text("NOT dry_run AND state IN ('running', 'done')"),
)

# Which anchors an import said something of: what an undo goes through. The line is the last one that did.
import_line = Table(
    "import_line",
    metadata,
    Column("import_id", BigInteger, primary_key=True, autoincrement=False),
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("line", BigInteger, nullable=False),
)
Index("ix_import_line_anchor_id", import_line.c.anchor_id)

# What was refused: where and why, never what.
import_error = Table(
    "import_error",
    metadata,
    Column("import_id", BigInteger, primary_key=True, autoincrement=False),
    Column("line", BigInteger, primary_key=True, autoincrement=False),
    Column("column_name", Text, primary_key=True),
    Column("reason", Text, nullable=False),
)

# Tags that were added to those of the files: every version, as it was written (JSON). The highest one counts.
tag_definition = Table(
    "tag_definition",
    metadata,
    Column("entity_kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("body", JSON, nullable=False),
    Column("retired", Boolean, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# Base tags that were added, whose events of before come from the lake: those of messages up to `cut` in the stream, by anchor;
# all anchors up to `after_anchor` have them.
backfill = Table(
    "backfill",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("entity_kind", SmallInteger, nullable=False),
    Column("tags", ARRAY(Text), nullable=False),
    Column("cut", BigInteger, nullable=False),
    Column("after_anchor", BigInteger, nullable=False),
    Column("anchors", BigInteger, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("finished_at", DateTime(timezone=True)),
)

# One row that counts changes of the catalogue. Who derives tags holds it: a change waits, and is known before the next batch.
catalogue_epoch = Table(
    "catalogue_epoch",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
)

# Named audiences, as they are now; ended ones stay, with their names.
audience = Table(
    "audience",
    metadata,
    Column("audience_id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("entity_kind", SmallInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("predicate", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("deleted_at", DateTime(timezone=True)),
)
Index("ix_audience_name", audience.c.name, unique=True)

# What each version of a named audience was, and who made it.
audience_version = Table(
    "audience_version",
    metadata,
    Column("audience_id", BigInteger, primary_key=True, autoincrement=False),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("predicate", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("caller", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# What was last told of an audience on the bus: the how-manieth telling, of which version, as of which place in TAGS_CHANGED.
audience_told = Table(
    "audience_told",
    metadata,
    Column("audience_id", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("as_of_us", BigInteger, nullable=False),
    Column("members", BigInteger, nullable=False),
)

# Its members then, as serialised bitmaps of 65,536 ids each, so that a change writes only the blocks it concerns.
audience_member = Table(
    "audience_member",
    metadata,
    Column("audience_id", BigInteger, primary_key=True, autoincrement=False),
    Column("block", Integer, primary_key=True, autoincrement=False),
    Column("members", LargeBinary, nullable=False),
)

# How large an audience was: the last word of each ten minutes in which it changed, and one a day.
audience_size = Table(
    "audience_size",
    metadata,
    Column("audience_id", BigInteger, primary_key=True, autoincrement=False),
    Column("sampled_at", DateTime(timezone=True), primary_key=True),
    Column("members", BigInteger, nullable=False),
    Column("base", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
)

# Of the statements through one anchor on marketing and what goes with it, by channel ("all" for every one), the latest
# withdrawal and the latest grant, microseconds since the epoch, -1 without any; `expires_us` is that of the grant, the largest
# number when it has no end.
consent = Table(
    "consent",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("purpose", Text, primary_key=True),
    Column("channel", Text, primary_key=True),
    # Whether it was asked for by itself.
    Column("separate", Boolean, primary_key=True),
    Column("person_id", BigInteger, nullable=False),
    Column("withdrawn_us", BigInteger, nullable=False),
    Column("given_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
)
Index("ix_consent_person_id", consent.c.person_id)
