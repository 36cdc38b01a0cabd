"""The same rules as SQL on Spark, for graphs that outgrow one process.

Guards are aggregations, clusters are connected components by large-star and small-star (Kiveris et al., "Connected
Components in MapReduce and Beyond", 2014), and only components that hold too much for one entity go, whole and one by one,
through the function that settles them in memory, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from services.identity.domain.clashes import Crowd, settle
from services.identity.domain.graphs import Graph, Ints, Small
from services.identity.domain.kinds import GUARDS, NO_LIMIT, NUMBERS, Kind, Names, Reason, Space
from services.identity.linkage.engines import private_folder, spark_engine
from services.identity.rebuild.view import SPACES, Engine, Solution

_ROWS_PER_FILE = 1 << 20


@contextmanager
def opened(master: str, parent: Path | None = None) -> Iterator[Engine]:
    """An engine on a Spark application of its own; all it writes is in one folder that goes with it."""
    with private_folder(parent) as folder, spark_engine(folder, master) as spark:
        if master.startswith("local"):
            # Executors on this machine run this very Python; those of a cluster have one of their own.
            spark.session.sparkContext.pythonExec = sys.executable
        yield SparkSolver(spark.session, folder)


class SparkSolver:
    """Solves graphs on one Spark session; intermediate tables are Parquet files in the folder."""

    def __init__(self, session: Any, folder: Path) -> None:
        self._session, self._folder = session, folder
        self._tables = 0
        session.conf.set("spark.sql.execution.arrow.pyspark.enabled", "true")
        self._ship()

    def __call__(self, graph: Graph) -> Mapping[Space, Solution]:
        """Solves both spaces."""
        self._write(
            "node",
            id=np.arange(graph.size),
            kind=graph.kind,
            person_guard=graph.person_guard,
            vehicle_guard=graph.vehicle_guard,
            cleared=graph.cleared,
        )
        self._write(
            "link",
            anchor=graph.anchor,
            value=graph.value,
            name=graph.name,
            source=graph.source,
            strength=graph.strength,
            number=np.arange(len(graph.anchor)),
        )
        marks = [(at, operation) for at, operations in graph.apart.items() for operation in operations]
        self._write("apart", id=np.array([m[0] for m in marks], np.int64), op=np.array([m[1] for m in marks], np.int64))
        self._write("trust", source=np.arange(len(graph.trust)), weight=graph.trust)
        return {space: self._solve(graph, space) for space in SPACES}

    # Tables

    def _ship(self) -> None:
        """Lets executors have the pure rules, which they need not have installed."""
        from pyspark import cloudpickle

        from services.identity.domain import clashes, kinds

        for module in (clashes, kinds):
            cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]

    def _write(self, table: str, /, **columns: Any) -> None:
        target = self._folder / f"in_{table}_{self._tables}"
        self._tables += 1
        target.mkdir()
        size = len(next(iter(columns.values())))
        for part, start in enumerate(range(0, max(size, 1), _ROWS_PER_FILE)):
            rows = slice(start, start + _ROWS_PER_FILE)
            pq.write_table(pa.table({key: column[rows] for key, column in columns.items()}), target / f"{part}.parquet")
        self._session.read.parquet(target.as_uri()).createOrReplaceTempView(table)

    def _create(self, name: str, frame: Any) -> Any:
        """Computes a table once; what it is made of is forgotten."""
        target = self._folder / f"{name}_{self._tables}"
        self._tables += 1
        frame.write.parquet(target.as_uri())
        found = self._session.read.parquet(target.as_uri())
        found.createOrReplaceTempView(name)
        return found

    def _table(self, name: str, sql: str) -> Any:
        return self._create(name, self._session.sql(sql))

    # Rules

    def _solve(self, graph: Graph, space: Space) -> Solution:
        self._rules(space)
        self._table("own", _OWN.format(space=int(space)))
        self._table("guard", _GUARD.format(column="person_guard" if space is Space.PERSON else "vehicle_guard"))
        self._table("joining", _JOINING)
        self._table("ended", _ENDED.format(size=graph.size))
        self._components("SELECT anchor AS a, place AS b FROM ended")
        self._table("held", _HELD)
        self._table("crowded", _CROWDED.format(space=int(space)))
        if self._session.table("crowded").head(1):
            self._settle()
        guard = self._session.table("guard").toArrow()
        label = self._session.sql(f"SELECT node, label FROM component WHERE node < {graph.size}").toArrow()
        return Solution(
            _column(label, "node", "label", np.arange(graph.size)), _column(guard, "id", "reason", graph.guard(space))
        )

    def _rules(self, space: Space) -> None:
        kinds = [
            {
                "kind": int(kind),
                "in_space": int(kind.space),
                "strong": GUARDS[space][kind].strength if kind in GUARDS[space] else 0,
                "names": int(GUARDS[space][kind].names) if kind in GUARDS[space] else 0,
                **{
                    limit: int(getattr(GUARDS[space][kind], limit)) if kind in GUARDS[space] else NO_LIMIT
                    for limit in ("max_names", "max_anchors", "max_anchors_per_source", "max_values_per_kind", "max_per_entity")
                },
            }
            for kind in Kind
        ]
        self._session.createDataFrame(kinds).createOrReplaceTempView("rule")

    def _components(self, edges: str) -> None:
        """Makes `component` (node, label) of edges (a, b): the label is the smallest node; what has no edge is not in it."""
        self._table("edge", f"SELECT DISTINCT greatest(a, b) AS a, least(a, b) AS b FROM ({edges}) WHERE a <> b")
        before: Any = None
        while True:
            self._session.sql(_LARGE_STAR).createOrReplaceTempView("large")
            self._table("edge", _SMALL_STAR)
            # Large-star and small-star leave stars alone: the same edges twice are the end.
            now = self._session.sql("SELECT count(*), bit_xor(xxhash64(a, b)), sum(b) FROM edge").collect()[0]
            if now == before:
                break
            before = now
        self._table("component", "SELECT a AS node, b AS label FROM edge UNION SELECT b, b FROM edge")

    def _settle(self) -> None:
        """Parts crowded components; nodes of them get labels of their own."""
        links = self._session.sql(_CROWDED_LINKS)
        holds = self._session.sql(_CROWDED_NODES)
        parted = links.groupBy("label").cogroup(holds.groupBy("label")).applyInPandas(_parted, "node bigint, label bigint")
        self._create("parted", parted)
        self._table("component", _PARTED)


def _column(table: pa.Table, key: str, value: str, otherwise: Any) -> Any:
    """A column by its key, with what stands where there is none."""
    found: Ints | Small = otherwise.copy()
    found[table.column(key).to_numpy()] = table.column(value).to_numpy()
    return found


def _parted(links: Any, holds: Any) -> Any:
    """One component: its links (one, other, strength, source, trust) and what nodes hold (node, kind, most, op)."""
    import pandas as pd

    crowd = Crowd()
    for node, kind, most in zip(holds["node"].tolist(), holds["kind"].tolist(), holds["most"].tolist(), strict=True):
        if most < NO_LIMIT:
            crowd.holds(node, kind, most)
    for node, operation in zip(holds["node"].tolist(), holds["op"].tolist(), strict=True):
        if operation:
            crowd.stands(node, operation)
    columns = ("anchor", "place", "strong", "source", "weight")
    for link in zip(*(links[column].tolist() for column in columns), strict=True):
        crowd.link(*link)
    root, _ = settle(crowd)
    nodes = sorted({*links["anchor"].tolist(), *links["place"].tolist()})
    return pd.DataFrame({"node": nodes, "label": [root.get(node, node) for node in nodes]}, dtype="int64")


# Links of the space that were not taken back, with what both ends are.
_OWN = """SELECT l.anchor, l.value, l.name, l.source, l.strength, l.number, v.kind AS value_kind, a.kind AS anchor_kind
 FROM link l JOIN node a ON a.id = l.anchor JOIN node v ON v.id = l.value JOIN rule r ON r.kind = a.kind
 WHERE r.in_space = {space} AND l.strength >= 0"""

_GUARD = f"""WITH by_value AS (SELECT value AS id, count(DISTINCT nullif(name, 0)) AS names,
 count(DISTINCT CASE WHEN anchor <> value AND strength = 0 THEN anchor END) AS anchors FROM own GROUP BY value),
 by_source AS (SELECT id, max(anchors) AS anchors FROM (SELECT o.value AS id, o.source, count(DISTINCT o.anchor) AS anchors
 FROM own o JOIN rule r ON r.kind = o.value_kind WHERE o.anchor <> o.value AND o.strength = 0
 AND (r.names = {int(Names.IGNORED)} OR o.name = 0) GROUP BY o.value, o.source) GROUP BY id),
 by_anchor AS (SELECT id, max(of_kind) AS of_kind FROM (SELECT anchor AS id, count(DISTINCT value) AS of_kind
 FROM own WHERE anchor <> value AND strength = 0 GROUP BY anchor, value_kind) GROUP BY id)
 SELECT n.id, CAST(CASE WHEN n.{{column}} <> 0 THEN n.{{column}} WHEN n.cleared THEN 0
 WHEN v.names > r.max_names THEN {NUMBERS[Reason.TOO_MANY_NAMES]}
 WHEN v.anchors > r.max_anchors OR s.anchors > r.max_anchors_per_source THEN {NUMBERS[Reason.TOO_MANY_ANCHORS]}
 WHEN a.of_kind > r.max_values_per_kind THEN {NUMBERS[Reason.TOO_MANY_VALUES]} ELSE 0 END AS smallint) AS reason
 FROM node n JOIN rule r USING (kind) LEFT JOIN by_value v ON v.id = n.id LEFT JOIN by_source s ON s.id = n.id
 LEFT JOIN by_anchor a ON a.id = n.id"""

# Links that join, with the name of the place on the value where they end; 0: the value itself. Of several names on a value the
# one that the most trusted sources know leads and stands for the value, unless two are equal.
_JOINING = f"""WITH live AS (SELECT o.*, r.names, r.strong FROM own o JOIN rule r ON r.kind = o.value_kind
 JOIN guard g ON g.id = o.value WHERE g.reason = 0),
 weighed AS (SELECT value, name, sum(weight) AS weight FROM (SELECT DISTINCT l.value, l.name, l.source FROM live l
 WHERE l.names = {int(Names.SPLIT)} AND l.name <> 0) JOIN trust USING (source) GROUP BY value, name),
 leading AS (SELECT value, count(*) AS several, max_by(name, weight) AS name,
 count_if(weight = highest) AS first FROM (SELECT *, max(weight) OVER (PARTITION BY value) AS highest FROM weighed)
 GROUP BY value)
 SELECT l.anchor, l.value, l.source, l.number, CASE WHEN l.strength > 0 THEN l.strength ELSE l.strong END AS strong,
 CASE WHEN l.names = {int(Names.REQUIRED)} THEN l.name
 WHEN l.names = {int(Names.SPLIT)} AND l.name <> 0 AND d.several > 1 AND (d.first > 1 OR d.name <> l.name) THEN l.name
 ELSE 0 END AS place_name FROM live l JOIN guard a ON a.id = l.anchor LEFT JOIN leading d ON d.value = l.value
 WHERE a.reason = 0 AND l.anchor <> l.value AND NOT (l.names = {int(Names.REQUIRED)} AND l.name = 0)"""

# A place on a value is a node, too, behind all others: it bears the smallest number of the links that end there.
_ENDED = """SELECT anchor, source, strong, CASE WHEN place_name = 0 THEN value
 ELSE {size} + min(number) OVER (PARTITION BY value, place_name) END AS place FROM joining"""

_LARGE_STAR = """WITH near AS (SELECT a AS u, b AS v FROM edge UNION ALL SELECT b, a FROM edge),
 low AS (SELECT u, least(min(v), u) AS m FROM near GROUP BY u)
 SELECT DISTINCT n.v AS a, l.m AS b FROM near n JOIN low l USING (u) WHERE n.v > n.u AND n.v <> l.m"""
_SMALL_STAR = """WITH low AS (SELECT a, min(b) AS m FROM large GROUP BY a)
 SELECT DISTINCT e.b AS a, l.m AS b FROM large e JOIN low l USING (a) WHERE e.b <> l.m
 UNION SELECT a, m FROM low"""

# What counts against a limit per entity.
_HELD = """SELECT n.id AS node, c.label, n.kind, r.max_per_entity AS most, n.space
 FROM component c JOIN (SELECT n.*, r.in_space AS space FROM node n JOIN rule r USING (kind)) n ON n.id = c.node
 JOIN rule r ON r.kind = n.kind"""
_CROWDED = f"""SELECT label FROM held WHERE most < {NO_LIMIT} GROUP BY label, kind, most HAVING count(*) > most
 UNION SELECT h.label FROM held h JOIN apart x ON x.id = h.node JOIN apart y ON y.op = -x.op
 JOIN held k ON k.node = y.id WHERE k.label = h.label AND h.space = k.space AND h.space = {{space}}"""
_CROWDED_LINKS = """SELECT c.label, e.anchor, e.place, e.strong, e.source, t.weight FROM ended e
 JOIN component c ON c.node = e.anchor JOIN crowded USING (label) JOIN trust t ON t.source = e.source"""
_CROWDED_NODES = """SELECT h.label, h.node, CAST(h.kind AS bigint) AS kind, h.most, coalesce(x.op, 0) AS op
 FROM held h JOIN crowded USING (label) LEFT JOIN apart x ON x.id = h.node"""
# Roots of different components are different nodes, and none of them is the label of another component.
_PARTED = """SELECT c.node, coalesce(p.label, c.label) AS label FROM component c LEFT JOIN parted p ON p.node = c.node"""
