"""A trained model as bytes: one ONNX file that carries its encodings and calibration; opened only when its seal is genuine.

ONNX holds numbers and operators, never code. The seal is an HMAC over name, version, format and SHA-256, so that bytes
that somebody else put into the database, or moved from another model or version, are refused before they are parsed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import orjson

from chassis.errors import Unavailable
from services.scoring.domain import Floats
from services.scoring.frame import Encoding, Feature, Kind, Matrix

FORMAT = "onnx-trees-1"
METADATA_KEY = "troika"


class ArtefactRefused(Unavailable):
    """A stored model whose seal or format is not ours. Retried, not dead-lettered: the messages are not at fault."""

    default_reason = "MODEL_REFUSED"


@dataclass(frozen=True)
class Calibration:
    """Platt scaling: log-odds = slope * margin + intercept. Strictly increasing, so it never makes ties of ranks."""

    slope: float
    intercept: float

    def probability(self, margin: Floats) -> Floats:
        """Calibrated probabilities of raw margins."""
        return 1 / (1 + np.exp(-(self.slope * margin + self.intercept)))


@dataclass(frozen=True)
class Seal:
    """What is stored beside an artefact to know it again."""

    format: str
    sha256: str
    signature: bytes


def seal(key: bytes, model: str, version: int, artefact: bytes, format_: str = FORMAT) -> Seal:
    """Seals an artefact as this version of this model."""
    sha256 = hashlib.sha256(artefact).hexdigest()
    return Seal(format_, sha256, _signature(key, model, version, format_, sha256))


def check_seal(key: bytes, model: str, version: int, artefact: bytes, given: Seal, format_: str = FORMAT) -> None:
    """Raises ArtefactRefused unless `seal` with this key made it for these very bytes, and they are of this format."""
    sha256 = hashlib.sha256(artefact).hexdigest()
    genuine = hmac.compare_digest(given.signature, _signature(key, model, version, given.format, sha256))
    if not genuine or given.sha256 != sha256:
        raise ArtefactRefused("a stored model has a false seal")
    if given.format != format_:
        raise ArtefactRefused("a stored model has an unknown format")


def _signature(key: bytes, model: str, version: int, format_: str, sha256: str) -> bytes:
    return hmac.digest(key, f"troika model\n{model}\n{version}\n{format_}\n{sha256}".encode(), "sha256")


# What a model says of a person: P(yes), or P(yes | pushed) and P(yes | not pushed), or the probability of each class.
PROBABILITY, EFFECT, CLASS = "probability", "effect", "class"


def metadata(
    encodings: Sequence[Encoding], calibration: Calibration, kind: str = PROBABILITY, classes: Sequence[str] = ()
) -> str:
    """What the ONNX file carries beside the graph, as JSON."""
    features = [{"tag": e.feature.tag, "kind": e.feature.kind, "words": e.words} for e in encodings]
    calibrated = {"slope": calibration.slope, "intercept": calibration.intercept}
    head = {"format": FORMAT, "kind": kind, "classes": list(classes), "features": features, "calibration": calibrated}
    return orjson.dumps(head).decode()


def softmax(margins: Floats) -> Floats:
    """Rows of log-shares, each known up to a constant, as shares that sum to 1."""
    shares = np.exp(margins - margins.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


class ServedModel:
    """A model in memory: persons by features in, calibrated probabilities out. Thread-safe.

    `kind` says which of `probability`, `effect` and `probabilities` (of `classes`) it can tell.
    """

    def __init__(self, model: str, version: int, artefact: bytes) -> None:
        options = onnxruntime.SessionOptions()
        # One thread: replicas are the way to more, and two cores have other services to run.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(artefact, options, providers=["CPUExecutionProvider"])
        self.model, self.version = model, version
        carried = orjson.loads(self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "{}"))
        if carried.get("format") != FORMAT:
            raise ArtefactRefused("a stored model has an unknown format")
        self.encodings = tuple(Encoding(Feature(f["tag"], Kind(f["kind"])), tuple(f["words"])) for f in carried["features"])
        self.calibration = Calibration(**carried["calibration"])
        self.kind: str = carried.get("kind", PROBABILITY)
        self.classes: tuple[str, ...] = tuple(carried.get("classes", ()))
        self.tags = tuple(encoding.feature.tag for encoding in self.encodings)

    def probability(self, matrix: Matrix) -> Floats:
        """Calibrated probabilities of rows; of a model of classes that of the likeliest class."""
        if self.kind == CLASS:
            return np.asarray(self.probabilities(matrix).max(axis=1))
        return self._outputs(matrix)[:, 0]

    def effect(self, matrix: Matrix) -> Floats:
        """By how much a push moves each row's probability, -1 to 1."""
        pushed, spared = self._outputs(matrix).T
        return np.asarray(pushed - spared)

    def probabilities(self, matrix: Matrix) -> Floats:
        """Rows by classes: calibrated probabilities that sum to 1. The slope is a temperature, the intercept says nothing."""
        if not len(matrix):
            return np.empty((0, len(self.classes)))
        [margin] = self._session.run(None, {"features": np.ascontiguousarray(matrix)})
        return softmax(self.calibration.slope * margin.astype(np.float64))

    def _outputs(self, matrix: Matrix) -> Floats:
        if not len(matrix):
            return np.empty((0, 2))
        [margin] = self._session.run(None, {"features": np.ascontiguousarray(matrix)})
        return self.calibration.probability(margin.astype(np.float64))
