"""The data set's clock: everything in it happened before one fixed now."""

from datetime import UTC, datetime
from typing import Final

import numpy as np
import numpy.typing as npt

DAY: Final = 86_400
NOW: Final = int(datetime(2026, 6, 30, 16, tzinfo=UTC).timestamp())  # midnight in China
CAMPAIGN_START: Final = NOW - 60 * DAY  # the past campaign's answers fall between here and now
RECORDS_END: Final = CAMPAIGN_START - 1  # every record was last touched before anybody was asked
FIRST_SALE: Final = NOW - 8 * 365 * DAY
RECORDS_START: Final = NOW - 3 * 365 * DAY  # systems keep refreshing files; none was left alone for longer


def stamps(seconds: npt.NDArray[np.int64]) -> list[str]:
    """Seconds since 1970 as RFC 3339 in UTC."""
    return [text + "Z" for text in np.datetime_as_string(seconds.astype("datetime64[s]")).tolist()]
