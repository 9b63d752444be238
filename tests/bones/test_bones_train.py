"""Training from end to end: every kind learns from phantoms for two steps, and leaves its run folder."""

import json

import bone_sets
import numpy as np
import pytest
import torch
from PIL import Image

from bones.__main__ import run
from bones.config import PRESETS, Config
from bones.model import build
from bones.phantom import PhantomConfig, write_dataset
from bones.train import choose_cases, train
from shared.cli import run_command
from shared.config import apply_preset
from shared.errors import SetupError

KINDS = {
    "ssd300_vgg16": {
        "detector": {"size_px": 272, "loss": "focal"},
        "sampling": {"augment": "best"},
    },
    "yolo": {"detector": {"kind": "yolo", "size_px": 64}, "sampling": {"upsample": "flips"}},
    "maskrcnn": {"detector": {"kind": "maskrcnn", "size_px": 64, "labels": ("bone", "implant")}},
    "segnet": {"network": "gate", "gate": {"size_px": 32, "width": 2}, "sampling": {"augment": "best"}},
    "unet": {"network": "gate", "gate": {"size_px": 32, "kind": "unet"}, "sampling": {"augment": "flips"}},
}
# In mixed precision, as every preset that is meant to be used; SGD's checkpoint is a third smaller than Adam's.
SHORT = {
    "epochs": 1, "steps_per_epoch": 2, "batch": 1, "workers": 0, "learning_rate": 1e-5, "precision": "bf16-mixed",
    "optimiser": "sgd",
}  # fmt: skip
# Two steps take 100 s where the CPU emulates bfloat16; the smaller SSD, 86 s, is trained in it everywhere.
SLOW_IN_BF16 = () if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ("maskrcnn",)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_dataset(folder, count=4, seed=3, config=PhantomConfig(size_px=128, broken=1.0))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_on_phantoms(kind, phantoms, tmp_path):
    precision = {"precision": "32-true"} if kind in SLOW_IN_BF16 else {}
    config = apply_preset(Config(), {**KINDS[kind], "training": SHORT | precision})
    said = []
    run = train(config, tmp_path / "run", phantoms, say=said.append)
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in history] == [2]
    assert np.isfinite(history[0]["loss"])
    assert 0 <= history[0]["iou" if config.network == "gate" else "ap50"] <= 1
    assert said[0] == "3 pictures to train on, 1 looked at after each epoch"
    weights = torch.load(run / "best.ckpt", weights_only=True)["model"]
    build(config).load_state_dict(weights)
    for picture in ("curves.png", "examples.png"):
        with Image.open(run / picture) as image:
            assert min(image.size) > 200
    assert json.loads((run / "report.json").read_text())["outputs"]
    parts = json.loads((run / "cases.json").read_text())
    assert len(parts["training"]) == 3
    assert not set(parts["training"]) & set(parts["validation"])


def test_a_resumed_run_needs_no_data_and_keeps_its_cases(phantoms, tmp_path):
    config = apply_preset(Config(), {**KINDS["segnet"], "training": SHORT | {"epochs": 2}})
    run, steps = tmp_path / "run", []

    def stop(step, total, loss):
        steps.append(step)
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, run, phantoms, on_progress=stop)
    cases = (run / "cases.json").read_bytes()
    train(config, run, on_progress=lambda step, total, loss: steps.append(step))
    assert steps == [1, 2, 3, 3, 4]
    assert (run / "cases.json").read_bytes() == cases


def test_later_steps_of_a_run_see_its_cases_wherever_the_data_are(tmp_path):
    data = tmp_path / "data"
    names = ("fissure", "artefact")
    bone_sets.yolo(data, {f"train/{one}": bone_sets.yolo_line((5, 5, 20, 20), 60, 40, k)
                          for k, one in enumerate("ab")} | {"valid/c": ""}, names)  # fmt: skip
    first = choose_cases(Config(), tmp_path / "run", data, None, {"artefact": ""})
    assert [case.labels for case in first.training] == [("fracture",), ()]
    moved = data.rename(tmp_path / "moved")
    for given in (moved, None):  # a run that is resumed, then its export and scores
        again = choose_cases(Config(), tmp_path / "run", given, None)
        assert [case.labels for case in again.training] == [("fracture",), ()]
        assert [case.name for case in again.validation] == ["valid/images/c.png"]


def test_flags_that_a_resumed_run_would_ignore_are_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text(Config().model_dump_json())
    for flag in (["--preset", "best"], ["--classes", "a=fracture"], ["--init", "x.safetensors"], ["--out", "other"]):
        assert run_command(lambda flag=flag: run(["train", "--resume", str(tmp_path), *flag])) == 2
        assert "--resume keeps the run's" in capsys.readouterr().err


def test_what_a_failed_start_chose_is_forgotten(tmp_path, capsys):
    for name in ("unlabelled", "good"):
        bone_sets.picture(tmp_path / name / "images" / "a.png")
    start = ["train", "--preset", "smoke", "--network", "gate", "--out", str(tmp_path / "run"), "--data"]
    for name in ("unlabelled", "good"):  # the second fails of itself, not of the first one's list of cases
        bone_sets.picture(tmp_path / name / "images" / f"{name}.png", seed=len(name))
        assert run_command(lambda name=name: run([*start, str(tmp_path / name)])) == 2
        assert f"{name}: has no picture with a bone mask to train on" in capsys.readouterr().err
        assert f"{name}.png" in (tmp_path / "run" / "cases.json").read_text()


def test_data_without_what_is_learnt_is_refused(phantoms, tmp_path):
    only_pictures = tmp_path / "mura" / "train"
    only_pictures.mkdir(parents=True)
    config = apply_preset(Config(), {**KINDS["segnet"], "training": SHORT})
    with pytest.raises(SetupError):
        train(config, tmp_path / "run", only_pictures.parent)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole_configs(name):
    config = apply_preset(Config(), PRESETS[name])
    assert config.training.epochs * config.training.batch > 1
    assert config.training.optimiser == "adam" or not name.startswith("reference")
    if name == "reference":  # its own figures: size, batch, epochs, learning rate, four times the pictures
        training, detector = config.training, config.detector
        assert (detector.size_px, training.batch, training.epochs, training.learning_rate) == (640, 8, 15, 1e-4)
        assert (config.sampling.upsample, config.sampling.augment) == ("flips", "none")
        assert (detector.anchors, detector.loss, detector.pretrained) == ("torchvision", "hard_negatives", "coco")
