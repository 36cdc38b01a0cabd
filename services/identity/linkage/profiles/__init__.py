"""The data sets that linkage knows, by name."""

from __future__ import annotations

from services.identity.linkage.profile import Profile
from services.identity.linkage.profiles import customers, febrl, historical_persons

PROFILES: dict[str, Profile] = {
    profile.name: profile for profile in (customers.PROFILE, febrl.ONE_FILE, febrl.TWO_FILES, historical_persons.PROFILE)
}
