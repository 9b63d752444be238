"""Score a model on labelled films: boxes and masks as COCO does, and names before and after they are ordered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from shared.errors import InputError, SetupError
from shared.io.radiograph import read_radiograph
from shared.io.tables import write_csv, write_json
from shared.metrics.bootstrap import Interval, bootstrap_interval, wilson_interval
from shared.metrics.detection import Compared, Matched, Overlap, box_overlaps, coco_scores, match, score_interval
from shared.report import Report, recorded, sha256_of
from shared.types import Boxes, Detections, Radiograph
from spine.cases import PARTS, Film, find_films, read_labels
from spine.config import LEVELS
from spine.decode import Candidates
from spine.masks import Mask, mask_of, mask_overlaps
from spine.model_file import OperatingPoint
from spine.predict import LookAgain, Predictor, SpineResult
from spine.scoring import Named, Naming, calibration_error, compare_names, confidence_curves, scores_at, shift_of, told

LOWEST_CONFIDENCE = 0.001  # of the curves and of average precision, as in ultralytics' validation
STAGES = ("before", "after")
"""Before ordering a candidate's name is its highest score; after, what `spine.order` says."""
PICTURES = 3  # of the worst films
FILES = ("films.csv", "shifts.csv", "scores.json", "curves.png", "confusion.png", "labels.png", "names.png")
SHIFTS = FILES[1]
"""Films whose names all differ from the labels by one number of levels, as ``spine merge --shifts`` takes it."""
DRAWS = 199  # of the bootstrap of average precision, which takes long


class Truth(NamedTuple):
    """A film's true vertebrae: boxes in its pixels, places in LEVELS, masks."""

    boxes_px: Boxes
    labels: np.ndarray
    masks: tuple[Mask, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """One film: what was found before and after ordering, beside the truth."""

    film: Film
    compared: dict[str, Compared]
    mask_overlaps: dict[str, Overlap]
    names: dict[str, tuple[Named, Named]]
    """Of each stage what was found at the operating point, and the truth."""
    result: SpineResult

    def naming(self, stage: str) -> Naming:
        """Compare the names of a stage with the true ones."""
        return compare_names(*self.names[stage])

    @property
    def shift(self) -> int:
        """By how many levels the film's names are all off (`shift_of`)."""
        return shift_of(*self.names["after"])

    def row(self) -> dict[str, Any]:
        """Return the film's line of the table."""
        row: dict[str, Any] = {"film": self.film.image.name, "group": self.film.group}
        for stage in STAGES:
            naming = self.naming(stage)
            row["vertebrae"] = naming.vertebrae
            row |= {f"{name}_{stage}": value for name, value in naming._asdict().items() if name != "vertebrae"}
            row[f"every_name_right_{stage}"] = int(naming.every_name_right)
        row["shift"] = self.shift
        row["missing"] = " ".join(gone.label for gone in self.result.missing)
        row["box_iou"], row["mask_iou"] = (
            float(overlap.max(axis=0).mean()) if overlap.size else 0.0
            for overlap in (box_overlaps([self.compared["after"]])[0], self.mask_overlaps["after"])
        )
        return row


@dataclass(frozen=True, slots=True)
class Scores:
    """Every film that could be scored, and a line for each that could not."""

    films: tuple[Scored, ...]
    operating_point: OperatingPoint
    failures: tuple[str, ...] = ()

    def matched(self, stage: str, kind: str, iou: float = 0.5) -> list[Matched]:
        """Pair what was found in a stage with the truth, by ``box`` or ``mask``."""
        compared, overlaps = self._pairs(stage, kind)
        return match(compared, iou, overlaps)

    def average_precision(self, stage: str, kind: str) -> dict[str, float]:
        """Return ap50, ap75 and ap50_95 as COCO defines them, by ``box`` or ``mask``."""
        return coco_scores(*self._pairs(stage, kind))

    def gate(self) -> float:
        """Return the score by which a model is compared with its INT8 twin.

        Half of it is the mean AP50-95 of boxes and masks, half the share of right names: a name can hang on a small
        difference of scores, of which average precision shows little.
        """
        precision = np.mean([self.average_precision("before", kind)["ap50_95"] for kind in ("box", "mask")])
        namings = [scored.naming("after") for scored in self.films]
        right = sum(naming.right for naming in namings) / max(1, sum(naming.vertebrae for naming in namings))
        return float((precision + right) / 2)

    def rates(self, stage: str) -> dict[str, Any]:
        """Return how well vertebrae are named in a stage, each rate with its 95 % interval over patients."""
        namings = [scored.naming(stage) for scored in self.films]
        groups = [scored.film.group for scored in self.films]
        total = {name: int(sum(getattr(naming, name) for naming in namings)) for name in Naming._fields}
        shares = {
            "identification": ("right", "vertebrae"),
            "identification_of_found": ("right", "found"),
            "found": ("found", "vertebrae"),
            "off_by_one_of_found": ("off_by_one", "found"),
        }
        every, clean = (sum(getattr(n, name) for n in namings) for name in ("every_name_right", "no_name_wrong"))
        shifted = sum(shift_of(*scored.names[stage]) != 0 for scored in self.films)
        return {
            **{name: _interval(_share(namings, groups, *parts)) for name, parts in shares.items()},
            "films_every_name_right": _interval(wilson_interval(every, len(namings))),
            "films_no_name_wrong": _interval(wilson_interval(clean, len(namings))),
            "films_shifted": _interval(wilson_interval(shifted, len(namings))),
            "counts": total,
        }

    def calibration(self) -> dict[str, float]:
        """Return how sure names are, how many are right, and how far the two are apart (`calibration_error`)."""
        sure, right = told((*scored.names["after"], scored.result.scores) for scored in self.films)
        count = max(1, len(right))
        means = {"confidence": float(sure.sum()) / count, "right": float(right.sum()) / count}
        return means | {"error": calibration_error(sure, right)}

    def summary(self) -> dict[str, Any]:
        """Return everything as plain numbers: names, average precision with intervals, and the best operating point."""
        groups = [scored.film.group for scored in self.films]
        scores: dict[str, Any] = {"films": len(self.films), "names": {stage: self.rates(stage) for stage in STAGES}}
        scores["names"]["calibration"] = self.calibration()
        for kind in ("box", "mask"):
            scores[kind] = {}
            for stage in STAGES:
                found = self.average_precision(stage, kind)
                matched = self.matched(stage, kind)
                sure = len(set(groups)) > 1
                interval = score_interval(matched, groups=groups, n=DRAWS) if sure else None
                scores[kind][stage] = found | {"ap50_interval_95": None if interval is None else list(interval[1:])}
            before = self.matched("before", kind)
            f1, confidence = confidence_curves(before).best
            scores[kind]["best_f1"] = {"f1": f1, "confidence": confidence}
            scores[kind]["at_operating_point"] = scores_at(before, self.operating_point.confidence)
        return scores

    def means(self) -> dict[str, float]:
        """Return the few numbers that stand for the others, as a model's card shows them."""
        after, before = (self.rates(stage)["identification"]["value"] for stage in ("after", "before"))
        box, mask = (self.average_precision("after", kind) for kind in ("box", "mask"))
        return {
            "identification": after,
            "identification_before_ordering": before,
            "films_every_name_right": self.rates("after")["films_every_name_right"]["value"],
            **{f"box_{name}": box[name] for name in ("ap50", "ap50_95")},
            **{f"mask_{name}": mask[name] for name in ("ap50", "ap50_95")},
        }

    def _pairs(self, stage: str, kind: str) -> tuple[list[Compared], list[Overlap]]:
        compared = [scored.compared[stage] for scored in self.films]
        return compared, (
            box_overlaps(compared) if kind == "box" else [scored.mask_overlaps[stage] for scored in self.films]
        )


def evaluate(
    model: Path | Predictor,
    films: Iterable[Film],
    *,
    device: str = "auto",
    on_case: Callable[[int, str], None] = lambda done, film: None,
) -> Scores:
    """Find and name the vertebrae of every film and compare them with its labels.

    Raises:
        InputError: a film or its labels cannot be used.
    """
    predictor = model if isinstance(model, Predictor) else Predictor(model, device)
    scored = []
    for number, film in enumerate(films, start=1):
        scored.append(score_film(film, predictor))
        on_case(number, film.image.name)
    return Scores(tuple(scored), predictor.operating_point)


def evaluate_folder(
    model: Path | None,
    data: Path,
    part: str,
    out: Path,
    device: str = "auto",
    on_case: Callable[[int, str], None] = lambda done, film: None,
    *,
    operating_point: str = "default",
    confidence: float | None = None,
    iou: float | None = None,
    second_look: LookAgain = "unsure",
) -> Scores:
    """Evaluate a model on a part of a merged data set, going on after a film that cannot be used.

    ``out`` receives ``scores.json``, ``films.csv``, ``shifts.csv``, ``curves.png``, ``confusion.png``, ``labels.png``,
    ``names.png``, ``worst-NAME.png`` of three films, and ``report.json``.

    Args:
        model: an ONNX file or a folder of them; the shipped model if None.
        data: folder that ``spine merge`` or ``spine phantom`` wrote.
        part: training, validation or test, or all.
        out: folder for the results.
        device: where the network runs.
        on_case: called after each film with how many are done and its name.
        operating_point: the name of one of the model file's.
        confidence: what a candidate's best score must exceed, instead of the operating point's.
        iou: overlap from which on two candidates are one, instead of the operating point's.
        second_look: which films are looked at again, mirrored: unsure, always or never.

    Raises:
        SetupError: no such part or model, or no films.
    """
    import matplotlib  # noqa: F401  # said before minutes of scoring, where it is missing

    films = films_of(data, part)
    arguments = {
        "model": model, "data": data, "split": part, "out": out, "device": device, "operating_point": operating_point,
        "confidence": confidence, "iou": iou, "second_look": second_look,
    }  # fmt: skip
    with recorded(Report("spine", "evaluate", arguments), out / "report.json") as report:
        with report.stage("load model"):
            predictor = Predictor(model, device, operating_point=operating_point, second_look=second_look)
            predictor.operating_point = predictor.operating_point.but(confidence, iou)
        return evaluate_films(predictor, films, out, report, on_case)


def films_of(data: Path, part: str) -> list[Film]:
    """Return the films of a data set's part.

    Raises:
        SetupError: there is no such part, or it is empty.
    """
    if part not in (*PARTS, *PARTS.values(), "all"):
        raise SetupError(f"--split {part}: no such part; give {', '.join(PARTS)} or all")
    films = find_films(data)
    chosen = films if part == "all" else [film for film in films if film.part == PARTS.get(part, part)]
    if not chosen:
        held = ", ".join(sorted({film.part for film in films}))
        raise SetupError(f"{data}: has no film for {part}; it has {held or 'none at all'}")
    return chosen


def evaluate_films(
    predictor: Predictor,
    films: Sequence[Film],
    out: Path,
    report: Report,
    on_case: Callable[[int, str], None] = lambda done, film: None,
) -> Scores:
    """Score every film, go on after one that cannot be used, and write everything but ``report.json`` to ``out``."""
    report.use_model(predictor.path, predictor.sha256)
    report.device, report.engine, report.precision = predictor.device, predictor.engine, predictor.precision
    for earlier in [*(out / name for name in FILES), *out.glob("worst-*.png")]:
        earlier.unlink(missing_ok=True)  # a run that fails is not to leave another's scores
    scored: list[Scored] = []
    for number, film in enumerate(films, start=1):
        entry: dict[str, Any] = {"path": film.image, "label": film.label, "status": "done"}
        report.inputs.append(entry)
        started = time.perf_counter()
        try:
            entry["sha256"] = sha256_of(film.image) if film.image.exists() else None
            with report.stage("films"):
                scored.append(score_film(film, predictor))
        except InputError as error:
            entry |= {"status": "failed", "reason": str(error)}
            report.failures.append(str(error))
        entry["seconds"] = time.perf_counter() - started
        on_case(number, film.image.name)
    scores = Scores(tuple(scored), predictor.operating_point, tuple(report.failures))
    report.exit_status = int(bool(scores.failures))
    with report.stage("write"):
        _write(scores, out, report)
    return scores


def score_film(film: Film, predictor: Predictor) -> Scored:
    """Find and name one film's vertebrae and lay them beside its labels.

    Raises:
        InputError: the film or its labels cannot be used.
    """
    radiograph = read_radiograph(film.image)
    truth = read_truth(film, radiograph)
    everything, sure, result = predictor.look(radiograph, LOWEST_CONFIDENCE)
    assert result.detector_scores is not None
    ranked = Detections(
        result.boxes_px, result.scores * result.detector_scores, result.labels, result.names,
        radiograph.width_px, radiograph.height_px,
    )  # fmt: skip
    true_names = Named(truth.boxes_px, truth.labels)
    unordered, which = _unordered(everything, radiograph)
    return Scored(
        film,
        {
            "before": Compared(unordered, truth.boxes_px, truth.labels),
            "after": Compared(ranked, truth.boxes_px, truth.labels),
        },
        {
            "before": mask_overlaps(everything.masks, truth.masks)[which],
            "after": mask_overlaps(result.masks, truth.masks),
        },
        {
            "before": (Named(sure.boxes_px, sure.scores.argmax(axis=1)), true_names),
            "after": (Named(result.boxes_px, result.labels), true_names),
        },
        result,
    )


def read_truth(film: Film, radiograph: Radiograph) -> Truth:
    """Read a film's labels, in its pixels.

    Raises:
        InputError: they cannot be read.
    """
    labels, shares = read_labels(film.label)
    size = np.array([radiograph.width_px, radiograph.height_px])
    polygons = [share * size for share in shares]
    boxes = np.array([[*p.min(axis=0), *p.max(axis=0)] for p in polygons], np.float32).reshape(-1, 4)
    masks = tuple(mask_of(p.astype(np.float32), radiograph.width_px, radiograph.height_px) for p in polygons)
    return Truth(boxes, labels, masks)


def _unordered(candidates: Candidates, radiograph: Radiograph) -> tuple[Detections, Int64[np.ndarray, " n"]]:
    """Return a detection for each level that a candidate may be, as ultralytics' validation counts; and which it is."""
    which, labels = np.nonzero(candidates.scores > LOWEST_CONFIDENCE)
    return Detections(
        candidates.boxes_px[which], candidates.scores[which, labels], labels, dict(enumerate(LEVELS)),
        radiograph.width_px, radiograph.height_px,
    ), which  # fmt: skip


def _share(namings: Sequence[Naming], groups: Sequence[str], part: str, whole: str) -> Interval:
    """Return a share of vertebrae and its bootstrap interval; films of one patient are drawn together."""
    units: dict[str, np.ndarray] = {}
    for group, naming in zip(groups, namings, strict=True):
        units[group] = units.get(group, 0) + np.array([getattr(naming, part), getattr(naming, whole)])
    counts = np.array(list(units.values())).reshape(-1, 2)

    def share(drawn: np.ndarray) -> float:
        parts, wholes = counts[np.asarray(drawn, np.int64)].sum(axis=0)
        return float(parts / wholes) if wholes else 0.0

    if len(counts) < 2:
        value = share(np.arange(len(counts)))
        return Interval(value, np.nan, np.nan)
    return bootstrap_interval(range(len(counts)), share, n=999)


def _interval(found: Interval) -> dict[str, Any]:
    return {"value": found.estimate, "interval_95": [found.low, found.high]}


def _write(scores: Scores, out: Path, report: Report) -> None:
    """Write table, summary and pictures."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [scored.row() for scored in scores.films]
    write_csv(rows, out / "films.csv", columns=("film", "group"))
    report.outputs.append(out / "films.csv")
    shifts = [{"file": row["film"], "levels": row["shift"]} for row in rows if row["shift"]]
    write_csv(shifts, out / SHIFTS, columns=("file", "levels"))
    report.outputs.append(out / SHIFTS)
    if not rows:
        return
    content = {
        "schema_version": 1, "model": report.model, "engine": report.engine, "precision": report.precision,
        "split": report.arguments.get("split"), "operating_point": scores.operating_point.model_dump(),
        "failed": len(scores.failures), "scores": scores.summary(),
    }  # fmt: skip
    write_json(content, out / "scores.json")
    report.outputs.append(out / "scores.json")
    report.results = {"scores": content["scores"]}
    from spine.evaluate_pictures import draw_all

    def share_right(scored: Scored) -> float:
        naming = scored.naming("after")
        return naming.right / max(1, naming.vertebrae)

    report.outputs += draw_all(scores, out, sorted(scores.films, key=share_right)[:PICTURES])
