"""Tags that nothing may be inferred of or compared by: those that the catalogue calls sensitive, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chassis.errors import InvalidArgument
from services.scoring.domain import leaking_features
from services.scoring.tag_door import PersonTag


def sensitive_in(expressions: Iterable[str], catalogue: Mapping[str, PersonTag]) -> list[str]:
    """Sensitive tags that some predicates or names read, directly or through business tags."""
    business = {name.lower(): tag.expression for name, tag in catalogue.items() if tag.expression}
    return leaking_features(expressions, business, [name for name, tag in catalogue.items() if tag.sensitive])


def refuse_sensitive(field: str, expression: str, catalogue: Mapping[str, PersonTag]) -> None:
    """Raises InvalidArgument naming the field and the tags."""
    if found := sensitive_in([expression], catalogue):
        raise InvalidArgument(f"sensitive: {', '.join(found)}", reason="SENSITIVE_TAG", field=field)
