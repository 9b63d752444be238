"""Scores of masks in a folder and of a model: right numbers, whole files, and one broken case stops no other."""

import csv
import json
import math

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.spatial import KDTree

from coronary.cases import Case
from coronary.evaluate import (
    METRICS,
    RECALL,
    Scores,
    compare,
    evaluate,
    evaluate_cases,
    evaluate_folder,
    from_folder,
    from_model,
)
from coronary.phantom import PhantomConfig, make_phantom
from coronary.predict import Predictor
from shared.errors import InputError, SetupError
from shared.io.volume import read_volume
from shared.metrics.centreline import radius_on, skeleton
from shared.report import Report
from shared.types import Grid, Segmentation

SPACING_MM = (0.5, 0.5, 0.5)
AFFINE = np.diag([-0.5, -0.5, 0.5, 1.0])  # LPS on disk, as ImageCAS


def vessels(half=False):
    """Three vessels along x with radii of 0.5, 1.2 and 2.5 mm; ``half`` has lost the thin one and half the middle."""
    y, z = np.mgrid[:60, :24]
    mask = np.zeros((40, 60, 24), bool)
    for number, (at, radius_mm) in enumerate(((10, 0.5), (26, 1.2), (45, 2.5))):
        if half and number == 0:
            continue
        part = slice(4, 20) if half and number == 1 else slice(4, 36)
        mask[part] |= np.hypot(y - at, z - 12) * 0.5 <= radius_mm + 1e-6
    return mask


def save(array, path, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array), affine), path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("1", "2", "10"):
        scan = np.where(vessels(), 300, 40 + int(name)).astype(np.int16)  # copies may not cross a split
        save(scan, folder / f"{name}.img.nii.gz")
        save(vessels().astype(np.uint8), folder / f"{name}.label.nii.gz")
    (folder / "splits.json").write_text(json.dumps({"training": ["10"], "test": ["1", "2"]}))
    return folder


@pytest.fixture
def predictions(tmp_path):
    """One mask each as nnU-Net, `coronary predict` and TotalSegmentator name theirs: perfect, half, empty."""
    folder = tmp_path / "predictions"
    save(vessels().astype(np.uint8), folder / "1.nii.gz")
    save(3 * vessels(half=True).astype(np.uint8), folder / "2.img.nii.gz")
    save(np.zeros((40, 60, 24), np.uint8), folder / "10" / "coronary_arteries.nii.gz")
    return folder


def rows_of(folder):
    with (folder / "cases.csv").open() as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_masks_in_a_folder_are_scored_and_written(data, predictions, tmp_path):
    out, seen = tmp_path / "out", []
    scores = evaluate_folder(
        None, data, "all", out, on_case=lambda n, case: seen.append((n, case)), predictions=predictions
    )
    assert seen == [(1, "1"), (2, "2"), (3, "10")]
    by_case = {row["case"]: row for row in scores.rows}
    assert [by_case["1"][metric] for metric in METRICS] == [1, 1, 0, 1, 0, 1, 1, 1]
    assert by_case["2"]["recall_radius_below_0_8mm"] == 0
    assert by_case["2"]["recall_radius_0_8_to_1_5mm"] == pytest.approx(0.5, abs=0.07)
    assert by_case["2"]["recall_radius_above_1_5mm"] == 1
    assert by_case["2"]["betti0_error"] == 1
    assert by_case["10"]["dice"] == 0
    assert by_case["10"]["hd95_mm"] == math.inf

    summary = json.loads((out / "scores.json").read_text())
    assert (summary["cases"], summary["failed"], summary["split"]) == (3, 0, "all")
    dice = summary["scores"]["dice"]
    assert dice["mean"] == pytest.approx(np.mean([row["dice"] for row in scores.rows]))
    assert (dice["highest"]["case"], dice["lowest"]["case"]) == ("1", "10")
    assert dice["interval_95"][0] <= dice["mean"] <= dice["interval_95"][1]
    hd95 = summary["scores"]["hd95_mm"]
    assert (hd95["infinite"], hd95["highest"]) == (1, {"case": "10", "value": None})

    assert {row["case"]: float(row["dice"]) for row in rows_of(out).values()} == {
        row["case"]: pytest.approx(row["dice"]) for row in scores.rows
    }
    assert {path.name for path in out.iterdir()} == {
        "cases.csv", "report.json", "scores.json", "scores.png", "worst-1.png", "worst-2.png", "worst-10.png",
    }  # fmt: skip
    with Image.open(out / "scores.png") as picture:
        assert picture.width > 1000
    report = json.loads((out / "report.json").read_text())
    assert (report["verb"], report["exit_status"], report["model"]) == ("evaluate", 0, None)
    assert [entry["status"] for entry in report["inputs"]] == ["done"] * 3
    assert report["results"]["scores"]["dice"] == dice


def test_a_broken_case_is_named_and_the_others_are_scored(data, predictions, tmp_path):
    (predictions / "2.img.nii.gz").write_bytes(b"no gzip")
    save(vessels()[:-1].astype(np.uint8), predictions / "10" / "coronary_arteries.nii.gz")
    scores = evaluate_folder(None, data, "all", tmp_path / "out", predictions=predictions)
    assert [row["case"] for row in scores.rows] == ["1"]
    assert len(scores.failures) == 2
    assert "2.img.nii.gz" in scores.failures[0]
    assert "10.label.nii.gz: its grid is not that of the mask of 10" in scores.failures[1]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["exit_status"] == 1
    assert [entry["status"] for entry in report["inputs"]] == ["done", "failed", "failed"]
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["failed"] == 2


def test_masks_lie_in_the_folders_of_their_scans(data, predictions, tmp_path):
    """``coronary predict`` keeps ImageCAS's folders of two hundred."""
    for name, below in (("1.nii.gz", "1-200/1.img.nii.gz"), ("2.img.nii.gz", "201-400/2.img.nii.gz")):
        (predictions / below).parent.mkdir()
        (predictions / name).rename(predictions / below)
    scores = evaluate_folder(None, data, "all", tmp_path / "out", predictions=predictions)
    assert [row["case"] for row in scores.rows] == ["1", "2", "10"]
    save(vessels().astype(np.uint8), predictions / "again" / "1.img.nii.gz")
    scores = evaluate_folder(None, data, "all", tmp_path / "out", predictions=predictions)
    assert [row["case"] for row in scores.rows] == ["2", "10"]
    assert "a mask of case 1, and so is" in scores.failures[0]


def test_a_missing_mask_says_how_to_name_it(data, predictions, tmp_path):
    (predictions / "1.nii.gz").unlink()
    scores = evaluate_folder(None, data, "test", tmp_path / "out", predictions=predictions)
    assert [row["case"] for row in scores.rows] == ["2"]
    assert scores.failures[0].endswith("no mask of this case; name it 1.nii.gz")


def test_another_grid_of_the_same_shape_is_another_grid(data, tmp_path):
    save(vessels().astype(np.uint8), tmp_path / "1.nii.gz", AFFINE + np.diag([0.1, 0, 0, 0]))
    case = Case("1", data / "1.img.nii.gz", data / "1.label.nii.gz")
    report = Report("coronary", "evaluate")
    scores = evaluate_cases(from_folder(tmp_path), [case], tmp_path / "out", report)
    assert (scores.rows, report.exit_status) == ((), 1)
    assert (tmp_path / "out" / "scores.json").exists()


def test_a_mask_stored_in_another_orientation_is_the_same_mask(data, tmp_path):
    turned = np.diag([0.5, 0.5, 0.5, 1.0])  # RAS on disk, the same places
    turned[:2, 3] = [-0.5 * 39, -0.5 * 59]
    save(vessels()[::-1, ::-1].astype(np.uint8), tmp_path / "1.nii.gz", turned)
    case = Case("1", data / "1.img.nii.gz", data / "1.label.nii.gz")
    scores = evaluate_cases(from_folder(tmp_path), [case], tmp_path / "out", Report("coronary", "evaluate"))
    assert scores.rows[0]["dice"] == 1


def test_parts_of_a_split(data, predictions, tmp_path):
    out = tmp_path / "out"
    assert {r["case"] for r in evaluate_folder(None, data, "test", out, predictions=predictions).rows} == {"1", "2"}
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"training": ["1", "10"], "validation": ["2"]}))
    found = evaluate_folder(None, data, "validation", out, predictions=predictions, split_file=mine)
    assert [row["case"] for row in found.rows] == ["2"]
    with pytest.raises(SetupError, match="no part of a split"):
        evaluate_folder(None, data, "best", out, predictions=predictions)


def test_either_a_model_or_masks(data, predictions, tmp_path):
    for model, masks in ((None, None), (tmp_path / "x.onnx", predictions)):
        with pytest.raises(SetupError, match="either --model FILE or --predictions DIR"):
            evaluate_folder(model, data, "all", tmp_path, predictions=masks)
    with pytest.raises(SetupError, match="no such folder"):
        evaluate_folder(None, data, "all", tmp_path, predictions=tmp_path / "nowhere")


class Stub(Predictor):
    """Finds what is bright, without the thin vessel."""

    def __init__(self):
        pass

    def __call__(self, image, **unused):
        volume = read_volume(image)
        labels = (volume.array > 200).astype(np.uint8)
        labels[:, -20:] = 0  # stored LPS: the first vessel along y lies last in RAS
        return Segmentation(labels, volume.affine, {1: "LCA"}, volume.source)


def test_a_model_is_scored_by_what_it_finds(data, tmp_path):
    case = Case("1", data / "1.img.nii.gz", data / "1.label.nii.gz")
    direct = evaluate(Stub(), [(case.image, case.label)])
    written = evaluate_cases(from_model(Stub()), [case], tmp_path / "out", Report("coronary", "evaluate"))
    np.testing.assert_equal(direct.rows, written.rows)
    assert [direct.rows[0][metric] for metric in RECALL] == [0, 1, 1]
    assert direct.mean("dice") == direct.rows[0]["dice"]


def test_a_summary_leaves_out_what_is_not_there():
    base = dict.fromkeys(METRICS, 0.5)
    rows = [
        base | {"case": "a", "recall_radius_below_0_8mm": math.nan},
        base | {"case": "b", "recall_radius_below_0_8mm": 0.2, "hd95_mm": math.inf},
        base | {"case": "c", "recall_radius_below_0_8mm": 0.4, "hd95_mm": 2.5},
    ]
    scores = Scores(tuple(rows))
    thin = scores.summary()["recall_radius_below_0_8mm"]
    assert thin["mean"] == pytest.approx(0.3) == scores.mean("recall_radius_below_0_8mm")
    assert (thin["absent"], thin["lowest"]["case"], thin["highest"]["case"]) == (1, "b", "c")
    hd95 = scores.summary()["hd95_mm"]
    assert (hd95["mean"], hd95["median"], hd95["infinite"]) == (1.5, 1.5, 1)
    nothing = Scores(()).summary()["dice"]
    assert (nothing["mean"], nothing["lowest"]) == (None, None)
    one = Scores((rows[1],)).summary()["dice"]
    assert (one["mean"], one["sd"], one["interval_95"]) == (0.5, None, None)


def test_radii_agree_with_those_a_phantom_was_made_with():
    phantom = make_phantom(PhantomConfig(shape=(176, 176, 150), spacing_mm=(0.6, 0.6, 0.6)), seed=31)
    mask = phantom.labels > 0
    grid = Grid(mask.shape, phantom.volume.affine)
    line = skeleton(mask)
    points_mm = np.argwhere(line) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    true_mm = np.concatenate([branch.radius_mm for branch in phantom.centrelines])
    nearest = KDTree(np.concatenate([branch.points_mm for branch in phantom.centrelines])).query(points_mm)[1]
    error_mm = radius_on(line, mask, grid.spacing_mm) - true_mm[nearest]
    assert np.abs(error_mm).mean() < 0.12
    assert abs(error_mm.mean()) < 0.05
    for low, high in ((0, 0.8), (0.8, 1.5), (1.5, 9)):
        part = error_mm[(true_mm[nearest] >= low) & (true_mm[nearest] < high)]
        assert abs(part.mean()) < 0.12, (low, high)


def test_comparing_has_every_metric_and_refuses_two_grids():
    mask = vessels()
    assert set(compare(mask, mask, SPACING_MM)) == set(METRICS)
    with pytest.raises(ValueError, match="one grid"):
        compare(mask, mask[1:], SPACING_MM)


def test_a_case_that_cannot_be_read_stops_a_plain_evaluation(data, tmp_path):
    broken = tmp_path / "3.label.nii.gz"
    broken.write_bytes(b"")
    with pytest.raises(InputError, match="3.label.nii.gz"):
        evaluate(Stub(), [(data / "1.img.nii.gz", broken)])
