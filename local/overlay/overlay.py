"""The overlay as a whole: columns are drawn once, records and events are written on demand."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from local.data.bank_marketing import Contacts, load
from local.overlay import events, workshops
from local.overlay.plan import Source
from local.overlay.rates import OverlayRates
from local.overlay.truth import Truth
from local.overlay.world import draw_world
from local.overlay.writing import Writer


class Overlay:
    """`persons` made identities around real contacts; the same persons, seed, rates and contacts give the same bytes."""

    def __init__(self, persons: int, seed: int, rates: OverlayRates | None = None, contacts: Contacts | None = None) -> None:
        if persons < 1:
            raise ValueError(f"persons must be at least 1, got {persons}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.world = draw_world(seed, contacts or load(), persons, rates or OverlayRates())
        self._writer = Writer(self.world)

    def __len__(self) -> int:
        return len(self.world.people)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all sources as the doors know them."""
        return self.world.sources

    @property
    def event_sources(self) -> tuple[str, ...]:
        """Names of the sources that report behaviour."""
        return self.sources[Source.APP], self.sources[Source.WECHAT]

    def record_count(self, source: str) -> int:
        """How many records `records(source)` yields, known without writing them."""
        rows = self.world.plan.rows_of(self._index(source))
        return int(rows.stop - rows.start)

    def records(self, source: str) -> Iterator[dict[str, Any]]:
        """The records of one source in the shape of `POST /v1/records`, in order of `updated_at`."""
        return self._writer.records(self._index(source))

    def past_events(self) -> Iterator[dict[str, Any]]:
        """`Offer Answered` of the past campaign's persons (real answers), Segment track calls of the source call_center."""
        return events.past_events(self.world, self._writer)

    def behaviour_events(self, source: str) -> Iterator[dict[str, Any]]:
        """Made behaviour at one of `event_sources`, Segment track calls in order of time."""
        if source not in self.event_sources:
            raise ValueError(f"no behaviour is made at {source!r}, only at {self.event_sources}")
        return events.behaviour_events(self._index(source), self.behaviour, self.world, self._writer)

    def workshop_events(self, source: str) -> Iterator[dict[str, Any]]:
        """Made sales and service visits at a dealer, Segment track calls in order of time."""
        if not source.startswith("dealer:"):
            raise ValueError(f"no workshop is at {source!r}, only at dealers")
        return workshops.workshop_events(self._index(source), self.workshops, self.world, self._writer)

    @cached_property
    def workshops(self) -> workshops.Workshops:
        """Sales and service visits as columns, and which dealer sold and which serves each car."""
        return workshops.draw_workshops(self.world)

    @cached_property
    def behaviour(self) -> events.Behaviour:
        """The behaviour events as columns."""
        return events.draw_behaviour(self.world)

    @cached_property
    def truth(self) -> Truth:
        """What is really so."""
        return Truth(self.world, self._writer)

    def _index(self, source: str) -> int:
        try:
            return self.sources.index(source)
        except ValueError:
            raise ValueError(f"unknown source {source!r}, expected one of {self.sources}") from None
