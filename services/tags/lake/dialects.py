"""Where DuckDB and Spark write the same thing differently. Everything else that we generate both understand as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """One engine's spelling."""

    name: str
    quote: str
    # Computed once however often it is named.
    materialized: str

    def identifier(self, name: str) -> str:
        """A name of a column or table, whatever it is made of."""
        return f"{self.quote}{name.replace(self.quote, self.quote * 2)}{self.quote}"

    def word(self, text: str) -> str:
        """A string literal."""
        if self.name == "spark":
            escaped = text.replace("\\", "\\\\").replace("'", "\\'")
            return f"'{escaped}'"
        return "'" + text.replace("'", "''") + "'"

    def number(self, value: float) -> str:
        """A double that is this very number."""
        return f"CAST('{float(value)!r}' AS DOUBLE)"

    def entry(self, column: str, key: str) -> str:
        """The value of a map under a key, NULL when there is none."""
        return f"try_element_at({column}, {self.word(key)})" if self.name == "spark" else f"{column}[{self.word(key)}]"

    def order(self, occurred: str, tie: str) -> str:
        """What orders events, as one value."""
        if self.name == "spark":
            return f"struct({occurred}, {tie})"
        return f"CAST({occurred} AS HUGEINT) * 9223372036854775808 + {tie}"

    def at_greatest(self, value: str, order: str) -> str:
        """The value whose order is greatest."""
        return f"{'max_by' if self.name == 'spark' else 'arg_max'}({value}, {order})"

    def at_least(self, value: str, order: str) -> str:
        """The value whose order is least."""
        return f"{'min_by' if self.name == 'spark' else 'arg_min'}({value}, {order})"

    def words(self, value: str, where: str, most: int) -> str:
        """The smallest different words, sorted; NULL when there is none."""
        if self.name == "spark":
            found = f"slice(sort_array(collect_set({value}) FILTER (WHERE {where})), 1, {most})"
            return f"CASE WHEN COUNT({value}) FILTER (WHERE {where}) > 0 THEN {found} END"
        return f"list_sort(list(DISTINCT {value}) FILTER (WHERE {where}))[1:{most}]"

    def how_many(self, value: str, where: str) -> str:
        """How many different words there are."""
        if self.name == "spark":
            # Several COUNT(DISTINCT …) would multiply the rows.
            return f"size(collect_set({value}) FILTER (WHERE {where}))"
        return f"COUNT(DISTINCT {value}) FILTER (WHERE {where})"

    def overlaps(self, column: str, words: Sequence[str]) -> str:
        """Whether a list has one of these words."""
        listed = ", ".join(map(self.word, words))
        return f"arrays_overlap({column}, array({listed}))" if self.name == "spark" else f"list_has_any({column}, [{listed}])"

    @property
    def list_of_words(self) -> str:
        """The type of a set's column."""
        return "array<string>" if self.name == "spark" else "VARCHAR[]"

    @property
    def text(self) -> str:
        """The type of a word's column."""
        return "STRING" if self.name == "spark" else "VARCHAR"


DUCKDB = Dialect("duckdb", '"', " MATERIALIZED")
SPARK = Dialect("spark", "`", "")
