"""Numbers that pass the checks of real ones: mobiles, VINs, plates, resident id cards, WeChat and device ids."""

from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_MOBILE_PREFIXES: Final = np.array(
    [*range(130, 140), *range(150, 154), *range(155, 160), 166, 173, *range(175, 179), *range(180, 190), 191, 193, 198, 199]
)
# Test numbers that clerks type when a form demands a phone; all but the last two would pass a validity check.
PLACEHOLDER_MOBILES: Final = (13800000000, 13800138000, 13888888888, 13900000000, 13912345678, 11111111111, 12345678901)

_VIN_VALUE: Final = np.zeros(128, dtype=np.int64)
for _char, _value in zip(
    "ABCDEFGHJKLMNPRSTUVWXYZ0123456789", [*range(1, 9), *range(1, 6), 7, 9, *range(2, 10), *range(10)], strict=True
):
    _VIN_VALUE[ord(_char)] = _value
_VIN_WEIGHT: Final = np.array([8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2])
_VIN_CHECK_AT: Final = 8
VIN_CHARS: Final = "ABCDEFGHJKLMNPRSTUVWXYZ0123456789"

_ID_WEIGHT: Final = np.array([pow(2, 17 - i, 11) for i in range(17)])
_ID_CHECK: Final = np.frombuffer(b"10X98765432", dtype=np.uint8)

_PLATE_CHARS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
# Pure electric cars bear D, A, B, C or E, plug-in hybrids F, G or H; D and F came first and still lead.
_ENERGY_LETTERS: Final = "DDDDDDAABCEFFFGH"
_BASE: Final = len(_PLATE_CHARS)
PLATE_CODES: Final = _BASE**5


def distinct(draw: Callable[[Ints], Ints], size: int, taken: Ints | None = None) -> Ints:
    """Values for positions 0..size-1 without repetition and outside `taken`; `draw` gets the positions that need a value."""
    values = draw(np.arange(size))
    while True:
        fresh = np.zeros(size, dtype=np.bool_)
        fresh[np.unique(values, return_index=True)[1]] = True
        if taken is not None:
            fresh &= ~np.isin(values, taken)
        again = np.flatnonzero(~fresh)
        if not again.size:
            return values
        values[again] = draw(again)


def draw_mobiles(rng: np.random.Generator, size: int) -> Ints:
    """Distinct eleven-digit mainland mobile numbers, none of them a placeholder."""

    def draw(at: Ints) -> Ints:
        return rng.choice(_MOBILE_PREFIXES, len(at)) * 10**8 + rng.integers(0, 10**8, len(at))

    return distinct(draw, size, np.array(PLACEHOLDER_MOBILES))


def vins(head: npt.NDArray[np.bytes_], year: npt.NDArray[np.bytes_], plant: bytes, serial: Ints) -> npt.NDArray[np.bytes_]:
    """Build VINs from WMI and VDS (8 bytes), model-year letter, plant letter and a serial below 10**6, with the check digit."""
    size = len(serial)
    chars = np.full((size, 17), ord("0"), dtype=np.uint8)
    chars[:, :8] = head.astype("S8").view(np.uint8).reshape(size, 8)
    chars[:, 9] = year.astype("S1").view(np.uint8)
    chars[:, 10] = plant[0]
    chars[:, 11:] += (serial[:, None] // 10 ** np.arange(5, -1, -1) % 10).astype(np.uint8)
    remainder = (_VIN_VALUE[chars] * _VIN_WEIGHT).sum(axis=1) % 11
    chars[:, _VIN_CHECK_AT] = np.where(remainder == 10, ord("X"), ord("0") + remainder)
    return np.frombuffer(chars.tobytes(), dtype="S17")


def vin_check_digit(vin: str) -> str:
    """The character that ISO 3779 (as used in China) wants at position nine of this VIN."""
    remainder = int((_VIN_VALUE[np.frombuffer(vin.encode(), dtype=np.uint8)] * _VIN_WEIGHT).sum()) % 11
    return "X" if remainder == 10 else str(remainder)


def id_cards(district: Ints, birthday: npt.NDArray[np.datetime64], serial: Ints) -> npt.NDArray[np.bytes_]:
    """Resident id card numbers (GB 11643) of a six-digit district, a day of birth and a serial below 1000 (odd for men)."""
    days = birthday.astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    year = months.astype("datetime64[Y]").astype(np.int64) + 1970
    month = months.astype(np.int64) % 12 + 1
    day = (days - months).astype(np.int64) + 1
    body = district * 10**11 + year * 10**7 + month * 10**5 + day * 10**3 + serial
    digits = body[:, None] // 10 ** np.arange(16, -1, -1) % 10
    check = _ID_CHECK[(digits * _ID_WEIGHT).sum(axis=1) % 11]
    chars = np.concatenate([(digits + ord("0")).astype(np.uint8), check[:, None]], axis=1)
    return np.frombuffer(chars.tobytes(), dtype="S18")


def plate(prefix: str, code: int, new_energy: bool) -> str:
    """A plate from a city's prefix and a code below `PLATE_CODES`; new-energy ones have eight characters."""
    if new_energy:
        letter = _ENERGY_LETTERS[code % len(_ENERGY_LETTERS)]
        second = _PLATE_CHARS[code // len(_ENERGY_LETTERS) % _BASE]
        return f"{prefix}{letter}{second}{code // (len(_ENERGY_LETTERS) * _BASE) % 10**4:04d}"
    tail = ""
    for _ in range(5):
        code, at = divmod(code, _BASE)
        tail += _PLATE_CHARS[at]
    return prefix + tail


def _digest(seed: int, kind: str, number: int, size: int) -> bytes:
    return blake2b(f"{seed}|{kind}|{number}".encode(), digest_size=size).digest()


def wechat_id(seed: int, account: str, number: int) -> str:
    """An openid or unionid: 28 characters, the first `o` and, as on real ones, the next five the same for all of an account."""
    own = urlsafe_b64encode(_digest(0, account, 0, 4))[:5]
    return "o" + (own + urlsafe_b64encode(_digest(seed, account, number, 18))).decode()[:27]


def device_id(seed: int, number: int) -> str:
    """A phone's vendor id: sixteen hex digits on Android, an upper-case UUID on iOS (a third of the phones)."""
    raw = _digest(seed, "device", number, 16)
    if raw[0] % 3:
        return raw[8:].hex()
    text = raw.hex().upper()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def account_number(seed: int, number: int) -> int:
    """A nine- or ten-digit account name as at QQ; different for different numbers (a step of a walk round a prime)."""
    return 10**8 + (number * 736_338_717 + seed * 911) % 3_999_999_979


def message_id(seed: int, kind: str, number: int) -> str:
    """The messageId of a made event: stable over runs of one seed, so a second import is recognised as the same."""
    return f"{kind}-{_digest(seed, kind, number, 16).hex()}"
