"""The AsyncAPI document: every fact on the bus and every webhook that we send, from contracts, streams and tables."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("identity", "tags", "scoring", "orchestrator", "touchpoints")

# One message of each subject, as protobuf writes JSON: int64 as text, bytes in base64. CI holds them against the contracts and
# against the code that reads them.
EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "troika.events.observed.v1": {
        "events": [
            {
                "eventId": "AAECAwQFBgcICQoLDA0ODw==",
                "source": "app",
                "name": "Push Opened",
                "occurredAtUs": "1772352000000000",
                "receivedAtUs": "1772352001000000",
                "anchorId": "101",
                "propertiesJson": "eyJkZWxpdmVyeV9pZCI6ImRlbGl2ZXJ5LTEifQ==",
            }
        ]
    },
    "troika.events.quarantined.v1": {
        "events": [
            {
                "eventId": "AAECAwQFBgcICQoLDA0ODw==",
                "source": "app",
                "name": "Price Calculated",
                "field": "properties.price",
                "reason": "WRONG_TYPE",
                "message": "must be a number",
                "schemaPath": "/properties/price/type",
                "receivedAtUs": "1772352001000000",
                "sealedMessage": "AAECAwQFBgcICQoLDA0ODw==",
            }
        ]
    },
    "troika.deliveries.updated.v1": {
        "updates": [
            {
                "deliveryId": "delivery-1",
                "state": "DELIVERY_STATE_ANSWERED",
                "occurredAtUs": "1772352000000000",
                "answer": "yes",
            }
        ]
    },
    "troika.channels.health.v1": {
        "channels": [{"channel": "wechat", "failing": True, "reason": "http_503", "success": 0.25, "left": "4200"}],
        "atUs": "1772352000000000",
    },
    "troika.deliveries.requested.v1": {
        "requests": [
            {
                "deliveryId": "delivery-1",
                "theme": "themes/12",
                "personId": "7",
                "channel": "app",
                "offer": "Test drive",
                "title": "试驾邀请",
                "body": "新款 X5 到店，欢迎试驾",
                "purpose": "marketing",
                "score": 873.0,
                "rank": 17,
                "reasons": ["previous_outcome = success"],
                "decidedAtUs": "1772352000000000",
                "expiresAtUs": "1772438400000000",
                "fallbackChannels": ["wechat"],
            }
        ]
    },
    "troika.tags.stated.v1": {
        "tags": [{"tag": "journey_stage", "personId": "7", "word": "invited", "statedAtUs": "1772352000000000"}]
    },
    "troika.leads.assigned.v1": {
        "handovers": [
            {
                "lead": "leads/17",
                "revision": 1,
                "personId": "7",
                "dealerCode": "D001",
                "advisor": "A3",
                "kind": "HANDOVER_KIND_GIVEN",
                "interest": "X5",
                "occurredAtUs": "1772352000000000",
                "dueAtUs": "1772352900000000",
            }
        ]
    },
    "troika.events.resolved.v1": {
        "events": [
            {
                "eventId": "AAECAwQFBgcICQoLDA0ODw==",
                "source": "app",
                "name": "Model Viewed",
                "occurredAtUs": "1772352000000000",
                "receivedAtUs": "1772352001000000",
                "person": {"anchorId": "101", "entityId": "7", "version": "3"},
                "propertiesJson": "eyJtb2RlbCI6Ilg1In0=",
            }
        ]
    },
    "troika.entities.changed.v1": {
        "anchorMoves": [{"entityKind": "ENTITY_KIND_PERSON", "owner": {"anchorId": "101", "entityId": "7", "version": "4"}}],
        "consentChanges": [
            {
                "anchorId": "101",
                "personId": "7",
                "channel": "sms",
                "optedOut": True,
                "statedAtUs": "1772352000000000",
                "purpose": "marketing",
                "kind": "CONSENT_KIND_GENERAL",
            }
        ],
    },
    "troika.tags.changed.v1": {
        "entities": {
            "entityKinds": ["ENTITY_KIND_PERSON"],
            "entityIds": ["7"],
            "versions": ["12"],
            "receivedAtUs": ["1772352001000000"],
        },
        "columns": [{"entityKind": "ENTITY_KIND_PERSON", "tag": "age", "rows": [0], "numbers": [41.0]}],
    },
    "troika.audiences.changed.v1": {
        "changes": [
            {
                "audienceId": "5",
                "name": "ready-to-test-drive",
                "entityKind": "ENTITY_KIND_PERSON",
                "version": 1,
                "number": "9",
                "atUs": "1772352000000000",
            }
        ]
    },
    "troika.scores.changed.v1": {
        "model": "purchase_intent",
        "modelVersion": 3,
        "scores": [{"personId": "7", "score": 873.0, "probability": 0.36, "scoredAtUs": "1772352000000000"}],
    },
    "troika.texts.read.v1": {
        "texts": [
            {
                "eventId": "AAECAwQFBgcICQoLDA0ODw==",
                "occurredAtUs": "1772352000000000",
                "person": {"anchorId": "101", "entityId": "7", "version": "3"},
                "vehicleModel": "X5",
                "kind": "praise",
                "topics": [{"topic": "range", "sentiment": 1}],
            }
        ]
    },
}
_SUBJECT = re.compile(r"^// Subject (troika\.[\w.]+): ((?:.|\n)+?)\nmessage (\w+)", re.MULTILINE)
_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0},
    FieldDescriptor.CPPTYPE_INT64: {"type": "string", "pattern": "^-?[0-9]+$"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "string", "pattern": "^[0-9]+$"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
}
_BUS_HEADERS = {
    "type": "object",
    "required": ["Nats-Msg-Id", "ce-specversion", "ce-id", "ce-type", "ce-source"],
    "properties": {
        "Nats-Msg-Id": {"type": "string", "description": "The fact's id; a repeat within the stream's window is dropped."},
        "ce-specversion": {"const": "1.0"},
        "ce-id": {"type": "string"},
        "ce-type": {"type": "string", "description": "The subject."},
        "ce-source": {"const": "/troika"},
        "traceparent": {"type": "string"},
    },
}
_WEBHOOK_HEADERS = {
    "type": "object",
    "required": ["webhook-id", "webhook-timestamp", "webhook-signature"],
    "properties": {
        "webhook-id": {"type": "string", "description": "The same on every repeat: the receiver's key for idempotency."},
        "webhook-timestamp": {"type": "string", "description": "Seconds since the epoch, of this attempt."},
        "webhook-signature": {"type": "string", "description": "v1,<base64>; two of them while the secret is exchanged."},
    },
}


def contracts() -> dict[str, tuple[str, Descriptor]]:
    """Subject → (what it says, its message), from the comments of the contracts."""
    found = {}
    for path in sorted((ROOT / "proto" / "troika").rglob("*.proto")):
        for subject, said, name in _SUBJECT.findall(path.read_text()):
            package = ".".join(path.relative_to(ROOT / "proto").parts[:-1])
            importlib.import_module(f"{package}.{path.stem}_pb2")
            meaning = re.sub(r"\s*\n//\s*", " ", said)
            found[subject] = (meaning, descriptor_pool.Default().FindMessageTypeByName(f"{package}.{name}"))
    return found


def streams() -> Iterator[tuple[str, str, str]]:
    """(subject, stream, service that states it)."""
    for service in SERVICES:
        for stream in importlib.import_module(f"services.{service}.events").STREAMS:
            for subject in stream.subjects:
                yield subject, stream.name, service


def readers(subject: str, service: str) -> list[str]:
    """Other services whose code names the subject; the service itself where nobody else does."""
    naming = [s for s in SERVICES if any(subject in p.read_text() for p in (ROOT / "services" / s).rglob("*.py"))]
    return [s for s in naming if s != service] or [service]


def schemas_of(message: Descriptor, known: dict[str, Any]) -> dict[str, Any]:
    """A reference to the JSON Schema of a message's JSON form; the schema and those below it are added to `known`."""
    if message.full_name not in known:
        known[message.full_name] = {}
        properties = {f.json_name: _field(f, known) for f in message.fields}
        known[message.full_name] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"$ref": f"#/components/schemas/{message.full_name}"}


def _field(field: FieldDescriptor, known: dict[str, Any]) -> dict[str, Any]:
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        one = schemas_of(field.message_type, known)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        one = _enum(field.enum_type)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        is_bytes = field.type == FieldDescriptor.TYPE_BYTES
        one = {"type": "string"} | ({"contentEncoding": "base64"} if is_bytes else {})
    else:
        one = dict(_NUMBERS[field.cpp_type])
    return {"type": "array", "items": one} if field.is_repeated else one


def _enum(enum: EnumDescriptor) -> dict[str, Any]:
    return {"enum": [value.name for value in enum.values]}


def document() -> dict[str, Any]:
    """The whole of it."""
    from services.touchpoints.outgoing import OUTGOING

    said = contracts()
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for subject, stream, service in streams():
        meaning, descriptor = said[subject]
        channels[subject] = {
            "address": subject,
            "description": meaning,
            "servers": [{"$ref": "#/servers/nats"}],
            "messages": {descriptor.name: {"$ref": f"#/components/messages/{subject}"}},
            "x-stream": stream,
        }
        messages[subject] = {
            "name": descriptor.full_name,
            "contentType": "application/protobuf",
            "headers": {"$ref": "#/components/schemas/BusHeaders"},
            "payload": schemas_of(descriptor, schemas),
            "correlationId": {"location": "$message.header#/traceparent"},
            "examples": [{"payload": dict(EXAMPLES[subject])}],
        }
        operations |= _operations(subject, descriptor.name, [("send", service)])
        operations |= _operations(subject, descriptor.name, [("receive", reader) for reader in readers(subject, service)])
    for name, sent in OUTGOING.items():
        channel = f"webhook.{name}"
        channels[channel] = {
            "address": None,
            "description": sent.meaning,
            "servers": [{"$ref": "#/servers/receivers"}],
            "messages": {name: {"$ref": f"#/components/messages/{channel}"}},
        }
        schemas[channel] = _webhook(name, sent.schema)
        payload = {"type": name, "timestamp": "2026-03-01T08:00:00.000Z", "data": dict(sent.example)}
        messages[channel] = {
            "name": name,
            "contentType": "application/json",
            "headers": {"$ref": "#/components/schemas/WebhookHeaders"},
            "payload": {"$ref": f"#/components/schemas/{channel}"},
            "examples": [{"payload": payload}],
        }
        operations |= _operations(channel, name, [("send", "touchpoints")])
    schemas |= {"BusHeaders": _BUS_HEADERS, "WebhookHeaders": _WEBHOOK_HEADERS}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Troika",
            "version": "v1",
            "description": "Facts on the bus and webhooks that go out. Made by docs/generate.py from the code."
            " Facts are protobuf micro-batches; the schemas show their JSON form. What comes in by HTTP is in openapi.json.",
        },
        "servers": {
            "nats": {"host": "nats:4222", "protocol": "nats", "description": "JetStream, inside the house."},
            "receivers": {"host": "receiver.example", "protocol": "https", "description": "The address of each endpoint."},
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def _webhook(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {"type": {"const": name}, "timestamp": {"type": "string", "format": "date-time"}, "data": data},
    }


def _operations(channel: str, message: str, who: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        f"{service}.{action}.{channel}": {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
            "tags": [{"name": service}],
        }
        for action, service in who
    }
