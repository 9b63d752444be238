"""Scores of detectors and gates: by hand, and of evaluations on disk with models of a few numbers."""

import csv
import json

import numpy as np
import pytest
from bone_sets import coco
from bones_models import POINTS, broken, dark, limb, spot, write_detector, write_gate
from PIL import Image

from bones.__main__ import run
from bones.cases import Case, find_cases
from bones.config import Config
from bones.evaluate import evaluate, evaluate_folder
from bones.evaluate_gate import shows_bone
from bones.formats.rle import encode
from bones.gate import GateDecision
from bones.scores import Scored, Scores, mask_pairs, reference_figures, surest_ious
from shared.errors import SetupError
from shared.metrics.detection import Compared
from shared.runtime import read_metadata
from shared.types import Detections

NAMES = {1: "fracture"}
BOX = [10.0, 10.0, 50.0, 50.0]
HALF_BELOW = [10.0, 10.0, 50.0, 30.0]  # IoU of a half with BOX
ELSEWHERE = [60.0, 60.0, 80.0, 80.0]


def detections(boxes, scores, labels=None, names=NAMES, polygons=None):
    count = len(scores)
    return Detections(
        np.array(boxes, np.float32).reshape(count, 4), np.array(scores, np.float32),
        np.array(labels if labels else [1] * count, np.int64), names, 100, 100, polygons,
    )  # fmt: skip


def scored(name, found, truth, passed=None):
    """A picture with ``found`` = {score: box} and true boxes."""
    compared = Compared(
        detections(list(found.values()), list(found)), np.array(truth, np.float32).reshape(-1, 4),
        np.ones(len(truth), np.int64),
    )  # fmt: skip
    gate = None if passed is None else GateDecision(passed, 0.2, 0.9, "a reason", np.zeros((2, 2), bool))
    return Scored(Case(name, name, 100, 100), name, compared, gate, 0.01)


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the figures, which take most of the time."""
    monkeypatch.setattr("bones.evaluate_pictures.draw_all", lambda scores, out: [])


@pytest.fixture
def four():
    """A hit below a false box, a miss, a normal with a false box and one without."""
    return (
        scored("hit", {0.9: BOX, 0.95: ELSEWHERE}, [BOX], passed=True),
        scored("missed", {0.1: HALF_BELOW}, [BOX], passed=False),
        scored("false alarm", {0.6: BOX}, [], passed=False),
        scored("normal", {}, [], passed=True),
    )


def test_scores_by_hand(four):
    summary = Scores(four, {"screening": 0.05, "balanced": 0.5, "specific": 0.99}).summary()
    counts = [summary[name] for name in ("pictures", "with_boxes", "without_boxes", "true_boxes")]
    assert counts == [4, 2, 2, 2]
    # Ranked: false, hit (precision 1/2 at recall 1/2), false, hit of IoU 0.5 (2/4 at recall 1).
    assert summary["ap50"] == pytest.approx(0.5)
    assert summary["ap75"] == pytest.approx(0.5 * 51 / 101)
    screening, balanced, specific = summary["operating_points"].values()
    assert (screening["sensitivity"]["value"], screening["specificity"]["value"]) == (1, 0.5)
    assert (balanced["sensitivity"]["found"], balanced["specificity"]["cleared"]) == (1, 1)
    assert (balanced["true_boxes_found"], balanced["false_boxes_per_picture"]) == (0.5, 0.5)
    assert (specific["true_boxes_found"], specific["specificity"]["value"]) == (0, 1)
    low, high = balanced["sensitivity"]["interval_95"]
    assert 0 < low < 0.5 < high < 1
    assert summary["reference"] == {
        "fractured_pictures": 2, "mean_iou": pytest.approx(0.75), "max_iou": 1,
        "mean_map50": pytest.approx(0.75), "max_map50": 1,
    }  # fmt: skip
    assert summary["milliseconds_per_picture"]["median"] == pytest.approx(10)


def test_behind_the_gate_what_is_turned_away_has_no_boxes(four):
    behind = Scores(four, {"balanced": 0.5}).summary()["behind_gate"]
    assert behind["turned_away"] == {"with_boxes": 1, "without_boxes": 1}
    assert behind["operating_points"]["balanced"]["specificity"]["value"] == 1  # the false alarm is gone
    assert behind["ap50"] == pytest.approx(0.5 * 51 / 101)  # and a half of the true boxes cannot be found
    assert "behind_gate" not in Scores((scored("a", {0.5: BOX}, [BOX]),), {"balanced": 0.5}).summary()


def test_the_worst_have_most_errors_then_the_surest_false_box(four):
    worst = Scores(four, {"balanced": 0.5}).worst()
    assert [one.case.name for one in worst] == ["hit", "false alarm", "missed"]


def test_the_interval_draws_patients_not_pictures():
    one, other = scored("a", {0.9: BOX}, [BOX]), scored("b", {0.8: ELSEWHERE}, [BOX])
    same = [Scored(case.case, "one patient", case.compared) for case in (one, other)]
    assert Scores((one, other) * 4, {"x": 0.5}).summary()["ap50_interval_95"] is not None
    assert Scores(tuple(same), {"x": 0.5}).summary()["ap50_interval_95"] is None


def test_the_surest_box_that_touches_counts_and_not_the_best():
    near = [30.0, 10.0, 70.0, 50.0]  # IoU 1/3
    compared = Compared(
        detections([BOX, near, ELSEWHERE], [0.3, 0.8, 0.9]), np.array([BOX, [0, 90, 5, 95]], np.float32),
        np.ones(2, np.int64),
    )  # fmt: skip
    assert surest_ious(compared) == pytest.approx([1 / 3, 0])
    other_label = compared._replace(truth_labels=np.array([2, 2]))
    assert surest_ious(other_label).tolist() == [0, 0]
    nothing = Compared(detections([], []), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert surest_ious(nothing).tolist() == []
    assert reference_figures([nothing]) == {
        "fractured_pictures": 0, "mean_iou": None, "max_iou": None, "mean_map50": None, "max_map50": None,
    }  # fmt: skip


def square(x, y, side):
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], np.float32)


def test_masks_are_scored_for_each_class():
    names = {1: "bone", 2: "implant"}
    true = np.zeros((2, 100, 100), bool)
    true[0, 10:30, 10:30], true[1, 60:80, 60:80] = True, True
    boxes = np.array([[10, 10, 30, 30], [60, 60, 80, 80]], np.float32)
    case = Case("a", "a", 100, 100, boxes, ("bone", "implant"), tuple(encode(mask) for mask in true))
    polygons = (square(10, 10, 20), square(60, 60, 10), np.zeros((0, 2), np.float32))
    found = detections([*boxes, BOX], [0.9, 0.8, 0.7], [1, 2, 1], names, polygons)
    pairs = mask_pairs(found, case)
    assert pairs is not None
    np.testing.assert_allclose(pairs.overlap, [[1, 0], [0, 0.25], [0, 0]])
    compared = Compared(found, boxes, np.array([1, 2]))
    summary = Scores((Scored(case, "a", compared, masks=pairs),), {"balanced": 0.5}).summary()
    assert summary["masks"]["labels"] == {
        "bone": {"true_masks": 1, "mean_iou": 1}, "implant": {"true_masks": 1, "mean_iou": 0.25}
    }  # fmt: skip
    assert summary["masks"]["ap50"] == pytest.approx(0.5)
    assert summary["ap50"] == pytest.approx(1)
    assert summary["labels"]["implant"] == {"true_boxes": 1, "ap50": 1, "ap75": 1, "ap50_95": 1}
    boxed = Case("a", "a", 100, 100, boxes, ("bone", "implant"), (encode(true[0]), None))
    assert mask_pairs(found, boxed) is None  # one is known by its box alone
    assert mask_pairs(detections([BOX], [0.5]), case) is None


def put(path, picture):
    """Save a picture with a corner as bright as may be, or reading it would spread its greys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = picture.copy()
    shown[-8:, -8:] = 1
    Image.fromarray(np.rint(shown * 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return write_detector(folder / "bones-fracture.onnx"), write_gate(folder / "bones-gate.onnx")


@pytest.fixture
def data(tmp_path):
    """Two broken limbs that the detector finds, one too faint, a whole limb, and a picture that the gate refuses."""
    folder = tmp_path / "data"
    pictures = {"a.png": broken(), "b.png": broken(160, 240, 0.9), "faint.png": broken(144, 192, 0.55),
                "whole.png": limb(136, 200), "dark.png": dark()}  # fmt: skip
    for name, picture in pictures.items():
        put(folder / "valid" / "images" / name, picture)
    boxes = {
        f"images/{name}": [spot(picture.shape[1], picture.shape[0])] if name in ("a.png", "b.png", "faint.png") else []
        for name, picture in pictures.items()
    }
    path = coco(folder / "valid" / "_annotations.coco.json", boxes, 1, 1)
    content = json.loads(path.read_text())
    for image in content["images"]:
        height, width = pictures[image["file_name"].removeprefix("images/")].shape
        image |= {"width": width, "height": height}
    path.write_text(json.dumps(content))
    return folder


def test_a_detector_is_scored_from_the_command_line(data, models, tmp_path, capsys):
    detector, gate = models
    model = tmp_path / "model.onnx"
    model.write_bytes(detector.read_bytes())
    out = tmp_path / "out"
    answer = run(["evaluate", "--model", str(model), "--data", str(data), "--gate", str(gate), "--out", str(out),
                  "--device", "cpu", "--record"])  # fmt: skip
    assert answer is not None
    assert answer.exit_status == 0
    scores = json.loads((out / "scores.json").read_text())
    assert (scores["network"], scores["failed"], scores["split"]) == ("detector", 0, "validation")
    found = scores["scores"]
    assert (found["with_boxes"], found["without_boxes"]) == (3, 2)
    point = found["operating_points"]["balanced"]
    assert point["score"] == POINTS["balanced"]
    assert (point["sensitivity"]["found"], point["specificity"]["cleared"]) == (2, 2)
    assert point["true_boxes_found"] == pytest.approx(2 / 3)
    assert found["behind_gate"]["turned_away"] == {"with_boxes": 0, "without_boxes": 1}
    assert found["reference"]["max_iou"] == pytest.approx(1, abs=1e-4)
    left = {path.name for path in out.iterdir()}
    assert {"cases.csv", "curves.png", "scores.png", "report.json", "worst-valid-images-faint.png"} <= left
    assert len([name for name in left if name.startswith("worst-")]) == 3
    with (out / "cases.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert rows["valid/images/dark.png"]["gate_passed"] == "False"
    assert rows["valid/images/a.png"]["true_boxes_found"] == "1"
    report = json.loads((out / "report.json").read_text())
    assert (report["exit_status"], report["results"]["gate"]["name"]) == (0, gate.name)
    recorded = read_metadata(model)["scores"]
    assert (recorded["cases"], recorded["data"]) == (5, "data")
    assert recorded["ap50"] == pytest.approx(found["ap50"])
    assert "sensitivity_balanced" in capsys.readouterr().out


def test_python_gives_what_the_folder_gives(undrawn, data, models, tmp_path):
    cases = find_cases(data, ("fracture",))
    direct = evaluate(models[0], cases, device="cpu")
    folder = evaluate_folder(models[0], data, "all", tmp_path / "out", "cpu", gate="none")
    assert direct.means() == folder.means()


def test_results_of_predict_are_scored_as_the_model_is(undrawn, data, models, tmp_path):
    detector, gate = models
    results = tmp_path / "results"
    words = ["--model", str(detector), "--gate", str(gate), "--device", "cpu", "--quiet"]
    run(["predict", str(data / "valid" / "images"), "--out", str(results), *words])
    given = evaluate_folder(None, data, "validation", tmp_path / "given", predictions=results).summary()
    model = evaluate_folder(detector, data, "validation", tmp_path / "model", "cpu", gate=gate).summary()
    mine, theirs = given["operating_points"]["as given"], model["behind_gate"]["operating_points"]["balanced"]
    assert mine["score"] == 0
    for rate in ("sensitivity", "specificity", "true_boxes_found", "false_boxes_per_picture"):
        assert mine[rate] == theirs[rate]
    (results / "a.json").unlink()
    scores = evaluate_folder(None, data, "validation", tmp_path / "given", predictions=results)
    assert len(scores.failures) == 1
    assert "name it a.json" in scores.failures[0]


def test_a_broken_picture_stops_no_evaluation(undrawn, data, models, tmp_path):
    path = data / "valid" / "images" / "b.png"
    content = bytearray(path.read_bytes())
    content[-30:-20] = bytes(10)  # its size can still be read
    path.write_bytes(content)
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"test": ["a.png", "whole.png", "faint.png"]}))
    words = ["evaluate", "--model", str(models[0]), "--data", str(data), "--gate", "none", "--device", "cpu", "--quiet"]
    answer = run([*words, "--split", "all", "--out", str(tmp_path / "all")])
    assert answer is not None
    assert answer.exit_status == 1
    assert answer.result["scores"]["pictures"] == 4
    report = json.loads((tmp_path / "all" / "report.json").read_text())
    assert [entry["status"] for entry in report["inputs"]].count("failed") == 1
    answer = run([*words, "--split-file", str(split), "--split", "test", "--out", str(tmp_path / "test")])
    assert answer is not None
    assert (answer.exit_status, answer.result["scores"]["pictures"]) == (0, 3)


@pytest.fixture
def bars(tmp_path):
    """Bars with their masks, a picture without bone, and two pictures that are no radiographs."""
    folder = tmp_path / "bars"
    for name, picture, mask in (
        ("bar", limb(128, 256), limb(128, 256) > 0),
        ("half", limb(120, 200), (limb(120, 200) > 0) & (np.arange(200)[:, None] < 100)),
        ("nothing", dark(128, 160), np.zeros((160, 128), bool)),
    ):
        put(folder / "images" / f"{name}.png", picture)
        path = folder / "masks" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask.astype(np.uint8)).save(path)
    others = tmp_path / "others"
    put(others / "dark.png", dark())
    put(others / "bar.png", limb())  # passes, and ought not to
    return folder, others


def test_a_gate_is_scored_by_masks_and_decisions(bars, models, tmp_path, capsys):
    folder, others = bars
    out = tmp_path / "out"
    answer = run(["evaluate", "--model", str(models[1]), "--data", str(folder), "--split", "all", "--others",
                  str(others), "--out", str(out), "--device", "cpu"])  # fmt: skip
    assert answer is not None
    assert answer.exit_status == 0
    found = json.loads((out / "scores.json").read_text())["scores"]
    assert found["iou"]["pictures"] == 3
    with (out / "cases.csv").open() as file:
        ious = {row["case"]: row["iou"] for row in csv.DictReader(file)}
    assert float(ious["images/bar.png"]) == pytest.approx(1, abs=0.02)
    assert float(ious["images/half.png"]) == pytest.approx(0.5, abs=0.03)
    assert ious["dark.png"] == ""
    assert (found["sensitivity"]["right"], found["sensitivity"]["pictures"]) == (2, 2)
    assert (found["specificity"]["right"], found["specificity"]["pictures"]) == (2, 3)
    assert found["milliseconds_per_picture"]["median"] > 0
    left = {path.name for path in out.iterdir()}
    assert {"cases.csv", "scores.png", "report.json", "worst-bar.png", "worst-images-half.png"} <= left
    assert "specificity" in capsys.readouterr().out


def test_whether_bone_is_there_as_far_as_labels_tell():
    known = {"bone": True, "fractured": False}, {"bone": None, "fractured": False}, {"bone": False, "fractured": False}
    assert [shows_bone(Case("a", "a", 1, 1, **told)) for told in known] == [True, True, False]
    assert shows_bone(Case("a", "a", 1, 1)) is None


def test_data_without_a_split_are_split_as_the_model_was_trained(undrawn, data, models, tmp_path):
    path = data / "valid" / "_annotations.coco.json"
    path.rename(data / "labels.json")
    content = json.loads((data / "labels.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"valid/{image['file_name']}"
    (data / "labels.json").write_text(json.dumps(content))
    (data / "valid").rename(data / "films")
    (data / "labels.json").write_text((data / "labels.json").read_text().replace("valid/", "films/"))
    chosen = []
    for fraction in (0.2, 0.6):
        config = Config(validation_fraction=fraction)
        model = write_detector(tmp_path / f"{fraction}.onnx", training={"config": config.model_dump(mode="json")})
        scores = evaluate_folder(model, data, "validation", tmp_path / "out", "cpu", gate="none")
        chosen.append(len(scores.pictures))
    assert chosen[0] < chosen[1]


def test_what_cannot_be_scored_is_refused(undrawn, data, models, bars, tmp_path):
    detector, out = models[0], tmp_path / "out"
    with pytest.raises(SetupError, match="two things"):
        evaluate_folder(detector, data, "all", out, predictions=tmp_path)
    with pytest.raises(SetupError, match="holds no results"):
        evaluate_folder(None, data, "all", out, predictions=data)
    with pytest.raises(SetupError, match="no boxes"):
        evaluate_folder(detector, bars[0], "all", out, "cpu", gate="none")
    with pytest.raises(SetupError, match="--others"):
        evaluate_folder(detector, data, "all", out, "cpu", gate="none", others=bars[1])
    with pytest.raises(SetupError, match="it has some for validation"):
        evaluate_folder(detector, data, "test", out, "cpu", gate="none")
    with pytest.raises(SetupError, match="no model to record"):
        run(["evaluate", "--data", str(data), "--record"])
