"""The training process: a frame comes in on stdin, progress and at last the model go out on stdout, one JSON per line.

A process of its own, so that fitting never holds the lock under which doors and consumers run, its memory is returned
at the end, and a crash of it is only a failed training. No pickle: columns travel as an npz without objects.
"""

from __future__ import annotations

import base64
import importlib
import io
import os
import sys
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from services.scoring.domain import TrainingRefused
from services.scoring.frame import Column, Frame, Numbers, Words
from services.scoring.learning.cut import Cut


def pack(training_module: str, cut: Cut, trusted: Collection[str]) -> bytes:
    """A training's input as bytes."""
    arrays: dict[str, NDArray[Any]] = {"persons": cut.frame.persons, "labels": cut.labels, "moments": cut.moments}
    if cut.treated is not None:
        arrays["treated"] = cut.treated
    words: dict[str, tuple[str, ...] | None] = {}
    for place, (tag, column) in enumerate(cut.frame.columns.items()):
        words[tag] = column.words if isinstance(column, Words) else None
        arrays[f"column{place}"] = column.indexes if isinstance(column, Words) else column.values
    head = {"training_module": training_module, "words": words, "classes": cut.classes, "trusted": sorted(trusted)}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, head=np.frombuffer(orjson.dumps(head), np.uint8), **arrays)
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[str, Cut, frozenset[str]]:
    """What `pack` packed."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        head: Mapping[str, Any] = orjson.loads(arrays["head"].tobytes())
        columns: dict[str, Column] = {}
        for place, (tag, words) in enumerate(head["words"].items()):
            values = arrays[f"column{place}"]
            columns[tag] = Numbers(values) if words is None else Words(values, tuple(words))
        treated = arrays.get("treated")
        frame = Frame(arrays["persons"], columns)
        cut = Cut(frame, arrays["labels"], tuple(head["classes"]), arrays["moments"], treated)
        return head["training_module"], cut, frozenset(head["trusted"])


def _say(**line: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Trains what stdin asks for; ends with a line that has either `artefact` and `metrics`, or `refused`."""
    # Scores of people who are here now come before a model of tomorrow.
    os.nice(5)
    module, cut, trusted = unpack(sys.stdin.buffer.read())
    # Only here: who packs runs the doors, and has no use for learners in memory.
    refuse_leaks = importlib.import_module("services.scoring.learning.refusals").refuse_leaks
    try:
        refuse_leaks(cut, trusted)
        trained = importlib.import_module(module).train(cut, lambda share: _say(progress=share))
    except TrainingRefused as refusal:
        _say(refused=refusal.reason, detail=refusal.detail)
        return
    _say(artefact=base64.b64encode(trained.artefact).decode(), metrics=trained.metrics)


if __name__ == "__main__":
    main()
