"""From the bytes of a request to published events: decoding with limits, normalising, the tracking plan, quarantine."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from xml.etree.ElementTree import Element

import orjson

from chassis.errors import InvalidArgument, PayloadTooLarge
from services.touchpoints.domain import adf, cloudevents, records, segment, sensors
from services.touchpoints.domain.observed import Invalid, Observed, Source
from services.touchpoints.plan import held
from services.touchpoints.plan.gate import Context, Gate
from services.touchpoints.publishing import Publisher
from services.touchpoints.sealer import Sealer

MOST_COMPRESSED = 1024 * 1024
MOST_DECOMPRESSED = 5 * 1024 * 1024
MOST_EVENTS = 2500
# Segment's own limit is 32 KB, RudderStack's SDK allows 4 MiB; a message of the bus holds half a megabyte.
MOST_EVENT_BYTES = 256 * 1024
DAY_US = 86_400 * 1_000_000


def decompress(body: bytes, encoding: str, most: int = MOST_DECOMPRESSED) -> bytes:
    """The body without its Content-Encoding, never more than `most` bytes; raises InvalidArgument."""
    # The magic number is trusted over the header: SDKs forget one or the other.
    if encoding in ("gzip", "x-gzip") or body[:2] == b"\x1f\x8b":
        wbits = 31
    elif encoding == "deflate":
        wbits = 15
    elif encoding in ("", "identity"):
        if len(body) > most:
            raise PayloadTooLarge(f"body is larger than {most} bytes", field="body")
        return body
    else:
        raise _invalid("content-encoding", "must be gzip, deflate or identity")
    inflater = zlib.decompressobj(wbits)
    try:
        plain = inflater.decompress(body, most + 1)
    except zlib.error as error:
        raise _invalid("body", "is not valid compressed data") from error
    if len(plain) > most:
        raise PayloadTooLarge(f"body is larger than {most} bytes decompressed", field="body")
    if not inflater.eof:
        raise _invalid("body", "compressed data ends too early")
    return plain


def _invalid(field: str, message: str) -> InvalidArgument:
    return InvalidArgument(f"{field} {message}", reason="INVALID_REQUEST", field=field)


@dataclass(frozen=True)
class Rejected:
    """A line that was not taken, counted from 1."""

    line: int
    error: Invalid


class Ingest:
    """The ways in for events and records."""

    def __init__(self, sealer: Sealer, publisher: Publisher, gate: Gate, oldest_event_days: int) -> None:
        self._sealer, self._publisher, self._gate = sealer, publisher, gate
        self._oldest_us = oldest_event_days * DAY_US

    async def batch(self, body: dict[str, Any], source: Source, implied_type: str) -> None:
        """A Segment batch, or a single call when `implied_type` is given; raises InvalidArgument, Unavailable."""
        messages = [body] if implied_type else body.get("batch")
        if not isinstance(messages, list):
            raise _invalid("batch", "must be a list")
        if len(messages) > MOST_EVENTS:
            raise PayloadTooLarge(f"batch has more than {MOST_EVENTS} events", field="batch")
        received_us = time.time_ns() // 1000
        arrival = segment.Arrival(source, implied_type, body.get("sentAt"), received_us, received_us - self._oldest_us)
        observe = [partial(_read, segment.observe, raw, index, arrival) for index, raw in enumerate(messages)]

        def context(index: int) -> Sequence[Any]:
            return index, implied_type, arrival.sent_at

        await self._take(source, messages.__getitem__, observe, received_us, held.SEGMENT, context)

    async def sensors(self, form: sensors.Form, raw: bytes, source: Source, *, keep: bool = True) -> list[Invalid]:
        """A request of Sensors Analytics' SDKs, kept whatever it holds: what is wrong with it is returned, and set aside.

        `raw` is what came; without `keep` it is only looked at. Raises Unavailable.
        """
        received_us = time.time_ns() // 1000
        arrival = sensors.Arrival(source, form.project, received_us, received_us - self._oldest_us)
        try:
            if form.encryption:
                raise Invalid("gzip", "ENCRYPTED_UNSUPPORTED", "is encrypted; switch the SDK's encryption off, TLS carries it")
            messages = sensors.decode(form.data, form.checksum, MOST_DECOMPRESSED)
            if len(messages) > MOST_EVENTS:
                raise Invalid("data_list", "TOO_MANY", f"has more than {MOST_EVENTS} events")
        except Invalid as error:
            if keep:
                aside = self._gate.aside([held.unreadable(source.name, held.BODY, raw, (), error)], received_us)
                await self._publisher.publish([], aside, self._sealer.key(), received_us)
            return [error]
        observe = [partial(_read, sensors.observe, message, arrival) for message in messages]
        return await self._take(
            source, messages.__getitem__, observe, received_us, held.SENSORS, lambda _: (form.project,), keep=keep
        )

    async def cloud_events(self, envelopes: Sequence[Any], source: Source) -> list[Invalid]:
        """CloudEvents; what is wrong with some is returned, and set aside. Raises PayloadTooLarge, Unavailable."""
        if len(envelopes) > MOST_EVENTS:
            raise PayloadTooLarge(f"batch has more than {MOST_EVENTS} events", field="body")
        received_us = time.time_ns() // 1000
        arrival = cloudevents.Arrival(source, received_us, received_us - self._oldest_us)
        observe = [partial(_read, cloudevents.observe, envelope, arrival) for envelope in envelopes]
        return await self._take(source, envelopes.__getitem__, observe, received_us, held.CLOUDEVENTS, lambda _: ())

    async def leads(self, leads: Sequence[Element], source: Source) -> list[Invalid]:
        """Leads in ADF; what is wrong with some is returned, and set aside. Raises PayloadTooLarge, Unavailable."""
        if len(leads) > adf.MOST_LEADS:
            raise PayloadTooLarge(f"body has more than {adf.MOST_LEADS} leads", field="body")
        received_us = time.time_ns() // 1000
        arrival = adf.Arrival(source, received_us, received_us - self._oldest_us)
        observe = [partial(_read, adf.observe, lead, arrival) for lead in leads]

        def written(index: int) -> bytes:
            return adf.written(leads[index])

        return await self._take(source, written, observe, received_us, held.ADF, lambda _: ())

    async def _take(
        self,
        source: Source,
        message: Callable[[int], Any],
        observe: Sequence[Callable[[], Observed]],
        received_us: int,
        door: str,
        context: Context,
        *,
        keep: bool = True,
    ) -> list[Invalid]:
        """Publishes what can be normalised and fits the plan, and sets the rest aside; returns what was wrong with that."""
        key = self._sealer.key()
        observed, aside = self._gate.sift(source.name, door, message, observe, context, count=keep)
        if keep and (observed or aside):
            await self._publisher.publish(observed, self._gate.aside(aside, received_us), key, received_us)
        return [one.error for one in aside]

    async def records(self, body: bytes, source: Source) -> tuple[int, list[Rejected]]:
        """Records as JSON lines: how many were taken and which were not; raises InvalidArgument, Unavailable."""
        lines = body.splitlines()
        if len(lines) > MOST_EVENTS:
            raise PayloadTooLarge(f"body has more than {MOST_EVENTS} lines", field="body")
        key, received_us = self._sealer.key(), time.time_ns() // 1000
        oldest_us = received_us - self._oldest_us
        observed: list[Observed] = []
        rejected: list[Rejected] = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                event = records.observe(_load(line), source, received_us, oldest_us)
                small(event)
            except Invalid as error:
                rejected.append(Rejected(number, error))
                continue
            if fault := self._gate.fault(event):
                rejected.append(Rejected(number, fault))
            else:
                observed.append(event)
        if observed:
            await self._publisher.publish(observed, [], key, received_us)
        return len(observed), rejected


def _read(observe: Callable[..., Observed], *arguments: Any) -> Observed:
    event = observe(*arguments)
    small(event)
    return event


def _load(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Invalid("", "NOT_JSON", "is not valid JSON") from error


def small(event: Observed) -> None:
    """Raises Invalid for an event that no message of the bus could hold."""
    if len(event.properties) + len(event.vehicle_properties) > MOST_EVENT_BYTES:
        raise Invalid("properties", "EVENT_TOO_LARGE", f"must have at most {MOST_EVENT_BYTES} bytes")
