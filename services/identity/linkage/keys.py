"""Which pairs are worth comparing: records that share a key which few others have (token blocking with block purging)."""

from __future__ import annotations

from services.identity.linkage.profile import Profile

# Names of columns that the engine adds to the prepared ones.
ROW, KEYS = "row_id", "block_keys"


def _one_key(profile: Profile, number: int, key: tuple[str, ...], records: str) -> str:
    lists = {name for name, kind in profile.columns.items() if str(kind).startswith("list")}
    source = f"select {ROW}, {', '.join(key)} from {records}"
    for name in (part for part in key if part in lists):
        kept = ", ".join(part for part in key if part != name)
        source = f"select {ROW}, {kept + ', ' if kept else ''}unnest({name}) as {name} from ({source})"
    parts = ", ".join(f"cast({part} as varchar)" for part in key)
    present = " and ".join(f"{part} is not null" for part in key)
    return f"select {ROW}, concat_ws('|', '{number}', {parts}) as {KEYS} from ({source}) where {present}"


def key_table(profile: Profile, records: str) -> str:
    """SQL: one row per record and key value, of all keys of the profile."""
    return " union all ".join(_one_key(profile, number, key, records) for number, key in enumerate(profile.keys))


def keyed_records(profile: Profile, records: str, keys: str) -> str:
    """SQL: the records with a list of those key values that at least two of them share and not more than the limit."""
    useful = f"select {KEYS} from {keys} group by {KEYS} having count(*) between 2 and {profile.key_limit}"
    listed = (
        f"select k.{ROW} as {ROW}, array_agg(k.{KEYS}) as {KEYS} "
        f"from {keys} as k join ({useful}) as u on k.{KEYS} = u.{KEYS} group by k.{ROW}"
    )
    return f"select r.*, l.{KEYS} from {records} as r left join ({listed}) as l on r.{ROW} = l.{ROW}"
