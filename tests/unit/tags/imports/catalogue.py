"""A small catalogue of what partners deliver, and files about it."""

from __future__ import annotations

import io
from collections.abc import Sequence

from services.tags.catalogue import yaml_files as catalogues
from services.tags.imports import mapping, reading
from services.tags.imports.mapping import FileMapping
from services.tags.imports.reading import Row

TEXT = """
person:
  income_band: {type: category, description: "Band.", import: [ours, acme, bravo], conflict: newest}
  household_size: {type: number, description: "Heads.", import: [ours, acme, bravo], conflict: highest_confidence}
  car_loan: {type: boolean, description: "Loan.", import: [ours, acme, bravo], conflict: partner_order}
  hobbies: {type: set, description: "Hobbies.", import: [ours, acme, bravo], conflict: keep_ours}
  moved_on: {type: time, description: "Moved.", import: [acme], retention_days: 30}
  remark: {type: text, description: "Remark.", import: [acme]}
  wealthy: {type: boolean, description: "Well off.", expression: "income_band = 'high'"}
vehicle:
  insured_until: {type: time, description: "Insurance.", import: [acme]}
"""
CATALOGUE = catalogues.parse(TEXT)
MAPPING = """
partner: acme
match: {column: phone, kind: mobile}
time: {column: as_of, zone: Asia/Shanghai}
confidence: {column: sure}
tags:
  income_band: {column: income, values: {"1": low, "2": middle, "3": high}}
  household_size: heads
  car_loan: loan
  hobbies: {column: hobby, separator: ";"}
  moved_on: moved
  remark: remark
"""
HEAD = "phone,as_of,sure,income,heads,loan,hobby,moved,remark"
HASH = "ab" * 32


def plan(text: str = MAPPING) -> FileMapping:
    return mapping.parse(text, CATALOGUE)


def opened(content: str | bytes) -> io.BufferedReader:
    raw = content if isinstance(content, bytes) else content.encode()
    return io.BufferedReader(io.BytesIO(raw))  # type: ignore[arg-type]


def rows(content: str | bytes, text: str = MAPPING, after: int = 0, size: int = 2000) -> list[Row]:
    return [row for chunk in reading.chunks(opened(content), plan(text), after, size) for row in chunk.rows]


def csv(*lines: str, head: str = HEAD) -> str:
    return "\n".join([head, *lines]) + "\n"


def cells(found: Sequence[Row]) -> list[Sequence[object]]:
    return [list(row.cells) for row in found]
