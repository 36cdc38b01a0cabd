"""One held event: what is kept of its message, how it travels and rests, and how it is read again."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from troika.touchpoints.v1.quarantine_pb2 import QuarantinedBatch, QuarantinedEvent

from chassis.outbox import Outgoing
from services.touchpoints.domain import adf, cloudevents, segment, sensors
from services.touchpoints.domain.observed import Invalid, Observed, Source, event_id
from services.touchpoints.domain.screening import REDACTED, looks_personal, redacted
from services.touchpoints.events import MOST_BYTES, MOST_FACTS, QUARANTINED

SEGMENT, SENSORS, CLOUDEVENTS, ADF = "segment", "sensors", "cloudevents", "adf"
# Bytes that are no message of anything.
BODY: Final = "body"
# Of what is larger only the beginning is kept, to be looked at.
MOST_KEPT: Final = 256 * 1024
_CUT: Final = 16 * 1024
_MOST_NAME: Final = 200
_NONCE: Final = 12


@dataclass(frozen=True)
class Held:
    """An event that is set aside: `message` is what came, JSON or bytes, `context` what of its request a dialect needs."""

    event_id: bytes
    source: str
    name: str
    error: Invalid
    door: str
    message: Any
    context: Sequence[Any] = ()


def unreadable(source: str, door: str, message: Any, context: Sequence[Any], error: Invalid) -> Held:
    """A message that could not be normalised; its id follows from what came, so that a repeated request holds it once."""
    written, _ = _written(message)
    number = event_id(source, hashlib.sha256(written + orjson.dumps(_plain(context))).hexdigest())
    return Held(number, source, _name_in(door, message), error, door, message, context)


def _name_in(door: str, message: Any) -> str:
    """What happened, as far as it can be told; names come from anybody."""
    if not isinstance(message, dict):
        return ""
    name = message.get("type" if door == CLOUDEVENTS else "event") or message.get("type")
    return name if isinstance(name, str) else ""


def shown_name(name: str) -> str:
    """A name that may be shown and counted; empty when it looks personal."""
    return "" if looks_personal(name) else name.replace("\0", "")[:_MOST_NAME]


@dataclass(frozen=True)
class Kept:
    """What rests of a message, opened again."""

    door: str
    context: Sequence[Any]
    message: Any
    # Too large or too strange to be kept whole, hence never to be sent on.
    is_cut: bool

    def patched(self, patch: Any) -> Kept:
        """With a JSON Merge Patch (RFC 7396) applied; raises Invalid for what is no JSON."""
        if isinstance(self.message, bytes):
            raise Invalid("", "NOT_JSON", "is no JSON that could be patched")
        return Kept(self.door, self.context, _merged(self.message, patch), self.is_cut)

    def observe(self, source: Source, received_us: int, oldest_us: int) -> Observed:
        """Reads it as its door would have, at the moment it was received; raises Invalid."""
        if self.is_cut:
            raise Invalid("", "NOT_KEPT", "is too large to be kept whole")
        match self.door, list(self.context):
            case "segment", [index, implied_type, sent_at]:
                arrival = segment.Arrival(source, implied_type, sent_at, received_us, oldest_us)
                return segment.observe(self.message, index, arrival)
            case "sensors", [project]:
                return sensors.observe(self.message, sensors.Arrival(source, project, received_us, oldest_us))
            case "cloudevents", _:
                return cloudevents.observe(self.message, cloudevents.Arrival(source, received_us, oldest_us))
            case "adf", _:
                return adf.observe(adf.only_lead(self.message), adf.Arrival(source, received_us, oldest_us))
            case _:
                raise Invalid("", "UNREADABLE", "is no message that could be read again")


class Holder:
    """Seals held events for the way and for the table, and opens them (AES-256-GCM under a key from the settings key)."""

    def __init__(self, secrets_key: bytes) -> None:
        self._cipher = AESGCM(HKDF(SHA256(), 32, salt=None, info=b"troika touchpoints held events").derive(secrets_key))

    def messages(self, held: Sequence[Held], received_us: int) -> Iterator[Outgoing]:
        """Bus messages of at most 500 events and half a megabyte; a repeated request makes the same ids."""
        chunk: list[QuarantinedEvent] = []
        size = 0
        for one in held:
            fact = QuarantinedEvent(
                event_id=one.event_id,
                source=one.source,
                name=shown_name(one.name),
                field=_clean(one.error.field),
                reason=one.error.reason,
                message=_clean(one.error.message),
                schema_path=one.error.schema_path,
                received_at_us=received_us,
                sealed_message=self._seal(_packed(one), one.event_id),
            )
            if chunk and (len(chunk) == MOST_FACTS or size + fact.ByteSize() > MOST_BYTES):
                yield _bus_message(chunk)
                chunk, size = [], 0
            chunk.append(fact)
            size += fact.ByteSize()
        if chunk:
            yield _bus_message(chunk)

    def _seal(self, packed: bytes, number: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, packed, number)

    def open(self, number: bytes, sealed: bytes) -> Kept:
        """What was sealed for an event id; raises Invalid when the key is another one now."""
        try:
            head, _, body = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], number).partition(b"\n")
        except InvalidTag as error:
            raise Invalid("", "NOT_OPENED", "was sealed under another key") from error
        door, context, is_json, is_cut = orjson.loads(head)
        return Kept(door, context, orjson.loads(body) if is_json else body, is_cut)


def _bus_message(facts: Sequence[QuarantinedEvent]) -> Outgoing:
    ids = hashlib.sha256(b"".join(fact.event_id for fact in facts)).hexdigest()[:32]
    message = Outgoing.now(QUARANTINED, QuarantinedBatch(events=facts).SerializeToString())
    return dataclasses.replace(message, message_id="held-" + ids)


def _packed(one: Held) -> bytes:
    body, is_json = _written(one.message)
    is_cut = len(body) > MOST_KEPT or not (is_json or one.door in (BODY, ADF))
    if len(body) > MOST_KEPT:
        body, is_json = body[:_CUT], False
    return orjson.dumps([one.door, _plain(one.context), is_json, is_cut]) + b"\n" + body


def _written(message: Any) -> tuple[bytes, bool]:
    """(bytes, whether they are JSON) of a message; of one too deep for the serialiser its kind is all that can be kept."""
    if isinstance(message, bytes):
        return message, False
    try:
        return orjson.dumps(message), True
    except (TypeError, RecursionError):
        return type(message).__name__.encode(), False


def _plain(context: Sequence[Any]) -> list[Any]:
    """A request's `sentAt` may be anything; only text says something."""
    return [part if isinstance(part, (str, int)) or part is None else "" for part in context]


def _clean(text: str) -> str:
    """Field names come from anybody, too."""
    return REDACTED if looks_personal(text) else text.replace("\0", "")


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _merged(found.get(key), value)
    return found


# Whom a message is about, in every dialect; what is left says what happened.
_IDS: Final = frozenset(
    [
        *("userId", "anonymousId", "previousId", "groupId", "context", "distinct_id", "original_id", "login_id"),
        *("anonymous_id", "identities", "identifiers", "subject", "userid", "anonymousid", "writeKey"),
    ]
)
_NAMES_OF_PEOPLE: Final = frozenset(["name", "$name"])


def shown(kept: Kept) -> str:
    """A message for people: JSON without ids, personal data redacted; empty when it is no JSON."""
    if not isinstance(kept.message, dict):
        return ""
    found = {key: value for key, value in kept.message.items() if key not in _IDS}
    if isinstance(data := found.get("data"), dict):
        found["data"] = {key: value for key, value in data.items() if key not in _IDS}
    parts = ["traits"]
    if str(found.get("type")).startswith(("identify", "profile_")):
        parts.append("properties")
    for part in parts:
        if isinstance(traits := found.get(part), dict):
            found[part] = {key: REDACTED if key in _NAMES_OF_PEOPLE else value for key, value in traits.items()}
    return orjson.dumps(redacted(found), option=orjson.OPT_INDENT_2).decode()
