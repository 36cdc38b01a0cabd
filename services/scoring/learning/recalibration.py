"""The recalibrating process: a model's file and what came of its promises in on stdin, the set-right file out on stdout.

A process of its own for the same reasons as a training (`fit`); it speaks to its parent in the same way.
"""

from __future__ import annotations

import base64
import io
import os
import sys
from typing import Final

import numpy as np
import onnx
import orjson

from services.scoring.artefact import METADATA_KEY, Calibration
from services.scoring.domain import Floats, TrainingRefused
from services.scoring.learning.calibration import LEAST_SLOPE, Recalibration
from services.scoring.learning.cut import Trained
from services.scoring.measuring import Z95, Flags, auc, measure

SEED: Final = 0


def line_of(promised: Floats, did: Flags) -> Calibration:
    """The line that is to follow on promised log-odds: the belief that they are right, moved by these outcomes."""
    return Recalibration.start(Calibration(1.0, 0.0)).after(promised, did).calibration


def recalibrated(artefact: bytes, promised: Floats, did: Flags) -> Trained:
    """The same graph with its calibration set right; metrics are of promises made by the outcomes of others.

    Refuses outcomes in which what was promised is not proven to rise with what happened: no line mends that.
    """
    area, error = auc(promised, did)
    line = line_of(promised, did)
    if area - Z95 * error <= 0.5 or line.slope <= LEAST_SLOPE:
        raise TrainingRefused("NO_SIGNAL", "on these outcomes the model is not proven better than chance: train it again")
    # Each half is promised by the line of the other one.
    half = np.random.default_rng(SEED).permutation(len(did)) % 2 == 0
    said = np.empty(len(did))
    for seen, unseen in ((half, ~half), (~half, half)):
        said[unseen] = line_of(promised[seen], did[seen]).probability(promised[unseen])
    return Trained(with_line(artefact, line), measure(said, did))


def with_line(artefact: bytes, line: Calibration) -> bytes:
    """The same file, with another line laid upon its calibration."""
    model = onnx.load_from_string(artefact)
    [entry] = [each for each in model.metadata_props if each.key == METADATA_KEY]
    carried = orjson.loads(entry.value)
    before = Calibration(**carried["calibration"])
    carried["calibration"] = {
        "slope": line.slope * before.slope,
        "intercept": line.slope * before.intercept + line.intercept,
    }
    entry.value = orjson.dumps(carried).decode()
    return bytes(model.SerializeToString())


def main() -> None:
    """Ends with a line that has either `artefact` and `metrics`, or `refused`."""
    os.nice(5)
    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as given:
        artefact, promised, did = given["artefact"].tobytes(), given["promised"], given["did"]
    try:
        made = recalibrated(artefact, promised, did)
        answer = {"artefact": base64.b64encode(made.artefact).decode(), "metrics": made.metrics}
    except TrainingRefused as refusal:
        answer = {"refused": refusal.reason, "detail": refusal.detail}
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")


if __name__ == "__main__":
    main()
