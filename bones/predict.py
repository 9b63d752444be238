"""Find fractures in radiographs: a light gate asks whether bone is there, only then the detector looks.

    predictor = Predictor()                 # the shipped models, the fastest engine that is there
    found = predictor("wrist.png")          # or a DICOM file, its bytes, an array, a Radiograph
    found.gate.passed, found.boxes_px, found.scores

Models are loaded once and called many times, from any thread. Everything about them is read from their ONNX files. The
detector, which is heavy, is loaded when the first picture has passed the gate.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from pydantic import Field, ValidationError

from bones.decode import Anchors, Found, Selection, decoder_of, to_picture
from bones.gate import GateDecision, GateSettings, decide
from bones.preprocess import fit
from shared.config import Config
from shared.errors import SetupError
from shared.io.radiograph import as_radiograph
from shared.registry import choose_model, find_model
from shared.report import sha256_of
from shared.runtime import EngineName, Session, read_metadata
from shared.types import Detections, PictureArray, Radiograph

Image: TypeAlias = Any  # Path | str | bytes | an open file | array y x or y x 3 | Radiograph
Stage: TypeAlias = Callable[[str], AbstractContextManager[Any]]
OperatingPoint: TypeAlias = Literal["screening", "balanced", "specific"]
OPERATING_POINTS: tuple[OperatingPoint, ...] = ("screening", "balanced", "specific")
NO_GATE = "none"
METADATA_VERSION = 1


class GateFile(Config):
    """What a gate's model file says of itself."""

    size_px: int
    gate: GateSettings


class DetectorFile(Config):
    """What a detector's model file says of itself."""

    kind: str
    labels: dict[int, str]
    size_px: int
    anchors: Anchors | None = None
    selection: Selection = Selection()
    engine: EngineName = "auto"
    """The one that computes it right, where others do not."""
    operating_points: dict[OperatingPoint, float] = Field(min_length=len(OPERATING_POINTS))
    """Score that a box must reach."""


S = TypeVar("S", bound=Config)


@dataclass(frozen=True, slots=True)
class GatedDetections(Detections):
    """Detections and what the gate decided before; ``gate`` is None where it was not asked."""

    gate: GateDecision | None = None


class Gate:
    """The gate's network, loaded: a radiograph to a decision."""

    def __init__(self, path: Path, device: str = "auto", engine: EngineName = "auto", threads: int = 0) -> None:
        self.path = path
        self.file = read_model_file(path, "gate", GateFile)
        self.session = Session(path, device, engine, threads)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, hex."""
        return self.session.sha256

    def __call__(self, radiograph: Radiograph) -> GateDecision:
        """Decide whether there is bone to look at; the decision says why."""
        picture = fit(radiograph.array, self.file.size_px)
        probability = self.session(picture[None, None])[0, 0]
        return decide(probability, picture, radiograph.source, self.file.gate)


class Detector:
    """The detector's network, loaded: a picture to boxes in its pixels."""

    def __init__(
        self, path: Path, file: DetectorFile, device: str = "auto", engine: EngineName = "auto", threads: int = 0
    ) -> None:
        self.file = file
        if file.engine != "auto" and engine not in ("auto", file.engine):
            raise SetupError(f"{path}: runs with {file.engine} only, not with {engine}; use {file.engine}, or auto")
        self.session = Session(path, device, file.engine if engine == "auto" else engine, threads)
        self._decode = decoder_of(file.kind, file.size_px, file.anchors, file.selection)

    def __call__(self, picture: PictureArray, threshold: float, stage: Stage = lambda name: nullcontext()) -> Found:
        """Return what scores ``threshold`` or more, best first."""
        with stage("preprocess"):
            square = fit(picture, self.file.size_px)[None, None]
        with stage("network"):
            outputs = self.session.outputs(square)
        with stage("boxes"):
            found = self._decode(outputs, threshold)
            height_px, width_px = picture.shape
            return to_picture(found, self.file.size_px, width_px, height_px)


class Predictor:
    """Gate and detector: ``Predictor(model, device)(image)`` gives ``GatedDetections``; safe to call from threads.

    Args:
        model: the detector's ONNX file, a folder of models, or None for the shipped one (``SKIAGRAM_MODELS``, then the
            checkout's ``data/models``).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; see ``shared.runtime.Session``.
        gate: the gate's ONNX file or a folder of models, None for the shipped one, or ``"none"``: no gate, and the
            detector is loaded at once.
        precision: which shipped detector: ``int8``, ``fp32``, or ``auto`` for INT8 on the CPU and float32 on CUDA.
            With a file of one's own it must agree with what that file is.
        operating_point: ``screening`` misses least, ``specific`` has fewest false alarms, ``balanced`` lies between;
            the scores they ask for stand in the model file.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        threads: CPU threads; 0 leaves it to the engine.

    Raises:
        SetupError: no such model, no model for bones, or a device that is not there.
    """

    def __init__(
        self,
        model: Path | str | None = None,
        device: str = "auto",
        *,
        gate: Path | str | None = None,
        precision: Literal["auto", "fp32", "int8"] = "auto",
        operating_point: OperatingPoint = "balanced",
        engine: EngineName = "auto",
        threads: int = 0,
    ) -> None:
        self.path = choose_model("bones", precision, device, Path(model) if model is not None else None)
        self.file = read_model_file(self.path, "detector", DetectorFile)
        self.precision = str(read_metadata(self.path).get("precision", "fp32"))
        if precision not in ("auto", self.precision):
            raise SetupError(f"{self.path}: is {self.precision}, not {precision}; give the other file, or auto")
        self.operating_point = operating_point
        self._asked = (device, engine, threads)
        self._loading = threading.Lock()
        self._detector: Detector | None = None
        self.gate: Gate | None = None
        if str(gate) == NO_GATE:
            self.preload()
        else:
            self.gate = Gate(find_model("bones", "gate", Path(gate) if gate is not None else None), *self._asked)

    @property
    def names(self) -> dict[int, str]:
        """The labels of what is found; 0, the background, is none."""
        return {label: name for label, name in self.file.labels.items() if label}

    @property
    def threshold(self) -> float:
        """Score that a box must reach at the operating point."""
        return self.file.operating_points[self.operating_point]

    @property
    def is_loaded(self) -> bool:
        """Whether the detector is loaded by now."""
        return self._detector is not None

    @property
    def device(self) -> str:
        """Device really used; the gate's while the detector is not loaded."""
        return self._session.device

    @property
    def engine(self) -> str:
        """Engine and version really used; the gate's while the detector is not loaded."""
        return self._session.engine

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the detector's file, hex."""
        return sha256_of(self.path)

    @property
    def _session(self) -> Session:
        loaded = self._detector or self.gate
        assert loaded is not None  # without a gate the detector is loaded at once
        return loaded.session

    def preload(self) -> Detector:
        """Load the detector if that is still to be done, once, and return it.

        Raises:
            SetupError: the engine cannot load it.
        """
        with self._loading:
            if self._detector is None:
                self._detector = Detector(self.path, self.file, *self._asked)
            return self._detector

    def __call__(
        self, image: Image, *, threshold: float | None = None, gated: bool = True, stage: Stage | None = None
    ) -> GatedDetections:
        """Look at one picture: the gate first, and if it passes, the detector.

        Args:
            image: a path, bytes or an open file of PNG, JPEG, TIFF, BMP or DICOM; an array ``y x`` (bone bright) or
                ``y x 3``; or a ``Radiograph``.
            threshold: score that a box must reach, in place of the operating point's.
            gated: False leaves the gate out for this picture.
            stage: called with a stage's name, gives a context around it; for timings.

        Raises:
            InputError: the picture cannot be used.
        """
        stage = stage or (lambda name: nullcontext())
        with stage("read"):
            radiograph = as_radiograph(image)
        decision = None
        if gated and self.gate is not None:
            with stage("gate"):
                decision = self.gate(radiograph)
        if decision is not None and not decision.passed:
            findings = (f"not looked at for fractures: {decision.reason}",)
            return self._result(radiograph, _nothing(), decision, findings)
        with stage("load model"):
            detector = self.preload()
        found = detector(radiograph.array, self.threshold if threshold is None else threshold, stage)
        return self._result(radiograph, found, decision, ())

    def _result(
        self, radiograph: Radiograph, found: Found, decision: GateDecision | None, findings: tuple[str, ...]
    ) -> GatedDetections:
        return GatedDetections(
            found.boxes_px,
            found.scores,
            found.labels,
            self.names,
            radiograph.width_px,
            radiograph.height_px,
            found.polygons_px,
            findings,
            gate=decision,
        )


def read_model_file(path: Path, network: Literal["gate", "detector"], kind: type[S]) -> S:
    """Read and check what a model file says of itself, as ``kind``; its other entries are for people.

    Raises:
        SetupError: it is no such network for bones, of another version, or says too little.
    """
    metadata: Mapping[str, Any] = read_metadata(path)
    if metadata.get("task") != "bones":
        raise SetupError(f"{path}: a model for {metadata.get('task', 'another task')}, not for bones")
    if metadata.get("network") != network:
        raise SetupError(f"{path}: is a {metadata.get('network')}, not a {network}; give the other file")
    if metadata.get("metadata_version") != METADATA_VERSION:
        raise SetupError(f"{path}: metadata version {metadata.get('metadata_version')}; export it again")
    try:
        return kind.model_validate({name: metadata[name] for name in kind.model_fields if name in metadata})
    except ValidationError as error:
        raise SetupError(f"{path}: its metadata is incomplete ({error}); export it again") from error


def _nothing() -> Found:
    return Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
