"""Suggests audiences: peers are asked outside of transactions, people are counted as columns of bits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from troika.tags.v1 import tags_service_pb2 as tags_pb2

from chassis.db import Database
from chassis.errors import FailedPrecondition, InvalidArgument
from services.orchestrator.domain import suggesting
from services.orchestrator.domain.suggesting import Term
from services.orchestrator.domain.themes import ThemeId, name_of
from services.orchestrator.peers import DEALER_TAG, REACHED_BY, Scoring, Tags
from services.orchestrator.settings import Settings
from services.orchestrator.suggesting import alternatives, goals
from services.orchestrator.suggesting.alternatives import Candidate, Flags, Floats
from services.orchestrator.suggesting.goals import SoughtGoal
from services.orchestrator.suggesting.words import Finder, Match

# In the order in which a push looks for a way, the cheapest first; (tag, predicate).
_WAYS: Final = {
    channel: (REACHED_BY[channel], REACHED_BY[channel]) if channel != "dealer" else (DEALER_TAG, f"{DEALER_TAG} IS NOT NULL")
    for channel in ("app", "push", "wechat", "wechat_mini", "sms", "wecom", "dealer", "call_list")
}
# As many as tags intersects in one question.
MOST_THEMES: Final = 100


@dataclass(frozen=True)
class Wanted:
    """What somebody asks; `responders` and `asked` empty where the goal says who they are; costs in fen by channel."""

    responders: str
    asked: str
    eligible: str
    excluded_tags: tuple[str, ...]
    model: str
    words: str
    goal: SoughtGoal | None
    unit_cost_fen: Mapping[str, int]


@dataclass(frozen=True)
class Reason:
    """A term of an audience, what speaks for it, and how much of the expected responses it holds by itself."""

    candidate: Candidate
    why: str
    held_share: float


@dataclass(frozen=True)
class Overlap:
    """How many of an audience a running theme reaches, too."""

    theme: str
    title: str
    persons: int


@dataclass(frozen=True)
class Alternative:
    """One audience: mean and sum of the expected responses, persons by channel, and what pushing all of them costs."""

    name: str
    audience: str
    reasons: tuple[Reason, ...]
    size: int
    expected_response: float
    expected_responses: float
    kept_share: float
    reach: Mapping[str, int]
    cost_fen: int
    overlaps: tuple[Overlap, ...]


@dataclass(frozen=True)
class Suggestion:
    """The proposed audience and its alternatives, narrow to wide; responses are means of those who have a score."""

    proposed: Alternative
    alternatives: tuple[Alternative, ...]
    eligible_size: int
    eligible_expected_response: float
    converters: int
    responders: str
    asked: str


@dataclass(frozen=True)
class Suggester:
    """Questions about audiences that nobody has stated yet."""

    database: Database
    tags: Tags
    scoring: Scoring
    settings: Settings

    async def suggest(self, wanted: Wanted) -> Suggestion:
        """Finds the few tag values that hold most of the expected responses among the eligible, for three appetites."""
        catalogue = await self.tags.catalogue()
        responders, asked = self._past(wanted, catalogue)
        await self.tags.count(responders, "responders")
        await self.tags.count(asked, "asked")
        persons = await self.tags.person_ids(wanted.eligible, "eligible")
        _, probability = await self.scoring.scores(wanted.model, persons, "model")
        found, converters = await self._candidates(wanted, catalogue, responders, asked)
        membership = await self._membership(persons, wanted.eligible, [each.term.predicate for each in found])
        ways = {channel: predicate for channel, (tag, predicate) in _WAYS.items() if tag in catalogue}
        reached = await self._membership(persons, wanted.eligible, list(ways.values()))
        expected: Floats = np.maximum(probability, 0)
        shares = {"proposed": self.settings.suggest_keep_share, **alternatives.SHARES}
        chosen = {
            name: await asyncio.to_thread(suggesting.cover, membership, expected, share) for name, share in shares.items()
        }
        people = People(wanted, found, membership, probability, list(ways), reached, converters)
        made = {name: people.alternative(name, rows) for name, rows in chosen.items()}
        distinct: dict[str, Alternative] = {}
        for name in alternatives.SHARES:
            if made[name].reasons and made[name].audience not in {each.audience for each in distinct.values()}:
                distinct[name] = made[name]
        themes = await self._running()
        return Suggestion(
            made["proposed"],
            tuple([await self._overlapped(each, themes) for each in distinct.values()]),
            len(persons),
            mean_of_scored(probability),
            converters,
            responders,
            asked,
        )

    def _past(self, wanted: Wanted, catalogue: Mapping[str, tags_pb2.Tag]) -> tuple[str, str]:
        if wanted.responders and wanted.asked:
            return wanted.responders, wanted.asked
        if wanted.goal is None:
            field = "asked" if wanted.responders else "responders"
            raise InvalidArgument("say who responded and who was asked, or the goal", reason="NO_CONVERTERS", field=field)
        responders, asked = goals.predicates_of(wanted.goal, catalogue)
        return wanted.responders or responders, wanted.asked or asked

    async def _candidates(
        self, wanted: Wanted, catalogue: Mapping[str, tags_pb2.Tag], responders: str, asked: str
    ) -> tuple[list[Candidate], int]:
        expressions = {name: tag.expression for name, tag in catalogue.items()}
        leaks = frozenset(
            suggesting.leaking(expressions, {*wanted.excluded_tags, *self.settings.score_tags}, [responders, asked])
        )
        past = f"({asked}) AND ({responders})"
        converters = await self.tags.count(past, "responders")
        terms = await self.tags.describe(past, asked, "responders") if converters else []
        matches: dict[str, Match] = {}
        if wanted.words.strip():
            told = {term.predicate for term in terms}
            # What words may name though no converter says anything of it.
            terms += [
                Term(name, name, 0, 1.0, 0.0)
                for name, tag in sorted(catalogue.items())
                if tag.type == tags_pb2.TAG_TYPE_BOOLEAN and name not in told
            ]
            visible = [t for t in terms if t.tag in catalogue and not catalogue[t.tag].sensitive]
            matches = Finder({t.predicate: described(t, catalogue[t.tag]) for t in visible}).find(wanted.words)
        return alternatives.candidates(terms, matches, leaks, converters > 0), converters

    async def _membership(self, persons: np.ndarray, eligible: str, predicates: Sequence[str]) -> Flags:
        """(predicates, persons): who of the eligible has what; read one by one, kept as bits of a byte each."""
        found = np.zeros((len(predicates), len(persons)), np.bool_)
        for row, predicate in zip(found, predicates, strict=True):
            having = await self.tags.person_ids(suggesting.combine(eligible, [predicate]), "eligible")
            row[:] = np.isin(persons, having, assume_unique=True)
        return found

    async def _running(self) -> list[tuple[ThemeId, str, str]]:
        rows = await self.database.fetch(
            "SELECT t.theme_id, v.definition ->> 'title' AS title, v.definition ->> 'audience' AS audience FROM theme t"
            " JOIN theme_version v ON v.theme_id = t.theme_id AND v.version = t.approved_version"
            " WHERE t.state IN (4, 5) ORDER BY t.theme_id DESC LIMIT $1",
            MOST_THEMES,
        )
        return [(ThemeId(row["theme_id"]), row["title"], row["audience"]) for row in rows]

    async def _overlapped(self, made: Alternative, themes: Sequence[tuple[ThemeId, str, str]]) -> Alternative:
        if not themes:
            return made
        try:
            both = await self.tags.overlaps(made.audience, [audience for _, _, audience in themes], "eligible")
        except (InvalidArgument, FailedPrecondition):
            # A theme's audience may ask for a tag that has gone since; then nothing can be said of any of them.
            return made
        found = [Overlap(name_of(number), title, n) for (number, title, _), n in zip(themes, both, strict=True) if n]
        found.sort(key=lambda each: -each.persons)
        return Alternative(**{**vars(made), "overlaps": tuple(found)})


@dataclass(frozen=True)
class People:
    """The eligible as columns: which candidates they have, how likely they answer (-1 unknown), and what reaches them."""

    wanted: Wanted
    candidates: Sequence[Candidate]
    membership: Flags
    probability: Floats
    channels: Sequence[str]
    reached: Flags
    converters: int

    def alternative(self, name: str, rows: Sequence[int]) -> Alternative:
        """The audience of some candidates; everybody eligible without any."""
        inside = self.membership[list(rows)].any(axis=0) if rows else np.ones(len(self.probability), np.bool_)
        expected = np.maximum(self.probability, 0)
        whole = float(expected.sum()) or 1.0
        chosen = [self.candidates[row] for row in rows]
        reasons = tuple(
            Reason(each, each.why(self.converters), float(expected[self.membership[row]].sum()) / whole)
            for row, each in zip(rows, chosen, strict=True)
        )
        cost, open_ = 0, inside.copy()
        for channel, having in zip(self.channels, self.reached, strict=True):
            cost += int((open_ & having).sum()) * self.wanted.unit_cost_fen.get(channel, 0)
            open_ &= ~having
        return Alternative(
            name,
            suggesting.combine(self.wanted.eligible, [each.term.predicate for each in chosen]),
            reasons,
            int(inside.sum()),
            mean_of_scored(self.probability[inside]),
            float(expected[inside].sum()),
            float(expected[inside].sum()) / whole,
            {channel: int((inside & having).sum()) for channel, having in zip(self.channels, self.reached, strict=True)},
            cost,
            (),
        )


def described(term: Term, tag: tags_pb2.Tag) -> str:
    """All that is said of a term: its tag's names and description, and the value that it asks for."""
    return f"{tag.name} {tag.title} {tag.description} {' '.join(suggesting.literals(term.predicate))}"


def mean_of_scored(probability: Floats) -> float:
    """Mean of those who have a score."""
    scored = probability[probability >= 0]
    return float(scored.mean()) if len(scored) else 0.0
