"""Requests captured on the wire."""

from __future__ import annotations

from pathlib import Path

CAPTURES = Path(__file__).parent / "captures"


def captured(name: str) -> tuple[str, str, dict[str, str], bytes]:
    """(method, path, headers, body) of a raw request."""
    head, _, body = (CAPTURES / name).read_bytes().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    method, path, _ = first.split(" ")
    return method, path, {k: v for k, v in headers.items() if k not in ("Host", "Content-Length", "Connection")}, body
