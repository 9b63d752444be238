"""Law 8 for spine: a device, engine or precision that was asked for and is not there is an error."""

import pytest
from spine_factory import register, tiny_model

from shared.errors import SetupError
from spine.predict import Predictor


@pytest.fixture(autouse=True)
def spine_task(monkeypatch):
    register(monkeypatch)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "cuda"}, "CUDA was asked for"),
        ({"device": "cuda:3", "engine": "openvino"}, "OpenVINO does not run on CUDA"),
        ({"device": "gpu"}, "use auto, cpu, cuda or cuda:N"),
        ({"device": "cpu", "precision": "int8"}, "is fp32, not int8"),
    ],
)
def test_what_is_not_there_is_an_error(options, said, monkeypatch):
    with pytest.raises(SetupError, match=said) as caught:
        Predictor(tiny_model(), **options)
    assert caught.value.exit_status == 2


def test_what_runs_is_told():
    predictor = Predictor(tiny_model(), "cpu", engine="onnxruntime")
    assert (predictor.device, predictor.precision) == ("cpu", "fp32")
    assert predictor.engine.startswith("ONNX Runtime")


def test_no_model_is_an_error_that_names_the_places(tmp_path, monkeypatch):
    monkeypatch.setenv("SKIAGRAM_MODELS", str(tmp_path))
    with pytest.raises(SetupError, match="no such model file"):
        Predictor(tmp_path / "none.onnx", "cpu")
    with pytest.raises(SetupError, match=r"spine\.onnx"):
        Predictor(tmp_path, "cpu")
