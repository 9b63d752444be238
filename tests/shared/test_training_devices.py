"""Law 8 in training: a device, a number of processes or a precision that is asked for and not there is an error."""

import logging

import pytest
import torch
from torch import nn

import shared.training_devices as devices
from shared.errors import SetupError
from shared.training_devices import first_then_others, gathered, make_fabric, warn_of_emulation
from shared.training_settings import TrainingSettings


def settings(**values):
    return TrainingSettings(**values)


@pytest.fixture
def gpus(monkeypatch):
    """Let torch see some CUDA devices, and record what Fabric is asked for."""
    asked = {}

    def pretend(count, bf16=True):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
        monkeypatch.setattr(devices, "Fabric", lambda **arguments: asked.update(arguments))
        return asked

    return pretend


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in (
        "TORCHELASTIC_RUN_ID",
        "WORLD_SIZE",
        "SLURM_NTASKS",
        "SLURM_NTASKS_PER_NODE",
        "SLURM_JOB_NAME",
        "RANK",
        "GROUP_RANK",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("device", "count"), [("cuda", 0), ("cuda:2", 2), ("cuda:0", 0)])
def test_cuda_that_is_not_there_is_an_error(gpus, device, count):
    gpus(count)
    with pytest.raises(SetupError, match=f"{device} asked for, but torch sees {count} CUDA devices"):
        make_fabric(settings(device=device))


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_more_gpus_than_there_are_is_an_error(gpus, device):
    gpus(2)
    with pytest.raises(SetupError, match="4 CUDA devices asked for, but torch sees 2"):
        make_fabric(settings(device=device, devices=4))


def test_one_device_cannot_be_several(gpus):
    gpus(4)
    with pytest.raises(SetupError, match="device cuda:1 is one, devices is 2; give device cuda"):
        make_fabric(settings(device="cuda:1", devices=2))


@pytest.mark.parametrize(
    ("values", "count", "accelerator", "chosen"),
    [
        ({"device": "auto"}, 0, "cpu", 1),
        ({"device": "auto"}, 2, "cuda", [0]),
        ({"device": "cuda:1"}, 2, "cuda", [1]),
        ({"device": "cpu"}, 2, "cpu", 1),
        ({"device": "cuda", "devices": 4}, 4, "cuda", 4),
        ({"device": "cpu", "devices": 3}, 0, "cpu", 3),
    ],
)
def test_what_is_there_is_taken(gpus, values, count, accelerator, chosen):
    asked = gpus(count)
    make_fabric(settings(**values))
    assert (asked["accelerator"], asked["devices"], asked["num_nodes"]) == (accelerator, chosen, 1)
    assert (asked["strategy"] == "auto") == (values.get("devices", 1) == 1)


def test_float16_on_the_cpu_is_an_error_not_bfloat16(gpus):
    gpus(0)
    with pytest.raises(SetupError, match="16-mixed needs CUDA"):
        make_fabric(settings(precision="16-mixed"))
    assert gpus(1) == {}
    make_fabric(settings(precision="16-mixed"))


def test_emulated_bfloat16_is_said(gpus, caplog):
    gpus(1, bf16=False)
    with caplog.at_level(logging.WARNING):
        make_fabric(settings(precision="bf16-mixed"))
    assert "16-mixed is faster here" in caplog.text


@pytest.mark.parametrize("has_it", [True, False])
def test_a_cpu_without_bfloat16_is_told_of(has_it, monkeypatch, caplog):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_it)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    with caplog.at_level(logging.WARNING):
        warn_of_emulation("32-true", on_cuda=False)
        assert not caplog.text
        make_fabric(settings(device="cpu", precision="bf16-mixed"))
    assert ("precision 32-true is faster here" in caplog.text) != has_it


def torchrun(monkeypatch, world):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": world, "RANK": 0, "GROUP_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))


def slurm(monkeypatch, world):
    monkeypatch.setenv("SLURM_NTASKS", str(world))
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")


@pytest.mark.parametrize("start", [torchrun, slurm])
def test_processes_started_from_outside_must_be_as_many_as_the_settings_say(gpus, monkeypatch, start):
    asked = gpus(4)
    start(monkeypatch, 8)
    with pytest.raises(SetupError, match=r"started 8 processes, but devices 4 x nodes 1 is 4; give --devices"):
        make_fabric(settings(devices=4))
    make_fabric(settings(devices=4, nodes=2))
    assert asked["num_nodes"] == 2


def test_slurm_must_say_how_many_processes_a_node_has(gpus, monkeypatch):
    gpus(4)
    slurm(monkeypatch, 4)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(SetupError, match="Slurm: .*ntasks-per-node=4"):
        make_fabric(settings(devices=4))


def test_several_nodes_need_somebody_to_start_them(gpus):
    gpus(4)
    with pytest.raises(SetupError, match="neither torchrun nor Slurm"):
        make_fabric(settings(devices=4, nodes=2))


def test_one_process_is_alone():
    fabric = make_fabric(settings(device="cpu"))
    assert gathered(fabric, "me") == ["me"]
    assert first_then_others(fabric, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        first_then_others(fabric, lambda: 1 / 0)


def test_what_goes_into_the_network_keeps_its_precision():
    """Lightning would lower true boxes to bfloat16 too: multiples of 4 px above 512."""
    fabric = make_fabric(settings(device="cpu", precision="bf16-mixed"))

    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, image, targets):
            return self.layer(image), targets[0]["boxes"]

    with torch.no_grad():
        image, boxes = torch.ones(1, 2), torch.tensor([[513.3, 258.6, 600.1, 300.7]])
        layer = fabric.setup(Seen())
        with fabric.autocast():
            lowered = layer.module.layer(image).dtype
        _, kept = layer(image, [{"boxes": boxes}])
    assert lowered == torch.bfloat16
    assert torch.equal(kept, boxes)
