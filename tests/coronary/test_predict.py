"""The shipped models on phantoms, from every kind of input, through Python and the command line."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx
import pytest

from coronary.batch import Options, plan, predict_case
from coronary.phantom import PhantomConfig, make_phantom, write_phantom
from coronary.predict import Predictor
from coronary.tree import Tree, measure
from shared.cohort import run_cohort
from shared.errors import InputError, SetupError
from shared.io.tables import write_csv
from shared.io.volume import from_array, read_volume
from shared.metrics.overlap import cl_dice, dice
from shared.registry import CHECKOUT_MODELS
from shared.runtime import METADATA_KEY

ROOT = Path(__file__).resolve().parents[2]
SCAN = PhantomConfig(shape=(176, 176, 150), spacing_mm=(0.65, 0.65, 0.7), difficulty=0.3)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(SCAN, 4242)


@pytest.fixture(scope="module")
def path(phantom, tmp_path_factory):
    return write_phantom(phantom, tmp_path_factory.mktemp("scan"), 1)[0]


@pytest.fixture(scope="module")
def predictors():
    return {precision: Predictor(device="cpu", precision=precision) for precision in ("fp32", "int8")}


@pytest.fixture(scope="module")
def segmentation(predictors, path):
    return predictors["int8"](path)


def test_the_shipped_models_find_the_tree(predictors, phantom, path):
    truth = phantom.labels > 0
    scores = {name: dice(predictor(path).labels > 0, truth) for name, predictor in predictors.items()}
    assert scores["fp32"] > 0.8
    assert scores["int8"] > scores["fp32"] - 0.02


def test_left_and_right_are_told_apart(segmentation, phantom):
    both = (segmentation.labels > 0) & (phantom.labels > 0)
    assert (segmentation.labels[both] == phantom.labels[both]).mean() > 0.95
    tree = measure(segmentation)
    assert {branch.side for branch in tree.branches} >= {"LCA", "RCA"}
    assert cl_dice(segmentation.labels > 0, phantom.labels > 0) > 0.85


def test_every_kind_of_input_gives_the_same_mask(predictors, segmentation, path):
    import SimpleITK as sitk  # noqa: N813

    volume = read_volume(path)
    image = sitk.ReadImage(str(path))
    for given in (str(path), volume, (volume.array, volume.affine), image):
        np.testing.assert_array_equal(predictors["int8"](given).labels, segmentation.labels)


def test_growing_windows_cost_no_accuracy(segmentation, phantom, path):
    trained = Predictor(device="cpu", precision="int8", trained_windows=True)(path)
    truth = phantom.labels > 0
    assert abs(dice(trained.labels > 0, truth) - dice(segmentation.labels > 0, truth)) < 0.02


def test_a_mirrored_or_turned_file_is_the_same_patient(predictors, segmentation, path, tmp_path):
    from nibabel.orientations import axcodes2ornt, ornt_transform

    image = nib.load(path)
    for codes in ("RAS", "ASL"):
        turn = ornt_transform(axcodes2ornt(nib.aff2axcodes(image.affine)), axcodes2ornt(codes))
        turned = image.as_reoriented(turn)
        nib.save(turned, tmp_path / f"{codes}.nii.gz")
        found = predictors["int8"](tmp_path / f"{codes}.nii.gz")
        # The affine goes through float32 on disk, so a voxel on the threshold may fall to either side.
        assert dice(found.labels > 0, segmentation.labels > 0) > 0.999
        np.testing.assert_allclose(found.source.grid.affine, turned.affine, atol=1e-4)


def test_a_scan_without_contrast_is_a_finding(predictors):
    plain = make_phantom(SCAN.model_copy(update={"contrast": False, "shape": (96, 96, 96)}), 1)
    found = predictors["int8"](plain.volume)
    assert not found.labels.any()
    assert "no contrast-filled artery found" in found.findings[0]


def test_voxels_that_cannot_show_an_artery_are_a_finding(predictors, phantom):
    coarse = phantom.volume.array[::4, ::4, ::4]
    affine = phantom.volume.affine @ np.diag([4.0, 4.0, 4.0, 1.0])
    found = predictors["int8"]((coarse, affine))
    assert not found.labels.any()
    assert "voxels of 2.8 mm cannot show arteries" in found.findings[0]
    anything = Predictor(device="cpu", contrast_check=False)((coarse, affine))
    assert anything.findings[0].startswith("voxels of 2.8 mm are")


def test_stages_and_progress_are_told(predictors, path):
    from shared.report import Stopwatch

    watch, seen = Stopwatch(), []
    predictors["int8"](path, stage=watch.stage, progress=lambda done, total: seen.append((done, total)))
    assert {"read", "region", "preprocess", "network", "back to the input's grid"} <= set(watch.seconds)
    assert seen[-1][0] == seen[-1][1] == len(seen)


def _with_metadata(tmp_path, **changes):
    proto = onnx.load(CHECKOUT_MODELS / "coronary.onnx")
    (entry,) = [p for p in proto.metadata_props if p.key == METADATA_KEY]
    entry.value = json.dumps(json.loads(entry.value) | changes)
    onnx.save(proto, tmp_path / "other.onnx")
    return tmp_path / "other.onnx"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "bones"}, "a model for bones, not for coronary"),
        ({"metadata_version": 99}, "metadata version 99"),
        ({"preprocessing": {"spacing_mm": [1, 1]}}, "incomplete"),
        ({"inference": {"no_such_field": 1}}, "incomplete"),
    ],
)
def test_a_model_that_is_no_coronary_model_is_refused(tmp_path, changes, message):
    with pytest.raises(SetupError, match=message):
        Predictor(_with_metadata(tmp_path, **changes), "cpu")


def test_another_precision_than_asked_for_is_refused():
    with pytest.raises(SetupError, match="is fp32, not int8"):
        Predictor(CHECKOUT_MODELS / "coronary.onnx", "cpu", precision="int8")


def test_a_folder_of_models_is_enough(tmp_path, monkeypatch):
    import shutil

    shutil.copy(CHECKOUT_MODELS / "coronary.onnx", tmp_path)
    assert Predictor(tmp_path, "cpu").precision == "fp32"
    shutil.copy(CHECKOUT_MODELS / "coronary-int8.onnx", tmp_path)
    assert Predictor(tmp_path, "cpu").precision == "int8"
    monkeypatch.setenv("SKIAGRAM_MODELS", str(tmp_path))
    assert Predictor(device="cpu").session.path.parent == tmp_path


def coronary(*words):
    return subprocess.run(
        [sys.executable, "-m", "coronary", *map(str, words)],
        capture_output=True, text=True, timeout=250, cwd=ROOT, check=False,
    )  # fmt: skip


def test_the_command_line_does_a_folder_and_names_what_is_broken(path, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    (scans / "good.nii.gz").write_bytes(path.read_bytes())
    (scans / "text.nii.gz").write_text("this is no scan")
    (scans / "cut.nii.gz").write_bytes(path.read_bytes()[:20000])
    first = coronary("predict", scans, "--out", out, "--device", "cpu")
    assert first.returncode == 1
    assert "text.nii.gz" in first.stderr
    assert "cut.nii.gz" in first.stderr
    assert "1 done, 0 skipped, 2 failed" in first.stdout
    names = {file.name for file in out.iterdir()}
    assert names == {"report.json"} | {f"good.{end}" for end in ("nii.gz", "png", "stl", "tree.csv", "tree.json")}
    mask, scan = nib.load(out / "good.nii.gz"), nib.load(path)
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, scan.affine)
    assert mask.shape == scan.shape
    report = json.loads((out / "report.json").read_text())
    assert report["exit_status"] == 1
    assert report["engine"].startswith("OpenVINO")
    assert report["precision"] == "int8"
    assert len(report["failures"]) == 2

    (scans / "text.nii.gz").unlink()
    (scans / "cut.nii.gz").unlink()
    stamp = (out / "good.nii.gz").stat().st_mtime_ns
    second = coronary("predict", scans, "--out", out, "--device", "cpu", "--json")
    assert second.returncode == 0
    assert json.loads(second.stdout)["inputs"][0]["status"] == "skipped"
    assert (out / "good.nii.gz").stat().st_mtime_ns == stamp


def test_measure_of_a_written_mask_is_the_tree_that_was_written(segmentation, tmp_path):
    from shared.io.writers import write_mask

    write_mask(segmentation, tmp_path / "mask.nii.gz")
    done = coronary("measure", tmp_path / "mask.nii.gz", "--json", "--out", tmp_path)
    assert done.returncode == 0
    tree = json.loads(done.stdout)
    assert tree == json.loads((tmp_path / "mask.tree.json").read_text())
    assert tree["volume_mm3"] == pytest.approx(measure(segmentation).to_dict()["volume_mm3"], rel=1e-3)


def test_a_scan_is_no_mask(path):
    done = coronary("measure", path)
    assert done.returncode == 1
    assert "give a mask of 0 to 3" in done.stderr


def test_dicom_comes_back_as_dicom_seg(phantom, predictors, tmp_path):
    import highdicom as hd
    from dicom_factory import write_series

    series = tmp_path / "series"
    write_series(
        series, phantom.volume.array[:, :, ::2].round().astype(np.int16), phantom.volume.affine @ np.diag([1, 1, 2, 1])
    )
    options = Options(dicom_seg=True)
    items = plan([series], tmp_path / "out", options)
    result = run_cohort(items, lambda item: predict_case(item, predictors["int8"], options))
    assert result.exit_status == 0, result.records
    written = hd.seg.segread(tmp_path / "out" / "series.seg.dcm")
    assert [d.SegmentLabel for d in written.SegmentSequence] == ["LCA", "RCA", "unassigned artery"]
    mask = nib.load(tmp_path / "out" / "series.nii.gz")
    voxels = int(np.count_nonzero(np.asarray(mask.dataobj)))
    assert int(np.count_nonzero(written.pixel_array)) == voxels


def test_memory_arrays_need_numbers(predictors):
    with pytest.raises(InputError):
        predictors["int8"](from_array(np.zeros((4, 4, 4, 4)), np.eye(4)))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "coronary", *words], capture_output=True, text=True, timeout=120)


def test_series_without_a_dicom_input_is_refused(path, tmp_path):
    done = run("predict", str(path), "--out", str(tmp_path), "--series", "2")
    assert done.returncode == 2
    assert done.stderr == "error: --series: none of the inputs is a DICOM folder or .zip; leave it out\n"


def test_a_mask_without_an_artery_is_said_to_be_one(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4)), tmp_path / "empty.nii.gz")
    done = run("measure", str(tmp_path / "empty.nii.gz"))
    assert (done.returncode, done.stdout) == (0, "no artery in this mask\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--count", "0"], "--count 0: must be at least 1"),
        (["--shape", "20", "20", "20"], "a side of 9 mm; give at least 40 mm, or no artery fits in"),
    ],
)
def test_a_phantom_that_cannot_be_is_refused(tmp_path, words, said):
    done = run("phantom", "--out", str(tmp_path / "out"), *words)
    assert (done.returncode, done.stderr) == (2, f"error: {said}\n")
    assert not (tmp_path / "out").exists()


def test_a_phantom_does_not_write_over_another(tmp_path):
    (tmp_path / "3.img.nii.gz").write_text("mine")
    done = run("phantom", "--out", str(tmp_path), "--count", "4")
    assert (done.returncode, (tmp_path / "3.img.nii.gz").read_text()) == (2, "mine")
    assert f"{tmp_path}: holds case 3 already" in done.stderr


def test_a_failure_is_told_once_and_at_once(tmp_path):
    done = run("predict", str(tmp_path / "none.nii.gz"), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'none.nii.gz'}: no such file or folder; check the name\n"
    assert done.stdout.startswith("0 done, 0 skipped, 1 failed")


@pytest.mark.parametrize("image", [np.zeros((4, 4, 4), np.float32), None, ("x",)])
def test_what_is_no_image_is_said_to_be_none(predictors, image):
    with pytest.raises(InputError, match=r"the image: is a .*; give a path, \(array, affine\) or a SimpleITK image"):
        predictors["int8"](image)


def test_a_folder_of_imagecas_holds_one_scan_a_case(path, tmp_path):
    assert [item.path.name for item in plan([path.parent], tmp_path, Options())] == ["1.img.nii.gz"]


def test_an_id_with_dots_has_one_scan_too(tmp_path):
    for name in ("1.2.3.img.nii.gz", "1.2.3.label.nii.gz", "1.2.4.nii.gz"):
        (tmp_path / name).touch()
    assert [item.path.name for item in plan([tmp_path], tmp_path / "out", Options())] == [
        "1.2.3.img.nii.gz",
        "1.2.4.nii.gz",
    ]


def test_dicom_seg_is_made_of_dicom_alone(path, tmp_path):
    with pytest.raises(SetupError, match="--dicom-seg: none of the inputs is a DICOM folder"):
        plan([path], tmp_path, Options(dicom_seg=True))


def test_an_empty_tree_is_a_table_without_rows(tmp_path):
    write_csv([], tmp_path / "empty.csv", Tree.COLUMNS)
    assert (tmp_path / "empty.csv").read_text().startswith("branch,side,parent")


def test_a_row_has_the_columns_of_the_table(segmentation):
    assert tuple(measure(segmentation).to_rows()[0]) == Tree.COLUMNS
