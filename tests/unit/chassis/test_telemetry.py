"""Logs carry the trace and never the text of an exception."""

from __future__ import annotations

import logging
import sys

import orjson
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_tracer_provider

from chassis.telemetry import JsonFormatter, span, trace_headers

set_tracer_provider(TracerProvider())


def render(record: logging.LogRecord) -> dict[str, object]:
    line: dict[str, object] = orjson.loads(JsonFormatter("identity").format(record))
    return line


def test_an_exception_is_logged_by_type_and_place_without_its_text() -> None:
    try:
        raise ValueError("13800138000 张伟")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "batch failed", None, sys.exc_info())
    line = render(record)
    assert "ValueError" == line["error"]
    # Whole: three digits are in every thousandth moment.
    written = orjson.dumps(line).decode()
    assert "13800138000" not in written and "张伟" not in written


def test_a_log_line_inside_a_span_carries_its_trace_id() -> None:
    with span("work") as current:
        line = render(logging.LogRecord("x", logging.INFO, __file__, 1, "hello", None, None))
        assert f"{current.get_span_context().trace_id:032x}" == line["trace_id"]


def test_a_span_goes_on_with_the_first_carrier_and_links_the_others() -> None:
    carriers = []
    for _ in range(3):
        with span("producer"):
            carriers.append(trace_headers())
    with span("consumer", carriers=carriers) as current:
        assert carriers[0]["traceparent"].split("-")[1] == f"{current.get_span_context().trace_id:032x}"
        assert 2 == len(current.links)  # type: ignore[attr-defined]


def test_no_baggage_leaves_the_house() -> None:
    with span("x"):
        assert {"traceparent"} == set(trace_headers())
