"""Sweeps: which runs there are, that what is done is left alone, and the table of what they scored."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bones.sweep
from bones.__main__ import run
from bones.cases import Case
from bones.config import PRESETS, Config
from bones.evaluate_gate import Decided, GateScores
from bones.gate import GateDecision
from bones.phantom import PhantomConfig, write_dataset
from bones.scores import Scored, Scores
from bones.sweep import arms_of, sweep
from shared.config import apply_preset
from shared.errors import SetupError
from shared.io.tables import write_json
from shared.metrics.detection import Compared
from shared.types import Detections

REFERENCE = apply_preset(Config(), PRESETS["reference"])
GATE = apply_preset(Config(), PRESETS["reference-gate"])


def test_every_combination_is_a_run():
    arms = arms_of(REFERENCE, sizes=(300, 640), rates=(3e-4, 1e-4), epochs=(10, 15), init=Path("trunk"))
    assert len({arm.name for arm in arms}) == 8
    told = {
        (arm.config.detector.size_px, arm.config.training.learning_rate, arm.config.training.epochs) for arm in arms
    }
    assert told == {(size, rate, epochs) for size in (300, 640) for rate in (3e-4, 1e-4) for epochs in (10, 15)}
    assert {arm.init for arm in arms} == {Path("trunk")}
    assert all(arm.config.sampling.upsample == "flips" for arm in arms)
    (alone,) = arms_of(REFERENCE)
    assert alone.config == REFERENCE
    assert alone.name == "ssd300_vgg16-640px-15epochs-lr0.0001"


def test_of_gates_segnet_is_trained_with_and_without_pretraining():
    arms = arms_of(GATE, init=Path("lesions"))
    assert [(arm.config.gate.kind, arm.init) for arm in arms] == [
        ("segnet", None), ("segnet", Path("lesions")), ("unet", None),
    ]  # fmt: skip
    assert len({arm.name for arm in arms}) == 3
    assert [arm.network for arm in arms_of(GATE)] == ["segnet", "unet"]


def detector_scores(score):
    """One picture with a box that is found, one without."""
    names, box = {1: "fracture"}, np.array([[10, 10, 50, 50]], np.float32)
    found = Detections(box, np.array([score], np.float32), np.ones(1, np.int64), names, 100, 100)
    none = found.take(np.zeros(1, bool))
    return Scores(
        (
            Scored(Case("a", "a", 100, 100), "a", Compared(found, box, np.ones(1, np.int64)), seconds=0.02),
            Scored(Case("b", "b", 100, 100), "b", Compared(none, box[:0], np.ones(0, np.int64)), seconds=0.02),
        ),
        {"balanced": 0.5},
    )


def gate_scores(iou):
    decision = GateDecision(True, 0.2, 0.9, "bone", np.ones((2, 2), bool))
    return GateScores(tuple(Decided(Case(name, name, 1, 1), decision, True, iou, 0.03) for name in "ab"))


@pytest.fixture
def quick(monkeypatch):
    """Runs that take no time: a run is what it was asked for, its scores what its learning rate is worth."""
    trained = []

    def train(config, folder, data, **more):
        trained.append(folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(config.model_dump_json())
        if not (folder / "cases.json").exists():
            write_json({"training": [folder.name]}, folder / "cases.json")
            write_json({"data": str(data)}, folder / "source.json")
        (folder / "metrics.jsonl").write_text('{"seconds": 60}\n{"seconds": 120}\n')
        (folder / "best.ckpt").touch()

    def finish(folder, device):
        config = Config.model_validate_json((folder / "config.json").read_text())
        worth = 1e3 * config.training.learning_rate
        scores = gate_scores(worth) if config.network == "gate" else detector_scores(worth)
        write_json({"scores": scores.summary()}, folder / "scores" / "scores.json")

    monkeypatch.setattr(bones.sweep, "train", train)
    monkeypatch.setattr(bones.sweep, "finish", finish)
    return trained


def test_what_is_done_is_left_alone_and_all_have_the_same_cases(quick, tmp_path):
    arms = arms_of(REFERENCE, rates=(3e-4, 1e-4, 9e-4))
    rows = sweep(arms[:2], tmp_path, tmp_path / "data")
    assert [row["run"] for row in rows] == quick == [arm.name for arm in arms[:2]]
    rows = sweep(arms, tmp_path, tmp_path / "data")
    assert quick == [arm.name for arm in arms]  # the third alone was new
    cases = {(tmp_path / arm.name / "cases.json").read_text() for arm in arms}
    assert len(cases) == 1
    (tmp_path / arms[0].name / "scores" / "scores.json").unlink()  # it was stopped before it was scored
    sweep(arms, tmp_path, tmp_path / "data")
    assert quick[3:] == [arms[0].name]
    other = arms_of(apply_preset(REFERENCE, {"training": {"batch": 2}}), rates=(3e-4,))
    with pytest.raises(SetupError, match="trained with other settings"):
        sweep(other, tmp_path, tmp_path / "data")
    for more in ({"data": tmp_path / "others"}, {"data": tmp_path / "data", "classes": {"line": ""}}):
        with pytest.raises(SetupError, match="trained on other data or classes"):
            sweep(arms, tmp_path, **more)


def test_the_table_has_the_references_columns_beside_the_honest_ones(quick, tmp_path):
    sweep(arms_of(REFERENCE, rates=(3e-4, 9e-4)), tmp_path, tmp_path / "data")
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["learning_rate"]) for row in rows] == [3e-4, 9e-4]
    for name in ("reference_mean_iou", "reference_max_iou", "reference_mean_map50", "reference_max_map50", "ap50"):
        assert [float(row[name]) for row in rows] == pytest.approx([1, 1])
    assert [float(row["sensitivity"]) for row in rows] == [0, 1]  # the first is not sure enough
    assert [float(row["specificity"]) for row in rows] == [1, 1]
    assert rows[0]["minutes"] == "3.0"
    assert float(rows[0]["milliseconds"]) == pytest.approx(20)
    assert float(rows[0]["froc_0.25"]) == 1
    assert (rows[0]["pictures_with_boxes"], rows[0]["pictures_without"]) == ("1", "1")
    assert json.loads((tmp_path / "sweep.json").read_text())["runs"][1]["learning_rate"] == 9e-4
    with Image.open(tmp_path / "sweep.png") as image:
        assert min(image.size) > 100


def test_gates_from_the_command_line(quick, tmp_path, capsys):
    words = ["--task", "gate", "--sizes", "32", "--lr", "5e-4", "8e-4", "--gate.width", "4", "--training.batch", "2"]
    answer = run(["sweep", *words, "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--init", "lesions"])
    assert answer is not None
    runs = answer.result["runs"]
    assert [(row["network"], row["learning_rate"], row["iou"]) for row in runs] == [
        (network, rate, pytest.approx(1e3 * rate))
        for network in ("segnet", "segnet, pretrained", "unet")
        for rate in (5e-4, 8e-4)
    ]
    config = Config.model_validate_json((tmp_path / "out" / runs[0]["run"] / "config.json").read_text())
    assert (config.gate.width, config.gate.size_px, config.training.batch, config.training.epochs) == (4, 32, 2, 50)
    said = capsys.readouterr().out
    assert "pretrained" in said
    assert "0.800" in said


@pytest.mark.slow
def test_a_real_sweep_ends_in_scored_models(tmp_path):
    data = tmp_path / "data"
    write_dataset(data, count=4, seed=3, config=PhantomConfig(size_px=96))
    words = ["--training.steps-per-epoch", "2", "--training.batch", "2", "--training.workers", "0", "--gate.width", "2"]
    words += ["--training.device", "cpu", "--kinds", "segnet", "--sizes", "32", "--epochs", "1", "--quiet"]
    answer = run(["sweep", "--task", "gate", "--data", str(data), "--out", str(tmp_path / "out"), *words])
    assert answer is not None
    (row,) = answer.result["runs"]
    assert 0 <= row["iou"] <= 1
    assert (tmp_path / "out" / row["run"] / "model.onnx").exists()
