"""Find and name the vertebrae C1-L5 on a spine film.

    predictor = Predictor()                    # the shipped model, the fastest engine that is there
    found = predictor("film.png")              # or a DICOM file, its bytes, an array, a Radiograph
    found.level_names, found.boxes_px, found.polygons_px, found.missing

The network gives candidates with a score for each of the 24 levels (``spine.decode``); which of them are vertebrae,
and which, is decided for all together by their order (``spine.order``). The model is loaded once and called many
times, from any thread. Everything about it is read from its one ONNX file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float64, Int64
from pydantic import Field, PositiveInt, ValidationError

from shared.config import Config
from shared.errors import SetupError
from shared.io.radiograph import as_radiograph
from shared.registry import choose_model
from shared.runtime import EngineName, Session, read_metadata
from shared.types import Boxes, Detections
from spine.config import LEVELS
from spine.decode import Candidates, decode
from spine.masks import Mask
from spine.order import Missing, Naming, name_vertebrae
from spine.order_constants import film_model
from spine.order_model import ClassScores
from spine.preprocess import preprocess

Image: TypeAlias = Any  # Path | str | bytes | an open file | array y x or y x 3 | Radiograph
Stage: TypeAlias = Callable[[str], AbstractContextManager[Any]]
Precision: TypeAlias = Literal["auto", "fp32", "int8"]

METADATA_VERSION = 1
COMPILED_SHAPES = 8  # films of a clinic have few shapes; each costs some 60 MB


FEWEST = 4
"""Vertebrae that a film should show for their order to say something."""


class OperatingPoint(Config):
    """What counts as a candidate: its best score, and how much two boxes may share."""

    confidence: float = Field(gt=0, lt=1)
    iou: float = Field(gt=0, le=1)

    def but(self, confidence: float | None = None, iou: float | None = None) -> OperatingPoint:
        """Return the point with what is given in place of its own.

        Raises:
            ValueError: out of range.
        """
        return OperatingPoint(
            confidence=self.confidence if confidence is None else confidence, iou=self.iou if iou is None else iou
        )


class ModelFile(Config):
    """What a model file says of itself."""

    labels: tuple[str, ...]
    size_px: PositiveInt
    operating_points: dict[str, OperatingPoint] = Field(min_length=1)
    """By name; ``default`` is used where none is asked for."""
    neighbour: float = Field(ClassScores.neighbour[1], gt=0, lt=1)
    """How often this network gives a level its neighbour's name, as `spine.order` is to take its scores."""
    score_weight: float = Field(ClassScores.weight, gt=0, le=1)
    """How much its scores count there: less than 1 where those of a film err together."""
    temperature: float = Field(1.0, gt=0)
    """What `tempered` divides by: more than 1 where names are less sure than each candidate's own scores make them."""


@dataclass(frozen=True, slots=True)
class Change:
    """A candidate that bears another name than its highest score says; ``label`` is None where it is no vertebra."""

    raw_label: str
    label: str | None
    box_px: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class SpineResult(Detections):
    """The vertebrae of one film from the head down, each level at most once.

    ``labels`` are places in LEVELS, ``scores`` the probability of that name given all candidates of the film.

    Attributes:
        raw_labels: The highest-scored level of each before ordering.
        detector_scores: The network's highest score of each.
        masks: Each one's pixels.
        missing: Levels between two that were found, and where they ought to be.
        changed: Candidates that ordering gave another name, or none.
        possible: Probability of a T13, an L6, and of T11 being the last thoracic vertebra: for a person to look at.
    """

    raw_labels: tuple[str, ...] = ()
    detector_scores: np.ndarray | None = None
    masks: tuple[Mask, ...] = ()
    missing: tuple[Missing, ...] = ()
    changed: tuple[Change, ...] = ()
    possible: Mapping[str, float] | None = None

    @property
    def level_names(self) -> tuple[str, ...]:
        """The vertebrae's names."""
        return tuple(LEVELS[label] for label in self.labels)


def in_words(count: int, first: str | None, last: str | None) -> str:
    """Say how many vertebrae there are, and from which to which."""
    if count < 2:
        return f"1 vertebra, {first}" if count else "0 vertebrae"
    return f"{count} vertebrae, {first} to {last}"


class Predictor:
    """A spine model, loaded once: ``Predictor(model, device)(image)`` gives a ``SpineResult``.

    Args:
        model: an ONNX file, a folder of models, or None for the shipped one (``SKIAGRAM_MODELS``, then the checkout's
            ``data/models``).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; see ``shared.runtime.Session``.
        precision: which shipped model: ``int8``, ``fp32``, or ``auto`` for INT8 on the CPU and float32 on CUDA.
            With a file of one's own it must agree with what that file is.
        operating_point: the name of one of the model file's, or one's own.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        threads: CPU threads; 0 leaves it to the engine.

    Raises:
        SetupError: no such model, no model for spines, no such operating point, or a device that is not there.
    """

    def __init__(
        self,
        model: Path | str | None = None,
        device: str = "auto",
        *,
        precision: Precision = "auto",
        operating_point: str | OperatingPoint = "default",
        engine: EngineName = "auto",
        threads: int = 0,
    ) -> None:
        path = choose_model("spine", precision, device, None if model is None else Path(model))
        self.file = read_model_file(path)
        self.operating_point = _point(path, self.file, operating_point)
        self.session = Session(path, device, engine, threads, shapes=COMPILED_SHAPES)
        if precision not in ("auto", self.precision):
            raise SetupError(f"{path}: is {self.precision}, not {precision}; give the other file, or auto")
        self._running = threading.Lock()

    @property
    def path(self) -> Path:
        """The model file."""
        return self.session.path

    @property
    def sha256(self) -> str:
        """SHA-256 of the model file, hex."""
        return self.session.sha256

    @property
    def device(self) -> str:
        """Device really used."""
        return self.session.device

    @property
    def engine(self) -> str:
        """Engine and version really used."""
        return self.session.engine

    @property
    def precision(self) -> str:
        """Precision of the model in use: ``fp32`` or ``int8``."""
        return str(self.session.metadata.get("precision", "fp32"))

    def __call__(self, image: Image, *, stage: Stage | None = None) -> SpineResult:
        """Find and name the vertebrae of one film, whatever its size: nothing is cropped.

        Args:
            image: a path, bytes or an open file of PNG, JPEG, TIFF, BMP or DICOM, 8 to 16 bits; an array ``y x`` (bone
                bright) or ``y x 3``; or a ``Radiograph``.
            stage: called with a stage's name, gives a context around it; for timings.

        Raises:
            InputError: the film cannot be used.
        """
        stage = stage or (lambda name: nullcontext())
        with stage("read"):
            film = as_radiograph(image)
        candidates = self.candidates(film, stage=stage)
        with stage("names"):
            return self.named(candidates, film.width_px, film.height_px)

    def named(self, candidates: Candidates, width_px: int, height_px: int) -> SpineResult:
        """Name the candidates of a film by their order, as this network's scores are to be taken."""
        file = self.file
        return named(candidates, width_px, height_px, file.neighbour, file.score_weight, file.temperature)

    def candidates(
        self, image: Image, point: OperatingPoint | None = None, *, stage: Stage = lambda name: nullcontext()
    ) -> Candidates:
        """Return what may be a vertebra, before names are given; at another operating point if one is given."""
        film, point = as_radiograph(image), point or self.operating_point
        with stage("preprocess"):
            pixels, letterbox = preprocess(film.array, self.file.size_px)
        with self._running, stage("network"):
            outputs = self.session.outputs(pixels)
        with stage("decode"):
            return decode(outputs, letterbox, point.confidence, point.iou)


def named(
    candidates: Candidates,
    width_px: int,
    height_px: int,
    neighbour: float = ClassScores.neighbour[1],
    score_weight: float = ClassScores.weight,
    temperature: float = 1.0,
) -> SpineResult:
    """Name the candidates of a film by their order; those that are no vertebra are left out.

    ``neighbour`` is how often their scores stand for a neighbour's level, ``score_weight`` how much they count,
    ``temperature`` what makes names less sure (`tempered`).
    """
    naming = ordered(candidates, width_px, height_px, neighbour, score_weight)
    kept, labels = vertebrae_of(naming)
    return SpineResult(
        candidates.boxes_px[kept],
        tempered(naming.posteriors[kept], temperature)[np.arange(len(kept)), labels].astype(np.float32),
        labels,
        dict(enumerate(LEVELS)),
        width_px,
        height_px,
        tuple(candidates.polygons_px[k] for k in kept),
        _findings(naming),
        raw_labels=tuple(naming.raw_labels[k] for k in kept),
        detector_scores=candidates.confidences[kept],
        masks=tuple(candidates.masks[k] for k in kept),
        missing=naming.missing,
        changed=tuple(_change(naming, k, candidates.boxes_px) for k in naming.head_first if k in naming.changed),
        possible=naming.odd,
    )


def _change(naming: Naming, k: int, boxes_px: Boxes) -> Change:
    x1, y1, x2, y2 = boxes_px[k].tolist()
    return Change(naming.raw_labels[k], naming.labels[k], (x1, y1, x2, y2))


def ordered(candidates: Candidates, width_px: int, height_px: int, neighbour: float, score_weight: float) -> Naming:
    """Return what the order of a film's candidates says of each of them; arguments as of `named`."""
    return name_vertebrae(
        candidates.centres_px.astype(np.float64), candidates.sizes_px.astype(np.float64),
        candidates.scores.astype(np.float64), candidates.confidences.astype(np.float64),
        picture_px=(height_px, width_px), model=film_model(neighbour, score_weight),
    )  # fmt: skip


def vertebrae_of(naming: Naming) -> tuple[list[int], Int64[np.ndarray, " n"]]:
    """Return the candidates that bear a name, from the head down, and its place in LEVELS."""
    places = {k: LEVELS.index(label) for k, label in enumerate(naming.labels) if label is not None}
    kept = sorted(places, key=places.__getitem__)
    return kept, np.array([places[k] for k in kept], np.int64)


def tempered(posteriors: Float64[np.ndarray, "n 24"], temperature: float) -> Float64[np.ndarray, "n 24"]:
    """Divide the logarithms of each candidate's probabilities by a temperature (Guo et al. 2017, ICML, section 4.2).

    A row is the probability of each level; what it lacks to 1 is that of none of them. Above a temperature of 1 the
    most likely becomes less so.
    """
    rows = np.column_stack([posteriors, np.maximum(1 - posteriors.sum(axis=1), 0)])
    powers = rows ** (1 / temperature)
    return np.asarray((powers / np.maximum(powers.sum(axis=1, keepdims=True), 1e-300))[:, :-1])


def _findings(naming: Naming) -> tuple[str, ...]:
    """What a person should know of this film."""
    vertebrae = sum(label is not None for label in naming.labels)
    if not vertebrae:
        return ("no vertebra found",)
    found = []
    if vertebrae < FEWEST:
        found.append(f"fewer than {FEWEST} vertebrae: their order says little, so the names are unsure")
    found += _left_out(naming)
    if naming.missing:
        found.append("not found: " + ", ".join(gone.label for gone in naming.missing))
    words = {"T11": "T11 may be the last thoracic vertebra", "T13": "there may be a T13", "L6": "there may be an L6"}
    found += [f"{words[name]} (probability {value:.2f})" for name, value in naming.odd.items() if value >= 0.5]
    return tuple(found)


def _left_out(naming: Naming) -> list[str]:
    """Say where a candidate bears no name that is more likely a vertebra than not: it did not fit the others' names."""
    found, names = [], [naming.labels[k] for k in naming.head_first]
    for place, k in enumerate(naming.head_first):
        if names[place] is None and naming.posteriors[k].sum() > 0.5:
            above = [f"below {name}" for name in names[:place] if name][-1:]
            below = [f"above {name}" for name in names[place:] if name][:1]
            found.append(f"one vertebra may lack its name, {' and '.join(above + below)}")
    return found


def read_model_file(path: Path) -> ModelFile:
    """Read and check what a model file says of itself; its other entries are for people.

    Raises:
        SetupError: it is no model for spines, of another version, of other levels, or says too little.
    """
    metadata = read_metadata(path)
    if metadata.get("task") != "spine":
        raise SetupError(f"{path}: a model for {metadata.get('task', 'another task')}, not for spine")
    if metadata.get("metadata_version") != METADATA_VERSION:
        raise SetupError(f"{path}: metadata version {metadata.get('metadata_version')}; export it again")
    try:
        file = ModelFile.model_validate({name: metadata[name] for name in ModelFile.model_fields if name in metadata})
    except ValidationError as error:
        raise SetupError(f"{path}: its metadata is incomplete ({error}); export it again") from error
    if file.labels != LEVELS:
        raise SetupError(f"{path}: its classes are not C1 to L5 in anatomical order; export it again")
    return file


def _point(path: Path, file: ModelFile, asked: str | OperatingPoint) -> OperatingPoint:
    if isinstance(asked, OperatingPoint):
        return asked
    if asked not in file.operating_points:
        known = ", ".join(file.operating_points)
        raise SetupError(f"{path}: has no operating point {asked!r}; it has {known}")
    return file.operating_points[asked]
