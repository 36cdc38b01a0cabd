"""A journey as people write it: YAML in, a checked document out, and every mistake with its path and line.

YAML 1.2's core types only: `yes` stays a word and 09:30 stays a text. No anchors, so that a small file stays small.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from services.orchestrator.journeys.documents import Document, Fault

MOST_CHARACTERS = 100_000


class _Loader(yaml.SafeLoader):
    """SafeLoader with the types of YAML 1.2 and without anchors and repeated keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (as PyYAML has it)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not taken", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in keys[:number]:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is said twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("bool", r"^(?:true|false)$", list("tf")),
    ("int", r"^[-+]?[0-9]{1,18}$", list("-+0123456789")),
    ("float", r"^[-+]?[0-9]{1,18}\.[0-9]{1,18}$", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def read(text: str) -> tuple[Document | None, list[Fault]]:
    """The document, or what is wrong with it."""
    node, given, faults = _parsed(text)
    if faults:
        return None, faults
    try:
        return Document.model_validate(given), []
    except ValidationError as error:
        return None, [
            Fault(path(each["loc"]), line_of(node, each["loc"]), "INVALID_JOURNEY", each["msg"].removeprefix("Value error, "))
            for each in error.errors(include_url=False, include_input=False, include_context=False)
        ]


def _parsed(text: str) -> tuple[Any, Any, list[Fault]]:
    """(node, content) of YAML."""
    if len(text) > MOST_CHARACTERS:
        return None, None, [Fault("", 0, "TOO_LONG", f"at most {MOST_CHARACTERS} characters")]
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            given = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        return None, None, [Fault("", line, "YAML", error.problem or "not YAML")]
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError):
        return None, None, [Fault("", 0, "YAML", "not YAML")]
    if not isinstance(given, dict):
        return None, None, [Fault("", 1, "YAML", "a journey is a mapping: title, trigger, steps")]
    return node, given, []


def path(location: Sequence[int | str]) -> str:
    """A pydantic location as "steps[3].push.theme"; names of alternatives that the author did not write are left out."""
    written = [part for part in location if isinstance(part, int) or "[" not in part]
    found = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in written)
    return found.removeprefix(".")


def lines(text: str) -> Iterator[tuple[str, int]]:
    """(path, line) of each step of a text that was read without mistakes; for faults found later."""
    node: Any = yaml.compose(text, Loader=_Loader)
    count = len(next(value for key, value in node.value if key.value == "steps").value)
    yield from ((f"steps[{number}]", line_of(node, ("steps", number))) for number in range(count))


def line_of(node: Any, location: Sequence[int | str]) -> int:
    """The line of the innermost node on the way that exists."""
    for part in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        elif isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), node)
    return int(node.start_mark.line) + 1
