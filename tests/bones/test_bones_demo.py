"""The demo goes the whole way: sample and phantom in, every output and the scores out."""

import json

import numpy as np
import pytest
from bones_models import write_detector, write_gate

from bones.__main__ import run
from bones.demo import broken_phantom, compare
from shared import registry
from shared.io.radiograph import read_radiograph
from shared.types import Detections

BONES = registry.Task(
    name="bones",
    summary="fractures",
    labels={0: "background", 1: "fracture"},
    models={"fp32": "bones-fracture-fp32.onnx", "int8": "bones-fracture.onnx", "gate": "bones-gate.onnx"},
    extra="bones",
    own_verbs={},
)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder of small models in place of the shipped ones."""
    write_detector(tmp_path / "models" / BONES.models["int8"], precision="int8")
    write_gate(tmp_path / "models" / BONES.models["gate"])
    monkeypatch.setenv(registry.MODELS_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setitem(registry.TASKS, "bones", BONES)


def test_the_demo_leaves_every_output_and_scores_the_phantom(installed, tmp_path, capsys):
    answer = run(["demo", "--out", str(tmp_path / "out"), "--seed", "5", "--device", "cpu"])
    assert answer is not None
    assert answer.exit_status == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {
        "phantom", "phantom.json", "phantom.png", "lower-leg.json", "lower-leg.png", "detections.coco.json",
        "detections.csv", "report.json",
    }  # fmt: skip
    scores = json.loads((tmp_path / "out" / "report.json").read_text())["results"]["phantom"]
    assert scores["breaks"] == len(broken_phantom(5).boxes) > 0
    said = capsys.readouterr().out
    assert "Research software, not a medical device." in said
    assert f"of {scores['breaks']} breaks found" in said


def test_what_was_found_of_the_breaks_is_counted():
    truth = broken_phantom(5)
    height, width = truth.picture.shape
    boxes = np.concatenate([truth.boxes[:1], [[0, 0, 3, 3]]]).astype(np.float32)
    found = Detections(boxes, np.ones(2, np.float32), np.ones(2, np.int64), {1: "fracture"}, width, height)
    scores = compare(found, truth)
    assert (scores["found"], scores["false_boxes"], scores["best_iou"]) == (1, 1, 1.0)
    nothing = Detections(boxes[:0], np.ones(0, np.float32), np.ones(0, np.int64), {1: "fracture"}, width, height)
    assert compare(nothing, truth) == {"breaks": len(truth.boxes), "found": 0, "false_boxes": 0, "best_iou": 0.0}


def test_the_sample_is_a_radiograph_of_pixels_alone():
    from bones.demo import SAMPLES

    (sample,) = SAMPLES.glob("*.png")
    assert sample.stat().st_size < 500_000
    assert (SAMPLES / "LICENSE").is_file()
    radiograph = read_radiograph(sample)
    assert (radiograph.width_px, radiograph.height_px) == (465, 1056)
    for private in (b"tEXt", b"eXIf", b"iTXt", b"tIME"):
        assert private not in sample.read_bytes()
