"""Experiments and their exposures. An exposure stands under the person as she was then; who that is now is asked anew."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from chassis.db import UnitOfWork
from chassis.merges import below
from services.orchestrator.experiments.definitions import (
    Definition,
    Experiment,
    ExperimentId,
    Kind,
    Metric,
    Role,
    State,
    Variant,
)

_SELECT = (
    "SELECT e.experiment_id, e.definition, e.state, e.version, e.salt, l.salt AS layer_salt, e.stop_reason, e.created_at,"
    " e.started_at, e.stopped_at FROM experiment e JOIN experiment_layer l ON l.layer = e.layer"
)
# Each given person with whom it went into, directly or not, and the last of them: who it is now.
_PRESENT = (
    "up (person_id, present_id) AS (SELECT person_id, person_id FROM given UNION SELECT up.person_id, a.survivor_id FROM up"
    " JOIN person_alias a ON a.person_id = up.present_id AND a.survivor_id IS NOT NULL),"
    " present AS (SELECT up.person_id, up.present_id FROM up LEFT JOIN person_alias a ON a.person_id = up.present_id"
    " AND a.survivor_id IS NOT NULL WHERE a.person_id IS NULL)"
)


class Event(NamedTuple):
    """What an event says of a metric. `edition`: the experiment's version that was read; `person_id`: whose it was then."""

    experiment_id: int
    edition: int
    metric: int
    event_id: bytes
    anchor_id: int
    person_id: int
    version: int
    occurred_at: datetime
    amount: float


class ExperimentStore:
    """Experiments of one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def by_request(self, request_id: str) -> Experiment | None:
        """The experiment that a request made before."""
        return _first(await self._uow.rows(_SELECT + " WHERE request_id = :r", r=request_id))

    async def add(self, stated: Definition, request_id: str) -> Experiment | None:
        """A new draft; None when another transaction was faster with the same request."""
        rows = await self._uow.rows(
            "INSERT INTO experiment (request_id, layer, bucket_from, bucket_to, definition, state, version, salt, stop_reason)"
            " VALUES (:request_id, :layer, :bucket_from, :bucket_to, CAST(:definition AS jsonb), :state, 1, :salt, '')"
            " ON CONFLICT (request_id) DO NOTHING RETURNING experiment_id",
            request_id=request_id or None,
            layer=stated.layer,
            bucket_from=stated.bucket_from,
            bucket_to=stated.bucket_to,
            definition=orjson.dumps(stated).decode(),
            state=State.DRAFT.value,
            salt=secrets.token_bytes(16),
        )
        return await self.get(ExperimentId(rows[0].experiment_id)) if rows else None

    async def change(self, experiment_id: ExperimentId, stated: Definition) -> None:
        """Rewrites a draft."""
        await self._uow.execute(
            "UPDATE experiment SET layer = :layer, bucket_from = :bucket_from, bucket_to = :bucket_to,"
            " definition = CAST(:definition AS jsonb), version = version + 1 WHERE experiment_id = :id",
            id=experiment_id,
            layer=stated.layer,
            bucket_from=stated.bucket_from,
            bucket_to=stated.bucket_to,
            definition=orjson.dumps(stated).decode(),
        )
        # What was collected for other metrics means nothing any more.
        await self._uow.execute("DELETE FROM experiment_event WHERE experiment_id = :id", id=experiment_id)

    async def lock_layer(self, layer: str) -> None:
        """Makes the layer if there is none yet, and keeps its ranges from others until the transaction ends."""
        await self._uow.execute(
            "INSERT INTO experiment_layer (layer, salt) VALUES (:layer, :salt) ON CONFLICT DO NOTHING",
            layer=layer,
            salt=secrets.token_bytes(16),
        )
        await self._uow.rows("SELECT 1 FROM experiment_layer WHERE layer = :layer FOR UPDATE", layer=layer)

    async def overlapping(self, stated: Definition, but: int = 0) -> ExperimentId | None:
        """An experiment of the layer that is not over and takes one of these buckets, too."""
        rows = await self._uow.rows(
            "SELECT experiment_id FROM experiment WHERE layer = :layer AND state < 3 AND experiment_id <> :but"
            " AND bucket_from < :bucket_to AND bucket_to > :bucket_from ORDER BY experiment_id LIMIT 1",
            layer=stated.layer,
            but=but,
            bucket_from=stated.bucket_from,
            bucket_to=stated.bucket_to,
        )
        return ExperimentId(rows[0].experiment_id) if rows else None

    async def get(self, experiment_id: ExperimentId) -> Experiment | None:
        """One experiment."""
        return _first(await self._uow.rows(_SELECT + " WHERE experiment_id = :id", id=experiment_id))

    async def lock(self, experiment_id: ExperimentId, share: bool = False) -> Experiment | None:
        """One experiment whose state nobody changes until the transaction ends."""
        held = " FOR SHARE OF e" if share else " FOR UPDATE OF e"
        return _first(await self._uow.rows(_SELECT + " WHERE experiment_id = :id" + held, id=experiment_id))

    async def page(self, before: int, size: int) -> list[Experiment]:
        """Experiments with ids below `before`, newest first."""
        rows = await self._uow.rows(
            _SELECT + " WHERE experiment_id < :before ORDER BY experiment_id DESC LIMIT :size", before=before, size=size
        )
        return [_experiment(row) for row in rows]

    async def collecting(self, since: datetime) -> list[Experiment]:
        """Those that are not over, and those stopped after a moment."""
        rows = await self._uow.rows(
            _SELECT + " WHERE e.state < 3 OR e.stopped_at >= :since ORDER BY experiment_id", since=since
        )
        return [_experiment(row) for row in rows]

    async def set_state(self, experiment_id: ExperimentId, state: State, reason: str = "") -> None:
        """Starts or stops."""
        moment = "started_at" if state is State.RUNNING else "stopped_at"
        await self._uow.execute(
            f"UPDATE experiment SET state = :state, stop_reason = :reason, {moment} = now() WHERE experiment_id = :id",  # noqa: S608
            id=experiment_id,
            state=state.value,
            reason=reason,
        )

    async def present(self, persons: Sequence[int]) -> Mapping[int, int]:
        """Who each person is now: whom it went into, or itself."""
        rows = await self._uow.rows(
            "WITH RECURSIVE given AS (SELECT DISTINCT unnest(CAST(:persons AS bigint[])) AS person_id), "  # noqa: S608
            + _PRESENT
            + " SELECT person_id, present_id FROM present",
            persons=list(persons),
        )
        return {row.person_id: row.present_id for row in rows}

    async def exposed(self, experiment_id: ExperimentId, present: Sequence[int]) -> Mapping[int, int]:
        """The variant of those persons who were exposed: the first exposure of all who went into them counts."""
        rows = await self._uow.rows(
            "SELECT DISTINCT ON (w.root) w.root AS present_id, x.variant"  # noqa: S608  (a text of ours)
            f" FROM ({below('CAST(:persons AS bigint[])')}) AS w"
            " JOIN exposure x ON x.experiment_id = :id AND x.person_id = w.person_id"
            " ORDER BY w.root, x.exposed_at, x.person_id",
            id=experiment_id,
            persons=list(present),
        )
        return {row.present_id: row.variant for row in rows}

    async def expose(
        self,
        experiment_id: ExperimentId,
        persons: Sequence[int],
        variants: Sequence[int],
        covariates: Sequence[float | None],
        segments: Sequence[Sequence[str]],
    ) -> None:
        """Logs first exposures now; who has one already keeps it. `segments`: the values of the segment tags in their order."""
        await self._uow.execute(
            "INSERT INTO exposure (experiment_id, person_id, variant, covariate, segments, exposed_at)"
            " SELECT :id, person, variant, covariate, segments, now()"
            " FROM unnest(CAST(:persons AS bigint[]), CAST(:variants AS smallint[]), CAST(:covariates AS float8[]),"
            " CAST(:segments AS jsonb[])) AS n (person, variant, covariate, segments) ORDER BY person"
            " ON CONFLICT DO NOTHING",
            id=experiment_id,
            persons=list(persons),
            variants=list(variants),
            covariates=list(covariates),
            segments=[orjson.dumps(words).decode() for words in segments],
        )

    async def without_personalisation(self, persons: Sequence[int], now: datetime) -> set[int]:
        """Those who have switched personalisation off: the strictest of a person's anchors counts, on any channel."""
        rows = await self._uow.rows(
            "WITH theirs AS (SELECT c.anchor_id, c.person_id FROM consent c WHERE c.purpose = 'personalisation'"
            " AND c.person_id = ANY(CAST(:persons AS bigint[])) UNION SELECT o.anchor_id, o.person_id FROM anchor_owner o"
            " WHERE o.person_id = ANY(CAST(:persons AS bigint[])))"
            " SELECT DISTINCT coalesce(o.person_id, t.person_id) AS person_id FROM theirs t"
            " LEFT JOIN anchor_owner o USING (anchor_id) JOIN LATERAL ("
            " SELECT 1 FROM consent c WHERE c.anchor_id = t.anchor_id AND c.purpose = 'personalisation'"
            " GROUP BY c.channel HAVING max(c.withdrawn_us) >= 0 AND"
            # A grant that has run out leaves the withdrawal before it.
            " (max(c.withdrawn_us) >= max(c.given_us) OR min(c.expires_us) <= :now_us) LIMIT 1) AS off ON true",
            persons=list(persons),
            now_us=int(now.timestamp() * 1_000_000),
        )
        return {row.person_id for row in rows}

    async def exposures(self, experiment_id: ExperimentId, variants: int) -> list[int]:
        """How many persons were exposed to each variant, those who turned out to be one counted once."""
        rows = await self._uow.rows(
            "WITH RECURSIVE given AS (SELECT person_id FROM exposure WHERE experiment_id = :id), "  # noqa: S608
            + _PRESENT
            + ", firsts AS (SELECT DISTINCT ON (p.present_id) x.variant FROM exposure x JOIN present p USING (person_id)"
            " WHERE x.experiment_id = :id ORDER BY p.present_id, x.exposed_at, x.person_id)"
            " SELECT variant, count(*) AS persons FROM firsts GROUP BY 1",
            id=experiment_id,
        )
        found = {row.variant: row.persons for row in rows}
        return [found.get(variant, 0) for variant in range(variants)]

    async def outcomes(self, experiment: Experiment, metric: int, now: datetime) -> Sequence[Any]:
        """(variant, covariate, segments, outcome, events, past outcome, past events, persons), alike persons in one row.

        Of persons whose window is over. An event belongs to whom its anchor belongs to now, or to whom she went into.
        """
        window = experiment.definition.metrics[metric].window
        return await self._uow.fetch(
            "WITH RECURSIVE given AS (SELECT person_id FROM exposure WHERE experiment_id = $1 UNION"  # noqa: S608
            " SELECT coalesce(o.person_id, g.person_id) FROM experiment_event g LEFT JOIN anchor_owner o"
            " ON o.anchor_id = g.anchor_id AND o.version > g.version WHERE g.experiment_id = $1 AND g.metric = $2), "
            + _PRESENT
            + ", firsts AS (SELECT DISTINCT ON (p.present_id) p.present_id, x.variant, x.covariate, x.segments, x.exposed_at"
            " FROM exposure x JOIN present p USING (person_id) WHERE x.experiment_id = $1"
            " ORDER BY p.present_id, x.exposed_at, x.person_id),"
            " done AS (SELECT p.present_id, g.occurred_at, g.amount FROM experiment_event g LEFT JOIN anchor_owner o"
            " ON o.anchor_id = g.anchor_id AND o.version > g.version"
            " JOIN present p ON p.person_id = coalesce(o.person_id, g.person_id)"
            " WHERE g.experiment_id = $1 AND g.metric = $2),"
            " each AS (SELECT f.present_id, coalesce(sum(d.amount) FILTER (WHERE d.occurred_at >= f.exposed_at), 0) AS outcome,"
            " count(d.amount) FILTER (WHERE d.occurred_at >= f.exposed_at) AS events,"
            " coalesce(sum(d.amount) FILTER (WHERE d.occurred_at < f.exposed_at), 0) AS past,"
            " count(d.amount) FILTER (WHERE d.occurred_at < f.exposed_at) AS past_events"
            " FROM firsts f LEFT JOIN done d ON d.present_id = f.present_id AND d.occurred_at < f.exposed_at + $3"
            " AND d.occurred_at >= f.exposed_at - $3 WHERE f.exposed_at + $3 <= $4 GROUP BY 1)"
            " SELECT f.variant, f.covariate, f.segments, e.outcome, e.events, e.past, e.past_events, count(*) AS persons"
            " FROM each e JOIN firsts f USING (present_id) GROUP BY 1, 2, 3, 4, 5, 6, 7",
            experiment.experiment_id,
            metric,
            window,
            now,
        )

    async def collect(self, events: Sequence[Event]) -> None:
        """Keeps events, each once however often it comes; what was measured for a draft that has changed since is dropped."""
        columns = [list(column) for column in zip(*events, strict=True)]
        await self._uow.execute(
            "INSERT INTO experiment_event (experiment_id, metric, event_id, anchor_id, person_id, version, occurred_at, amount)"
            " SELECT n.experiment, n.metric, n.event, n.anchor, n.person, n.version, n.at, n.amount"
            " FROM unnest(CAST(:experiments AS bigint[]), CAST(:editions AS int[]), CAST(:metrics AS smallint[]),"
            " CAST(:events AS bytea[]), CAST(:anchors AS bigint[]), CAST(:persons AS bigint[]), CAST(:versions AS bigint[]),"
            " CAST(:moments AS timestamptz[]), CAST(:amounts AS float8[]))"
            " AS n (experiment, edition, metric, event, anchor, person, version, at, amount)"
            " JOIN experiment e ON e.experiment_id = n.experiment AND e.version = n.edition"
            " ORDER BY 1, 2, 3 FOR SHARE OF e ON CONFLICT DO NOTHING",
            **dict(
                zip(
                    ("experiments", "editions", "metrics", "events", "anchors", "persons", "versions", "moments", "amounts"),
                    columns,
                    strict=True,
                )
            ),
        )


def _first(rows: Sequence[Any]) -> Experiment | None:
    return _experiment(rows[0]) if rows else None


def _experiment(row: Any) -> Experiment:
    stated = dict(row.definition)
    stated["variants"] = tuple(Variant(**each) for each in stated["variants"])
    stated["metrics"] = tuple(
        Metric(**(each | {"role": Role(each["role"]), "kind": Kind(each["kind"])})) for each in stated["metrics"]
    )
    stated["segment_tags"] = tuple(stated["segment_tags"])
    return Experiment(
        ExperimentId(row.experiment_id),
        Definition(**stated),
        State(row.state),
        row.version,
        bytes(row.salt),
        bytes(row.layer_salt),
        row.stop_reason,
        row.created_at,
        row.started_at,
        row.stopped_at,
    )
