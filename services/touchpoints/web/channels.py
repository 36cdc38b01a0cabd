"""What the doors of channels say of themselves; they stand beside their channels (channels/opening.py)."""

from __future__ import annotations

from services.touchpoints.channels.call_list.results import CODES
from services.touchpoints.channels.push.tokens import ENVIRONMENTS, PROVIDERS
from services.touchpoints.channels.web.slots import BEACONS, CHANNELS, WORDS
from services.touchpoints.web.described import (
    BAD_REQUEST,
    JSON,
    NOT_FOUND,
    SERVER_KEY,
    SIGNATURE,
    UNAUTHORIZED,
    UNAVAILABLE,
    WRITE_KEY,
    Described,
    Example,
    Operation,
    Reply,
    arr,
    obj,
    parameter,
    ref,
    text,
)

_DONE = Reply("It is kept.", {})
_NULLABLE = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 0}
_NAME = parameter("name", "path", text(), "The endpoint's name.")
_KEY = parameter("writeKey", "query", text(), "The source's write key, where no header can be sent.")
_REJECTED = arr(obj(("index", "field", "reason"), index=_COUNT, field=text(), reason=text()))
_INSTANT = text(format="date-time")
_PUBLISHABLE = Reply("The key is publishable, and this takes the source's server key.")
_FORBIDDEN = Reply("The key is another source's, or publishable.")
_EMPTY = {"decision": None, "offer": None, "title": "", "body": "", "why": ""}
_DECISION = "decisions/" + "0" * 32

_TOKEN = {"application/json": ref("DeviceToken")}
_TOKEN_REPLIES = {204: _DONE, 400: BAD_REQUEST, 401: UNAUTHORIZED, 403: _PUBLISHABLE, 503: UNAVAILABLE}

DESCRIBED = Described(
    {
        ("POST", "/v1/push-tokens"): Operation(
            "A user's device can be reached by this token; whoever signs in last on a device has it.",
            _TOKEN_REPLIES,
            security=SERVER_KEY,
            takes=_TOKEN,
            examples=(Example("no token", {"userId": "88731", "provider": "jpush", "app": "main"}, status=400, sound=False),),
        ),
        ("DELETE", "/v1/push-tokens"): Operation(
            "The user signed out there.", _TOKEN_REPLIES, security=SERVER_KEY, takes=_TOKEN
        ),
        ("GET", "/v1/slots/{slot}"): Operation(
            "What to show in a slot, in time; empty when nothing may be shown or somebody is late.",
            {
                200: Reply("What to show.", {JSON: ref("Shown")}),
                400: BAD_REQUEST,
                401: UNAUTHORIZED,
                403: _PUBLISHABLE,
                503: UNAVAILABLE,
            },
            security=WRITE_KEY,
            parameters=(
                parameter("slot", "path", text(pattern="^[a-z][a-z0-9_]{0,62}$")),
                _KEY,
                parameter("userId", "query", text(maxLength=255), "Takes the server key; a page asks by anonymousId."),
                parameter("anonymousId", "query", text(maxLength=255)),
                parameter("language", "query", text(), "For example zh-CN; zh without any."),
                parameter("channel", "query", {"enum": list(CHANNELS)}),
                *(parameter(name, "query", {"enum": list(known)}) for name, _, known in WORDS),
                parameter("requestId", "query", text(maxLength=100), "The same request gets the same decision."),
            ),
            examples=(Example("nobody answers in time", answer=_EMPTY, path={"slot": "home_banner"}),),
        ),
        ("POST", "/v1/slots/beacons"): Operation(
            "What became of a decision on the screen; also by navigator.sendBeacon.",
            {204: _DONE, 400: BAD_REQUEST, 401: UNAUTHORIZED, 503: UNAVAILABLE},
            security=WRITE_KEY,
            takes={JSON: ref("Beacon")},
            examples=(Example("no such event", {"decision": _DECISION, "event": "stare"}, status=400, sound=False),),
        ),
        ("GET", "/v1/call-lists/{name}"): Operation(
            "Whom to call, the best first, and why; numbers are behind expiring links.",
            {
                200: Reply("The list.", {JSON: obj(("entries",), entries=arr(ref("CallEntry"))), "text/csv": text()}),
                400: BAD_REQUEST,
                401: UNAUTHORIZED,
                403: _FORBIDDEN,
                404: NOT_FOUND,
                503: UNAVAILABLE,
            },
            security=SERVER_KEY,
            parameters=(
                _NAME,
                parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 500}),
                parameter("format", "query", {"enum": ["json", "csv"]}),
            ),
            examples=(Example("no such list", status=404, path={"name": "nowhere"}),),
        ),
        ("POST", "/v1/call-lists/{name}/results"): Operation(
            "What came of calls; each result once, whatever is repeated.",
            {
                200: Reply("How many were taken.", {JSON: obj(("accepted", "rejected"), accepted=_COUNT, rejected=_REJECTED)}),
                400: BAD_REQUEST,
                401: UNAUTHORIZED,
                403: _FORBIDDEN,
                404: NOT_FOUND,
                503: UNAVAILABLE,
            },
            security=SERVER_KEY,
            parameters=(_NAME,),
            takes={JSON: obj(("results",), results=arr(ref("CallResult"), 500))},
        ),
        ("POST", "/sms/{name}/replies"): Operation(
            "Replies to short messages; R, T, TD or 退订 ends them before the door answers. Texts are not kept.",
            {
                200: Reply(
                    "How many were read, and how many wanted no more.",
                    {JSON: obj(("accepted", "opted_out", "rejected"), accepted=_COUNT, opted_out=_COUNT, rejected=_REJECTED)},
                ),
                400: BAD_REQUEST,
                401: UNAUTHORIZED,
                503: UNAVAILABLE,
            },
            security=SIGNATURE,
            parameters=(_NAME,),
            takes={JSON: obj(("replies",), replies=arr(ref("SmsReply"), 500))},
        ),
    },
    {
        "DeviceToken": obj(
            ("userId", "provider", "app", "token"),
            userId=text(maxLength=255),
            provider={"enum": list(PROVIDERS)},
            app=text(maxLength=255),
            environment={"enum": list(ENVIRONMENTS)},
            token=text(maxLength=4096),
            timestamp=_INSTANT,
        ),
        "Shown": obj(
            ("decision", "offer", "title", "body", "why"),
            decision=_NULLABLE,
            offer=_NULLABLE,
            title=text(),
            body=text(),
            why=text("pinned, ordered, drawn, neutral or none; empty when nobody answered."),
        ),
        "Beacon": obj(
            ("decision", "event"),
            writeKey=text("Where no header can be sent."),
            decision=text(pattern="^decisions/[0-9a-f]{32}$"),
            event={"enum": list(BEACONS)},
            userId=text(),
            anonymousId=text(),
            timestamp=_INSTANT,
        ),
        "CallEntry": obj(
            ("rank", "delivery_id", "customer_ref", "contact_url", "contact_token_expires"),
            rank=_COUNT,
            delivery_id=text("To be named in results."),
            customer_ref=text(),
            contact_url=text(format="uri"),
            contact_token_expires=_INSTANT,
            theme=text(),
            offer=text(),
            title=text(),
            body=text(),
            purpose=text(),
            score=_COUNT,
            reasons=arr(text()),
            decided_at=_INSTANT,
            expires_at=_INSTANT,
        ),
        "CallResult": obj(
            ("delivery_id", "code", "called_at"), delivery_id=text(), code={"enum": list(CODES)}, called_at=_INSTANT
        ),
        "SmsReply": obj(
            ("reply_id", "mobile", "text", "received_at"), reply_id=text(), mobile=text(), text=text(), received_at=_INSTANT
        ),
    },
)
