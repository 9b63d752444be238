"""Law 5 for the bones task: a detector's training killed with SIGKILL and resumed equals one never stopped."""

import multiprocessing
import os
import signal

import pytest
import torch

from bones.config import Config
from bones.phantom import PhantomConfig, write_dataset
from bones.train import train
from shared.config import apply_preset

PATIENCE_S = 300
pytestmark = pytest.mark.timeout(900)  # three short processes, perhaps on a busy machine

CONFIG = apply_preset(
    Config(),
    {
        "detector": {"kind": "yolo", "size_px": 64},  # the quickest; its BatchNorm has statistics to go on with
        "sampling": {"augment": "best", "upsample": "flips", "small_object_crops": 0.5},
        "training": {
            "epochs": 3, "steps_per_epoch": 2, "batch": 2, "workers": 1, "optimiser": "adamw", "learning_rate": 1e-3,
            "schedule": "cosine", "warmup_steps": 2, "ema": 0.8, "clip_norm": 10.0, "seed": 4, "device": "cpu",
        },
    },
)  # fmt: skip


def run_until(step, run, data):
    """Train, and be killed after a step; None is never."""
    torch.set_num_threads(1)

    def on_step(done, total, loss):
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    train(CONFIG, run, data, on_progress=on_step)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    data = tmp_path_factory.mktemp("law-5-bones")
    write_dataset(data, count=4, seed=0, config=PhantomConfig(size_px=96, broken=1.0))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bones.train", "torch.utils.tensorboard"])

    def start(step, run):
        process = context.Process(target=run_until, args=(step, run, data))
        process.start()
        process.join(PATIENCE_S)
        assert not process.is_alive(), process.kill()
        return process.exitcode

    return start


def test_a_detector_killed_and_resumed_equals_one_never_stopped(start, tmp_path):
    assert start(None, tmp_path / "whole") == 0
    for step in (1, 3):
        assert start(step, tmp_path / "killed") == -signal.SIGKILL
    assert start(None, tmp_path / "killed") == 0
    for name in ("best.ckpt", "last.ckpt"):
        one, other = (torch.load(tmp_path / run / name, weights_only=True) for run in ("whole", "killed"))
        assert one["model"].keys() == other["model"].keys()
        assert all(torch.equal(tensor, other["model"][key]) for key, tensor in one["model"].items()), name
    assert [record["step"] for record in one["history"]] == [2, 4, 6]
    for what in ("loss", "ap50", "learning_rate"):
        assert [record[what] for record in one["history"]] == [record[what] for record in other["history"]]
