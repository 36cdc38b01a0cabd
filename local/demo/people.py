"""The truth beside what the product made of it: one row per record, one row per true person."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
from troika.identity.v1.identity_service_pb2 import IdentifierRef, ResolveIdentifiersRequest
from troika.scoring.v1.scoring_service_pb2 import ScorePersonsRequest

from local.demo.operator import Operator
from local.overlay import Overlay

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_RESOLVE_AT_ONCE = 10_000
_SCORE_AT_ONCE = 50_000


@dataclass(frozen=True)
class People:
    """`person` and `entity` have one row per record, the other columns one row per true person."""

    person: Ints
    entity: Ints
    staff_phone: Ints  # the staff phone that a record bears, 0 without one
    call_center_entity: Ints
    past: Bools
    answers: Bools

    @property
    def new_leads(self) -> Ints:
        """True persons whose answer nobody in the product knows."""
        return np.flatnonzero(~self.past)


async def resolve(operator: Operator, overlay: Overlay) -> People:
    """Asks identity for the present entity of every record."""
    persons: list[int] = []
    entities: list[int] = []
    phones: list[int] = []
    staff = {int(phone[3:]) for phones in overlay.truth.staff_phones.values() for phone in phones}
    for source in overlay.sources:
        rows = zip(overlay.records(source), overlay.truth.records(source), strict=True)
        while some := list(islice(rows, _RESOLVE_AT_ONCE)):
            identifiers = [IdentifierRef(kind="crm_id", scope=source, value=record_id) for _, (record_id, _) in some]
            request = ResolveIdentifiersRequest(identifiers=identifiers)
            entities += (await operator.ask(operator.identity.ResolveIdentifiers, request)).entity_ids
            persons += [person for _, (_, person) in some]
            for record, _ in some:
                digits = "".join(c for c in record["identifiers"].get("mobile", "") if c.isdecimal())
                number = int(digits[-11:] or 0)
                phones.append(number if number in staff else 0)
    truth = overlay.truth
    person, entity = np.array(persons, dtype=np.int64), np.array(entities, dtype=np.int64)
    of_call_center = np.zeros(len(overlay), dtype=np.int64)
    size = overlay.record_count("call_center")
    # The call centre is the first source and has one record of everybody.
    of_call_center[person[:size]] = entity[:size]
    return People(person, entity, np.array(phones, dtype=np.int64), of_call_center, truth.past, truth.answers)


async def scores_of(operator: Operator, model: str, entities: Ints) -> Floats:
    """Present scores, -1 where there is none."""
    parts = []
    for begin in range(0, len(entities), _SCORE_AT_ONCE):
        ids = entities[begin : begin + _SCORE_AT_ONCE].tolist()
        answer = await operator.ask(operator.scoring.ScorePersons, ScorePersonsRequest(model=model, person_ids=ids))
        parts.append(np.array(answer.scores))
    return np.concatenate(parts)


@dataclass(frozen=True)
class IdentityQuality:
    """Pairs of records judged against the truth, and the worst cluster."""

    precision: float
    recall: float
    largest_cluster: int  # records
    most_persons_in_a_cluster: int
    glued_by_staff_phone: int  # pairs (staff phone, cluster) with more than one true person
    unresolved: int


def judge(people: People) -> IdentityQuality:
    """Counts pairs by group sizes; a record that identity does not know stands alone."""
    entity = np.where(people.entity > 0, people.entity, -np.arange(1, len(people.entity) + 1))
    both = _pairs(_sizes(np.stack([people.person, entity])))
    sizes = _sizes(entity[None])
    person_in_cluster = np.unique(np.stack([entity, people.person]), axis=1)
    borne = people.staff_phone > 0
    glued = np.unique(np.stack([people.staff_phone[borne], entity[borne], people.person[borne]]), axis=1)
    return IdentityQuality(
        precision=both / max(1, _pairs(sizes)),
        recall=both / max(1, _pairs(_sizes(people.person[None]))),
        largest_cluster=int(sizes.max()),
        most_persons_in_a_cluster=int(_sizes(person_in_cluster[:1]).max()),
        glued_by_staff_phone=int((_sizes(glued[:2]) > 1).sum()) if borne.any() else 0,
        unresolved=int((people.entity <= 0).sum()),
    )


def _sizes(keys: Ints) -> Ints:
    return np.asarray(np.unique(keys, axis=1, return_counts=True)[1], dtype=np.int64)


def _pairs(sizes: Ints) -> int:
    return int((sizes * (sizes - 1) // 2).sum())
