"""WeChat's own rules: error codes, life of an access token, what a template value may hold."""

import re
import secrets
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ERRORS = {
    -1: "system error",
    40001: "invalid credential, access_token is invalid or not latest",
    40002: "invalid grant_type",
    40003: "invalid openid",
    40013: "invalid appid",
    40033: "invalid charset. please check your request, if include \\uxxxx will create fail!",
    40037: "invalid template_id",
    40125: "invalid appsecret",
    41001: "access_token missing",
    41002: "appid missing",
    41004: "appsecret missing",
    42001: "access_token expired",
    43002: "require POST method",
    43004: "require subscribe",
    43101: "user refuse to accept the msg",
    44004: "empty content",
    45002: "content size out of limit",
    45009: "reach max api daily quota limit",
    45011: "api minute-quota reach limit, must slower, retry next minute",
    45015: "response out of time limit or subscription is canceled",
    45047: "out of response count limit",
    47001: "data format error",
    47003: "argument invalid!",
}

FORCED_PER_DAY = 20
FORCED_INTERVAL_SECONDS = 30.0
DAY_SECONDS = 86_400.0


class WechatError(Exception):
    """An answer with an errcode other than 0."""

    def __init__(self, errcode: int, detail: str = "") -> None:
        super().__init__(errcode, detail)
        self.errcode = errcode
        self.detail = detail

    def body(self) -> dict[str, Any]:
        rid = "-".join(uuid.uuid4().hex[i : i + 8] for i in (0, 8, 16))
        detail = f" {self.detail}" if self.detail else ""
        return {"errcode": self.errcode, "errmsg": f"{ERRORS[self.errcode]}{detail} rid: {rid}"}


@dataclass(slots=True)
class Token:
    """One access token; `expires_at` is monotonic time."""

    value: str
    appid: str
    expires_at: float
    revoked: bool = False


class TokenOffice:
    """Stable tokens: one stays until `overlap` seconds before its end; then both old and new are valid."""

    def __init__(self, lifetime: float, overlap: float) -> None:
        self._lifetime = lifetime
        self._overlap = overlap
        self._issued: dict[str, Token] = {}
        self._current: dict[str, Token] = {}
        self._forced: dict[str, deque[float]] = {}

    def issue(self, appid: str, *, force: bool) -> dict[str, Any]:
        """The answer of `stable_token`; forced again within 30 s it does not refresh, 45009 the 21st time in a day."""
        now = time.monotonic()
        token = self._current.get(appid)
        if force and token is not None and self._may_force(appid, now):
            token.revoked = True
        if token is None or token.revoked or now >= token.expires_at - self._overlap:
            token = Token(f"{len(self._issued)}_{secrets.token_urlsafe(120)}", appid, now + self._lifetime)
            self._issued[token.value] = self._current[appid] = token
        return {"access_token": token.value, "expires_in": int(token.expires_at - now)}

    def _may_force(self, appid: str, now: float) -> bool:
        forced = self._forced.setdefault(appid, deque(maxlen=FORCED_PER_DAY))
        if forced and now - forced[-1] < FORCED_INTERVAL_SECONDS:
            return False
        if len(forced) == FORCED_PER_DAY and now - forced[0] < DAY_SECONDS:
            raise WechatError(45009)
        forced.append(now)
        return True

    def appid_of(self, value: str | None) -> str:
        """Whose token this is; 41001, 40001 or 42001 when it opens nothing."""
        if not value:
            raise WechatError(41001)
        token = self._issued.get(value)
        if token is None or token.revoked:
            raise WechatError(40001)
        if time.monotonic() >= token.expires_at:
            raise WechatError(42001)
        return token.appid

    def expire_all(self) -> None:
        for token in self._current.values():
            token.expires_at = time.monotonic()

    def revoke_all(self) -> None:
        for token in self._current.values():
            token.revoked = True


ESCAPED = re.compile(rb"(?<!\\)(?:\\\\)*\\u[0-9a-fA-F]{4}")
"""A JSON escape of the form that 40033 forbids; an escaped backslash before a plain `u` is none."""

_CLOCK = r"\d{1,2}:\d{2}(:\d{2})?"
_DAY = r"\d{4}(年\d{1,2}月\d{1,2}日|[-/]\d{1,2}[-/]\d{1,2})"
VALUES = {
    kind: re.compile(pattern, re.DOTALL)
    for kind, pattern in {
        "thing": r".{1,20}",
        "number": r"[-+]?\d{1,32}(\.\d+)?",
        "letter": r"[A-Za-z]{1,32}",
        "symbol": r"[^\w\s]{1,5}",
        "character_string": r"[\x20-\x7e]{1,32}",
        "time": rf"({_DAY} ?)?{_CLOCK}(~({_DAY} ?)?{_CLOCK})?",
        "date": rf"{_DAY}( ?{_CLOCK})?(~{_DAY}( ?{_CLOCK})?)?",
        "amount": r"[^\w\s]?\d{1,10}(\.\d+)?元?",
        "phone_number": r"[-+()#*\d ]{1,17}",
        "car_number": r"\w{1,8}",
        "name": r"[A-Za-z .'-]{1,20}|.{1,10}",
        "phrase": r"[\u4e00-\u9fff]{1,5}",
    }.items()
}
"""What a value may be, by the kind that begins its key: `thing1` is a `thing`. Source: WeChat's table of values."""


def check_data(keys: list[str], data: object) -> None:
    """47003 naming the first value that is missing, empty or against the rule of its kind."""
    if not isinstance(data, Mapping):
        raise WechatError(47003, "data is empty")
    for key in keys or list(data):
        item = data.get(key)
        value = item.get("value") if isinstance(item, Mapping) else None
        if value is None or value == "":
            raise WechatError(47003, f"data.{key}.value is empty")
        rule = VALUES.get(key.rstrip("0123456789"))
        if rule is not None and rule.fullmatch(str(value)) is None:
            raise WechatError(47003, f"data.{key}.value invalid")
