"""Events have one list of names: the shipped tracking plan. Tags read from it, doors and feedback state into it."""

from __future__ import annotations

import importlib
import pkgutil

from services.orchestrator.offers import hearing
from services.tags.catalogue import vocabulary, yaml_files
from services.tags.domain.catalogue import FromEvents
from services.touchpoints import domain
from services.touchpoints.channels.web import slots
from services.touchpoints.domain import feedback, segment, sensors
from services.touchpoints.plan.shipped import shipped

PLANNED = {planned.name for planned in shipped()}


def test_every_event_that_tags_read_is_in_the_shipped_plan() -> None:
    written, mistakes = yaml_files.read_files(yaml_files.files_in([yaml_files.DEFAULT]))
    read = {
        name for each in written if isinstance(each.definition.origin, FromEvents) for name in each.definition.origin.events
    }
    assert [] == [mistake for mistake in mistakes if not mistake.is_warning]
    assert len(read) > 40
    assert set() == read - PLANNED
    assert PLANNED == set(vocabulary.load())


def test_every_event_that_the_house_itself_states_is_in_the_shipped_plan() -> None:
    dialects = [importlib.import_module(f"{domain.__name__}.{each.name}") for each in pkgutil.iter_modules(domain.__path__)]
    stated = {dialect.EVENT for dialect in dialects if hasattr(dialect, "EVENT")}
    stated |= {*segment._NAMES.values(), *sensors._NAMES.values(), *sensors._USUAL.values()}
    stated |= {meaning.event for meaning in feedback.MEANINGS.values() if meaning.event}
    assert set() == stated - PLANNED


def test_every_event_that_orchestrator_learns_from_is_in_the_shipped_plan() -> None:
    assert set() == {*hearing._OUTCOMES, *slots.BEACONS.values()} - PLANNED
