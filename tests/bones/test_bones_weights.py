"""What a run starts from: trunks of other makers, earlier runs, and what is refused."""

from urllib.error import URLError

import pytest
import torch
import torchvision.models._api
from safetensors.torch import save_file
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from bones.config import Config, Detector, Gate
from bones.model import build
from bones.weights import initialise, read_weights
from shared.errors import SetupError

SSD = Config(detector=Detector(size_px=300))
YOLO = Config(detector=Detector(kind="yolo", size_px=64))
GATE = Config(network="gate", gate=Gate(width=2))


def convolutions(module):
    return [layer.weight for layer in module.modules() if isinstance(layer, nn.Conv2d)]


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """A VGG16 trunk, each weight of it a number that says where it stands, as torchvision names them."""
    layers = make_layers(cfgs["D"], batch_norm=False)
    for number, weight in enumerate(convolutions(layers), 1):
        nn.init.constant_(weight, number)
    path = tmp_path_factory.mktemp("weights") / "trunk.safetensors"
    save_file({f"features.{name}": tensor.half() for name, tensor in layers.state_dict().items()}, path)
    return path


def test_a_trunk_gets_to_the_layers_it_belongs_to(trunk):
    network = build(SSD)
    said = initialise(network, SSD, trunk)
    found = [float(weight.detach().flatten()[0]) for weight in convolutions(network.ssd.backbone)]
    assert found[:13] == list(range(1, 14))
    assert all(value != int(value) for value in found[13:])
    assert "26 tensors" in said
    assert "trunk.safetensors" in said


def test_a_run_starts_from_an_earlier_one_and_leaves_out_what_has_another_shape(tmp_path):
    before = build(YOLO)
    torch.save({"model": before.state_dict(), "score": 0.1}, tmp_path / "best.ckpt")
    config = Config(detector=Detector(kind="yolo", size_px=64, labels=("fracture", "plate")))
    after = build(config)
    said = initialise(after, config, tmp_path)  # the run's folder
    assert torch.equal(convolutions(after)[0], convolutions(before)[0])
    assert "of another shape left out" in said


def test_of_a_last_checkpoint_the_moving_average_is_taken(tmp_path):
    network = build(GATE)
    average = {f"module.{name}": tensor + 1 for name, tensor in network.state_dict().items()}
    average["n_averaged"] = torch.tensor(3)
    torch.save({"model": network.state_dict(), "average": average, "step": 3}, tmp_path / "last.ckpt")
    found = read_weights(tmp_path / "last.ckpt")
    assert found.keys() == network.state_dict().keys()
    assert torch.equal(found["head.weight"], network.state_dict()["head.weight"] + 1)


def test_files_that_will_not_do_are_refused_with_a_reason(tmp_path, trunk):
    pickled = tmp_path / "vgg16.pth"
    torch.save({"a": torch.zeros(1)}, pickled)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(trunk.read_bytes()[:1000])
    torn = tmp_path / "best.ckpt"
    torn.write_bytes(b"PK\x03\x04 not whole")
    for path, reason in (
        (pickled, "convert it to safetensors"),
        (broken, "no whole safetensors file"),
        (torn, "no whole checkpoint"),
        (tmp_path / "none.safetensors", "not there"),
    ):
        with pytest.raises(SetupError, match=reason) as caught:
            read_weights(path)
        assert path.name in str(caught.value)
    with pytest.raises(SetupError, match=r"none of its 26 tensors fits"):
        initialise(build(GATE), GATE, trunk)


class Ran:
    """Would leave a trace if it were unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


def test_a_checkpoint_runs_no_code(tmp_path):
    torch.save({"model": Ran(tmp_path / "trace")}, tmp_path / "best.ckpt")
    with pytest.raises(SetupError, match="no whole checkpoint"):
        read_weights(tmp_path / "best.ckpt")
    assert not (tmp_path / "trace").exists()


def test_weights_that_cannot_be_fetched_name_what_to_do(monkeypatch):
    def refuse(*args, **named):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    for pretrained in ("imagenet", "coco"):
        config = Config(detector=Detector(size_px=300, pretrained=pretrained))
        with pytest.raises(SetupError, match=r"cannot be fetched .*--init FILE") as caught:
            initialise(nn.Linear(1, 1), config)
        assert "https://" in str(caught.value)


def test_an_untrained_start_is_said():
    assert initialise(build(GATE), GATE) == "untrained weights"


def test_stages_are_not_frozen_untrained():
    with pytest.raises(SetupError, match=r"frozen_stages is 2,.*--init FILE"):
        initialise(nn.Linear(1, 1), Config(detector=Detector(frozen_stages=2)))
