"""From a run to model files: what each says, that prediction reads it, and the gates."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from bones.cases import find_cases
from bones.config import Config, Detector, Gate
from bones.export import DetectorExport, GateExport, export_run, some, squares
from bones.model import build
from bones.phantom import PhantomConfig, write_dataset
from bones.predict import OPERATING_POINTS, Predictor
from bones.scoring import FALSE_BOXES_PER_PICTURE, choose_operating_points, compare
from bones.train import choose_cases
from shared.errors import SetupError
from shared.io.radiograph import read_radiograph
from shared.metrics.detection import Matched, match
from shared.runtime import read_metadata

GATE = Config(network="gate", gate=Gate(width=2, size_px=32))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, 10, 3, PhantomConfig(size_px=96, broken=1.0))
    return folder


def run_folder(path, config, data):
    """What training leaves, of a network that has learnt nothing."""
    path.mkdir()
    (path / "config.json").write_text(config.model_dump_json())
    (path / "source.json").write_text(json.dumps({"data": str(data), "split": None}))
    torch.manual_seed(0)
    torch.save({"model": build(config).state_dict(), "step": 7, "score": 0.5}, path / "best.ckpt")
    return path


@pytest.fixture(scope="module")
def gate(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate")
    return export_run(run_folder(folder / "run", GATE, data), folder / "gate.onnx", provenance="phantoms")


def test_a_gate_says_what_prediction_needs(gate):
    metadata = read_metadata(gate)
    assert (metadata["task"], metadata["network"], metadata["precision"]) == ("bones", "gate", "fp32")
    assert metadata["provenance"] == "phantoms"
    assert metadata["training"]["steps"] == 7
    assert set(metadata["parity"]["relative_difference"]) == {"onnxruntime", "openvino"}


@pytest.mark.slow
def test_the_int8_twin_lies_beside_and_was_judged(data, tmp_path):
    export_run(run_folder(tmp_path / "run", GATE, data), tmp_path / "gate-int8.onnx", int8=True)
    metadata = read_metadata(tmp_path / "gate-int8.onnx")
    assert metadata["precision"] == "int8"
    assert set(metadata["int8_gate"]) == {"fp32", "int8"}
    assert read_metadata(tmp_path / "gate.onnx")["precision"] == "fp32"


def test_law_3_the_exported_gate_computes_what_torch_does(gate, data):
    from bones.predict import Gate as GateNetwork

    torch.manual_seed(0)
    model = build(GATE).eval()
    picture = read_radiograph(find_cases(data)[0].picture)
    square = squares([find_cases(data)[0]], 32)[0]
    with torch.no_grad():
        wanted = torch.sigmoid(model(torch.from_numpy(square)))[0, 0].numpy()
    network = GateNetwork(gate, "cpu")
    np.testing.assert_allclose(network.session(square)[0, 0], wanted, atol=1e-4)
    assert network(picture).mask.shape == (32, 32)


def test_every_kind_of_detector_has_outputs_and_metadata():
    for kind in ("yolo", "maskrcnn"):
        export = DetectorExport(Config(detector=Detector(kind=kind, labels=("bone", "implant"), size_px=320)))
        metadata = export.metadata(nn.Identity())
        assert metadata["labels"] == {"0": "background", "1": "bone", "2": "implant"}
        assert set(metadata["operating_points"]) == set(OPERATING_POINTS)
        assert len(export.outputs) == {"yolo": 1, "maskrcnn": 4}[kind]
    assert DetectorExport(Config(detector=Detector(kind="yolo"))).metadata(nn.Identity())["licence"].startswith("AGPL")


@pytest.mark.slow
def test_an_ssd_goes_from_run_to_boxes(data, tmp_path):
    config = Config(detector=Detector(size_px=300))
    run = run_folder(tmp_path / "run", config, data)
    out = export_run(run, tmp_path / "detector.onnx")
    points = read_metadata(out)["operating_points"]
    assert points["screening"] <= points["balanced"] <= points["specific"]
    held_out = choose_cases(config, run, None, None).validation
    predictor = Predictor(out, "cpu", gate="none")
    assert points == choose_operating_points(match(compare(predictor, held_out)))  # not of what it has learnt
    case = find_cases(data, ("fracture",))[0]
    found = compare(predictor, [case])[0].found
    torch.manual_seed(0)
    model = build(config).eval()
    wanted = model.detect(torch.from_numpy(squares([case], 300)[0]))[0]
    scale = np.array([case.width_px, case.height_px] * 2) / 300
    np.testing.assert_allclose(found.scores, wanted["scores"].numpy(), atol=1e-4)
    np.testing.assert_allclose(found.boxes_px, wanted["boxes"].numpy() * scale, atol=0.1)


def test_a_file_appears_when_its_operating_points_are_chosen(data, tmp_path, monkeypatch):
    def stopped(*told):
        raise KeyboardInterrupt

    monkeypatch.setattr(GateExport, "chosen", stopped)
    with pytest.raises(KeyboardInterrupt):
        export_run(run_folder(tmp_path / "run", GATE, data), tmp_path / "gate.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_that_is_none_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(GATE.model_dump_json())
    with pytest.raises(SetupError, match="train until the first validation"):
        export_run(tmp_path, tmp_path / "model.onnx")
    with pytest.raises(SetupError, match=r"name it NAME-int8\.onnx"):
        export_run(tmp_path, tmp_path / "model.onnx", int8=True)


def test_operating_points_allow_the_false_boxes_that_they_say():
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(200):
        scores = np.sort(rng.random(6))[::-1]
        hits = np.array([1.0, *np.zeros(5)])
        pictures.append(Matched(scores, np.ones(6, np.int64), hits, np.ones(1, np.int64)))
    points = choose_operating_points(pictures)
    for name, threshold in points.items():
        false = sum(int(((p.scores >= threshold) & (p.ious == 0)).sum()) for p in pictures) / len(pictures)
        assert FALSE_BOXES_PER_PICTURE[name] * 0.8 <= false <= FALSE_BOXES_PER_PICTURE[name] + 0.01
    assert points["screening"] < points["balanced"] < points["specific"]
    hopeless = [Matched(np.ones(3), np.ones(3, np.int64), np.zeros(3), np.ones(1, np.int64))] * 4
    assert set(choose_operating_points(hopeless).values()) == {1.0}


def test_some_are_spread_over_all():
    assert some(range(10), 3) == [0, 4, 9]
    assert some([1, 2], 5) == [1, 2]
    assert some([], 5) == []


def test_the_gates_score_is_the_iou_of_bone(gate, data):
    assert 0 <= GateExport(GATE).score(gate, find_cases(data)[:2]) <= 1
