from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from shared import registry
from shared.errors import SetupError
from shared.registry import MODELS_VARIABLE, TASKS, choose_model, find_model, info

FP32 = "coronary.onnx"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data" / "models"
    folder.mkdir(parents=True)
    (folder / FP32).write_bytes(b"checkout")
    monkeypatch.setattr(registry, "CHECKOUT_MODELS", folder)
    monkeypatch.delenv(MODELS_VARIABLE, raising=False)
    return folder


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "named"
    folder.mkdir()
    monkeypatch.setenv(MODELS_VARIABLE, str(folder))
    return folder


def test_places_in_order(tmp_path: Path, checkout: Path, named: Path) -> None:
    assert find_model("coronary", "fp32") == checkout / FP32
    (named / FP32).write_bytes(b"named")
    assert find_model("coronary", "fp32") == named / FP32
    own = tmp_path / "own.onnx"
    own.write_bytes(b"own")
    assert find_model("coronary", "fp32", own) == own
    assert find_model("coronary", "int8", own) == own
    assert find_model("coronary", "fp32", checkout) == checkout / FP32


def test_explicit_model_is_never_replaced(tmp_path: Path, checkout: Path) -> None:
    with pytest.raises(SetupError, match=r"mine\.onnx: no such model file"):
        find_model("coronary", "fp32", tmp_path / "mine.onnx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match="no such model file"):
        find_model("coronary", "fp32", tmp_path / "empty")


def test_missing_model_names_every_place(checkout: Path, named: Path) -> None:
    with pytest.raises(SetupError) as caught:
        find_model("coronary", "int8")
    for word in ("coronary-int8.onnx", str(named), str(checkout), "--model", MODELS_VARIABLE):
        assert word in str(caught.value)


def test_auto_takes_what_suits_the_device_and_else_what_is_there(checkout: Path) -> None:
    assert choose_model("coronary", "auto", "cpu") == checkout / FP32
    (checkout / "coronary-int8.onnx").write_bytes(b"int8")
    assert choose_model("coronary", "auto", "cpu") == checkout / "coronary-int8.onnx"
    assert choose_model("coronary", "auto", "cuda:1") == checkout / FP32
    assert choose_model("coronary", "fp32", "cpu") == checkout / FP32
    (checkout / FP32).unlink()
    assert choose_model("coronary", "auto", "cuda") == checkout / "coronary-int8.onnx"
    with pytest.raises(SetupError, match=r"coronary\.onnx: no such model"):
        choose_model("coronary", "fp32", "cpu")
    with pytest.raises(SetupError, match=r"mine\.onnx: no such model file"):
        choose_model("coronary", "auto", "cpu", checkout / "mine.onnx")


def test_variable_that_names_no_folder(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(SetupError, match="no folder"):
        find_model("coronary", "fp32")


def test_info_hashes_what_it_finds(checkout: Path) -> None:
    told = info("coronary")
    assert told["labels"] == {"0": "background", "1": "LCA", "2": "RCA", "3": "unassigned artery"}
    assert told["models"]["fp32"] == {
        "found": True,
        "path": str(checkout / FP32),
        "bytes": 8,
        "sha256": hashlib.sha256(b"checkout").hexdigest(),
    }
    assert told["models"]["int8"]["found"] is False
    assert str(checkout) in told["models"]["int8"]["problem"]
    assert told["engines"]["openvino"]
    assert told["engines"]["onnxruntime"]
    assert set(told["verbs"]) >= {"demo", "predict", "info"}


def test_large_models_are_hashed_only_when_probed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_HASHED_AT_ONCE_BYTES", 4)
    assert "sha256" not in info("coronary")["models"]["fp32"]
    probed = info("coronary", probe=lambda path: {"inputs": path.read_bytes().decode()})["models"]["fp32"]
    assert probed["probe"] == {"inputs": "checkout"}
    assert probed["sha256"]


def test_probe_that_fails_is_told(checkout: Path) -> None:
    def probe(path: Path) -> None:
        raise SetupError(f"{path}: is no coronary model")

    assert "no coronary model" in info("coronary", probe)["models"]["fp32"]["problem"]


def test_labels_fit_a_mask() -> None:
    for name, task in TASKS.items():
        assert task.name == name
        assert task.labels[0] == "background"
        assert list(task.labels) == list(range(len(task.labels)))
        assert {"fp32", "int8"} <= set(task.models) <= {"fp32", "int8", "gate"}


def test_import_is_light() -> None:
    heavy = "numpy torch onnxruntime openvino onnx SimpleITK scipy rich tyro pydantic"
    code = (
        f"import sys, shared.registry as r; r.info('coronary'); print(sorted(set(sys.modules) & {set(heavy.split())}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
