"""Keys as settings: 32 bytes in base64, alone or as a ring of several that have names or numbers."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

KEY_BYTES = 32
LARGEST_KEY_NUMBER = 255


def _key(secret: SecretStr) -> SecretStr:
    try:
        raw = base64.b64decode(secret.get_secret_value(), validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != KEY_BYTES:
        raise ValueError("must be 32 bytes in base64")
    return secret


def _json(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        # No cause: it would quote the keys.
        raise ValueError('must be JSON that names each key, as in {"1": base64}') from None


Key = Annotated[SecretStr, AfterValidator(_key)]
KeyNumber = Annotated[int, Field(ge=1, le=LARGEST_KEY_NUMBER)]
KeyId = Annotated[str, Field(min_length=1, max_length=64)]
# Read by us and not by pydantic-settings, whose errors would not name the variable.
NumberedKeys = Annotated[dict[KeyNumber, Key], NoDecode, BeforeValidator(_json)]
NamedKeys = Annotated[dict[KeyId, Key], NoDecode, BeforeValidator(_json)]


def key_bytes(secret: SecretStr) -> bytes:
    """The 32 bytes of a key setting."""
    return base64.b64decode(secret.get_secret_value())
