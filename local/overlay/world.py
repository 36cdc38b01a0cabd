"""All that is drawn for one overlay, before anything is written down."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from local.data.bank_marketing import Contacts
from local.overlay.homes import Homes, draw_homes
from local.overlay.noise import add_noise
from local.overlay.people import Bools, People, draw_people
from local.overlay.plan import WECHAT_APPID, Plan, plan_records
from local.overlay.rates import OverlayRates
from local.overlay.vehicles import Vehicles, draw_vehicles

_HOMES: Final = 5


@dataclass(frozen=True)
class World:
    """Persons, cars and planned records as columns; the answers stay with the contacts, out of the drawing's sight."""

    seed: int
    contacts: Contacts
    people: People
    vehicles: Vehicles
    plan: Plan
    homes: Homes
    rates: OverlayRates

    @cached_property
    def answers(self) -> Bools:
        """The real answer of each person."""
        return np.array(self.contacts.answers, dtype=np.bool_)[self.people.row]

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Names of all sources, in the order of their index in the plan."""
        dealers = tuple(f"dealer:D{number:03d}" for number in range(1, self.people.dealers + 1))
        return ("call_center", "app", f"wechat:{WECHAT_APPID}", *dealers)


def draw_world(seed: int, contacts: Contacts, persons: int, rates: OverlayRates) -> World:
    """Draw everything; each part has a random stream of its own, so that a change in one leaves the draws of the others."""
    streams = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(4))
    people = draw_people(next(streams), contacts, persons, rates)
    vehicles = draw_vehicles(next(streams), people, rates)
    plan = plan_records(next(streams), people, vehicles, rates)
    plan = add_noise(next(streams), plan, people, vehicles, rates)
    # A stream apart from those above, and not the one of behaviour: what they draw stays as it was before there were homes.
    homes = draw_homes(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_HOMES,))), people, plan, rates)
    return World(seed, contacts, people, vehicles, plan, homes, rates)
