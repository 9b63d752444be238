"""Law 5 for spine: killed with SIGKILL at any step and resumed equals never stopped, bit for bit.

ultralytics trains; its own resume would take the averaged weights, rounded, for the trained ones.
"""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from shared.config import apply_preset
from shared.training_folder import RunFolder
from spine.config import PRESETS, Config
from spine.phantom import PhantomConfig, write_dataset
from spine.train import train

PATIENCE_S = 300
pytestmark = pytest.mark.timeout(1200)  # a few short processes, perhaps on a busy machine

CONFIG = apply_preset(
    apply_preset(Config(), PRESETS["best"]),
    {
        "size_px": 64, "validation_fraction": 0.25,
        "training": {
            "epochs": 3, "batch": 2, "nominal_batch": 2, "warmup_epochs": 1, "ema": 0.9, "device": "cpu", "seed": 3,
        },
    },
)  # fmt: skip


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_until(moment: str, run: Path, data: Path) -> None:
    """Train, and be killed at ``moment``: ``step N``, or ``metrics N``, once epoch N is saved but not written out."""
    torch.set_num_threads(1)
    what, _, which = moment.partition(" ")
    write = RunFolder.write

    def before_metrics(folder: RunFolder, history: list) -> None:
        if what == "metrics" and len(history) == int(which):
            die()
        write(folder, history)

    RunFolder.write = before_metrics
    train(CONFIG, run, data, on_progress=lambda step, total, loss: die() if moment == f"step {step}" else None)


def in_a_process(moment: str, run: Path, data: Path) -> int | None:
    process = multiprocessing.get_context("spawn").Process(target=run_until, args=(moment, run, data))
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode is not None, "still running"
    return process.exitcode


def outcome(run: Path) -> tuple[dict, list[dict]]:
    weights = torch.load(run / "last.ckpt", weights_only=True)
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return weights, [{name: value for name, value in one.items() if name != "seconds"} for one in history]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("films") / "set"
    write_dataset(out, 8, config=PhantomConfig(long_side_px=64, validation_fraction=0, noise=0))
    return out


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    torch.set_num_threads(1)
    train(CONFIG, run, data)
    return outcome(run)


def test_killed_again_and_again_and_resumed_equals_never_stopped(data, undisturbed, tmp_path):
    moments = ["step 5", "metrics 2"]
    assert [in_a_process(moment, tmp_path / "run", data) for moment in moments] == [-signal.SIGKILL] * len(moments)
    train(CONFIG, tmp_path / "run", data)
    (expected, metrics), (state, history) = undisturbed, outcome(tmp_path / "run")
    assert history == metrics
    assert len(history) == 3
    assert state["updates"] == expected["updates"] == 9
    for part in ("model", "ema"):
        assert state[part].keys() == expected[part].keys()
        assert all(torch.equal(state[part][name], expected[part][name]) for name in state[part]), part
    for one, other in zip(
        state["optimizer"]["state"].values(), expected["optimizer"]["state"].values(), strict=True
    ):  # fmt: skip
        assert all(torch.equal(one[name], other[name]) for name in one)
    best = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)["epoch"]
    assert best == max(metrics, key=lambda record: record["map50_95"])["epoch"]
