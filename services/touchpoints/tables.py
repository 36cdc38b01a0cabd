"""Tables of touchpoints, as the newest migration leaves them."""

from sqlalchemy import (
    ARRAY,
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
    SmallInteger,
    Table,
    Text,
    func,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB

from chassis.db import new_metadata
from services.touchpoints.arrivals import tables as arrival_tables
from services.touchpoints.store import tables as person_tables
from services.touchpoints.wechat import tables as wechat_tables

metadata = new_metadata("touchpoints")

Table(
    "source",
    metadata,
    Column("name", Text, primary_key=True),
    Column("user_id_kind", SmallInteger, nullable=False),
    Column("appid", Text, nullable=False),
    # Of the publishable key, which apps and browsers carry, and of the one that stays on servers; empty without one.
    Column("write_key_sha256", LargeBinary, nullable=False),
    Column("server_key_sha256", LargeBinary, nullable=False),
)

endpoint = Table(
    "endpoint",
    metadata,
    Column("name", Text, primary_key=True),
    Column("channel", SmallInteger, nullable=False),
    Column("scope", Text, nullable=False),
    Column("url", Text, nullable=False),
    # Sealed under the settings key, with the endpoint's name and the column's as associated data.
    Column("secret", LargeBinary, nullable=False),
    # What its channel declares, by name; the secrets as one sealed JSON object.
    Column("settings", JSONB, nullable=False),
    Column("secrets", LargeBinary, nullable=False),
    Column("disabled_at", DateTime(timezone=True)),
    # Self-service: the owner's key, the secret before this one and until when it is good, types of webhooks it does without.
    Column("management_key_sha256", LargeBinary, nullable=False, server_default=""),
    Column("previous_secret", LargeBinary, nullable=False, server_default=""),
    Column("previous_until", DateTime(timezone=True)),
    Column("event_types_off", ARRAY(Text), nullable=False, server_default=sql("'{}'")),
    Column("verified_at", DateTime(timezone=True)),
    Column("tested_at", DateTime(timezone=True)),
)
Index("ix_endpoint_channel_scope", endpoint.c.channel, endpoint.c.scope, unique=True)

# How many messages somebody at an account may be sent, by kind: `window:…` for what they opened themselves, `credit:…` for each
# yes to a template, `gone` and `out` for nothing at all. The follower is a keyed hash of the openid; the anchor is identity's,
# 0 until a push has told it. Times are microseconds since the epoch.
allowance = Table(
    "wechat_allowance",
    metadata,
    Column("account", Text, primary_key=True),
    Column("follower", LargeBinary, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("remaining", Integer, nullable=False),
    Column("opened_us", BigInteger, nullable=False),
    Column("until_us", BigInteger, nullable=False),
    Column("anchor_id", BigInteger, nullable=False),
)
Index("ix_wechat_allowance_anchor_id", allowance.c.anchor_id, postgresql_where=sql("anchor_id > 0"))

# How a push that was begun goes, and which allowance pays for it; gone once the push has ended.
spend = Table(
    "wechat_spend",
    metadata,
    Column("delivery_id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("follower", LargeBinary, nullable=False),
    Column("form", Text, nullable=False),
    Column("template", Text, nullable=False),
    Column("pays", Text, nullable=False),
    Column("opened_us", BigInteger, nullable=False),
)
Index("ix_wechat_spend_account_follower", spend.c.account, spend.c.follower)

# Access tokens of providers, sealed under the settings key, one for all replicas.
Table(
    "provider_token",
    metadata,
    Column("account", Text, primary_key=True),
    Column("token", LargeBinary, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("fetched_at", DateTime(timezone=True), nullable=False),
    Column("fresh_until", DateTime(timezone=True), nullable=False),
    # Until when somebody is fetching a new one.
    Column("leased_until", DateTime(timezone=True), nullable=False),
)

delivery = Table(
    "delivery",
    metadata,
    Column("delivery_id", Text, primary_key=True),
    Column("theme", Text, nullable=False),
    Column("person_id", BigInteger, nullable=False),
    Column("channel", SmallInteger, nullable=False),
    Column("fallback_channels", ARRAY(SmallInteger), nullable=False),
    Column("offer", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("score", Double, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("reasons", ARRAY(Text), nullable=False),
    Column("dealer_code", Text, nullable=False),
    Column("decided_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("attempts", Integer, nullable=False, server_default="0"),
    # When a sender may take it: the retry's time, or the end of the lease of the sender that has it.
    Column("due_at", DateTime(timezone=True), nullable=False),
    # Since when a call's outcome is not known: beyond a provider's memory for repeats it must not be sent again.
    Column("unsure_since", DateTime(timezone=True)),
    Column("endpoint", Text, nullable=False, server_default=""),
    Column("anchor_id", BigInteger, nullable=False, server_default="0"),
    Column("provider_id", Text, nullable=False, server_default=""),
    Column("answer", Text, nullable=False, server_default=""),
    Column("answered_at", DateTime(timezone=True)),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    # The webhook's type where it is no message, and JSON that its channel alone reads.
    Column("kind", Text, nullable=False, server_default=""),
    Column("details", Text, nullable=False, server_default=""),
    # Since when the receiver has no business with it any more: its contact is shut.
    Column("revoked_at", DateTime(timezone=True)),
    # What orchestrator decided on, asked again before it is sent: see engine/store.caps_of for the caps.
    Column("quiet_hours", Text, nullable=False, server_default=""),
    Column("time_zone", Text, nullable=False, server_default=""),
    Column("caps", Text, nullable=False, server_default=""),
    Column("arrived", BigInteger, Identity(always=True), nullable=False),
    # What it waits for beside time: `turn`, or why it is parked; it is due at its end then.
    Column("held", Text, nullable=False, server_default=""),
    Column("held_at", DateTime(timezone=True)),
    # The time that its endpoint's rate gave it.
    Column("slot_at", DateTime(timezone=True)),
    # When it was called first.
    Column("sent_at", DateTime(timezone=True)),
)
Index("ix_delivery_due_at", delivery.c.due_at, postgresql_where=sql("state <= 2"))
Index("ix_delivery_provider_id", delivery.c.provider_id, postgresql_where=sql("provider_id <> ''"))
Index("ix_delivery_theme", delivery.c.theme)
# Call lists: whom to call first.
Index("ix_delivery_listed", delivery.c.endpoint, delivery.c.score.desc(), postgresql_where=sql("channel = 8 AND state = 3"))
# What dealers had to give up, by the lead's number.
Index(
    "ix_delivery_withdrawn",
    func.split_part(delivery.c.delivery_id, "-", 2),
    postgresql_where=sql("kind = 'lead.withdrawn'"),
)
# For erasures. Once a person is erased both are 0.
Index("ix_delivery_person_id", delivery.c.person_id, postgresql_where=sql("person_id > 0"))
Index("ix_delivery_anchor_id", delivery.c.anchor_id, postgresql_where=sql("anchor_id > 0"))

Index("ix_delivery_held", delivery.c.endpoint, delivery.c.arrived, postgresql_where=sql("held <> ''"))

# Who has the turn at endpoints that take one push at a time.
Table(
    "turn",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("delivery_id", Text, nullable=False),
)

# Endpoints that failed lately; see engine/circuits.py.
Table(
    "circuit",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("trips", Integer, nullable=False, server_default="0"),
    Column("opened_at", DateTime(timezone=True)),
    Column("open_until", DateTime(timezone=True)),
    Column("probe_until", DateTime(timezone=True)),
    Column("paused_until", DateTime(timezone=True)),
    Column("pause_reason", Text, nullable=False, server_default=""),
)

# Until when tokens are given away, by endpoint and by provider; see engine/rates.py.
Table(
    "bucket",
    metadata,
    Column("name", Text, primary_key=True),
    Column("booked_until", DateTime(timezone=True), nullable=False),
    Column("burst_s", Double, nullable=False),
)

# Calls of ten seconds at an endpoint; see engine/health.py.
call_slice = Table(
    "call_slice",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("slice", DateTime(timezone=True), primary_key=True),
    Column("calls", Integer, nullable=False),
    Column("accepted", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("took", ARRAY(Integer), nullable=False),
)
Index("ix_call_slice_slice", call_slice.c.slice)

# One row: what was last told of the channels' health.
Table(
    "health_report",
    metadata,
    Column("one", Boolean, primary_key=True),
    Column("published_at", DateTime(timezone=True), nullable=False),
    Column("said", Text, nullable=False),
)

# Parked pushes that somebody wants to go again; see engine/replaying.py.
Table(
    "replay",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("theme", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("held_from", DateTime(timezone=True)),
    Column("held_to", DateTime(timezone=True)),
    Column("made_at", DateTime(timezone=True), nullable=False),
    Column("replayed", BigInteger, nullable=False, server_default="0"),
    Column("finished_at", DateTime(timezone=True)),
)

Table(
    "feedback",
    metadata,
    Column("delivery_id", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    # The answer, or the receiver's own number of what happened; empty for what happens once.
    Column("key", Text, primary_key=True),
    # What else was told, by the names of domain/feedback.DATA.
    Column("data", JSONB, nullable=False),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
)

person_tables.add_tables(metadata)
wechat_tables.add_tables(metadata)

# Files of records and leads, one row per import. `lines_done` is where it goes on after a crash.
Table(
    "import_job",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("source", Text, nullable=False),
    # Where the file is: "store:path"; "file:path" or "s3:bucket/key" for the command line.
    Column("place", Text, nullable=False),
    Column("file_name", Text, nullable=False),
    # YAML as it was given; empty where the file needs none.
    Column("mapping", Text, nullable=False),
    # NULL until the file was looked through.
    Column("file_sha256", LargeBinary),
    # queued, running, done, failed, cancelled; what is told as interrupted is running without anybody at it
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("dry_run", Boolean, nullable=False),
    Column("lines", BigInteger, nullable=False),
    Column("lines_done", BigInteger, nullable=False),
    Column("taken", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    # JSON: the first events of a dry run, identifiers masked.
    Column("sample", Text, nullable=False),
    Column("caller", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # Who took it up since it last came further.
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    # Who works on it says so again and again; when it falls silent another one takes over.
    Column("leased_until", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# What was refused: where and why, never what.
Table(
    "import_error",
    metadata,
    Column("import_id", BigInteger, primary_key=True, autoincrement=False),
    Column("line", BigInteger, primary_key=True, autoincrement=False),
    Column("field", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

arrival_tables.add_tables(metadata)

# What is planned of events beside what the release ships; of each event the newest version is in force.
Table(
    "event_type",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("title", Text, nullable=False),
    Column("description", Text, nullable=False),
    # A JSON Schema as text: a database's own JSON would sort its keys.
    Column("schema", Text, nullable=False),
    Column("sources", ARRAY(Text), nullable=False),
    Column("retired", Boolean, nullable=False),
    Column("aliases", ARRAY(Text), nullable=False),
    Column("author", Text, nullable=False),
    Column("saved_at", DateTime(timezone=True), nullable=False),
)

# One row: what becomes of events that are not in the plan.
Table(
    "tracking_plan",
    metadata,
    Column("one", Boolean, primary_key=True),
    Column("unplanned", SmallInteger, nullable=False),
)

Table(
    "unplanned_event",
    metadata,
    Column("day", Date, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("event", Text, primary_key=True),
    Column("events", BigInteger, nullable=False),
)

# Events that were set aside. What they say is sealed under a key of this service, with the event's id as associated data.
quarantined = Table(
    "quarantined",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("event_id", LargeBinary, nullable=False),
    Column("source", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("field", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("schema_path", Text, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)
Index("ix_quarantined_event_id", quarantined.c.event_id, unique=True)
Index("ix_quarantined_event", quarantined.c.event, quarantined.c.id)
Index("ix_quarantined_received_at", quarantined.c.received_at)

Table(
    "quarantine_replay",
    metadata,
    Column("replay_id", Text, primary_key=True),
    Column("wanted", Text, nullable=False),
    Column("patch", Text, nullable=False),
    # The id it has come to, of all up to the one that was newest when it began.
    Column("position", BigInteger, nullable=False, server_default="0"),
    Column("up_to", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("examined", BigInteger, nullable=False, server_default="0"),
    Column("healed", BigInteger, nullable=False, server_default="0"),
    Column("done", Boolean, nullable=False, server_default=sql("false")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=sql("now()")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=sql("now()")),
)

# Devices that apps registered: who of an app's users has one, as keyed digests; the token itself is sealed. `anchor_id` is
# known once identity knows the user (channels/push/linking.py).
device_token = Table(
    "device_token",
    metadata,
    Column("token_id", BigInteger, Identity(always=True), primary_key=True),
    Column("provider", Text, nullable=False),
    Column("app", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("owner", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    # Source and user, sealed, until the anchor is known.
    Column("user_sealed", LargeBinary, nullable=False),
    Column("anchor_id", BigInteger, nullable=False, server_default="0"),
    Column("registered_at", DateTime(timezone=True), nullable=False),
    Column("last_success_at", DateTime(timezone=True)),
    Column("invalid_at", DateTime(timezone=True)),
    Column("invalid_reason", Text, nullable=False, server_default=""),
)
Index(
    "ix_device_token_digest",
    device_token.c.provider,
    device_token.c.app,
    device_token.c.environment,
    device_token.c.digest,
    unique=True,
)
Index("ix_device_token_owner", device_token.c.owner)
Index("ix_device_token_anchor_id", device_token.c.anchor_id, postgresql_where=sql("anchor_id > 0"))
Index("ix_device_token_unlinked", device_token.c.token_id, postgresql_where=sql("anchor_id = 0"))

# The provider's number under which a push is called, the same for each attempt.
push_call = Table(
    "push_call",
    metadata,
    Column("delivery_id", Text, primary_key=True),
    Column("call_id", Text, nullable=False),
    Column("made_at", DateTime(timezone=True), nullable=False),
)
Index("ix_push_call_made_at", push_call.c.made_at)

# Calls of receivers, for their owners to look at; old ones are deleted.
delivery_attempt = Table(
    "delivery_attempt",
    metadata,
    Column("delivery_id", Text, primary_key=True),
    Column("attempt_id", BigInteger, Identity(always=True), primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("milliseconds", Integer, nullable=False),
    Column("attempted_at", DateTime(timezone=True), nullable=False),
)
Index("ix_delivery_attempt_endpoint", delivery_attempt.c.endpoint, delivery_attempt.c.attempt_id)
# Rows lie in the order of their time.
Index("ix_delivery_attempt_attempted_at", delivery_attempt.c.attempted_at, postgresql_using="brin")

# What is left of what was paid for at a gateway, as it told last.
Table(
    "provider_balance",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("balance", BigInteger, nullable=False),
    Column("told_at", DateTime(timezone=True), nullable=False),
)

# Lists at advertising platforms; see channels/ads/store.py.
Table(
    "ad_list",
    metadata,
    Column("name", Text, primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("predicate", Text, nullable=False),
    Column("every_s", Double, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    # Looks through the audience: the number of the last one, whether it is under way, and how far it is.
    Column("pass_no", BigInteger, nullable=False, server_default="0"),
    Column("passing", Boolean, nullable=False, server_default=sql("false")),
    Column("page_token", Text, nullable=False, server_default=""),
    Column("looked_at", BigInteger, nullable=False, server_default="0"),
    Column("added", BigInteger, nullable=False, server_default="0"),
    Column("removed", BigInteger, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("passed_at", DateTime(timezone=True)),
    # When the next look is due, when somebody should work on it, and whether somebody should at once.
    Column("pass_at", DateTime(timezone=True), nullable=False, server_default=sql("now()")),
    Column("due_at", DateTime(timezone=True), nullable=False, server_default=sql("now()")),
    Column("woken", Boolean, nullable=False, server_default=sql("false")),
    Column("leased_until", DateTime(timezone=True), nullable=False, server_default=sql("now()")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=sql("now()")),
)

# Who is on such a list, or may be: a keyed digest and the sealed hash; the person is 0 once erased.
ad_member = Table(
    "ad_member",
    metadata,
    Column("list", Text, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("person_id", BigInteger, nullable=False),
    # In which look it was named last.
    Column("seen", BigInteger, nullable=False),
    Column("called", Boolean, nullable=False, server_default=sql("false")),
    Column("sent", Boolean, nullable=False, server_default=sql("false")),
    Column("leaving", Boolean, nullable=False, server_default=sql("false")),
)
Index("ix_ad_member_leaving", ad_member.c.list, ad_member.c.digest, postgresql_where=sql("leaving"))
Index("ix_ad_member_person_id", ad_member.c.person_id, postgresql_where=sql("person_id > 0"))

# Clicks on advertisements; the platform's number of the click is sealed.
ad_click = Table(
    "ad_click",
    metadata,
    Column("anchor_id", BigInteger, primary_key=True, autoincrement=False),
    Column("endpoint", Text, primary_key=True),
    Column("clicked_us", BigInteger, primary_key=True),
    Column("person_id", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)
Index("ix_ad_click_person_id", ad_click.c.person_id)
Index("ix_ad_click_clicked_us", ad_click.c.clicked_us, postgresql_using="brin")
