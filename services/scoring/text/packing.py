"""A text model as bytes: an npz of plain arrays with a JSON head. Nothing in it can be code.

`seal` and `check_seal` (services/scoring/artefact.py) with FORMAT say whose bytes they are; open only what was checked.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from services.scoring.artefact import ArtefactRefused
from services.scoring.text.network import SENTIMENTS, WIDTH, Float32s, Network
from services.scoring.text.regression import Grams, Regression
from services.scoring.text.vocabulary import Vocabulary

FORMAT = "npz-text-2"


@dataclass(frozen=True)
class Trunk:
    """What a text model consists of. `topics` are named; the networks know one more, the text as a whole."""

    topics: tuple[str, ...]
    vocabulary: Vocabulary
    networks: tuple[Network, ...]
    # Of a model without topics, none.
    regression: Regression | None
    grams: Grams
    threshold: float


def pack(trunk: Trunk) -> bytes:
    """As bytes; weights in half precision (see `fitting.settled`)."""
    head = {
        "format": FORMAT,
        "topics": trunk.topics,
        "characters": trunk.vocabulary.characters,
        "pairs": trunk.vocabulary.pairs,
        "networks": len(trunk.networks),
        "grams": trunk.grams.words,
        "threshold": trunk.threshold,
    }
    arrays: dict[str, NDArray[Any]] = {"head": np.frombuffer(orjson.dumps(head), np.uint8)}
    for number, network in enumerate(trunk.networks):
        for name, weights in network.arrays().items():
            arrays[f"{number}.{name}"] = weights.astype(np.float16)
    if trunk.regression:
        arrays |= {f"regression.{name}": weights.astype(np.float16) for name, weights in trunk.regression.arrays().items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(artefact: bytes) -> Trunk:
    """What `pack` packed; raises ArtefactRefused for anything else."""
    try:
        with np.load(io.BytesIO(artefact), allow_pickle=False) as arrays:
            head: Mapping[str, Any] = orjson.loads(arrays["head"].tobytes())
            if head.get("format") != FORMAT:
                raise ArtefactRefused("a stored text model has an unknown format")
            vocabulary = Vocabulary(tuple(head["characters"]), tuple(head["pairs"]))
            networks = tuple(_network(arrays, number) for number in range(head["networks"]))
            grams, topics = Grams(tuple(head["grams"])), tuple(head["topics"])
            regression = _regression(arrays) if topics else None
            trunk = Trunk(topics, vocabulary, networks, regression, grams, float(head["threshold"]))
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ArtefactRefused("a stored text model cannot be read") from error
    _check(trunk)
    return trunk


def _network(arrays: Mapping[str, NDArray[Any]], number: int) -> Network:
    return Network(**{field.name: arrays[f"{number}.{field.name}"].astype(np.float32) for field in fields(Network)})


def _regression(arrays: Mapping[str, NDArray[Any]]) -> Regression:
    return Regression(**{field.name: arrays[f"regression.{field.name}"].astype(np.float32) for field in fields(Regression)})


def _check(trunk: Trunk) -> None:
    """Refuses weights that do not fit each other: numpy would broadcast some of them."""
    characters, pairs = trunk.vocabulary.sizes
    topics = len(trunk.topics) + 1
    for network in trunk.networks:
        width = network.characters.shape[-1] + network.pairs.shape[-1]
        filters = network.filters.shape[-1]
        wanted: Sequence[tuple[int, ...]] = (
            (characters, network.characters.shape[-1]),
            (pairs, network.pairs.shape[-1]),
            (WIDTH * width, filters),
            (filters,),
            (filters, topics),
            (topics, filters),
            (filters, topics),
            (topics,),
            (filters, len(SENTIMENTS)),
            (topics, filters, len(SENTIMENTS)),
            (filters, len(SENTIMENTS)),
            (topics, len(SENTIMENTS)),
        )
        _fit(wanted, network.arrays().values())
    if not trunk.networks:
        raise ArtefactRefused("a stored text model has no weights")
    if trunk.regression:
        grams, named = len(trunk.grams.words) + 1, len(trunk.topics)
        feelings = (grams, len(SENTIMENTS))
        wanted = ((trunk.grams.of_topics, named), (named,), feelings, feelings, (named, len(SENTIMENTS)))
        _fit(wanted, trunk.regression.arrays().values())


def _fit(wanted: Sequence[tuple[int, ...]], arrays: Collection[Float32s]) -> None:
    fits = all(shape == weights.shape for shape, weights in zip(wanted, arrays, strict=True))
    if not fits or not all(np.isfinite(weights).all() for weights in arrays):
        raise ArtefactRefused("a stored text model has weights that do not fit")
