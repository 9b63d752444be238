"""Law 5: killed with SIGKILL at any step and resumed equals never stopped, bit for bit, with data workers.

The runs are those of the real task with a tiny network; each is a process of its own that kills itself at the worst
moments: after a step, half-way through the bytes of a checkpoint, between the two checkpoints, before the metrics.
"""

import json
import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from imagecas import noise_case

import coronary.cache
from coronary.cache import prepare
from coronary.cases import find_cases
from coronary.config import Config
from coronary.train import train
from shared.config import apply_preset
from shared.training_folder import RunFolder

TIMES = {"seconds", "samples_per_s", "peak_memory_bytes"}
PATIENCE_S = 300
pytestmark = pytest.mark.timeout(1200)  # a dozen short processes, perhaps on a busy machine

CONFIG = apply_preset(
    Config(),
    {
        "features": (4, 4, 4, 4, 4, 4), "dropout": 0.2, "validation_fraction": 0.34,
        "inference": {"window": (32, 32, 32)},
        "sampling": {"patch": (32, 32, 32), "patches_per_case": 2, "augment": "scanner", "jitter_mm": 2.0},
        "training": {
            "epochs": 4, "steps_per_epoch": 3, "batch": 2, "micro_batch": 1, "optimiser": "adamw", "workers": 1,
            "learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 2, "ema": 0.8, "clip_norm": 1.0, "seed": 3,
            "precision": "bf16-mixed", "device": "cpu", "early_stop_epochs": 3,
        },
    },
)  # fmt: skip
LAST_STEP = 12


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_until(moment: str, run: Path, data: Path, cache: Path) -> None:
    """Train, and be killed at ``moment``: ``step N``, ``write NAME``, ``after NAME`` or never."""
    torch.set_num_threads(1)
    what, _, which = moment.partition(" ")
    save, write = torch.save, RunFolder.write

    def torn(content: object, path: Path) -> None:
        if path.name.endswith(which) and what == "write":
            save(content, path)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            die()
        save(content, path)

    def after(self: RunFolder, history: list[dict]) -> None:
        if what == "before" and len(history) == int(which):
            die()
        write(self, history)

    torch.save, RunFolder.write = torn, after
    coronary.cache.cpu_count = lambda: 1  # all is in the cache: no processes are needed to find it

    def on_step(step: int, total: int, loss: float) -> None:
        if what == "step" and step == int(which):
            die()

    train(CONFIG, run, data, cache=cache, on_progress=on_step)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Give ``start(moment, run)``, which returns the exit code of a process that trains until then."""
    folder = tmp_path_factory.mktemp("law-5")
    data, cache = folder / "data", folder / "cache"
    for name in ("1", "2", "3"):
        noise_case(data, name, shape=(36, 34, 33))
    prepare(find_cases(data), CONFIG.preprocessing, cache, workers=1)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["coronary.train", "torch.utils.tensorboard"])

    def start(moment, run):
        process = context.Process(target=run_until, args=(moment, run, data, cache))
        process.start()
        process.join(PATIENCE_S)
        assert not process.is_alive(), process.kill()
        return process.exitcode

    return start


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert start("never", run) == 0
    return run


def history(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def assert_same(one, other, where):
    """Compare nested checkpoints bit for bit, times apart."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one.keys() - TIMES:
            assert_same(one[name], other[name], f"{where}/{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def assert_same_run(one, other):
    assert history(one) == history(other)
    for name in ("last.ckpt", "best.ckpt"):
        assert_same(torch.load(one / name, weights_only=True), torch.load(other / name, weights_only=True), name)
    assert not list(other.glob(".*")), "what the killed processes left behind is gone"


def test_killed_at_random_steps_and_resumed_equals_never_stopped(start, uninterrupted, tmp_path):
    steps = sorted(random.Random(5).sample(range(1, LAST_STEP), 4))
    for step in steps:
        assert start(f"step {step}", tmp_path / "run") == -signal.SIGKILL
    assert start("never", tmp_path / "run") == 0
    assert_same_run(uninterrupted, tmp_path / "run")


def test_killed_while_files_are_written_and_resumed_equals_never_stopped(start, uninterrupted, tmp_path):
    run = tmp_path / "run"
    assert start("write best.ckpt", run) == -signal.SIGKILL
    assert not (run / "best.ckpt").exists()
    assert list(run.glob(".*-best.ckpt"))
    assert start("write last.ckpt", run) == -signal.SIGKILL  # the best is there already
    assert not (run / "last.ckpt").exists()
    assert start("before 2", run) == -signal.SIGKILL  # the checkpoint knows an epoch that metrics.jsonl does not
    assert len(history(run)) == 1
    assert torch.load(run / "last.ckpt", weights_only=True)["step"] == 6
    assert start("write last.ckpt", run) == -signal.SIGKILL
    assert torch.load(run / "last.ckpt", weights_only=True)["step"] == 6
    assert start("never", run) == 0
    assert_same_run(uninterrupted, run)


def test_what_is_compared_is_not_empty(uninterrupted):
    state = torch.load(uninterrupted / "last.ckpt", weights_only=True)
    assert len(state["optimiser"]["state"]) > 10
    assert state["average"]["n_averaged"] == state["step"] == LAST_STEP
    assert len(state["history"]) == 4
    assert len({record["loss"] for record in history(uninterrupted)}) == 4
