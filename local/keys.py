"""Secrets of one run: made once, kept in a file that only its owner may read."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

# People who call; nobody approves a theme of their own, hence two.
OPERATOR, APPROVER = "operator", "approver"
PEOPLE = (OPERATOR, APPROVER)
# A ring is the first of several keys by number or name: JSON {"1": base64} or {"k1": base64}.
Encoding = Literal["base64", "hex", "numbered ring", "named ring"]


@dataclass(frozen=True)
class Keys:
    """Tokens by caller, and secret settings by service."""

    tokens: Mapping[str, str]
    settings: Mapping[str, Mapping[str, str]]

    def token_hashes(self) -> str:
        """The setting `caller_token_sha256`: JSON of caller to SHA-256 of its token."""
        return json.dumps({caller: sha256(token.encode()).hexdigest() for caller, token in self.tokens.items()})


def load_or_make(path: Path, services: tuple[str, ...], wanted: Mapping[str, Mapping[str, Encoding]]) -> Keys:
    """Reads the file and adds what is missing. `wanted`: service to its settings that are 32 random bytes."""
    stored = json.loads(path.read_text()) if path.exists() else {"tokens": {}, "settings": {}}
    for caller in (*services, *PEOPLE):
        stored["tokens"].setdefault(caller, secrets.token_urlsafe(32))
    for service, names in wanted.items():
        for name, encoding in names.items():
            stored["settings"].setdefault(service, {}).setdefault(name, _secret(encoding))
    scratch = path.with_suffix(".new")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(stored, file, indent=1)
    scratch.replace(path)
    return Keys(stored["tokens"], stored["settings"])


def _secret(encoding: Encoding) -> str:
    raw = secrets.token_bytes(32)
    if encoding == "hex":
        return raw.hex()
    text = base64.b64encode(raw).decode()
    if encoding == "base64":
        return text
    return json.dumps({"1" if encoding == "numbered ring" else "k1": text})
