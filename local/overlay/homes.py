"""Where households live, and what of it, and of birthdays, stands on each record: columns beside the plan's."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from local.overlay.identifiers import Ints, distinct
from local.overlay.people import Bools, People
from local.overlay.places import CITIES
from local.overlay.plan import FIRST_DEALER, Plan, Source
from local.overlay.rates import OverlayRates

_ROADS: Final = (
    *("人民路", "解放路", "中山路", "建设路", "和平路", "新华路", "文化路", "长江路", "黄河路", "胜利路", "光明路"),
    *("公园路", "迎宾大道", "科技园路", "滨江大道", "学府路", "体育路", "友谊路", "朝阳街", "花园街", "三里街"),
    *("五一路", "七星路", "八一路"),
)
_DISTRICTS: Final = ("和平区", "新华区", "朝阳区", "城北区", "南湖区", "东湖区", "高新区", "开发区")
# By the first character of a plate; cities that are provinces themselves are left out.
_PROVINCES: Final = {
    "粤": "广东省",
    "川": "四川省",
    "浙": "浙江省",
    "黑": "黑龙江省",
    "鄂": "湖北省",
    "苏": "江苏省",
    "陕": "陕西省",
    "豫": "河南省",
    "湘": "湖南省",
    "鲁": "山东省",
    "辽": "辽宁省",
    "闽": "福建省",
    "皖": "安徽省",
    "云": "云南省",
}
_NUMERALS: Final = "零一二三四五六七八九"
_FULL_WIDTH: Final = str.maketrans("0123456789", "０１２３４５６７８９")
# Road, house, building, unit, floor, flat: how many of each there are in a city.
_SHAPE: Final = (len(_DISTRICTS), len(_ROADS), 300, 12, 4, 18, 4)
_DWELLINGS: Final = int(np.prod(_SHAPE))


class Address(IntEnum):
    """Which address stands on a record."""

    ABSENT = 0
    OWN = 1
    FORMER = 2
    HOUSE_ONLY = 3
    DEALERS = 4


class Birth(IntEnum):
    """Which date of birth stands on a record."""

    ABSENT = 0
    OWN = 1
    WRONG = 2


@dataclass(frozen=True)
class Homes:
    """`dwelling` and `former` per household, `of_dealer` per dealer: codes of addresses; the others per record of the plan."""

    dwelling: Ints
    former: Ints
    of_dealer: Ints
    address: npt.NDArray[np.int8]  # Address
    birth: npt.NDArray[np.int8]  # Birth
    loose: Bools  # the address is written in another way


def draw_homes(rng: np.random.Generator, people: People, plan: Plan, rates: OverlayRates) -> Homes:
    """Every household has a dwelling of its own and one that it left; dealers stand where nobody lives."""
    households = int(people.household.max()) + 1
    codes = distinct(lambda at: rng.integers(0, _DWELLINGS, len(at)), 2 * households + people.dealers)
    size, dealer = len(plan), plan.at_dealer
    asked = np.where(dealer, rates.address, np.where(plan.source == Source.CALL_CENTER, rates.address_by_phone, 0.0))
    known = rng.random(size) < asked
    toss = rng.random(size)
    edges = np.cumsum([rates.address_former, rates.address_house_only, rates.address_of_dealer])
    # What does not differ is the person's own; a dealer's own address is what its clerks type.
    which = np.array([Address.FORMER, Address.HOUSE_ONLY, Address.DEALERS, Address.OWN])[
        np.searchsorted(edges, toss, side="right")
    ]
    which = np.where((which == Address.DEALERS) & ~dealer, Address.OWN, which)
    told = rng.random(size) < np.where(dealer | (plan.source == Source.APP), rates.birth_date, 0.0)
    wrong = rng.random(size) < rates.birth_wrong
    return Homes(
        codes[:households],
        codes[households : 2 * households],
        codes[2 * households :],
        np.where(known, which, Address.ABSENT).astype(np.int8),
        np.where(told, np.where(wrong, Birth.WRONG, Birth.OWN), Birth.ABSENT).astype(np.int8),
        rng.random(size) < rates.address_format,
    )


def written(homes: Homes, people: People, row: int, source: int, person: int, salt: int) -> str:
    """The address on a record as its clerk wrote it; empty where there is none."""
    state = homes.address[row]
    if state == Address.ABSENT:
        return ""
    household, city = int(people.household[person]), int(people.city[person])
    code = int(homes.of_dealer[source - FIRST_DEALER]) if state == Address.DEALERS else 0
    if state != Address.DEALERS:
        code = int((homes.former if state == Address.FORMER else homes.dwelling)[household])
    return spelled(code, city, salt if homes.loose[row] else 0, house_only=state == Address.HOUSE_ONLY)


def spelled(code: int, city: int, salt: int, *, house_only: bool = False) -> str:
    """One of the ways to write a dwelling; salt 0 is the plain one. All ways mean the same door."""
    parts = []
    for size in _SHAPE:
        code, part = divmod(code, size)
        parts.append(part)
    district, road, house, building, unit, floor, flat = parts
    place = CITIES[city]
    head = f"{place.name}市{_DISTRICTS[district]}{_ROADS[road]}{house + 1}号"
    if house_only:
        return head
    room = f"{floor + 1}0{flat + 1}"
    words = ("栋", "号楼", "幢")[salt % 3]
    number = _numeral(building + 1) if salt // 3 % 4 == 1 else str(building + 1)
    text = f"{head}{number}{words}{unit + 1}单元{room}{'' if salt // 12 % 3 == 1 else '室'}"
    way = salt // 36 % 4
    if way == 1 and place.plate[0] in _PROVINCES:
        return _PROVINCES[place.plate[0]] + text
    if way == 2:
        return text.translate(_FULL_WIDTH)
    return f"{head} {text[len(head) :]}" if way == 3 else text


def _numeral(number: int) -> str:
    """1 to 12 in Chinese."""
    if number < 10:
        return _NUMERALS[number]
    return "十" + (_NUMERALS[number - 10] if number > 10 else "")
