"""The predictor: the gate first, the detector when something passes, boxes in the picture's own pixels."""

import io
import threading

import numpy as np
import pytest
from bones_models import POINTS, broken, dark, limb, spot, write_detector, write_gate
from PIL import Image

import bones.predict
from bones.predict import OPERATING_POINTS, Predictor
from shared.errors import InputError, SetupError
from shared.io.radiograph import read_radiograph
from shared.runtime import Session
from shared.types import Radiograph


@pytest.fixture
def files(tmp_path):
    return write_detector(tmp_path / "detector.onnx"), write_gate(tmp_path / "gate.onnx")


@pytest.fixture
def opened(monkeypatch):
    """The model files for which a session was made, in order."""
    made = []

    def session(path, *more):
        made.append(path.name)
        return Session(path, *more)

    monkeypatch.setattr(bones.predict, "Session", session)
    return made


def test_the_detector_is_loaded_when_a_picture_passes_and_once(files, opened):
    predictor = Predictor(files[0], "cpu", gate=files[1])
    assert opened == ["gate.onnx"]
    away = predictor(Radiograph(dark()))
    assert opened == ["gate.onnx"]
    assert not predictor.is_loaded
    assert len(away) == 0
    assert not away.gate.passed
    assert away.gate.reason in away.findings[0]
    assert "OpenVINO" in predictor.engine

    seen = []
    threads = [threading.Thread(target=lambda: seen.append(predictor(Radiograph(broken())))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == ["gate.onnx", "detector.onnx"]
    assert len(seen) == 8
    for found in seen:
        assert found.gate.passed
        np.testing.assert_array_equal(found.boxes_px, seen[0].boxes_px)


@pytest.mark.parametrize("size", [(128, 256), (640, 320), (64, 64), (100, 1000), (999, 333)])
def test_law_1_a_box_is_where_the_spot_is_in_the_pictures_pixels(files, size):
    found = Predictor(files[0], "cpu", gate="none")(Radiograph(broken(*size)))
    assert (found.width_px, found.height_px) == size
    assert found.names == {1: "fracture"}
    assert found.gate is None
    np.testing.assert_allclose(found.boxes_px, [spot(*size)], atol=1 + max(size) / 64)


def test_every_kind_of_input_gives_the_same(files, tmp_path):
    predictor = Predictor(files[0], "cpu", gate=files[1])
    image = Image.fromarray((broken() * 255).astype(np.uint8))
    image.save(tmp_path / "a.png")
    raw = (tmp_path / "a.png").read_bytes()
    wanted = predictor(tmp_path / "a.png")
    assert len(wanted) == 1
    for given in (str(tmp_path / "a.png"), raw, io.BytesIO(raw), np.asarray(image), read_radiograph(raw)):
        found = predictor(given)
        np.testing.assert_array_equal(found.boxes_px, wanted.boxes_px)
        np.testing.assert_array_equal(found.scores, wanted.scores)
    with pytest.raises(InputError, match="no such file"):
        predictor(tmp_path / "b.png")


def test_operating_points_are_the_scores_that_the_file_says(files):
    counts = {}
    for grey, score in ((0.58, 0.4), (0.62, 0.6), (0.9, 0.99)):
        picture = Radiograph(broken(64, 64, grey))
        for point in OPERATING_POINTS:
            predictor = Predictor(files[0], "cpu", gate="none", operating_point=point)
            assert predictor.threshold == POINTS[point]
            found = predictor(picture)
            counts[grey, point] = len(found)
            assert found.scores == pytest.approx([score] * len(found), abs=0.01)
        assert len(Predictor(files[0], "cpu", gate="none")(picture, threshold=0.0)) > 1
    assert [counts[0.58, point] for point in OPERATING_POINTS] == [1, 0, 0]
    assert [counts[0.62, point] for point in OPERATING_POINTS] == [1, 1, 0]
    assert [counts[0.9, point] for point in OPERATING_POINTS] == [1, 1, 1]


def test_the_gate_can_be_left_out_for_one_picture(files):
    predictor = Predictor(files[0], "cpu", gate=files[1])
    assert not predictor(Radiograph(dark())).gate.passed
    assert predictor(Radiograph(dark()), gated=False).gate is None
    assert predictor.is_loaded


def test_without_a_gate_the_detector_is_loaded_at_once(files, opened):
    predictor = Predictor(files[0], "cpu", gate="none")
    assert opened == ["detector.onnx"]
    assert predictor.preload() is predictor.preload()
    assert opened == ["detector.onnx"]


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_engine_is_the_one_asked_for(files, engine):
    predictor = Predictor(files[0], "cpu", gate=files[1], engine=engine)
    predictor.preload()
    assert engine in predictor.engine.lower().replace(" ", "")


def test_law_8_a_device_that_is_not_there_is_an_error(files, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for gate in (files[1], "none"):
        with pytest.raises(SetupError, match="CUDA"):
            Predictor(files[0], "cuda", gate=gate)
    with pytest.raises(SetupError, match="unknown"):
        Predictor(files[0], "tpu", gate=files[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "spine"}, "a model for spine, not for bones"),
        ({"network": "gate"}, "is a gate, not a detector"),
        ({"metadata_version": 99}, "metadata version 99"),
        ({"operating_points": {"balanced": 0.5}}, "incomplete"),
        ({"labels": "fracture"}, "incomplete"),
        ({"selection": {"no_such_field": 1}}, "incomplete"),
        ({"kind": "ssd300_vgg16", "anchors": None}, "without anchors"),
        ({"kind": "retinanet"}, "kind retinanet"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused(tmp_path, changes, message):
    with pytest.raises(SetupError, match=message):
        Predictor(write_detector(tmp_path / "other.onnx", **changes), "cpu", gate="none")


def test_gate_and_detector_are_not_taken_for_each_other(files):
    with pytest.raises(SetupError, match="is a detector, not a gate"):
        Predictor(files[0], "cpu", gate=files[0])
    with pytest.raises(SetupError, match="is fp32, not int8"):
        Predictor(files[0], "cpu", gate=files[1], precision="int8")


def test_nothing_on_a_picture_without_a_spot(files):
    found = Predictor(files[0], "cpu", gate=files[1])(Radiograph(limb()))
    assert found.gate.passed
    assert len(found) == 0
    assert found.boxes_px.shape == (0, 4)
