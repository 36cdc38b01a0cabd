"""All that the database knows of persons who are being decided for, in one question for all that wait: asked anew each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from chassis.consents import ALL_CHANNELS, OPT_OUT, SEPARATE, regime, uses
from chassis.db import Reader
from chassis.moments import to_us

PERSONALISATION: Final = "personalisation"
_ASK: Final = """
WITH RECURSIVE up (asked, id, steps) AS (
  SELECT id, id, 0 FROM unnest($1::bigint[]) AS id
  UNION ALL SELECT up.asked, a.survivor_id, up.steps + 1 FROM up JOIN person_alias a ON a.person_id = up.id
  WHERE a.survivor_id IS NOT NULL AND up.steps < 100
), present AS (
  SELECT DISTINCT ON (asked) asked, id AS root FROM up ORDER BY asked, steps DESC
), whole (root, id) AS (
  SELECT DISTINCT root, root FROM present
  UNION SELECT w.root, a.person_id FROM whole w JOIN person_alias a ON a.survivor_id = w.id
), theirs AS (
  SELECT w.root, c.anchor_id, c.person_id FROM whole w JOIN consent c ON c.person_id = w.id
  UNION SELECT w.root, o.anchor_id, o.person_id FROM whole w JOIN anchor_owner o ON o.person_id = w.id
), mine AS (
  SELECT DISTINCT t.root, t.anchor_id FROM theirs t LEFT JOIN anchor_owner o USING (anchor_id)
  JOIN whole w ON w.root = t.root AND w.id = coalesce(o.person_id, t.person_id)
), said AS (
  SELECT m.root, json_agg(json_build_array(c.anchor_id, c.purpose, c.channel, c.separate, c.withdrawn_us, c.given_us,
    c.expires_us)) AS consents FROM mine m JOIN consent c USING (anchor_id) GROUP BY 1
), seen AS (
  SELECT root, json_object_agg(offer_id, n) AS shown FROM (
    SELECT w.root, d.offer_id, count(*) AS n FROM whole w JOIN offer_decision d ON d.person_id = w.id
    WHERE d.decided_at > $2 AND d.offer_id > 0 GROUP BY 1, 2) AS s GROUP BY 1
), gone AS (
  SELECT DISTINCT w.root FROM whole w JOIN erased_anchor e ON e.person_id = w.id
)
SELECT p.asked, p.root, g.root IS NOT NULL AS erased, said.consents, seen.shown FROM present p
LEFT JOIN gone g USING (root) LEFT JOIN said USING (root) LEFT JOIN seen USING (root)
"""


@dataclass(frozen=True)
class Known:
    """Who it is now (0 for nobody known, or erased), what was said of consent, and what was shown lately, by offer."""

    person_id: int
    consents: Sequence[Sequence[Any]]
    shown: Mapping[int, int]

    def personal(self, now: datetime) -> bool:
        """Whether the person may be told apart: personalisation is not switched off through any anchor, on any channel."""
        now_us = to_us(now)
        for anchor in {row[0] for row in self.consents if row[1] == PERSONALISATION}:
            rows = [row for row in self.consents if row[0] == anchor and row[1] == PERSONALISATION]
            withdrawn, given = max(row[4] for row in rows), max(row[5] for row in rows)
            # A grant that has run out leaves the withdrawal before it.
            if withdrawn >= 0 and (withdrawn >= given or min(row[6] for row in rows) <= now_us):
                return False
        return True

    def closed(self, purpose: str, channel: str, regimes: Mapping[str, str], now: datetime) -> bool:
        """Whether consent forbids a purpose on a channel, as ConsentStore.forbidden has it for all persons at once."""
        return any(self._closed(use, channel, regime(regimes, use, channel), to_us(now)) for use in uses(purpose, channel))

    def _closed(self, use: str, channel: str, needs: str, now_us: int) -> bool:
        about = [row for row in self.consents if row[1] == use and row[2] in (ALL_CHANNELS, channel)]
        allowed = False
        for anchor in {row[0] for row in about}:
            rows = [row for row in about if row[0] == anchor]
            grants = [(row[5], -row[6]) for row in rows if row[3] or needs != SEPARATE]
            given, expires = max(grants, default=(-1, 0))
            withdrawn = max(row[4] for row in rows)
            if withdrawn >= 0 and (withdrawn >= given or -expires <= now_us):
                return True
            allowed = allowed or (given > withdrawn and -expires > now_us)
        return needs != OPT_OUT and not allowed


NOBODY: Final = Known(0, (), {})


async def ask(reader: Reader, persons: Sequence[int], now: datetime, window: timedelta) -> list[Known]:
    """What is known of each person; shows count within `window`. Who was erased is nobody, and so is 0."""
    named = sorted({person for person in persons if person})
    rows = await reader.fetch(_ASK, named, now - window) if named else []
    found = {
        row["asked"]: NOBODY
        if row["erased"]
        else Known(row["root"], row["consents"] or (), {int(offer): n for offer, n in (row["shown"] or {}).items()})
        for row in rows
    }
    return [found[person] if person else NOBODY for person in persons]
