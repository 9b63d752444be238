"""Segmenting an opened scan, and comparing the mask with a label file: everything ends in files of the case."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from coronary.batch import write_mesh, write_preview
from coronary.predict import Predictor, mask_from_file
from coronary.tree import Tree, measure
from coronary.viewer.jobs import Job
from coronary.viewer.store import Case
from shared.errors import InputError
from shared.io.volume import read_volume
from shared.io.writers import write_csv, write_dicom_seg, write_json, write_mask
from shared.mesh import mesh_from_mask
from shared.niivue.component import Label
from shared.niivue.encode import EncodedLabels, write_labels, write_surface
from shared.report import Report
from shared.types import Segmentation, Volume

ARTERIES = (
    Label(1, "LCA", (255, 77, 77)),
    Label(2, "RCA", (64, 196, 255)),
    Label(3, "Unassigned", (255, 213, 79)),
)
AGREEMENT = (
    Label(1, "Hit", (120, 200, 120)),
    Label(2, "Missed", (255, 96, 80)),
    Label(3, "Extra", (255, 200, 60)),
)
SURFACE_FACES = 80_000  # of one artery in the browser
# Share of the time that has passed when a stage begins, of a 512x512x206 scan on two CPU cores with the INT8 model.
BEGINS = {
    "read": 0.0, "region": 0.05, "preprocess": 0.08, "network": 0.14, "components": 0.66,
    "back to the input's grid": 0.68, "left and right": 0.72, "tree": 0.75, "surfaces": 0.82, "write": 0.92,
}  # fmt: skip


# What is done meanwhile, for people.
DOING = {
    "read": "Reading the scan",
    "region": "Looking for the heart",
    "preprocess": "Preparing",
    "network": "Looking for arteries",
    "components": "Sorting out",
    "back to the input's grid": "Back to the scan's grid",
    "left and right": "Left and right",
    "tree": "Measuring",
    "surfaces": "Surfaces",
    "write": "Writing",
}


def result_folder(case: Case, model_sha256: str) -> Path:
    """Where the result of a model on a case lies, or will lie."""
    return case.folder / f"result-{model_sha256[:16]}"


def load_result(folder: Path) -> dict[str, Any] | None:
    """What there is to tell about a result; None if there is none."""
    try:
        found: dict[str, Any] = json.loads((folder / "result.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found


def segment(case: Case, predictor: Predictor, job: Job) -> None:
    """Segment a case with a model and write everything that is shown or downloaded.

    Raises:
        InputError: the scan cannot be used.
        Cancelled: the visitor cancelled.
    """
    folder = result_folder(case, predictor.session.sha256)
    report = Report("coronary", "view", {"model": predictor.session.path.name})
    report.use_model(predictor.session.path, predictor.session.sha256)
    report.device, report.engine, report.precision = predictor.device, predictor.engine, predictor.precision

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        job.advance(BEGINS.get(name, 0.0), DOING.get(name, name))
        with report.stage(name):
            yield

    def windows(done: int, of: int) -> None:
        job.advance(BEGINS["network"] + (BEGINS["components"] - BEGINS["network"]) * done / of, DOING["network"])

    with _aside(folder) as aside:
        started = time.perf_counter()
        with stage("read"):
            volume = read_volume(case.scan)
        segmentation = predictor(volume, stage=stage, progress=windows)
        with stage("tree"):
            tree = measure(segmentation)
        with stage("surfaces"):
            labels = write_labels(segmentation.labels, aside / "labels.u8")
            surfaces = _surfaces(segmentation, aside)
        with stage("write"):
            findings = [*volume.source.notes, *segmentation.findings, *tree.notes]
            findings += _write(aside, volume, segmentation, tree)
        seconds = time.perf_counter() - started
        report.findings = findings
        report.results = {"volume_mm3": tree.volume_mm3, "length_mm": tree.length_mm, "branches": len(tree.branches)}
        report.inputs = [{"sha256": case.info["sha256"] or None, "stages_s": dict(report.stopwatch.seconds)}]
        write_json(report.as_dict(), aside / "report.json")
        told = {
            "labels": asdict(labels) if labels else None,
            "surfaces": surfaces,
            "findings": findings,
            "seconds": seconds,
            "network_seconds": report.stopwatch.seconds.get("network", 0.0),
            "engine": predictor.engine,
            "device": predictor.device,
            "precision": predictor.precision,
            "model": predictor.session.path.name,
        }
        write_json(told, aside / "result.json")
        job.advance(1.0)


def _write(folder: Path, volume: Volume, segmentation: Segmentation, tree: Tree) -> list[str]:
    """Write the files to download; gives what could not be."""
    write_mask(segmentation, folder / "mask.nii.gz")
    write_json(tree.to_dict() | {"findings": list(segmentation.findings)}, folder / "tree.json")
    write_csv(tree.to_rows(), folder / "tree.csv", Tree.COLUMNS)
    write_preview(volume, segmentation, tree, folder / "preview.png")
    if segmentation.labels.any():
        write_mesh(segmentation, folder / "arteries.stl")
    if not volume.source.dicom_files:
        return []
    try:
        write_dicom_seg(segmentation, folder / "mask.seg.dcm", description="Coronary arteries")
    except InputError as error:
        return [f"no DICOM SEG: {error.problem}"]
    return []


def _surfaces(segmentation: Segmentation, folder: Path) -> list[int]:
    """Write a surface for each artery that is there; gives their labels."""
    written = []
    for artery in ARTERIES:
        mask = segmentation.labels == artery.value
        if mask.any():
            write_surface(
                mesh_from_mask(mask, segmentation.affine, max_faces=SURFACE_FACES),
                folder / f"surface-{artery.value}.mz3",
            )
            written.append(artery.value)
    return written


def compare_with(case: Case, result: Path, label: Path, label_name: str, sha256: str) -> dict[str, Any]:
    """Compare a result's mask with a label file on the scan's grid; gives scores and the encoded agreement.

    Raises:
        InputError: the label file cannot be read, or lies on another grid.
    """
    from coronary.evaluate import compare

    folder = result / f"compare-{sha256[:16]}"
    try:
        return dict(json.loads((folder / "compare.json").read_text("utf-8")))
    except (OSError, ValueError):
        pass
    try:
        wanted = mask_from_file(label)
    except InputError as error:
        raise InputError(label_name, error.problem, error.remedy) from error
    found = mask_from_file(result / "mask.nii.gz")
    _same_grid(found, wanted, label_name)
    is_found, is_wanted = found.labels > 0, wanted.labels > 0
    scores = compare(is_found, is_wanted, found.grid.spacing_mm)
    agreement = np.where(is_found & is_wanted, 1, np.where(is_wanted, 2, np.where(is_found, 3, 0))).astype(np.uint8)
    with _aside(folder) as aside:
        labels = write_labels(agreement, aside / "labels.u8")
        told = {"name": label_name, "scores": scores, "labels": asdict(labels) if labels else None}
        write_json(told, aside / "compare.json")
    return dict(json.loads((folder / "compare.json").read_text("utf-8")))


def _same_grid(found: Segmentation, wanted: Segmentation, name: str) -> None:
    ours, theirs = found.grid, wanted.grid
    if ours.shape != theirs.shape:
        shapes = (" x ".join(str(n) for n in grid.shape) for grid in (theirs, ours))
        raise InputError(name, "has {} voxels, the scan {}".format(*shapes), "give a label of this scan")
    corner = np.array([*(np.array(ours.shape) - 1), 1.0])
    away_mm = max(np.abs((ours.affine - theirs.affine) @ at)[:3].max() for at in (np.array([0, 0, 0, 1.0]), corner))
    if away_mm > min(ours.spacing_mm):
        raise InputError(name, f"lies {away_mm:.1f} mm away from the scan", "give a label on the scan's own grid")


def encoded_labels(told: dict[str, Any]) -> EncodedLabels | None:
    """The encoded label map that ``result.json`` or ``compare.json`` tells of."""
    found = told.get("labels")
    return EncodedLabels(**{name: tuple(value) for name, value in found.items()}) if found else None


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """Give a folder beside to write to; renamed to ``folder`` at success, removed at failure."""
    aside = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        yield aside
        shutil.rmtree(folder, ignore_errors=True)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
