"""Find and name the vertebrae C1-L5 on a spine film.

    predictor = Predictor()                    # the shipped model, the fastest engine that is there
    found = predictor("film.png")              # or a DICOM file, its bytes, an array, a Radiograph
    found.level_names, found.boxes_px, found.polygons_px, found.missing

The network gives candidates with a score for each of the 24 levels (``spine.decode``); which of them are vertebrae,
and which, is decided for all together by their order (``spine.order``). The model is loaded once and called many
times, from any thread. Everything about it is read from its one ONNX file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float32, Float64, Int64

from shared.errors import SetupError
from shared.io.radiograph import as_radiograph
from shared.registry import choose_model
from shared.runtime import EngineName, Session
from shared.types import Boxes, Detections, Radiograph
from spine.config import LEVELS
from spine.decode import Candidates, decode, with_mirrored
from spine.masks import Mask
from spine.model_file import NameTrust, OperatingPoint, find_point, read_model_file
from spine.order import Missing, Naming, name_vertebrae
from spine.order_constants import film_model
from spine.order_model import ClassScores
from spine.preprocess import Letterbox, preprocess

Image: TypeAlias = Any  # Path | str | bytes | an open file | array y x or y x 3 | Radiograph
Stage: TypeAlias = Callable[[str], AbstractContextManager[Any]]
Precision: TypeAlias = Literal["auto", "fp32", "int8"]
LookAgain: TypeAlias = Literal["unsure", "always", "never"]

FEWEST = 4
"""Vertebrae that a film should show for their order to say something."""
UNSURE = 0.5  # a name is more likely wrong than right
MANY = 0.5  # of a film's names changed: so were 2 of 111 films from the front, and 13 of 24 films that are mostly necks
FAR = 2.5  # steps from one vertebra to the next; the longest lumbar step is some one and a half of the median


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
        views: 2 where the film was looked at again in the mirror.
        candidates_above: The score that candidates exceeded: the operating point's, or the second look's.
    """

    raw_labels: tuple[str, ...] = ()
    detector_scores: np.ndarray | None = None
    masks: tuple[Mask, ...] = ()
    missing: tuple[Missing, ...] = ()
    changed: tuple[Change, ...] = ()
    possible: Mapping[str, float] | None = None
    views: int = 1
    candidates_above: float = 0.0

    @property
    def level_names(self) -> tuple[str, ...]:
        """The vertebrae's names."""
        return tuple(LEVELS[label] for label in self.labels)


def in_words(count: int, first: str | None, last: str | None) -> str:
    """Say how many vertebrae there are, and from which to which."""
    if count < 2:
        return f"1 vertebra, {first}" if count else "0 vertebrae"
    return f"{count} vertebrae, {first} to {last}"


class Look(NamedTuple):
    """One film: what may be a vertebra from a low confidence on, from the operating point's on, and what is named."""

    everything: Candidates
    sure: Candidates
    result: SpineResult


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
        second_look: whether a film is looked at again in the mirror: where its names are ``unsure``, ``always`` or
            ``never``. A model file that says nothing of it looks once.
        at_once: films that threads give it at a time; see ``shared.runtime.Session``.

    Raises:
        SetupError: no such model, no model for spines, no such operating point, a device that is not there, or a second
            look always asked for of a file that has none.
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
        second_look: LookAgain = "unsure",
        at_once: int = 1,
    ) -> None:
        path = choose_model("spine", precision, device, None if model is None else Path(model))
        self.file = read_model_file(path)
        self.operating_point = find_point(path, self.file, operating_point)
        self.session = Session(path, device, engine, threads, any_size=True, at_once=at_once)
        if precision not in ("auto", self.precision):
            raise SetupError(f"{path}: is {self.precision}, not {precision}; give the other file, or auto")
        if second_look == "always" and self.file.second_look is None:
            raise SetupError(f"{path}: was exported without a second look; export it again, or leave it out")
        self.second_look = second_look

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

    @property
    def second_point(self) -> OperatingPoint | None:
        """The operating point of second looks, None where there are none.

        Its confidence is the model file's for them, unless an operating point was asked for, be it of the same numbers
        as the default.
        """
        again, point = self.file.second_look, self.operating_point
        if again is None or self.second_look == "never":
            return None
        return point.but(confidence=again.confidence) if point is self.file.operating_points["default"] else point

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
        return self.look(film, stage=stage).result

    def look(self, image: Image, least: float | None = None, *, stage: Stage = lambda name: nullcontext()) -> Look:
        """Find and name the vertebrae of one film, and return what may be one from the confidence ``least`` on too.

        Where `second_look` says so all of it is of the mean of both views.

        Raises:
            InputError: the film cannot be used.
        """
        film, file, again, second_point = as_radiograph(image), self.file, self.file.second_look, self.second_point
        pixels, letterbox = self._preprocess(film, stage)
        outputs = self._outputs(pixels, stage)
        if self.second_look != "always":
            first = self._look(outputs, letterbox, self.operating_point, file, least, stage)
            if again is None or second_point is None or first.result.scores.min(initial=1) >= again.below:
                return first
        assert again is not None  # "always" is refused of a file without a second look
        assert second_point is not None
        outputs = with_mirrored(outputs, self._outputs(_mirror(pixels), stage), letterbox)
        second = self._look(outputs, letterbox, second_point, again, least, stage)
        return second._replace(result=replace(second.result, views=2))

    def _look(
        self, outputs: Sequence[np.ndarray], letterbox: Letterbox, point: OperatingPoint, trust: NameTrust,
        least: float | None, stage: Stage,
    ) -> Look:  # fmt: skip
        with stage("decode"):
            lowest = point.confidence if least is None else min(least, point.confidence)
            everything = decode(outputs, letterbox, lowest, point.iou)
            sure = everything if lowest == point.confidence else everything.above(point.confidence)
        with stage("names and outlines"):
            width_px, height_px = letterbox.width_px, letterbox.height_px
            result = named(sure, width_px, height_px, trust.neighbour, trust.score_weight, trust.temperature)
        result = replace(result, candidates_above=point.confidence)
        if unknown := [name for name in result.level_names if name in self.file.untrained]:
            note = f"{' '.join(unknown)}: the model was not trained on labelled films of these levels"
            result = replace(result, findings=(*result.findings, note))
        return Look(everything, sure, result)

    def candidates(self, image: Image, point: OperatingPoint | None = None, *, mirrored: bool = False) -> Candidates:
        """Return what may be a vertebra in one view, or in the mean of it and its mirror, before names are given.

        ``point`` is used in place of the operating point if it is given.
        """
        film, point = as_radiograph(image), point or self.operating_point
        pixels, letterbox = self._preprocess(film)
        outputs = self._outputs(pixels)
        if mirrored:
            outputs = with_mirrored(outputs, self._outputs(_mirror(pixels)), letterbox)
        return decode(outputs, letterbox, point.confidence, point.iou)

    def named(self, candidates: Candidates, width_px: int, height_px: int) -> SpineResult:
        """Name the candidates of one view of a film, as this network's scores are to be taken."""
        file = self.file
        return named(candidates, width_px, height_px, file.neighbour, file.score_weight, file.temperature)

    def _preprocess(
        self, film: Radiograph, stage: Stage = lambda name: nullcontext()
    ) -> tuple[Float32[np.ndarray, "1 3 y x"], Letterbox]:
        with stage("preprocess"):
            return preprocess(film.array, self.file.size_px)

    def _outputs(
        self, pixels: Float32[np.ndarray, "1 3 y x"], stage: Stage = lambda name: nullcontext()
    ) -> Sequence[np.ndarray]:
        with stage("network"):
            return self.session.outputs(pixels)


def _mirror(pixels: Float32[np.ndarray, "1 3 y x"]) -> Float32[np.ndarray, "1 3 y x"]:
    return np.ascontiguousarray(pixels[..., ::-1])


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
    raw = tuple(naming.raw_labels[k] for k in kept)
    sure = tempered(naming.posteriors[kept], temperature)[np.arange(len(kept)), labels].astype(np.float32)
    return SpineResult(
        candidates.boxes_px[kept],
        sure,
        labels,
        dict(enumerate(LEVELS)),
        width_px,
        height_px,
        tuple(candidates.outline(k) for k in kept),
        (*_findings(naming, lying=width_px > height_px), *_doubts(labels, raw, sure, candidates.centres_px[kept])),
        raw_labels=raw,
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


def _findings(naming: Naming, *, lying: bool) -> tuple[str, ...]:
    """What a person should know of this film."""
    vertebrae = sum(label is not None for label in naming.labels)
    turn = "; a film that lies on its side must be turned first" if lying else ""
    if not vertebrae:
        return (f"no vertebra found{turn}",)
    found = []
    if vertebrae < FEWEST:
        found.append(f"fewer than {FEWEST} vertebrae: their order says little, so the names are unsure{turn}")
    found += _left_out(naming)
    if naming.missing:
        found.append("not found: " + ", ".join(gone.label for gone in naming.missing))
    words = {"T11": "T11 may be the last thoracic vertebra", "T13": "there may be a T13", "L6": "there may be an L6"}
    found += [f"{words[name]} (probability {value:.2f})" for name, value in naming.odd.items() if value >= 0.5]
    return tuple(found)


def _doubts(
    labels: Int64[np.ndarray, " n"],
    raw_labels: Sequence[str],
    sure: Float32[np.ndarray, " n"],
    centres_px: Float32[np.ndarray, "n 2"],
) -> list[str]:
    """Say where the names of a film as a whole, or on one side of a gap, are not to be relied on."""
    if len(labels) < FEWEST:
        return []
    found = []
    if np.median(sure) < UNSURE:
        found.append(f"names are unsure ({sure.min():.2f} to {sure.max():.2f}): all of them may be off together")
    elif (sure < UNSURE).any():
        few = (f"{LEVELS[label]} ({one:.2f})" for label, one in zip(labels, sure, strict=True) if one < UNSURE)
        found.append(f"names more likely wrong than right: {', '.join(few)}")
    others = sum(LEVELS[label] != raw for label, raw in zip(labels, raw_labels, strict=True))
    if others > MANY * len(labels):
        found.append(
            f"the network's own names of {others} of {len(labels)} vertebrae fit no order: it may not know such a view"
        )
    steps = np.hypot(*np.diff(centres_px, axis=0).T)
    usual = np.median(steps / np.diff(labels))
    for k in np.flatnonzero((steps > FAR * usual) & (np.diff(labels) == 1)):
        upper, lower = LEVELS[labels[k]], LEVELS[labels[k + 1]]
        found.append(f"{upper} and {lower} lie {steps[k] / usual:.1f} steps apart: levels between may be missing")
    return found


def _left_out(naming: Naming) -> list[str]:
    """Say where a candidate bears no name that is more likely a vertebra than not: it did not fit the others' names."""
    found, names = [], [naming.labels[k] for k in naming.head_first]
    for place, k in enumerate(naming.head_first):
        if names[place] is None and naming.posteriors[k].sum() > 0.5:
            above = [f"below {name}" for name in names[:place] if name][-1:]
            below = [f"above {name}" for name in names[place:] if name][:1]
            found.append(f"one vertebra may lack its name, {' and '.join(above + below)}")
    return found
