"""Chinese names: surnames by their share of the population, given names by fashion, and the homophones an input method offers.

Surname shares are rounded from the public counts of the Ministry of Public Security (王 7.25 %, 李 7.19 %, 张 6.83 %, the
first hundred names 85 %); the shape of given names follows its reports (few are one character long, 1 in 4,700 is 张伟).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

# Toneless pinyin, then the characters an input method offers for it: a homophone typo stays inside one row.
_SOUND_TABLE: Final = """
ai 艾爱蔼 an 安岸 ba 巴八 bai 白柏百 bao 包宝保 bin 斌彬滨宾 bing 冰兵炳 bo 波博勃伯 cai 蔡才彩财 cao 曹草操 chang 常昌畅
chao 超朝潮 chen 陈晨辰臣沉 cheng 程成诚城 chun 春纯淳 cong 聪从丛 cui 崔翠 dai 戴代黛 dan 丹旦 de 德得 deng 邓登等
ding 丁定顶 dong 董东冬栋 du 杜都渡 duan 段端 fan 范樊凡帆 fang 方芳房 fei 飞菲斐 fen 芬奋 feng 冯锋峰丰凤枫 fu 付傅福富
gang 刚钢岗 gao 高皋 gong 龚公功 gu 顾古谷 gui 桂贵 guang 光广 guo 郭国果 hai 海亥 han 韩涵寒汉晗 hang 航杭 hao 浩郝昊皓豪
he 何贺和禾鹤 hong 洪红宏鸿虹 hou 侯厚后 hu 胡湖虎 hua 华花桦 huan 欢焕 huang 黄皇煌 hui 辉慧惠晖会 ji 季吉纪继
jia 贾佳嘉家 jian 建健剑 jiang 蒋江姜 jiao 娇焦姣 jie 杰洁捷 jin 金锦进晋 jing 静晶敬景婧 jun 军俊君钧 juan 娟卷
kai 凯开恺 kang 康亢 ke 柯可科 kong 孔空 kun 昆坤 lai 赖来莱 lan 兰岚蓝 le 乐勒 lei 雷磊蕾 li 李丽黎利莉立力 lian 莲连
liang 梁亮良 liao 廖辽 lin 林琳霖 ling 玲凌灵 liu 刘柳 long 龙隆 lu 卢陆鲁路璐 luo 罗骆 lv 吕律 ma 马玛 man 曼满
mao 毛茂 mei 梅美玫 meng 孟梦蒙萌 miao 苗妙 min 敏民 ming 明铭鸣 mo 莫墨 na 娜那 ni 倪妮 ning 宁凝 niu 牛钮
ou 欧偶 pan 潘盘 peng 彭鹏朋 ping 平萍苹 qi 齐琪祺奇 qian 钱倩茜 qiang 强蔷 qiao 乔巧 qin 秦覃琴勤 qing 清青庆 qiu 邱秋丘
quan 泉全权 ran 然冉 ren 任仁 rong 荣蓉容 rui 瑞睿锐 shao 邵绍 shen 沈申 sheng 胜盛生 shi 石史施世诗 shu 舒淑书
shuang 双爽 si 思斯 song 宋松 su 苏素 sun 孙荪 tan 谭谈 tang 唐汤 tao 涛陶桃 tian 田天甜 ting 婷庭亭 tong 童彤桐 wan 万婉
wang 王汪旺 wei 伟魏韦威维炜薇 wen 文温雯 weng 翁嗡 wu 吴武伍 xi 希熙西溪 xia 夏霞 xiang 向祥翔香湘 xiao 萧肖晓小潇 xie 谢解
xin 鑫欣新辛心馨 xing 邢星兴 xiong 熊雄 xiu 秀修 xu 徐许旭 xuan 轩萱宣璇 xue 薛雪学 yan 阎严颜燕艳岩彦 yang 杨洋阳扬
yao 姚瑶耀 ye 叶业烨 yi 易怡艺一奕 yin 尹殷银音 ying 英莹颖应 yong 勇永咏 you 尤友佑 yu 余于俞宇玉雨语钰 yuan 袁元媛苑
yue 岳月悦越 yun 云芸运 ze 泽则 zeng 曾增 zhan 詹占展 zhang 张章 zhao 赵兆昭 zhe 哲喆 zhen 珍真振 zheng 郑正政
zhi 志智芝 zhong 钟忠中仲 zhou 周舟洲 zhu 朱祝竹 zi 子梓紫 zou 邹走
"""

# Percent of the population.
_SURNAME_TABLE: Final = """
王 7.25 李 7.19 张 6.83 刘 5.38 陈 4.53 杨 3.08 黄 2.23 赵 2.12 吴 2.05 周 2.02 徐 1.66 孙 1.52 马 1.29 朱 1.26 胡 1.20 郭 1.15
何 1.08 林 1.07 高 1.00 罗 0.95 郑 0.93 梁 0.85 谢 0.76 宋 0.70 唐 0.67 许 0.65 韩 0.61 邓 0.60 冯 0.60 曹 0.58 彭 0.57 曾 0.55
肖 0.53 田 0.51 董 0.50 潘 0.49 袁 0.48 蔡 0.47 蒋 0.47 余 0.44 于 0.43 杜 0.42 叶 0.42 程 0.41 魏 0.41 苏 0.40 吕 0.40 丁 0.39
任 0.38 卢 0.37 姚 0.36 沈 0.36 钟 0.35 姜 0.34 崔 0.34 谭 0.33 陆 0.33 范 0.32 汪 0.32 廖 0.31 石 0.31 金 0.30 韦 0.29 贾 0.29
夏 0.28 付 0.28 方 0.27 邹 0.27 熊 0.26 白 0.26 孟 0.25 秦 0.25 邱 0.25 侯 0.24 江 0.24 尹 0.23 薛 0.23 阎 0.22 段 0.22 雷 0.22
龙 0.21 黎 0.21 史 0.21 陶 0.20 贺 0.20 毛 0.20 郝 0.19 顾 0.19 龚 0.19 邵 0.18 万 0.18 覃 0.18 武 0.17 钱 0.17 戴 0.17 严 0.16
莫 0.16 孔 0.15 向 0.15 常 0.15 欧 0.15 易 0.12 温 0.12 施 0.12 康 0.12 樊 0.11 倪 0.10 翁 0.09 俞 0.09 章 0.09 鲁 0.08 詹 0.08
"""

# Given names that very many people share, which makes namesakes; and the characters the others are put together from.
# All rows run from frequent to rare.
_MALE_WHOLE: Final = (
    "伟 勇 军 磊 涛 杰 强 刚 平 辉 鹏 超 斌 波 浩 建国 建华 志强 建军 明 俊杰 国强 海涛 文杰 志伟 宇航 浩然 子轩 俊 凯"
)
_FEMALE_WHOLE: Final = (
    "芳 娜 敏 静 丽 秀英 艳 娟 霞 秀兰 燕 玲 桂英 丹 萍 红 玉兰 桂兰 婷婷 雪 婷 莹 欣怡 雨婷 诗涵 洁 倩 颖 梦瑶 琳"
)
_MALE_PARTS: Final = (
    "建志文国海俊明晓永子宇家春德天金立浩振世光新正泽庆成瑞伟荣凯思云",
    "明华军平杰伟强辉波林东峰斌鹏涛飞龙生祥亮勇成宇超旭轩浩然阳航鑫博健民良志云忠",
)
_FEMALE_PARTS: Final = (
    "晓秀雪海小玉春丽文佳美金雨梦思红桂欣慧淑诗云子燕翠月婉彩惠嘉",
    "英华芳兰梅玲丽红燕萍霞琴娟琳敏洁莹珍婷怡涵云慧雪静颖瑶芬艳欣莲蓉萱彤",
)
_WHOLE_SHARE: Final = 0.10  # puts 张伟 at about 1 in 4,700, as counted
_FLATNESS: Final = 10  # rank r weighs 1 / (r + 10): popular characters lead, but no name swallows the list


def _pairs(table: str) -> tuple[tuple[str, str], ...]:
    cells = table.split()
    return tuple(zip(cells[::2], cells[1::2], strict=True))


def _by_rank(names: Sequence[str]) -> npt.NDArray[np.float64]:
    weights = 1.0 / (np.arange(len(names)) + _FLATNESS)
    return np.asarray(weights / weights.sum())


def _given_names(whole: str, parts: tuple[str, str]) -> dict[str, float]:
    names = whole.split()
    shares = dict(zip(names, _WHOLE_SHARE * _by_rank(names), strict=True))
    first, second = parts
    for head, head_share in zip(first, _by_rank(first), strict=True):
        for tail, tail_share in zip(second, _by_rank(second), strict=True):
            name = head + tail
            shares[name] = shares.get(name, 0.0) + (1 - _WHOLE_SHARE) * head_share * tail_share
    return shares


SOUNDS: Final = dict(_pairs(_SOUND_TABLE))
SOUND_OF: Final = {char: sound for sound, chars in SOUNDS.items() for char in chars}
SURNAMES: Final = tuple(name for name, _ in _pairs(_SURNAME_TABLE))
_SURNAME_SHARE: Final = np.array([float(percent) for _, percent in _pairs(_SURNAME_TABLE)])
_MALE: Final = _given_names(_MALE_WHOLE, _MALE_PARTS)
_FEMALE: Final = _given_names(_FEMALE_WHOLE, _FEMALE_PARTS)
GIVEN: Final = (*_MALE, *_FEMALE)


@dataclass(frozen=True)
class Names:
    """One name per person, as indices into `SURNAMES` and `GIVEN`."""

    surname: npt.NDArray[np.int64]
    given: npt.NDArray[np.int64]

    def parts(self, person: int) -> tuple[str, str]:
        """Surname and given name of one person."""
        return SURNAMES[self.surname[person]], GIVEN[self.given[person]]


def _draw(rng: np.random.Generator, shares: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.int64]:
    edges = np.cumsum(shares)
    return np.asarray(np.searchsorted(edges, rng.random(size) * edges[-1], side="right").clip(max=len(shares) - 1))


def draw_names(rng: np.random.Generator, female: npt.NDArray[np.bool_]) -> Names:
    """Draw a name for each person; namesakes happen as often as the shares make them."""
    surname = _draw(rng, _SURNAME_SHARE, len(female))
    male_given = _draw(rng, np.array(list(_MALE.values())), len(female))
    female_given = _draw(rng, np.array(list(_FEMALE.values())), len(female))
    return Names(surname, np.where(female, len(_MALE) + female_given, male_given))


def homophone(name: str, salt: int) -> str:
    """Replace one character by another of the same sound, as a wrong pick in an input method does."""
    at = salt % len(name)
    row = SOUNDS[SOUND_OF[name[at]]]
    others = row.replace(name[at], "")
    return name[:at] + others[salt // len(name) % len(others)] + name[at + 1 :]


def romanised(name: str) -> str:
    """Toneless pinyin without spaces, as people put their name into an e-mail address."""
    return "".join(SOUND_OF[char] for char in name)
