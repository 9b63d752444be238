"""Score masks of labelled scans, on the scans' own grid: a model's, or masks that lie in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from coronary.cases import Case, find_cases, split
from coronary.predict import Predictor
from shared.errors import InputError, SetupError
from shared.io.volume import is_volume, read_volume, stem
from shared.io.writers import write_csv, write_json
from shared.metrics.bootstrap import bootstrap_interval
from shared.metrics.centreline import centreline_recall
from shared.metrics.overlap import overlap_scores
from shared.report import Report, recorded, sha256_of
from shared.types import Grid, MaskArray, Volume

RADIUS_EDGES_MM = (0.8, 1.5)
RECALL = ("recall_radius_below_0_8mm", "recall_radius_0_8_to_1_5mm", "recall_radius_above_1_5mm")
METRICS = ("dice", "cl_dice", "hd95_mm", "surface_dice_1mm", "betti0_error", *RECALL)
SURFACE_TOLERANCE_MM = 1.0
PICTURES = 3  # of the worst cases
SAME_GRID_MM = 1e-2  # two affines this close are one grid; tools store them in single precision

Segment: TypeAlias = Callable[[Case], tuple[MaskArray, Grid]]
"""Gives a case's mask, true on lumen, and the grid it lies on."""


@dataclass(frozen=True, slots=True)
class Scores:
    """One row a case, with ``case`` and every name of ``METRICS``, and a line for each case that could not be scored.

    An infinite HD95 is one empty mask of two; a recall that is NaN has no such vessel in the truth.
    """

    rows: tuple[dict[str, Any], ...]
    failures: tuple[str, ...] = ()

    def mean(self, metric: str) -> float:
        """Mean of a metric over the cases that have it."""
        return float(np.nanmean([row[metric] for row in self.rows]))

    def summary(self) -> dict[str, dict[str, Any]]:
        """Mean, standard deviation, 95 % bootstrap interval, median, lowest and highest case of every metric.

        Infinite values and cases without such a vessel are left out of all but lowest and highest, and counted.
        """
        result: dict[str, dict[str, Any]] = {}
        for metric in METRICS:
            values = np.array([row[metric] for row in self.rows], float)
            finite = values[np.isfinite(values)]
            interval = bootstrap_interval(finite) if len(finite) > 1 else None
            order = np.argsort(values)[: np.count_nonzero(~np.isnan(values))]  # NaN comes last
            result[metric] = {
                "mean": float(finite.mean()) if len(finite) else None,
                "sd": float(finite.std(ddof=1)) if len(finite) > 1 else None,
                "interval_95": None if interval is None else [interval.low, interval.high],
                "median": float(np.median(finite)) if len(finite) else None,
                "lowest": self._at(order[:1], values),
                "highest": self._at(order[-1:], values),
                "infinite": int(np.isinf(values).sum()),
                "absent": int(np.isnan(values).sum()),
            }
        return result

    def means(self) -> dict[str, float]:
        """Mean of every metric that any case has a finite value of."""
        return {metric: found["mean"] for metric, found in self.summary().items() if found["mean"] is not None}

    def _at(self, index: np.ndarray, values: np.ndarray) -> dict[str, Any] | None:
        if not len(index):
            return None
        value = float(values[index[0]])
        return {"case": self.rows[index[0]]["case"], "value": value if np.isfinite(value) else None}


def compare(prediction: MaskArray, truth: MaskArray, spacing_mm: tuple[float, float, float]) -> dict[str, float]:
    """Every metric of two boolean masks ``x y z`` on one grid."""
    scores = overlap_scores(prediction, truth, spacing_mm, tolerance_mm=SURFACE_TOLERANCE_MM)
    scores["surface_dice_1mm"] = scores.pop("surface_dice")
    recall = centreline_recall(prediction, truth, spacing_mm, RADIUS_EDGES_MM)
    scores |= dict(zip(RECALL, recall, strict=True))
    return {metric: scores[metric] for metric in METRICS}


def evaluate(model: Path | Predictor, cases: Sequence[tuple[Path, Path]], *, device: str = "auto") -> Scores:
    """Predict every ``(scan, label)`` and compare them on the scan's grid, lumen against background.

    Raises:
        InputError: a case cannot be used.
    """
    segment = from_model(model if isinstance(model, Predictor) else Predictor(model, device))
    rows = []
    for scan, label in cases:
        case = Case(scan.name.partition(".")[0], scan, label)
        rows.append(_row(case, *_masks(case, segment)))
    return Scores(tuple(rows))


def evaluate_folder(
    model: Path | None,
    data: Path,
    part: str,
    out: Path,
    device: str = "auto",
    on_case: Callable[[int, str], None] = lambda done, case: None,
    *,
    predictions: Path | None = None,
    labels: Path | None = None,
    split_file: Path | None = None,
    fold: int | None = None,
) -> Scores:
    """Evaluate a model, or the masks of the folder ``predictions``, on the cases of ``data``.

    ``out`` receives ``scores.json``, ``cases.csv``, ``scores.png``, ``worst-ID.png`` of three cases, ``report.json``.

    Args:
        model: an ONNX file, or None where ``predictions`` is given.
        data: folder in ImageCAS's layout.
        part: training, validation or test of the split, or all.
        out: folder for the results.
        device: where the network runs.
        on_case: called after each case with how many are done and its name.
        predictions: folder of masks named after the cases, on their grids.
        labels: a second folder with other labels for the same scans.
        split_file: what ``part`` refers to; ``DATA/splits.json`` where None and there is one.
        fold: which of a file's splits.

    Raises:
        SetupError: no such part, no cases, or not exactly one of model and predictions.
    """
    import matplotlib  # noqa: F401  # said before an hour of scoring, where it is missing

    if (model is None) == (predictions is None):
        raise SetupError("nothing to score, or two things: give either --model FILE or --predictions DIR")
    cases = find_cases(data, labels)
    beside = data / "splits.json"
    source = split_file or (beside if beside.exists() else None)
    if part != "all" and source is None:
        raise SetupError(f"{beside}: not there, so there is no part {part!r}; give a split file, or --split all")
    chosen = split(cases, source, fold).part(part) if part != "all" or split_file else cases
    arguments = {
        "model": model, "data": data, "split": part, "out": out, "device": device, "predictions": predictions,
        "labels": labels, "split_file": split_file, "fold": fold,
    }  # fmt: skip
    with recorded(Report("coronary", "evaluate", arguments), out / "report.json") as report:
        if model is None:
            assert predictions is not None
            return evaluate_cases(from_folder(predictions), chosen, out, report, on_case)
        with report.stage("load model"):
            predictor = Predictor(model, device)
        note_model(report, predictor)
        return evaluate_cases(from_model(predictor), chosen, out, report, on_case)


def evaluate_cases(
    segment: Segment,
    cases: Iterable[Case],
    out: Path,
    report: Report,
    on_case: Callable[[int, str], None] = lambda done, case: None,
) -> Scores:
    """Score every case, go on after one that cannot be used, and write everything but ``report.json`` to ``out``."""
    rows: list[dict[str, Any]] = []
    worst: list[tuple[float, Case, np.ndarray]] = []
    for number, case in enumerate(cases, start=1):
        entry: dict[str, Any] = {"path": case.image, "label": case.label, "status": "done"}
        report.inputs.append(entry)
        started = time.perf_counter()
        try:
            entry["sha256"] = sha256_of(case.image) if case.image.exists() else None
            with report.stage("predict"):
                found, truth = _masks(case, segment)
            with report.stage("score"):
                rows.append(_row(case, found, truth))
        except InputError as error:
            entry |= {"status": "failed", "reason": str(error)}
            report.failures.append(str(error))
        else:
            worst.append((rows[-1]["dice"], case, np.packbits(found)))
            worst = sorted(worst, key=lambda item: item[0])[:PICTURES]
        entry["seconds"] = time.perf_counter() - started
        on_case(number, case.name)
    scores = Scores(tuple(rows), tuple(report.failures))
    report.results = {"scores": scores.summary()}
    report.exit_status = int(bool(scores.failures))
    with report.stage("write"):
        _write(scores, out, report, [(case, packed) for _, case, packed in worst])
    return scores


def note_model(report: Report, predictor: Predictor) -> None:
    """Note which model and what device and engine are really used."""
    report.use_model(predictor.session.path, predictor.session.sha256)
    report.device, report.engine, report.precision = predictor.device, predictor.engine, predictor.precision


def from_model(predictor: Predictor) -> Segment:
    """Masks that a model makes of the scans."""

    def segment(case: Case) -> tuple[MaskArray, Grid]:
        segmentation = predictor(case.image)
        return segmentation.labels > 0, segmentation.grid

    return segment


def from_folder(folder: Path) -> Segment:
    """Masks that lie in a folder, lumen where not zero.

    Named ``ID.nii.gz`` (nnU-Net), ``ID.img.nii.gz`` (``coronary predict``), ``ID.label.nii.gz`` or ``ID_seg.nii.gz``,
    in any format that is read, or the only mask in ``ID/`` (TotalSegmentator). Sub-folders are searched: ``coronary
    predict`` keeps those of its input.

    Raises:
        SetupError: no such folder.
    """
    if not folder.is_dir():
        raise SetupError(f"{folder}: no such folder; give the folder of masks")
    masks: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and is_volume(path):
            masks.setdefault(stem(path), []).append(path)

    def segment(case: Case) -> tuple[MaskArray, Grid]:
        named = (masks[case.name + end] for end in ("", ".img", ".label", "_seg") if case.name + end in masks)
        inside = [path for paths in masks.values() for path in paths if path.parent == folder / case.name]
        found = next(named, inside if len(inside) == 1 else [])
        if not found:
            raise InputError(folder / case.name, "no mask of this case", f"name it {case.name}.nii.gz")
        if len(found) > 1:
            raise InputError(found[0], f"a mask of case {case.name}, and so is {found[1]}", "keep one of them")
        mask = read_volume(found[0])
        return mask.array != 0, mask.grid

    return segment


def _masks(case: Case, segment: Segment) -> tuple[MaskArray, Volume]:
    """A case's mask and its label, on one grid."""
    label = read_volume(case.label)
    mask, grid = segment(case)
    if grid.shape != label.array.shape or not np.allclose(grid.affine, label.affine, atol=SAME_GRID_MM):
        raise InputError(case.label, f"its grid is not that of the mask of {case.name}", "resample one onto the other")
    return mask, label


def _row(case: Case, found: MaskArray, label: Volume) -> dict[str, Any]:
    return {"case": case.name} | compare(found, label.array > 0, label.spacing_mm)


def _write(scores: Scores, out: Path, report: Report, worst: Sequence[tuple[Case, np.ndarray]]) -> None:
    """Write table, summary and pictures."""
    out.mkdir(parents=True, exist_ok=True)
    blank = [{key: "" if value != value else value for key, value in row.items()} for row in scores.rows]  # NaN
    write_csv(blank, out / "cases.csv")
    content = {
        "schema_version": 1, "model": report.model, "engine": report.engine, "precision": report.precision,
        "split": report.arguments.get("split"), "cases": len(scores.rows), "failed": len(scores.failures),
        "scores": scores.summary(),
    }  # fmt: skip
    write_json(content, out / "scores.json")
    report.outputs += [out / "cases.csv", out / "scores.json"]
    if not scores.rows:
        return
    from coronary.evaluate_pictures import draw_case, draw_scores

    draw_scores(scores, out / "scores.png")
    report.outputs.append(out / "scores.png")
    by_name = {row["case"]: row for row in scores.rows}
    for case, packed in worst:
        row = by_name[case.name]
        path = out / f"worst-{case.name}.png"
        draw_case(case, packed, path, f"{case.name}: Dice {row['dice']:.3f}, clDice {row['cl_dice']:.3f}")
        report.outputs.append(path)
