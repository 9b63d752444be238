"""From scan files to result files: what ``coronary predict`` does to each of its inputs.

Beside the mask, which keeps the scan's name, every scan ``NAME`` leaves ``NAME.tree.json``, ``NAME.tree.csv``,
``NAME.stl`` (LPS mm, as 3D Slicer reads it), ``NAME.png``, and on request ``NAME.seg.dcm``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coronary.predict import Predictor, Progress
from coronary.tree import Tree, measure
from shared.cohort import Input, Item, Outcome, collect_inputs, something_to_do
from shared.errors import SetupError
from shared.io.atomic import whole
from shared.io.volume import is_volume, read_volume, stem
from shared.io.writers import write_csv, write_dicom_seg, write_json, write_mask, write_stl
from shared.report import Stopwatch
from shared.types import Segmentation, Volume

MASK_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
DISCLAIMER = "Research software, not a medical device."


@dataclass(frozen=True, slots=True)
class Options:
    """What to write, which series of a DICOM folder to read, and whether scans without contrast are segmented."""

    series: str | None = None
    dicom_seg: bool = False
    any_scan: bool = False


def plan(inputs: Sequence[Path], out: Path, options: Options) -> list[Item]:
    """Find the scans and name their results: the same names out. Refused are scans that would be written to one name.

    Raises:
        SetupError: nothing to do.
    """
    found = collect_inputs(inputs, _is_scan, out=out)
    for option, wanted in (("--series", options.series), ("--dicom-seg", options.dicom_seg)):
        if wanted and not any(_is_dicom(entry.path) for entry in found if entry.path.exists()):
            raise SetupError(f"{option}: none of the inputs is a DICOM folder or .zip; leave it out")
    return something_to_do([_item(entry, out, options) for entry in found])


def _is_scan(path: Path) -> bool:
    """Say whether this is a scan; in ImageCAS's layout the other files of a case are not."""
    case = stem(path).rpartition(".")[0]
    of_case = not path.name.endswith(".img.nii.gz") and path.with_name(f"{case}.img.nii.gz").exists()
    return is_volume(path) and not of_case


def _is_dicom(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() == ".zip"


def _item(found: Input, out: Path, options: Options) -> Item:
    if found.refused:
        return Item(found.path, (), refused=found.refused)
    name = found.path.name.lower()
    suffix = next((s for s in MASK_SUFFIXES if found.path.is_file() and name.endswith(s)), ".nii.gz")
    base = out / found.name
    outputs = [base.with_name(base.name + end) for end in (suffix, ".tree.json", ".tree.csv", ".png")]
    if options.dicom_seg and _is_dicom(found.path):
        outputs.append(base.with_name(base.name + ".seg.dcm"))
    return Item(found.path, tuple(outputs), optional=(base.with_name(base.name + ".stl"),))


def predict_case(item: Item, predictor: Predictor, options: Options, progress: Progress | None = None) -> Outcome:
    """Read one scan, segment it, and write everything asked for.

    Raises:
        InputError: the scan cannot be used, or DICOM SEG was asked for and cannot be made of it.
    """
    watch = Stopwatch()
    with watch.stage("read"):
        volume = read_volume(item.path, series=options.series)
    segmentation = predictor(volume, stage=watch.stage, progress=progress)
    with watch.stage("tree"):
        tree = measure(segmentation)
    made_by = {"engine": predictor.engine, **made_with(predictor, options)}
    write_outputs(item, volume, segmentation, tree, options, watch, made_by)
    return Outcome(
        findings=(*volume.source.notes, *segmentation.findings, *tree.notes),
        stages_s=dict(watch.seconds),
        result={
            "volume_mm3": tree.volume_mm3,
            "length_mm": tree.length_mm,
            "branches": len(tree.branches),
            "narrowings": len(tree.narrowings),
        },
    )


def made_with(predictor: Predictor, options: Options) -> dict[str, Any]:
    """Return what decides on a result, as it stands in the tree's JSON."""
    return {
        "model_sha256": predictor.session.sha256,
        "precision": predictor.precision,
        "series": options.series,
        "any_scan": options.any_scan,
    }


def write_outputs(
    item: Item,
    volume: Volume,
    segmentation: Segmentation,
    tree: Tree,
    options: Options,
    watch: Stopwatch,
    made_by: Mapping[str, Any] | None = None,
) -> None:
    """Write mask, tree, mesh, preview and DICOM SEG, each whole or not at all; the tree's JSON names ``made_by``."""
    mask_path, json_path, csv_path, preview_path, *dicom_seg = item.outputs
    mask_path.parent.mkdir(parents=True, exist_ok=True)
    if dicom_seg:
        with watch.stage("write DICOM SEG"):
            write_dicom_seg(segmentation, dicom_seg[0], description="Coronary arteries")
    with watch.stage("write tree"):
        write_json(tree.to_dict() | {"findings": list(segmentation.findings)} | dict(made_by or {}), json_path)
        write_csv(tree.to_rows(), csv_path, Tree.COLUMNS)
    if segmentation.labels.any():
        with watch.stage("write mesh"):
            write_mesh(segmentation, item.optional[0])
    with watch.stage("write preview"):
        write_preview(volume, segmentation, tree, preview_path)
    with watch.stage("write mask"):
        write_mask(segmentation, mask_path)


def write_mesh(segmentation: Segmentation, path: Path) -> None:
    """Write the surface of all arteries as STL."""
    from shared.mesh import mesh_from_mask

    write_stl(mesh_from_mask(segmentation.labels > 0, segmentation.affine), path)


def write_preview(volume: Volume, segmentation: Segmentation, tree: Tree, path: Path) -> None:
    """Write the three projections with centrelines and narrowings as PNG."""
    from shared.draw import preview

    lines = [(branch.points_mm, branch.side) for branch in tree.branches]
    marks = [(narrowing.point_mm, f"{narrowing.percent:.0f} %") for _, narrowing in tree.narrowings]
    image = preview(volume, segmentation, lines=lines, marks=marks)
    with whole(path) as aside:
        image.save(aside)
