"""Reads YAML files of tags: what they define, and every mistake with its line and column.

    owner: crm             # of every tag in the file that names none
    person:
      app_opens:
        type: number
        …

The folder of a tag that names none is the file's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from services.tags.catalogue.checking import examine
from services.tags.catalogue.defining import SOURCES, define
from services.tags.catalogue.mistakes import Fault, Mistake, nearest
from services.tags.catalogue.places import Place, place_in, place_of
from services.tags.domain.catalogue import Catalogue, CatalogueError, Kind, TagDefinition

DEFAULT: Final = Path(__file__).parent / "definitions"
# libyaml's is some thirty times faster, and marks the same places.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KINDS: Final = {kind.name.lower(): kind for kind in Kind}
_HEAD: Final = ("owner", "folder")


@dataclass(frozen=True)
class Written:
    """A definition and where its parts stand."""

    definition: TagDefinition
    tag: str
    path: str
    text: str
    name: yaml.Node
    parts: Mapping[str, tuple[yaml.Node, yaml.Node]]

    def mistake(self, fault: Fault) -> Mistake:
        """A fault of this definition at its place."""
        return Mistake(
            _place(self.path, self.text, self.name, self.parts, fault), self.tag, fault.reason, fault.message, fault.is_warning
        )


def files_in(paths: Sequence[Path]) -> list[Path]:
    """The YAML files of files and folders, sorted within each folder."""
    return [file for path in paths for file in (sorted(path.rglob("*.yaml")) if path.is_dir() else [path])]


def load(path: Path = DEFAULT) -> Catalogue:
    """The catalogue of a file or folder. Raises CatalogueError with all mistakes."""
    return _catalogue(*read_files([path]))


def parse(text: str) -> Catalogue:
    """The catalogue of one YAML text. Raises CatalogueError with all mistakes."""
    return _catalogue(*read(text))


def read_files(paths: Sequence[Path]) -> tuple[list[Written], list[Mistake]]:
    """What files and folders define, and what is wrong with each file by itself."""
    written: list[Written] = []
    mistakes: list[Mistake] = []
    for file in files_in(paths):
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            mistakes.append(Mistake(Place(str(file), 1, 1), "", "UNREADABLE", f"cannot be read: {reason}"))
            continue
        more, wrong = read(text, str(file), file.stem)
        written += more
        mistakes += wrong
    return written, mistakes


def read(text: str, path: str = "", folder: str = "") -> tuple[list[Written], list[Mistake]]:
    """What one text defines, and what is wrong with it. `folder`: of tags that name none."""
    try:
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        lines = text.splitlines() or [""]
        place = Place(path, mark.line + 1, mark.column + 1) if mark else Place(path, 1, 1)
        if place.line > len(lines):
            place = Place(path, len(lines), len(lines[-1]) + 1)
        return [], [Mistake(place, "", "YAML", str(error.problem or error.context))]
    except yaml.YAMLError as error:
        return [], [Mistake(Place(path, 1, 1), "", "YAML", str(error).splitlines()[0])]
    if root is None:
        return [], []
    return _Reader(text, path, folder).read(root)


def all_mistakes(written: Sequence[Written], mistakes: Sequence[Mistake]) -> list[Mistake]:
    """Mistakes of each by itself, and of all together, in order of place."""
    by_identity = {id(each.definition): each for each in written}
    together = [
        by_identity[id(found.definition)].mistake(found.fault) for found in examine([each.definition for each in written])
    ]
    return sorted([*mistakes, *together], key=lambda mistake: mistake.place)


def _catalogue(written: Sequence[Written], mistakes: Sequence[Mistake]) -> Catalogue:
    errors = [mistake for mistake in all_mistakes(written, mistakes) if not mistake.is_warning]
    if errors:
        raise CatalogueError("\n".join(map(str, errors)))
    return Catalogue([each.definition for each in written])


class _Reader:
    """Reads one text."""

    def __init__(self, text: str, path: str, folder: str) -> None:
        self._text, self._path, self._head = text, path, {"folder": folder, "owner": ""}
        self._written: list[Written] = []
        self._mistakes: list[Mistake] = []

    def read(self, root: yaml.Node) -> tuple[list[Written], list[Mistake]]:
        """All of it."""
        sections = list(self._pairs(root, ""))
        for key, value in sections:
            if key.value in _HEAD and isinstance(value, yaml.ScalarNode):
                self._head[str(key.value)] = str(value.value)
        for key, value in sections:
            kind = _KINDS.get(str(key.value))
            if kind is not None:
                for name, body in self._pairs(value, ""):
                    self._tag(kind, name, body)
            elif key.value not in _HEAD:
                known = [*_KINDS, *_HEAD]
                self._wrong(key, "", "UNKNOWN_KEY", f"there is no entity kind {key.value}{nearest(str(key.value), known)}")
        return self._written, self._mistakes

    def _tag(self, kind: Kind, name: yaml.Node, node: yaml.Node) -> None:
        tag = f"{kind.name.lower()}.{name.value}"
        parts: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in self._pairs(node, tag):
            if key.value in parts:
                self._wrong(key, tag, "UNKNOWN_KEY", f"{key.value} stands here twice")
            parts[str(key.value)] = (key, value)
        if not isinstance(node, yaml.MappingNode):
            return
        body = {key: _plain(value) for key, (_, value) in parts.items()}
        head = {key: value for key, value in self._head.items() if value}
        definition, faults = define(kind, str(name.value), {**head, **body})
        for fault in faults:
            place = _place(self._path, self._text, name, parts, fault)
            self._mistakes.append(Mistake(place, tag, fault.reason, fault.message, fault.is_warning))
        if definition is not None:
            self._written.append(Written(definition, tag, self._path, self._text, name, parts))

    def _pairs(self, node: yaml.Node, tag: str) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    yield key, value
                else:
                    self._wrong(key, tag, "YAML", "a key is a word")
        else:
            self._wrong(node, tag, "YAML", "expected keys with values")

    def _wrong(self, node: yaml.Node, tag: str, reason: str, message: str) -> None:
        self._mistakes.append(Mistake(place_of(self._path, node), tag, reason, message))


def _plain(node: yaml.Node) -> Any:
    try:
        return yaml.SafeLoader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, TypeError):
        # A tag or a date that cannot be: of the wrong type for whoever looks.
        return None


def _place(path: str, text: str, name: yaml.Node, parts: Mapping[str, tuple[yaml.Node, yaml.Node]], fault: Fault) -> Place:
    if fault.key not in parts:
        return place_of(path, name)
    key, value = parts[fault.key]
    if fault.position and fault.key in SOURCES and isinstance(value, yaml.ScalarNode):
        return place_in(path, text, value, fault.position)
    return place_of(path, key if fault.reason == "UNKNOWN_KEY" else value)
