"""From phantoms to an ONNX file and its INT8 twin, at toy size; laws 3 and 5 for the coronary network."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from coronary.cache import cache_case
from coronary.cases import find_cases, load_split
from coronary.config import PRESETS, Config
from coronary.export import export_run, parity_samples, windows
from coronary.model import build
from coronary.phantom import PhantomConfig, write_dataset
from coronary.predict import Predictor
from coronary.train import train
from coronary.training_verbs import train_verb
from shared.config import apply_preset
from shared.errors import SetupError
from shared.export import GateError, export_onnx, quantise
from shared.runtime import Session, read_metadata
from shared.training import NonFiniteLossError

TOY = apply_preset(
    Config(),
    PRESETS["smoke"]
    | {
        "features": (4, 4, 8, 8, 8, 4), "validation_fraction": 0.5, "inference": {"window": (48, 48, 48)},
        "sampling": {"patch": (32, 32, 32), "augment": "scanner"},
        "training": {"epochs": 2, "steps_per_epoch": 2, "batch": 2, "workers": 0, "optimiser": "adamw", "ema": 0.9},
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    config = PhantomConfig(shape=(64, 64, 56), spacing_mm=(1.6, 1.6, 1.7))
    write_dataset(folder, count=2, seed=5, config=config)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return train(TOY, tmp_path_factory.mktemp("run"), data)


def weights(run):
    return torch.load(run / "last.ckpt", weights_only=True)["model"]


def test_a_run_leaves_its_config_curves_and_checkpoints(run):
    assert Config.model_validate_json((run / "config.json").read_text()) == TOY
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4]
    assert all(np.isfinite(record["loss"]) for record in records)
    assert {path.name for path in run.glob("*.ckpt")} == {"best.ckpt", "last.ckpt"}


def test_a_resumed_run_equals_one_that_never_stopped(run, data, tmp_path):
    half = tmp_path / "run"
    shutil.copytree(run / "cache", half / "cache")

    class KilledError(Exception):
        pass

    def kill(step, total, loss):
        if step == 3:  # one step past the checkpoint
            raise KilledError

    with pytest.raises(KilledError):
        train(TOY, half, data, on_progress=kill)
    train(TOY, half)  # a run knows its own cases
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, weights(half)[name]), name


def test_a_run_goes_on_where_its_data_went(run, data, tmp_path):
    copy, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(run, copy)
    shutil.copytree(data, moved)
    train(TOY, copy, moved)
    listed = json.loads((copy / "cases.json").read_text())
    assert {Path(path).parent for part in listed.values() for _, *paths in part for path in paths} == {moved}
    assert {part: [entry[0] for entry in cases] for part, cases in listed.items()} == {
        part: [entry[0] for entry in cases] for part, cases in json.loads((run / "cases.json").read_text()).items()
    }
    (moved / "1.img.nii.gz").unlink()
    with pytest.raises(SetupError, match="the run's cases 1 are not in the data"):
        train(TOY, copy, moved)


@pytest.mark.parametrize("given", [{"preset": "best"}, {"out": Path("x")}, {"split_file": Path("x.json")}, {"fold": 0}])
def test_a_resumed_run_keeps_its_preset_folder_and_split(run, given):
    with pytest.raises(SetupError, match="--resume keeps the run's preset, folder and split"):
        train_verb(["--resume", str(run)])(resume=run, **given)


def test_a_non_finite_loss_names_the_case(data, tmp_path):
    huge = apply_preset(TOY, {"training": {"learning_rate": 1e30}})
    with pytest.raises(NonFiniteLossError, match=r"step \d: the loss is nan on \['\d'"):
        train(huge, tmp_path / "run", data)


@pytest.mark.parametrize(
    ("field", "remedy"),
    [
        ({"sampling": {"patch": (40, 48, 31)}}, "--patch 32 48 32"),
        ({"inference": {"window": (96, 96, 4)}}, "--window 96 96 16"),
    ],
)
def test_sizes_that_cannot_be_halved_four_times_are_refused_at_once(data, tmp_path, field, remedy):
    with pytest.raises(SetupError, match=f"multiples of 16; give {remedy}"):
        train(apply_preset(TOY, field), tmp_path / "run", data)
    assert not (tmp_path / "run").exists()


def test_the_exported_file_computes_what_torch_does(run, data, tmp_path):
    path = export_run(run, tmp_path / "coronary.onnx")
    metadata = read_metadata(path)
    assert metadata["task"] == "coronary"
    assert metadata["preprocessing"] == TOY.preprocessing.model_dump(mode="json")
    assert max(metadata["parity"]["relative_difference"].values()) < 1e-3
    model = build(TOY)
    model.load_state_dict(torch.load(run / "best.ckpt", weights_only=True)["model"])
    cases = load_split(run / "cases.json")[1]
    cached = [cache_case(case, TOY.preprocessing, run / "cache") for case in cases]
    for engine in ("onnxruntime", "openvino"):
        for sample in parity_samples(cached, TOY):
            with torch.no_grad():
                wanted = model.eval()(torch.from_numpy(sample)).numpy()
            np.testing.assert_allclose(Session(path, "cpu", engine)(sample), wanted, atol=2e-3 * np.abs(wanted).max())
    assert Predictor(path, "cpu").precision == "fp32"


def test_a_file_that_differs_from_torch_is_not_written(run, data, tmp_path, monkeypatch):
    model = build(TOY).eval()
    sample = np.random.default_rng(0).normal(size=(1, 1, 32, 32, 32)).astype(np.float32)

    class Wrong(Session):
        def outputs(self, image):
            return tuple(found * 1.01 for found in super().outputs(image))

    monkeypatch.setattr("shared.export.Session", Wrong)
    with pytest.raises(GateError, match="nothing was written"):
        export_onnx(model, [sample], tmp_path / "wrong.onnx", {}, engines=("openvino",))
    assert list(tmp_path.iterdir()) == []


def test_int8_is_refused_beyond_its_gate_and_close_within(run, data, tmp_path):
    fp32 = export_run(run, tmp_path / "coronary.onnx")
    cached = [cache_case(case, TOY.preprocessing, run / "cache") for case in find_cases(data)]
    samples = windows(cached, TOY, 4)
    out = tmp_path / "coronary-int8.onnx"
    with pytest.raises(GateError, match=r"INT8 scores 0.5000, float32 0.9000"):
        quantise(fp32, out, samples, score=lambda path: 0.9 if path == fp32 else 0.5)
    assert not out.exists()
    quantise(fp32, out, samples, score=lambda path: 1.0)
    assert read_metadata(out)["precision"] == "int8"
    wanted, got = Session(fp32, "cpu")(samples[0]), Session(out, "cpu")(samples[0])
    assert np.corrcoef(wanted.ravel(), got.ravel())[0, 1] > 0.8  # a network of four channels, hardly trained
    assert not np.array_equal(wanted, got)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(SetupError, match="config.json"):
        export_run(tmp_path, tmp_path / "x.onnx")


def test_an_int8_file_needs_a_name_of_its_own_before_anything_is_written(run, tmp_path):
    with pytest.raises(SetupError, match="NAME-int8.onnx"):
        export_run(run, tmp_path / "coronary.onnx", int8=True)
    assert list(tmp_path.iterdir()) == []
