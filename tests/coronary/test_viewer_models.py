"""Which model wins, and why a wrong one is refused."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from coronary.viewer import models as module
from coronary.viewer.models import Choice, Models, card, choose
from shared.errors import SetupError
from shared.registry import CHECKOUT_MODELS


@pytest.fixture
def no_models(monkeypatch, tmp_path):
    monkeypatch.delenv("MODEL_PATH", raising=False)
    monkeypatch.setattr(module, "CHECKOUT_MODELS", tmp_path)
    return tmp_path


def test_precedence(no_models, monkeypatch):
    assert choose(None, " ") == Choice(None, "shipped")
    (no_models / "model.onnx").touch()
    assert choose(None, "") == Choice(no_models / "model.onnx", "data/models/model.onnx")
    monkeypatch.setenv("MODEL_PATH", "env.onnx")
    assert choose(None, "") == Choice(Path("env.onnx"), "MODEL_PATH")
    assert choose(None, " typed.onnx ") == Choice(Path("typed.onnx"), "path")
    assert choose(Path("up.onnx"), "typed.onnx") == Choice(Path("up.onnx"), "uploaded")


def test_a_model_is_loaded_once_and_a_third_one_drops_the_first(tmp_path):
    loader = Models("cpu")
    names = ["a.onnx", "b.onnx", "c.onnx"]
    for name in names:
        shutil.copy(CHECKOUT_MODELS / "coronary-int8.onnx", tmp_path / name)
    first, second, third = (Choice(tmp_path / name, "path") for name in names)
    loaded = loader.load(first)
    assert loader.load(first) is loaded
    loader.load(second)
    loader.load(first)
    loader.load(third)  # drops the second
    assert loader.load(first) is loaded


def test_the_shipped_model_s_card():
    shown = card(Models("cpu").load(Choice(None, "shipped")))
    assert shown["Spacing"].endswith("mm")
    assert shown["Licence"] == "Apache-2.0"
    assert "phantoms" in shown["Provenance"]
    assert "Dice" in shown["Scores"]
    assert "background" in shown["Labels"]
    assert len(shown["SHA-256"]) == 64


def test_wrong_files_are_refused_with_the_reason(tmp_path):
    def problem(path):
        with pytest.raises(SetupError) as caught:
            Models("cpu").load(Choice(path, "uploaded"))
        assert str(tmp_path) not in str(caught.value)  # where an upload lies is nobody's business
        return str(caught.value)

    text = tmp_path / "text.onnx"
    text.write_text("this is no model")
    assert "not an ONNX file" in problem(text)
    assert "no model can be read" in problem(tmp_path / "missing.onnx")
    half = tmp_path / "half.onnx"
    half.write_bytes((CHECKOUT_MODELS / "coronary-int8.onnx").read_bytes()[:100_000])
    assert "ONNX file" in problem(half)
    model = onnx.load(CHECKOUT_MODELS / "coronary-int8.onnx")
    other = tmp_path / "other.onnx"
    model.metadata_props[0].value = model.metadata_props[0].value.replace('"task": "coronary"', '"task": "bones"')
    onnx.save(model, other)
    assert "a model for bones, not for coronary" in problem(other)
    del model.metadata_props[:]
    onnx.save(model, other)
    assert "without Skiagram metadata" in problem(other)


def test_scores_of_many_forms_are_told():
    class Session:
        path, sha256 = Path("x.onnx"), "0" * 64
        metadata = {  # noqa: RUF012
            "labels": {}, "preprocessing": {"spacing_mm": [1, 1, 1]}, "scores": {"dice": {"mean": 0.8}, "cl_dice": 0.9},
        }  # fmt: skip

    class Stand:
        session, precision, engine, device = Session, "fp32", "none", "cpu"

    assert card(Stand)["Scores"] == "Dice 0.800, clDice 0.900"
    Session.metadata = {"scores": {"dice": 0.865, "hd95_mm": 1.25, "cases": 20, "data": "phantoms-3000"}}
    assert card(Stand)["Scores"] == "Dice 0.865, HD95 in mm 1.250 on 20 cases of phantoms-3000"
    Session.metadata = {"training": {"validation_dice": 0.88}, "int8_gate": {"fp32": 0.889, "int8": 0.888}}
    gate = "float32 Dice at the gate 0.889, INT8 Dice at the gate 0.888"
    assert card(Stand)["Scores"] == f"Dice in validation 0.880, {gate}"
    Session.metadata = {"preprocessing": {}, "scores": {"dice": float(np.float64(0.5))}}
    assert card(Stand)["Scores"] == "Dice 0.500"
    Session.metadata = {}
    assert card(Stand)["Scores"] == "not said"
