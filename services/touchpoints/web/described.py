"""What doors say of themselves: each module of doors ends in one table `DESCRIBED`, of which the OpenAPI document is made."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Schema = Mapping[str, Any]
# Media type → schema of a body; no schema where the bytes are another standard's.
Bodies = Mapping[str, Schema]

JSON = "application/json"
WRITE_KEY, SERVER_KEY, SIGNATURE, MANAGEMENT_KEY = "writeKey", "serverKey", "signature", "managementKey"
_SECURITY: Mapping[str, Schema] = {
    WRITE_KEY: {"type": "http", "scheme": "basic", "description": "User name: a write key of the source; no password."},
    SERVER_KEY: {"type": "http", "scheme": "basic", "description": "User name: the source's server key."},
    SIGNATURE: {
        "type": "apiKey",
        "in": "header",
        "name": "webhook-signature",
        "description": "Standard Webhooks: HMAC-SHA256 with the endpoint's secret over webhook-id, webhook-timestamp and body.",
    },
    MANAGEMENT_KEY: {
        "type": "http",
        "scheme": "bearer",
        "description": "The endpoint's management key, or a token of the issuer.",
    },
}
_ERROR: Schema = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {
        "code": {"type": "string", "description": "snake_case reason, see errors.md"},
        "message": {"type": "string"},
        "field": {"type": "string", "description": "what is at fault"},
    },
}


def ref(name: str) -> Schema:
    """A schema of some table's `schemas`."""
    return {"$ref": f"#/components/schemas/{name}"}


def obj(required: Sequence[str] = (), /, **properties: Schema) -> Schema:
    """An object with these properties, perhaps others."""
    return {"type": "object", "properties": properties} | ({"required": list(required)} if required else {})


def arr(items: Schema, most: int = 0) -> Schema:
    """A list of these, at most so many."""
    return {"type": "array", "items": items} | ({"maxItems": most} if most else {})


def text(description: str = "", **more: Any) -> Schema:
    """A string."""
    return {"type": "string"} | ({"description": description} if description else {}) | more


@dataclass(frozen=True)
class Reply:
    """An answer: what it means and what its body is; without bodies it has none."""

    meaning: str
    bodies: Bodies = field(default_factory=lambda: {JSON: ref("Error")})


@dataclass(frozen=True)
class Example:
    """A request and its answer, which a contract test sends and compares. `answer` None: whatever the schema allows.

    A body that is a string goes as it is, anything else as JSON.
    """

    name: str
    body: Any = None
    answer: Any = None
    status: int = 200
    media: str = JSON
    # Whether all of the body is as the schema wants it.
    sound: bool = True
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    summary: str
    replies: Mapping[int, Reply]
    description: str = ""
    security: str = ""
    # OpenAPI's parameter objects.
    parameters: Sequence[Schema] = ()
    takes: Bodies = field(default_factory=dict)
    examples: Sequence[Example] = ()
    # Another path that answers just so.
    same_as: str = ""


@dataclass(frozen=True)
class Described:
    """The table of one module of doors."""

    operations: Mapping[tuple[str, str], Operation]
    schemas: Mapping[str, Schema] = field(default_factory=dict)


def parameter(name: str, place: str, schema: Schema, description: str = "", *, required: bool = False) -> Schema:
    """A parameter in "path", "query" or "header"; one of the path is always required."""
    said = {"description": description} if description else {}
    return {"name": name, "in": place, "required": required or place == "path", "schema": schema} | said


BAD_REQUEST = Reply("An unreadable body or one past a limit; the field is named.")
UNAUTHORIZED = Reply("Unknown key, or a signature that does not fit.")
NOT_FOUND = Reply("No such thing.")
UNAVAILABLE = Reply("Not taken; send it again after Retry-After seconds.")
TOO_SLOW = Reply("The body did not end in time; nothing was taken.")
# What any door may answer to a request that it cannot take.
REFUSALS: Mapping[int, Reply] = {400: BAD_REQUEST, 401: UNAUTHORIZED, 503: UNAVAILABLE}


def tables() -> list[Described]:
    """The tables of all modules of doors, by module."""
    from services.touchpoints import web

    found = []
    for module in sorted(m.name for m in pkgutil.iter_modules(web.__path__)):
        table = getattr(importlib.import_module(f"{web.__name__}.{module}"), "DESCRIBED", None)
        if isinstance(table, Described):
            found.append(table)
    return found


def operations() -> dict[tuple[str, str], Operation]:
    """(method, path) → what is said of it, over all tables."""
    return {key: operation for table in tables() for key, operation in table.operations.items()}


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of all public doors."""
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in operations().items():
        paths.setdefault(path, {})[method.lower()] = _operation(operation)
    schemas: dict[str, Schema] = {"Error": _ERROR}
    for table in tables():
        schemas |= table.schemas
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Troika touchpoints",
            "version": "v1",
            "description": "Made from the tables beside the doors (services/touchpoints/web) by docs/generate.py.",
        },
        "paths": {path: paths[path] for path in sorted(paths)},
        "components": {"securitySchemes": dict(_SECURITY), "schemas": {name: schemas[name] for name in sorted(schemas)}},
    }


def _operation(said: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {"summary": said.summary}
    if said.description:
        made["description"] = said.description
    if said.security:
        made["security"] = [{said.security: []}]
    if said.parameters:
        made["parameters"] = [_with_examples(p, said.examples) for p in said.parameters]
    if said.takes:
        content = {
            media: {"schema": schema}
            | _bodies({e.name: e.body for e in said.examples if e.media == media and e.body is not None})
            for media, schema in said.takes.items()
        }
        made["requestBody"] = {"required": True, "content": content}
    # Whoever takes a body waits for it, but not for ever.
    replies = {**said.replies, **({408: TOO_SLOW} if said.takes else {})}
    made["responses"] = {
        str(status): {"description": reply.meaning} | _content(reply, [e for e in said.examples if e.status == status])
        for status, reply in sorted(replies.items())
    }
    if said.same_as:
        made["x-same-as"] = said.same_as
    return made


def _content(reply: Reply, examples: Sequence[Example]) -> dict[str, Any]:
    if not reply.bodies:
        return {}
    first = next(iter(reply.bodies))
    told = _bodies({e.name: e.answer for e in examples if e.answer is not None})
    return {"content": {m: {"schema": s} | (told if m == first else {}) for m, s in reply.bodies.items()}}


def _bodies(named: Mapping[str, Any]) -> dict[str, Any]:
    return {"examples": {name: {"value": value} for name, value in named.items()}} if named else {}


def _with_examples(said: Schema, examples: Sequence[Example]) -> Schema:
    place = {"path": "path", "query": "query", "header": "headers"}[said["in"]]
    given = next((value for e in examples if (value := getattr(e, place).get(said["name"])) is not None), None)
    return said if given is None else {**said, "example": given}
