"""YAML whose mistakes are told with line and column, in the error of whoever reads it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import yaml

from chassis.errors import InvalidArgument


class Reader:
    """Reads documents of one kind. `error` is what mistakes become, `field` the input that they are in."""

    def __init__(self, error: type[InvalidArgument], field: str) -> None:
        self._error, self._field = error, field

    def compose(self, text: str) -> yaml.Node | None:
        """The document with its places; None for an empty one."""
        try:
            node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
            raise self._error(f"{place}{error.problem}", field=self._field) from None
        except (yaml.YAMLError, RecursionError):
            raise self._error("not YAML", field=self._field) from None
        return node

    def pairs(self, node: yaml.Node | None, keys: Iterable[str] | None, where: str) -> dict[str, yaml.Node]:
        """The pairs of a mapping, each key once and, unless `keys` is None, among them."""
        if not isinstance(node, yaml.MappingNode):
            raise self.wrong(node, f"{where or f'the {self._field}'} is a mapping")
        known, found = None if keys is None else list(keys), dict[str, yaml.Node]()
        for key, value in node.value:
            name = str(key.value)
            if known is not None and name not in known:
                raise self.wrong(key, f"does not know {name}{near(name, known)}")
            if name in found:
                raise self.wrong(key, f"{name} stands twice")
            found[name] = value
        return found

    def text(self, node: yaml.Node | None, where: str, parent: yaml.Node | None = None) -> str:
        """A word that is not empty."""
        if not isinstance(node, yaml.ScalarNode) or not node.value:
            raise self.wrong(node or parent, f"needs {where}")
        return str(node.value)

    def value(self, node: yaml.Node) -> Any:
        """What stands there, as Python has it."""
        return yaml.SafeLoader("").construct_object(node, deep=True)

    def wrong(self, node: yaml.Node | None, message: str, reason: str | None = None) -> InvalidArgument:
        """The error of a mistake at a place."""
        mark = node.start_mark if node is not None else None
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return self._error(f"{place}{message}", reason=reason, field=self._field)


def near(name: str, known: Iterable[str]) -> str:
    """What may have been meant."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""
