"""Labelled texts from a file: CSV with a head, or JSON lines, of `text`, `topic`, `sentiment`.

A text on several topics has several lines. An empty topic, or none, is the sentiment of the text as a whole.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from services.scoring.domain import TrainingRefused
from services.scoring.text.reading import MAX_CHARACTERS

WHOLE = ""
_SENTIMENTS: Mapping[str, int] = {"-1": -1, "0": 0, "1": 1, "negative": -1, "neutral": 0, "positive": 1}


@dataclass(frozen=True)
class LabelledText:
    """A text and what it says of which topic: -1, 0 or 1; WHOLE is the text as a whole."""

    text: str
    opinions: Mapping[str, int]


def read_file(file: Path) -> list[LabelledText]:
    """Refuses a line that is not what it should be, by its number; never repeats what stands in it."""
    try:
        content = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TrainingRefused("BAD_FILE", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TrainingRefused("BAD_FILE", f"not UTF-8 at byte {error.start}") from error
    csv.field_size_limit(1 << 24)
    lines = _json_lines(content) if file.suffix in (".jsonl", ".ndjson", ".json") else _csv_lines(content)
    return gathered(_label(number, line) for number, line in lines)


def gathered(labels: Iterable[tuple[str, str, int]]) -> list[LabelledText]:
    """Labels (text, topic, sentiment) by text, in order of first appearance; the first of two that contradict holds."""
    texts: dict[str, dict[str, int]] = {}
    for text, topic, sentiment in labels:
        texts.setdefault(text, {}).setdefault(topic, sentiment)
    return [LabelledText(text, opinions) for text, opinions in texts.items()]


def _json_lines(content: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                yield number, orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise TrainingRefused("BAD_FILE", f"line {number} is not JSON") from error


def _csv_lines(content: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(content, newline=""))
    try:
        for line in reader:
            yield reader.line_num, line
    except csv.Error as error:
        raise TrainingRefused("BAD_FILE", f"line {reader.line_num + 1} is not CSV") from error


def _label(number: int, line: Any) -> tuple[str, str, int]:
    if not isinstance(line, dict) or not isinstance(line.get("text"), str):
        raise TrainingRefused("BAD_FILE", f"line {number} has no text")
    sentiment = _SENTIMENTS.get(str(line.get("sentiment")).strip().lower())
    if sentiment is None:
        raise TrainingRefused("BAD_FILE", f"line {number} has a sentiment other than -1, 0 and 1")
    if len(line["text"]) > MAX_CHARACTERS:
        raise TrainingRefused("TEXT_TOO_LONG", f"line {number} has more than {MAX_CHARACTERS:,} characters")
    topic = line.get("topic") or WHOLE
    if not isinstance(topic, str):
        raise TrainingRefused("BAD_FILE", f"line {number} has a topic that is no text")
    return line["text"], topic.strip(), sentiment
