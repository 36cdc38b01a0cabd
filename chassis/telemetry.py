"""Logs, traces and metrics: JSON lines with trace ids, OpenTelemetry, Prometheus.

Without `OTEL_EXPORTER_OTLP_ENDPOINT` spans are never recorded (one dropped span per request or batch, ~5 µs), but
trace ids are still made and passed on, so that logs of one request can be joined.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import orjson
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind
from prometheus_client import Counter, Histogram

REQUESTS = Histogram("troika_requests_seconds", "Requests answered by a door.", ["door", "method", "code"])
MESSAGES = Counter("troika_messages_total", "Bus messages handled.", ["consumer", "outcome"])
DEAD_LETTERS = Counter("troika_dead_letters_total", "Facts put on the dead-letter stream.", ["consumer", "reason"])
RELAYED = Counter("troika_outbox_relayed_total", "Outbox rows published.", ["subject"])
BATCH_SECONDS = Histogram("troika_batch_seconds", "Time of one micro-batch, commit included.", ["consumer"])
AGE_SECONDS = Histogram(
    "troika_message_age_seconds",
    "How old the oldest message of a micro-batch was when the batch was handled; one observation per batch.",
    ["consumer"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
)

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object per line. Exceptions appear as type and place only: their text may quote somebody's data."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        """Renders the record with its `extra` fields and the trace it belongs to."""
        line: dict[str, object] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname,
            "service": self.service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = f"{context.trace_id:032x}"
        line |= {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["where"] = _where(record.exc_info[2])
        return orjson.dumps(line, default=str).decode()


def _where(traceback: object) -> list[str]:
    """File, line and function of the innermost frames, without values."""
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code  # type: ignore[attr-defined]
        frames.append(f"{os.path.basename(code.co_filename)}:{traceback.tb_lineno} {code.co_name}")  # type: ignore[attr-defined]
        traceback = traceback.tb_next  # type: ignore[attr-defined]
    return frames[-8:]


def configure(service: str, level: str) -> None:
    """Sets up logs to stderr and tracing for this process; call once, first thing."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # These log request lines and statements, hence addresses and values.
    for noisy in ("httpx", "httpcore", "sqlalchemy.engine", "uvicorn.access", "nats", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    exporting = bool(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))
    ratio = float(os.environ.get("OTEL_TRACES_SAMPLER_ARG", "1.0"))
    sampler = ParentBased(TraceIdRatioBased(ratio)) if exporting else ALWAYS_OFF
    provider = TracerProvider(sampler=sampler, resource=Resource.create({"service.name": f"troika-{service}"}))
    if exporting:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def shutdown() -> None:
    """Flushes spans that are still in memory."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()


_tracer = trace.get_tracer("troika")


@contextmanager
def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    carriers: Sequence[Mapping[str, str]] = (),
    attributes: Mapping[str, str | int] | None = None,
) -> Iterator[Span]:
    """A span; the first carrier (headers with `traceparent`) is its parent, further ones are links (a batch)."""
    contexts = [propagate.extract(c) for c in carriers if c.get("traceparent")]
    links = [Link(trace.get_current_span(c).get_span_context()) for c in contexts[1:64]]
    parent = contexts[0] if contexts else None
    with _tracer.start_as_current_span(name, parent, kind, attributes, links) as current:
        yield current


def trace_headers() -> dict[str, str]:
    """`traceparent` of the current span, to put on an outgoing message or request; empty outside of any."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    headers.pop("baggage", None)
    return headers
