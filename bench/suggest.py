"""Bench suggest: the suggested audience on the demo's contacts, whose answers are known and held out, beside three others.

bank_marketing as the demo uses it: 60 % of the contacts, drawn by a seed, are the past campaign, 40 % are new leads whose
answers nobody sees. Terms come from the past, described as tags describes them; expected responses come from the product's own
model, trained on the past; candidates and cover are the product's own functions. Then the new leads' real answers are counted.
`duration` is known only after the call and takes no part, nor do credits and loans, which are sensitive.

The expert's predicate is what a campaign manager of a bank writes down without data: whoever said yes before, and students,
the retired and people with a degree who can be reached by mobile. It was written once and not tuned. Random persons and the
best by score alone are as many.

`saving`: pushes that a blast in no order would need for the same conversions, less those of the audience, as a share of the
former; the market's claim to beat is 0.35. Means over seeds with 95 % of the mean (Student's t). Waves are not replayed here:
there is no room of them yet whose stop rule could be run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import models_sets, models_tabular
from bench.progress import say
from services.orchestrator.domain.suggesting import Term, cover
from services.orchestrator.suggesting.alternatives import SHARES, Candidate, candidates
from services.orchestrator.suggesting.words import Finder
from services.scoring.frame import Frame, Numbers, Words, matrix_of

SEEDS, PAST_SHARE, RANGES = 5, 0.6, 10
SENSITIVE = ("default", "housing", "loan")
WORDS = "A new savings offer for customers who said yes to the last campaign, for students and the retired, by mobile phone"

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


async def measure(quick: bool) -> dict[str, Any]:
    """All figures."""
    if not models_sets.there("bank_marketing"):
        return {"skipped": "bank_marketing is not there"}
    data = models_sets.bank_marketing()
    columns = {tag: column for tag, column in data.honest().columns.items() if tag not in SENSITIVE}
    frame = Frame(data.frame.persons, columns)
    found: list[dict[str, float]] = []
    for seed in range(2 if quick else SEEDS):
        say(f"suggest: seed {seed}")
        found.append(replay(frame, data.labels, seed))
    figures: dict[str, Any] = {"contacts": len(frame), "new_leads": round(len(frame) * (1 - PAST_SHARE)), "seeds": len(found)}
    for name in found[0]:
        figures |= models_tabular.with_interval(name, [each[name] for each in found])
    return figures


def replay(frame: Frame, labels: npt.NDArray[np.int32], seed: int) -> dict[str, float]:
    """One division into past and new leads."""
    drawn = np.random.default_rng(seed).permutation(len(frame))
    past, new = (np.sort(part) for part in np.split(drawn, [int(len(frame) * PAST_SHARE)]))
    members = values_of(frame)
    model = models_tabular.learn(frame, labels, past)
    probability = model.probability(matrix_of(model.encodings, frame.rows(new)))
    answered = labels[new] == 1
    terms = described(members, labels, past)
    named = Finder({term.predicate: f"{term.tag} {term.predicate}" for term in terms}).find(WORDS)
    figures: dict[str, float] = {}
    for prefix, matches in (("", {}), ("with_words_", named)):
        looked = candidates(terms, matches, frozenset(), any_converters=True)
        membership = np.stack([members[each.term.predicate][new] for each in looked])
        audiences = {name: inside(membership, probability, share) for name, share in SHARES.items()}
        for name, chosen in audiences.items():
            figures |= {f"{prefix}{name}_{key}": value for key, value in counted(chosen, answered).items()}
    figures |= beside(looked_at(terms, members, new), probability, answered, expert(members)[new], seed)
    return figures


def looked_at(terms: Sequence[Term], members: Mapping[str, Flags], new: Ints) -> Flags:
    """(terms, new leads) of what the product would look at without any words."""
    looked: list[Candidate] = candidates(terms, {}, frozenset(), any_converters=True)
    return np.stack([members[each.term.predicate][new] for each in looked])


def inside(membership: Flags, probability: Floats, share: float) -> Flags:
    """The audience that keeps a share of the expected responses."""
    rows = cover(membership, probability, share)
    return np.asarray(membership[rows].any(axis=0)) if rows else np.ones(membership.shape[1], np.bool_)


def counted(chosen: Flags, answered: Flags) -> dict[str, float]:
    """Pushes and conversions as shares of a blast's, and the pushes saved for the same conversions."""
    pushes, kept = float(chosen.mean()), float(answered[chosen].sum() / answered.sum())
    return {"pushes": pushes, "conversions": kept, "saving": 1 - pushes / kept if kept else 0.0}


def beside(membership: Flags, probability: Floats, answered: Flags, by_expert: Flags, seed: int) -> dict[str, float]:
    """Conversions among as many persons as the expert's predicate holds for, as shares of all."""
    size = int(by_expert.sum())
    order = np.random.default_rng(1000 + seed).permutation(len(answered))
    shares = np.arange(0.02, 1.0, 0.02)
    audiences = [inside(membership, probability, float(share)) for share in shares]
    # The audience nearest in size: who of it is left out, or who is added, is drawn evenly.
    nearest = min(audiences, key=lambda each: abs(int(each.sum()) - size))
    taken = min(size, int(nearest.sum()))
    hits = float(answered[nearest].mean()) * taken + float(answered[~nearest].mean()) * (size - taken)
    suggested, written = hits / float(answered.sum()), float(answered[by_expert].sum() / answered.sum())
    random = float(answered[order[:size]].sum() / answered.sum())
    best = float(answered[np.argsort(-probability, kind="stable")[:size]].sum() / answered.sum())
    return {
        "equal_size_pushes": size / len(answered),
        "equal_size_suggested_size_ratio": float(nearest.sum()) / size,
        "equal_size_suggested": suggested,
        "equal_size_expert": written,
        "equal_size_random": random,
        "equal_size_by_score_alone": best,
        "suggested_above_expert": suggested - written,
        "suggested_above_random": suggested - random,
    }


def values_of(frame: Frame) -> dict[str, Flags]:
    """Everybody who has each value of a category, or lies in each tenth of a number, by predicate."""
    found: dict[str, Flags] = {}
    for tag, column in frame.columns.items():
        if isinstance(column, Words):
            for code, word in enumerate(column.words):
                found[f"{tag} = '{word}'"] = np.asarray(column.indexes == code)
        elif isinstance(column, Numbers):
            values = column.values
            known = values[~np.isnan(values)]
            ends = np.unique(np.quantile(known, np.linspace(0, 1, RANGES + 1), method="lower"))
            for low, high in zip([-math.inf, *ends[1:-1]], [*ends[1:-1], math.inf], strict=True):
                found[f"{tag} BETWEEN {low:g} AND {high:g}"] = (values > low) & (values <= high)
    return found


def described(members: Mapping[str, Flags], labels: npt.NDArray[np.int32], past: Ints) -> list[Term]:
    """Terms of past converters beside all who were asked, with lift and z as tags gives them (index/describe.py)."""
    won = labels[past] == 1
    size, base = int(won.sum()), len(past)
    terms = []
    for predicate, having in members.items():
        mine = having[past]
        common, whole = int(mine[won].sum()), int(mine.sum())
        pooled = whole / base
        variance = pooled * (1 - pooled) * (1 / size + 1 / (base - size))
        if not whole or variance <= 0:
            continue
        z = (common / size - (whole - common) / (base - size)) / math.sqrt(variance)
        terms.append(Term(predicate.split(" ")[0], predicate, common, (common / size) / pooled, z))
    return terms


def expert(members: Mapping[str, Flags]) -> Flags:
    """poutcome = 'success' OR (contact = 'cellular' AND (job IN ('student', 'retired') OR education = 'university.degree'))."""
    by_mobile = members["contact = 'cellular'"]
    likely = members["job = 'student'"] | members["job = 'retired'"] | members["education = 'university.degree'"]
    found: Flags = members["poutcome = 'success'"] | (by_mobile & likely)
    return found
