"""Training: the run folder, what is refused, no network, nothing in the home folder."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from spine_factory import write_film

from shared.config import apply_preset
from shared.errors import SetupError
from shared.registry import CHECKOUT_MODELS
from spine.cases import find_films
from spine.config import LEVELS, PRESETS, Config, Training
from spine.export import RawHead, export_network, model_metadata
from spine.model import build, load_matching, read_weights, settle, settled
from spine.phantom import PhantomConfig, write_dataset
from spine.train import ended, train
from spine.trainer import SpineTrainer, device_string, trainer_settings

ROOT = Path(__file__).resolve().parents[2]
CONFIG = apply_preset(
    apply_preset(Config(), PRESETS["smoke"]),
    {"size_px": 64, "phantoms": 5,
     "training": {"epochs": 1, "batch": 2, "nominal_batch": 2, "device": "cpu", "precision": "32-true"}},
)  # fmt: skip

# A run in a process of its own, in which every way to the network is noted and refused, and home is an empty folder.
OFFLINE = """
import socket, sys
asked = []
def refuse(*words, **more):
    asked.append(words)
    raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
from pathlib import Path
from spine.config import Config
from spine.train import train
if __name__ == "__main__":
    run = Path(sys.argv[1])
    train(Config.model_validate_json(Path(sys.argv[2]).read_text()), run, Path(sys.argv[3]))
    from ultralytics.utils import SETTINGS, ONLINE
    from ultralytics.utils.events import events
    print([asked, ONLINE, events.enabled, bool(SETTINGS["sync"]) and events.enabled])
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("films") / "set"
    write_dataset(out, 6, config=PhantomConfig(long_side_px=64, validation_fraction=0, noise=0))
    return out


def test_offline_from_first_to_last_and_nothing_in_the_home_folder(data, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "config.json").write_text(CONFIG.model_dump_json())
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("YOLO", "XDG"))}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path / "run"), str(tmp_path / "config.json"), str(data)],
        env=kept | {"HOME": str(home), "PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(tmp_path / "mpl")},
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "[[], False, False, False]"
    assert [str(path) for path in home.rglob("*") if path.is_file()] == []
    run = tmp_path / "run"
    names = {"config.json", "films.json", "report.json", "metrics.jsonl", "curves.png", "last.ckpt", "best.ckpt"}
    assert names <= {path.name for path in run.iterdir()}
    assert not list(tmp_path.rglob("*.pt"))  # no pickle
    assert not list(data.rglob("*.cache"))
    (record,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"epoch", "step", "loss", "box_map50", "mask_map50_95", "map50_95", "learning_rate"} <= set(record)
    report = json.loads((run / "report.json").read_text())
    assert report["exit_status"] == 0
    assert report["engine"].startswith("PyTorch")
    assert ended(CONFIG, run)


def test_training_on_the_cpu_takes_the_threads_there_are(tmp_path):
    """ultralytics sets one less than there are cores."""
    (tmp_path / "ultralytics").mkdir()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        SpineTrainer(overrides=trainer_settings(CONFIG, tmp_path, "cpu"))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_a_run_that_has_ended_says_so_and_does_nothing(data, tmp_path, monkeypatch):
    said = []
    train(CONFIG, tmp_path / "run", data, say=said.append)
    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    train(CONFIG, tmp_path / "run", say=said.append)
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before
    assert "finished after 1 epochs" in said[-1]


def test_weights_to_begin_with(data, tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(5)
    weights = build(CONFIG).state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "w.safetensors")
    train(CONFIG, tmp_path / "run", data, init=tmp_path / "w.safetensors")
    name = "model.0.conv.weight"
    first = read_weights(tmp_path / "run" / "first.ckpt")[name]
    assert torch.equal(first, weights[name])
    # One epoch of a few steps moves weights by some learning rates, not to another start.
    assert (read_weights(tmp_path / "run" / "best.ckpt")[name] - first).abs().max() < 0.05


def test_a_short_run_averages_its_weights(data, tmp_path):
    """ultralytics' own average follows the weights at once in a run of few steps; ours takes the steps before too."""
    moved = {}
    for ema in (0.0, 0.9):
        config = apply_preset(CONFIG, {"training": {"ema": ema}})
        train(config, tmp_path / str(ema), data)
        last = torch.load(tmp_path / str(ema) / "last.ckpt", weights_only=True)
        weights = {name: w for name, w in last["model"].items() if w.is_floating_point()}
        moved[ema] = weights, sum((last["ema"][name] - w).abs().sum() for name, w in weights.items())
    assert all(torch.equal(w, moved[0.9][0][name]) for name, w in moved[0.0][0].items())  # training itself is the same
    assert moved[0.9][1] > 30 * moved[0.0][1] > 0


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network whose normalisations do something, as a file in which they are folded away."""
    torch.manual_seed(6)
    network = build(CONFIG).eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_()
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
    folder = tmp_path_factory.mktemp("exported")
    film = write_film(folder / "film.png")
    export_network(network, [film, film], folder / "spine.onnx", model_metadata(CONFIG, "random weights"))
    return network, folder / "spine.onnx"


def raw(network, batch):
    with torch.no_grad():
        return RawHead(network)(batch)


def test_an_exported_model_can_be_trained_on(exported):
    """It computes what the network did, and once settled the same in batches, as training does."""
    network, file = exported
    again = build(CONFIG)
    assert load_matching(again, read_weights(file)) == len(read_weights(file))
    batch = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    wanted = raw(network.eval(), batch)
    for ours, theirs in zip(raw(again.eval(), batch), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    assert not settled(again)
    settle(again, [batch])
    assert settled(again)
    for ours, theirs in zip(raw(again.eval(), batch), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    again.train()
    in_a_batch = again.predict(batch)
    for name, theirs in zip(("boxes", "scores", "mask_coefficient", "proto"), wanted, strict=True):
        torch.testing.assert_close(in_a_batch[name], theirs, atol=2e-2, rtol=2e-2)


def test_training_settles_an_exported_model_first(exported, data, tmp_path):
    _, file = exported
    still = apply_preset(CONFIG, {"training": {"optimiser": "adamw", "learning_rate": 1e-9}})
    train(still, tmp_path / "run", data, init=file)
    first, last = (read_weights(tmp_path / "run" / f"{which}.ckpt") for which in ("first", "last"))
    torch.testing.assert_close(last["model.1.conv.weight"], first["model.1.conv.weight"])
    assert (first["model.1.bn.weight"] == 1).all()
    assert (last["model.1.bn.weight"] - 1).abs().min() > 1e-3  # a step moves it by a billionth


def test_a_quantised_model_is_not_trained_on():
    with pytest.raises(SetupError, match="float32 twin"):
        read_weights(CHECKOUT_MODELS / "spine-int8.onnx")


def test_weights_of_another_size_are_taken_where_they_fit():
    small = build(CONFIG)
    weights = {name: value + 1 for name, value in small.state_dict().items() if value.is_floating_point()}
    weights["model.0.conv.weight"] = torch.zeros(3, 3)
    assert load_matching(small, weights) == len(weights) - 1
    with pytest.raises(SetupError, match="none of these weights"):
        load_matching(small, {"somebody.else": torch.zeros(1)})


def test_pickles_are_refused_with_the_way_to_mend_it(tmp_path):
    torch.save({"model": build(CONFIG)}, tmp_path / "yolo.pt")
    with pytest.raises(SetupError, match=r"safetensors"):
        read_weights(tmp_path / "yolo.pt")
    with pytest.raises(SetupError, match="no such file"):
        read_weights(tmp_path / "none.safetensors")


@pytest.mark.parametrize("network", ["yolo11n-seg", "yolo11s-seg"])
def test_the_network_has_a_class_for_each_level(network):
    model = build(CONFIG.model_copy(update={"network": network})).eval()
    assert model.names == dict(enumerate(LEVELS))
    with torch.no_grad():
        found = model(torch.zeros(1, 3, 64, 32))
    assert found[0][0].shape[1] == 4 + 24 + 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "cuda"}, "CUDA"),
        ({"device": "cuda:0,1"}, "CUDA"),
        ({"device": "tpu"}, "is no device"),
        ({"device": "cuda:x"}, "is no device"),
        ({"device": "cpu", "devices": 2}, "one process"),
        ({"device": "cpu", "precision": "16-mixed"}, "needs CUDA"),
    ],
)
def test_a_device_that_is_not_there_is_an_error(monkeypatch, change, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SetupError, match=message):
        device_string(Training(**change))


@pytest.mark.parametrize(
    ("change", "device"),
    [
        ({}, "0"),
        ({"device": "cuda", "devices": 3}, "0,1,2"),
        ({"device": "cuda:1,3"}, "1,3"),
        ({"device": "cpu"}, "cpu"),
    ],
)
def test_devices_as_ultralytics_names_them(monkeypatch, change, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert device_string(Training(**change)) == device


def test_a_cpu_that_emulates_bfloat16_is_told_of(monkeypatch, caplog):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with caplog.at_level(logging.WARNING):
        device_string(Training(device="cpu", precision="bf16-mixed"))
    assert "32-true is faster" in caplog.text


def test_data_that_does_not_do_is_named(data, tmp_path):
    with pytest.raises(SetupError, match="spine merge"):
        train(CONFIG, tmp_path / "run", tmp_path)
    config = CONFIG.model_copy(update={"validation_fraction": 0.0})
    with pytest.raises(SetupError, match="no film to look at; hold some out"):
        train(config, tmp_path / "other", data)
    assert all(film.part == "train" for film in find_films(data))


def test_a_loss_that_is_no_number_ends_the_run(data, tmp_path, monkeypatch):
    from spine.trainer import SpineTrainer

    step = SpineTrainer.optimizer_step

    def spoilt(trainer):
        step(trainer)
        with torch.no_grad():
            next(trainer.model.parameters()).fill_(float("nan"))

    monkeypatch.setattr(SpineTrainer, "optimizer_step", spoilt)
    with pytest.raises(SetupError, match=r"loss became nan in epoch 1"):
        train(CONFIG, tmp_path / "run", data)
    assert not (tmp_path / "run" / "best.ckpt").exists()
