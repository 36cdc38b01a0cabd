"""The files' tags and the added ones as one catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from services.tags.catalogue.checking import examine
from services.tags.catalogue.defining import define
from services.tags.catalogue.stored import Version
from services.tags.domain.catalogue import Catalogue, TagDefinition


@dataclass(frozen=True)
class Broken:
    """An added tag that the present files leave no room for, and why."""

    version: Version
    why: str


def defined(version: Version) -> tuple[TagDefinition | None, str]:
    """An added tag's definition; or None and why it is none (a language that has become narrower)."""
    definition, faults = define(version.kind, version.name, version.body)
    if definition is None:
        return None, "; ".join(fault.message for fault in faults if not fault.is_warning)
    return replace(definition, version=version.version), ""


def merge(files: Sequence[TagDefinition], added: Iterable[Version]) -> tuple[Catalogue, list[Broken]]:
    """All tags that can stand together; those of the files always do.

    A release may bring a tag of the same name, or take one away that an added tag is built on: then the added one is set aside,
    and all that is built on it, rather than that the service does not start.
    """
    left: dict[int, Version] = {}
    definitions: list[TagDefinition] = []
    broken: list[Broken] = []
    for version in added:
        if version.retired:
            continue
        definition, why = defined(version)
        if definition is None:
            broken.append(Broken(version, why))
        else:
            definitions.append(definition)
            left[id(definition)] = version
    while True:
        wrong = {
            id(found.definition): found.fault.message
            for found in examine([*files, *definitions])
            if not found.fault.is_warning and id(found.definition) in left
        }
        if not wrong:
            return Catalogue([*files, *definitions]), broken
        broken += [Broken(left[key], why) for key, why in wrong.items()]
        definitions = [definition for definition in definitions if id(definition) not in wrong]
