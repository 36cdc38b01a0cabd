"""The cities of the overlay: where people live decides their plates, their id card's first six digits and their dealers."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class City:
    """A city with its plate prefix, the GB/T 2260 code of one of its districts, and its share of customers (relative)."""

    name: str
    plate: str
    district: int
    weight: float


CITIES: Final = (
    City("北京", "京A", 110105, 1.6),
    City("上海", "沪A", 310104, 1.6),
    City("广州", "粤A", 440106, 1.4),
    City("深圳", "粤B", 440305, 1.4),
    City("成都", "川A", 510104, 1.3),
    City("杭州", "浙A", 330106, 1.2),
    City("哈尔滨", "黑A", 230103, 1.2),
    City("武汉", "鄂A", 420106, 1.1),
    City("苏州", "苏E", 320502, 1.1),
    City("西安", "陕A", 610113, 1.0),
    City("天津", "津A", 120101, 1.0),
    City("南京", "苏A", 320102, 1.0),
    City("郑州", "豫A", 410105, 1.0),
    City("长沙", "湘A", 430103, 0.9),
    City("青岛", "鲁B", 370202, 0.9),
    City("沈阳", "辽A", 210102, 0.8),
    City("福州", "闽A", 350102, 0.8),
    City("合肥", "皖A", 340104, 0.8),
    City("昆明", "云A", 530102, 0.7),
    City("宁波", "浙B", 330203, 0.7),
)
