"""Who went into whom, as SQL over a service's table `person_alias` (person_id, survivor_id: NULL when apart again)."""

from __future__ import annotations


def present(person: str) -> str:
    """Expression: who the person of an expression (a column or parameter) is now."""
    return f"""(CASE WHEN EXISTS (SELECT FROM person_alias WHERE person_id = {person} AND survivor_id IS NOT NULL) THEN (
  WITH RECURSIVE up (id, n) AS (SELECT CAST({person} AS bigint), 0 UNION ALL SELECT a.survivor_id, up.n + 1
    FROM up JOIN person_alias a ON a.person_id = up.id AND a.survivor_id IS NOT NULL WHERE up.n < 50)
  SELECT id FROM up ORDER BY n DESC LIMIT 1) ELSE {person} END)"""  # noqa: S608  (an expression of ours)


def below(persons: str) -> str:
    """Query of (person_id, root): the persons of an array expression, and all who went into each of these roots."""
    return f"""WITH RECURSIVE below (person_id, root) AS (SELECT id, id FROM unnest({persons}) AS id UNION
  SELECT a.person_id, b.root FROM below b JOIN person_alias a ON a.survivor_id = b.person_id)
SELECT person_id, root FROM below"""  # noqa: S608  (likewise)
