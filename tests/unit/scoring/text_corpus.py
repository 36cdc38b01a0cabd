"""Made-up feedback on cars: a few ways to praise, to blame and to mention each of three topics."""

from __future__ import annotations

import random

from services.scoring.models.feedback_text.rows import WHOLE, LabelledText

SAID = {
    "油耗": {
        1: ("油耗很低真省油", "百公里油耗才六个太满意了", "特别省油"),
        -1: ("油耗太高了受不了", "这油耗高得离谱", "费油费得厉害"),
        0: ("油耗百公里八个左右", "我记了一下油耗是九", "油耗跟朋友的车一样"),
    },
    "内饰": {
        1: ("内饰做工精致漂亮", "内饰用料很好喜欢", "中控台很有质感"),
        -1: ("内饰塑料感强太廉价", "内饰异味很难闻", "中控台做工差"),
        0: ("内饰是黑色的", "内饰有两种颜色", "中控台是一块屏"),
    },
    "动力": {
        1: ("动力强劲推背感足", "起步快动力充沛很满意", "超车很轻松"),
        -1: ("动力太肉起步慢", "爬坡没劲动力不足很失望", "变速箱顿挫太差"),
        0: ("动力是两升自吸", "发动机是四缸的", "动力参数见官网"),
    },
}
AROUND = ("昨天开了一天", "朋友也有一台", "提车三个月", "跑了五千公里", "周末去了郊外")


def feedback(count: int, seed: int = 0) -> list[LabelledText]:
    """Texts on one or two topics, each different from the others."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        opinions = {topic: chance.choice((-1, 0, 1)) for topic in chance.sample(sorted(SAID), chance.choice((1, 1, 2)))}
        parts = [chance.choice(SAID[topic][sentiment]) for topic, sentiment in opinions.items()] + [chance.choice(AROUND)]
        chance.shuffle(parts)
        rows.append(LabelledText(f"{number}号：" + "，".join(parts) + "。", opinions))
    return rows


def reviews(count: int, seed: int = 0) -> list[LabelledText]:
    """Texts with nothing but a side."""
    chance = random.Random(seed)
    good, bad = ("很满意", "太好了", "喜欢", "推荐"), ("太差", "失望", "受不了", "不会再买")
    rows = []
    for number in range(count):
        side = chance.choice((-1, 1))
        words = chance.sample(good if side > 0 else bad, 2)
        rows.append(LabelledText(f"第{number}单，" + "，".join([chance.choice(AROUND), *words]), {WHOLE: side}))
    return rows
