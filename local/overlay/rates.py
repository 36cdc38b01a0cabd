"""How often each thing happens in the overlay: the shape of the customer base, and the noise on its records."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Final

_SHAPE: Final = "shape"
_NOISE: Final = "noise"


def _shape(share: float, why: str) -> float:
    return field(default=share, metadata={"group": _SHAPE, "why": why})


def _noise(share: float, why: str) -> float:
    return field(default=share, metadata={"group": _NOISE, "why": why})


@dataclass(frozen=True)
class OverlayRates:
    """Shares between 0 and 1; a sentence on each says of what, and `rows` yields them for the README's table."""

    past: float = _shape(0.60, "Contacts whose real answer is already known: the past campaign.")
    household: float = _shape(0.40, "Persons that live with another person of the overlay (households of two or three).")
    same_surname: float = _shape(0.50, "Household members that bear the surname of its head; spouses in China keep theirs.")
    id_card: float = _shape(0.80, "Persons who show their resident id card where one is asked for.")
    car_owner: float = _shape(0.70, "Persons that own a car.")
    second_car: float = _shape(0.08, "Car owners that own two.")
    new_energy: float = _shape(0.25, "Cars that are electric or plug-in and bear an eight-character plate.")
    other_driver: float = _shape(0.15, "Cars of household members that another member drives.")
    sale_record: float = _shape(0.92, "Cars whose sale stands in the system of a dealer of the network.")
    service_elsewhere: float = _shape(0.25, "Cars that are serviced at another dealer than the selling one, with a file there.")
    duplicate: float = _shape(0.07, "Cars with a second customer file of the owner at the selling dealer.")
    driver_record: float = _shape(0.70, "Drivers of another member's car who have a file of their own at a dealer.")
    prospect: float = _shape(0.35, "Persons without a car who left their details at a dealer.")
    sale_id_card: float = _shape(0.65, "Sale files with the resident id card (an invoice or a loan needs it).")
    service_id_card: float = _shape(0.15, "Other dealer files with the resident id card.")
    dealer_email: float = _shape(0.05, "Dealer files with an e-mail address.")
    call_center_car: float = _shape(0.30, "Owners whose car the call centre has noted.")
    app: float = _shape(0.45, "Persons with an app account; its mobile is verified by SMS.")
    app_name: float = _shape(0.55, "App accounts with the real name; the others give none.")
    app_car: float = _shape(0.60, "App accounts of owners and drivers with the car bound to them.")
    app_id_card: float = _shape(0.35, "App accounts with a bound car that passed the real-name check for connected cars.")
    app_email: float = _shape(0.20, "App accounts with an e-mail address.")
    wechat: float = _shape(0.40, "Persons that follow the official account.")
    wechat_bound: float = _shape(0.60, "Followers with an app account who bound the two: both records bear the unionid.")
    wechat_unionid: float = _shape(0.85, "Other followers whose record bears a unionid nevertheless.")
    wechat_mobile: float = _shape(0.60, "Bound followers whose record has the mobile too; an unbound one always has it.")
    wechat_name: float = _shape(0.20, "Followers whose record has the real name.")
    address: float = _shape(0.70, "Dealer files with a postal address.")
    address_by_phone: float = _shape(0.20, "Call centre records with a postal address.")
    birth_date: float = _shape(0.40, "Dealer files and app accounts with the date of birth.")

    phone_format: float = _noise(0.25, "Phones written with spaces, dashes, +86, 0086, brackets or full-width digits.")
    phone_wrong: float = _noise(0.006, "Typed phones (dealer, call centre) with a digit wrong, missing or doubled.")
    phone_missing: float = _noise(0.010, "Dealer files without a phone.")
    phone_placeholder: float = _noise(0.006, "Dealer files with a test number or a word where the phone belongs.")
    family_phone: float = _noise(0.030, "Persons with a dealer file that bears a relative's mobile under their own name.")
    staff_phone: float = _noise(0.25, "Backed dealer files that bear the phone of the dealer's advisor, not the customer's.")
    name_homophone: float = _noise(0.015, "Names with another character of the same sound, as input methods offer.")
    name_space: float = _noise(0.020, "Names with a space or a full-width space inside or after.")
    name_missing: float = _noise(0.010, "Typed records (dealer, call centre) without a name.")
    name_placeholder: float = _noise(0.004, "Typed records with 测试, 无 or the like where the name belongs.")
    vin_wrong: float = _noise(0.006, "VINs with one character wrong (nine in ten of these fail the check digit).")
    vin_missing: float = _noise(0.05, "Dealer files on a car that give its plate only.")
    vin_format: float = _noise(0.03, "VINs in lower case or with a space inside.")
    plate_missing: float = _noise(0.12, "Records on a car without its plate.")
    plate_format: float = _noise(0.25, "Plates with a dot, a space or lower case.")
    relation_missing: float = _noise(0.10, "Dealer files on a car that do not say whether the customer owns or drives it.")
    shared_device: float = _noise(0.04, "App accounts of household members on the device of another member.")
    address_format: float = _noise(0.35, "Addresses in other words: 幢 for 栋, numerals, full width, province in front, no 室.")
    address_former: float = _noise(0.04, "Addresses that the household has left.")
    address_house_only: float = _noise(0.04, "Addresses that end with the house number, where hundreds may live.")
    address_of_dealer: float = _noise(0.01, "Dealer files with the dealer's own address.")
    birth_wrong: float = _noise(0.01, "Dates of birth with day and month swapped, or a day or year beside.")
    visit_elsewhere: float = _noise(0.08, "Service visits at the other dealer that has a file on the car.")
    lost: float = _noise(
        0.003, "Records with no usable link to the person's others: nobody can find them, so at most this share is left."
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            share = getattr(self, item.name)
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{item.name} must lie between 0 and 1, got {share}")

    def doubled(self) -> "OverlayRates":
        """Twice the noise (at most 1), the same customer base."""
        noise = (item.name for item in fields(self) if item.metadata["group"] == _NOISE)
        return replace(self, **{name: min(1.0, 2 * getattr(self, name)) for name in noise})

    def rows(self) -> Iterator[tuple[str, str, float, str]]:
        """Name, group (shape or noise), share and meaning of each rate."""
        for item in fields(self):
            yield item.name, item.metadata["group"], getattr(self, item.name), item.metadata["why"]
