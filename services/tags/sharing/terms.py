"""What may be shared at all: tags of persons that are neither text nor sensitive, nor built on anything sensitive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chassis.errors import InvalidArgument
from services.tags.domain.catalogue import Catalogue, FromTags, Kind, Sensitivity, TagDefinition, TagType
from services.tags.domain.language import LanguageError
from services.tags.domain.names import names_in
from services.tags.domain.predicates import parse_predicate
from services.tags.domain.sharing import Form, Terms
from services.tags.domain.terms import Term


def check(catalogue: Catalogue, tags: Sequence[str], predicate: str, form: Form) -> tuple[list[TagDefinition], Term]:
    """The tags and the audience of a share. Raises InvalidArgument, which names the tag that may not be in it."""
    if not tags and (form is Form.COUNTS or not predicate.strip()):
        raise InvalidArgument("name the tags to share", reason="NOTHING_TO_SHARE", field="tags")
    definitions = [_shareable(catalogue, name, f"tags[{place}]") for place, name in enumerate(tags)]
    names = [definition.name for definition in definitions]
    if len(set(names)) < len(names):
        raise InvalidArgument("one of these tags is named twice", reason="TAG_NAMED_TWICE", field="tags")
    try:
        term = parse_predicate(predicate, Kind.PERSON, catalogue)
        # Whoever is in an audience has what defines it.
        named = names_in(predicate, Kind.PERSON) if predicate.strip() else set()
    except LanguageError as error:
        place = {"position": str(error.position)}
        raise InvalidArgument(str(error), reason=error.reason, field="predicate", metadata=place) from None
    _refuse_sensitive(catalogue, named, "predicate")
    return definitions, term


def recheck(catalogue: Catalogue, terms: Terms) -> tuple[list[TagDefinition], Term]:
    """The same for a share that was made before: the catalogue may have changed since."""
    return check(catalogue, terms.tags, terms.predicate, terms.form)


def _shareable(catalogue: Catalogue, name: str, field: str) -> TagDefinition:
    definition = catalogue.known_as(Kind.PERSON).get(name)
    if definition is None:
        raise InvalidArgument(f"persons have no tag {name}", reason="UNKNOWN_TAG", field=field)
    if definition.type is TagType.TEXT:
        raise InvalidArgument(f"{name} is free text, which is never shared", reason="TEXT_TAG", field=field)
    _refuse_sensitive(catalogue, [(Kind.PERSON, definition.name)], field)
    if definition.name in catalogue.views[Kind.PERSON]:
        raise InvalidArgument(
            f"{name} asks related entities and has no values of its own: use it in the predicate",
            reason="TAG_WITHOUT_VALUES",
            field=field,
        )
    return definition


def _refuse_sensitive(catalogue: Catalogue, named: Iterable[tuple[Kind, str]], field: str) -> None:
    """Raises InvalidArgument for a tag that is sensitive or says something of one that is, however its own class is set."""
    for kind, name in sorted(named):
        seen: set[tuple[Kind, str]] = set()
        waiting = [(kind, name)]
        while waiting:
            at_kind, at_name = waiting.pop()
            definition = catalogue.known_as(at_kind).get(at_name)
            if definition is None or (at_kind, definition.name) in seen:
                continue
            seen.add((at_kind, definition.name))
            if definition.sensitivity is Sensitivity.SENSITIVE:
                built_on = "" if definition.name == name else f", on which {name} is built,"
                raise InvalidArgument(
                    f"{definition.name}{built_on} is sensitive: it is never shared", reason="SENSITIVE_TAG", field=field
                )
            if isinstance(definition.origin, FromTags):
                waiting += sorted(names_in(definition.expression, at_kind))
