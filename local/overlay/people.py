"""The persons of the overlay: one per contact, with a household, a name, a phone, a home city, and a side of the campaign."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from local.data.bank_marketing import Contacts
from local.overlay.identifiers import Ints, distinct, draw_mobiles, id_cards
from local.overlay.names import Names, draw_names
from local.overlay.places import CITIES
from local.overlay.rates import OverlayRates
from local.overlay.times import CAMPAIGN_START, DAY, NOW

Bools = npt.NDArray[np.bool_]

PERSONS_PER_DEALER: Final = 800  # keeps an advisor's phone on some dozens of files whatever the size of the overlay
MOST_DEALERS: Final = 40
MOST_ADVISORS: Final = 3
_THREE: Final = 1 / 3  # of the households; the others hold two


@dataclass(frozen=True)
class People:
    """Columns over persons 0..n-1, except `advisor_phones`: the staff phones of each dealer, absent ones 0."""

    row: Ints  # the contact in the bank's file
    past: Bools
    contacted_at: Ints  # seconds since 1970; when the campaign reaches or reached the person
    female: Bools
    names: Names
    mobile: Ints
    id_card: npt.NDArray[np.bytes_]  # empty where the person shows none
    birthday: Ints  # days since 1970
    city: Ints
    household: Ints  # same number = same household
    relative: Ints  # another person of the household, -1 if alone
    advisor_phones: Ints  # shape (dealers, MOST_ADVISORS)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def dealers(self) -> int:
        """How many dealers the network has; dealer d serves city d modulo `cities`."""
        return len(self.advisor_phones)

    @property
    def cities(self) -> int:
        """How many of `CITIES` have a dealer; nobody lives elsewhere."""
        return min(len(CITIES), self.dealers)

    def staff_phones(self, dealer: int) -> tuple[int, ...]:
        """The advisors' numbers of one dealer, one to three."""
        return tuple(phone for phone in self.advisor_phones[dealer].tolist() if phone)


def draw_people(rng: np.random.Generator, contacts: Contacts, size: int, rates: OverlayRates) -> People:
    """Make `size` persons; no draw looks at an answer, so whatever is made cannot know one."""
    row, past = _contacts(rng, len(contacts), size, rates)
    dealers = int(np.clip(size // PERSONS_PER_DEALER, 2, MOST_DEALERS))
    household, relative = _households(rng, size, rates)
    head = _first_of_each(household)
    city = _cities(rng, size, min(len(CITIES), dealers))[head]
    female = rng.random(size) < 0.5
    names = draw_names(rng, female)
    named_after_head = rng.random(size) < rates.same_surname
    names = Names(np.where(named_after_head, names.surname[head], names.surname), names.given)
    phones = draw_mobiles(rng, size + dealers * MOST_ADVISORS)
    advisors = phones[size:].reshape(dealers, MOST_ADVISORS).copy()
    advisors[np.arange(MOST_ADVISORS) > rng.integers(0, MOST_ADVISORS, dealers)[:, None]] = 0
    age = np.array(contacts.columns["age"], dtype=np.int64)[row]
    shows_card = rng.random(size) < rates.id_card
    birthday = NOW // DAY - (age * 365.25).astype(np.int64) - rng.integers(1, 365, size)
    cards = np.where(shows_card, _id_cards(rng, birthday, female, city), b"")
    contacted_at = rng.integers(CAMPAIGN_START + 1, NOW, size)
    return People(row, past, contacted_at, female, names, phones[:size], cards, birthday, city, household, relative, advisors)


def _contacts(rng: np.random.Generator, rows: int, size: int, rates: OverlayRates) -> tuple[Ints, Bools]:
    """Pick contacts and their side; copies of one contact share a side, or its answer would leak from past to new."""
    past_row = rng.permutation(rows) < round(rates.past * rows)
    row = rng.permutation(rows)[:size] if size <= rows else rng.integers(0, rows, size)
    return row, past_row[row]


def _households(rng: np.random.Generator, size: int, rates: OverlayRates) -> tuple[Ints, Ints]:
    """Household numbers and, for each person, the next one round the table of the household."""
    order = rng.permutation(size)
    members = np.where(rng.random(size) < _THREE, 3, 2)
    living_together = members[: np.searchsorted(np.cumsum(members), rates.household * size)]
    seats = np.repeat(np.arange(len(living_together)), living_together)
    household = np.empty(size, dtype=np.int64)
    household[order[: len(seats)]] = seats
    alone = order[len(seats) :]
    household[alone] = len(living_together) + np.arange(len(alone))
    relative = np.full(size, -1, dtype=np.int64)
    begin = np.cumsum(living_together) - living_together
    seat = np.arange(len(seats)) - begin[seats]
    relative[order[: len(seats)]] = order[begin[seats] + (seat + 1) % living_together[seats]]
    return household, relative


def _first_of_each(household: Ints) -> Ints:
    _, first, inverse = np.unique(household, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)


def _cities(rng: np.random.Generator, size: int, cities: int) -> Ints:
    weights = np.array([city.weight for city in CITIES[:cities]])
    return rng.choice(cities, size, p=weights / weights.sum()).astype(np.int64)


def _id_cards(rng: np.random.Generator, birthday: Ints, female: Bools, city: Ints) -> npt.NDArray[np.bytes_]:
    district = np.array([place.district for place in CITIES], dtype=np.int64)[city]
    fixed = (district * 100_000 + birthday) * 1000 + ~female

    def draw(at: Ints) -> Ints:
        return fixed[at] + 2 * rng.integers(0, 500, len(at))

    serial = distinct(draw, len(birthday)) % 1000
    return id_cards(district, birthday.astype("datetime64[D]"), serial)
