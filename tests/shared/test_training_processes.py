"""Several processes on the loopback device: the same training, and one that fails stops all."""

import json
import multiprocessing
import os
import socket
import traceback

import pytest
import torch
import toy_training
from torch import nn
from toy_training import SETTINGS, Samples, build, sample

from shared.errors import SkiagramError

PATIENCE_S = 120


def changed(**values):
    return SETTINGS.model_copy(update=values)


def process(rank, world, port, run, settings, changes):
    """Train as one of the processes that torchrun would start."""
    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0",
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
    }  # fmt: skip
    said = run / f"rank-{rank}.txt"
    try:
        toy_training.train(run, settings, **changes)
        said.write_text("done")
    except SkiagramError as error:
        said.write_text(f"{type(error).__name__} {error.exit_status}: {error}")
    except SystemExit as stop:
        said.write_text(f"left quietly with {stop.code}")
    except BaseException:
        said.write_text(traceback.format_exc())
    print(f"rank {rank} speaks", flush=True)


@pytest.fixture(scope="module")
def context():
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["shared.training", "torch.utils.tensorboard"])
    return found


def together(context, run, settings, world=2, **changes):
    """Train in ``world`` processes and return what became of each."""
    run.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    each = [context.Process(target=process, args=(rank, world, port, run, settings, changes)) for rank in range(world)]
    for one in each:
        one.start()
    for one in each:
        one.join(PATIENCE_S)
    for one in each:
        if one.is_alive():
            one.kill()
    return [(run / f"rank-{rank}.txt").read_text() for rank in range(world)]


def history(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run):
    return torch.load(run / "last.ckpt", weights_only=True)["model"]


def test_two_processes_train_as_one_with_the_doubled_batch(context, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    losses = []
    toy_training.train(one, changed(batch=8), on_step=lambda step, total, loss: losses.append(loss))
    assert together(context, two, changed(batch=4, devices=2)) == ["done", "done"]
    for wanted, found in zip(history(one), history(two), strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert found["closeness"] == pytest.approx(wanted["closeness"], rel=1e-4)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-4, atol=1e-6)
    assert len(losses) == 12


def test_micro_batches_and_bfloat16_go_with_several_processes(context, tmp_path):
    settings = changed(devices=2, micro_batch=3, precision="bf16-mixed", checkpoint_activations=True, epochs=1)
    assert together(context, tmp_path / "run", settings) == ["done", "done"]
    toy_training.train(tmp_path / "one", changed(batch=8, epochs=1))
    wanted = history(tmp_path / "one")[0]["loss"]
    assert history(tmp_path / "run")[0]["loss"] == pytest.approx(wanted, rel=0.05)


class Spoilt(Samples):
    """A sample that only the second process sees."""

    def __getitem__(self, index):
        item = sample(index)
        return item | {"y": item["y"] * float("nan")} if index == 13 else item


class Broken(Samples):
    def __getitem__(self, index):
        if index == 13:
            raise SkiagramError("scan 13 is gone")
        return sample(index)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (Spoilt(), "SkiagramError 1: step 1: the loss is nan on ['case-12', 'case-13', 'case-14', 'case-15']"),
        (Broken(), "SkiagramError 2: scan 13 is gone"),
    ],
)
def test_a_failure_in_one_process_stops_all_and_is_told_once(context, tmp_path, data, reason):
    said = together(context, tmp_path / "run", changed(devices=2), data=data)
    assert said == [reason, "left quietly with 0"]


class Cramped(nn.Module):
    """The second process's device holds two samples, the first's any number."""

    def __init__(self):
        super().__init__()
        self.inner = build()

    def forward(self, x):
        if self.training and os.environ.get("RANK") == "1" and len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.inner(x)


def test_memory_that_runs_out_in_one_process_is_lowered_in_all(context, tmp_path):
    settings = changed(devices=2, memory="auto", epochs=1)
    assert together(context, tmp_path / "run", settings, build=Cramped) == ["done", "done"]
    assert history(tmp_path / "run")[0]["micro_batch"] == 2
    toy_training.train(tmp_path / "one", changed(batch=8, epochs=1), build=Cramped)
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "run")[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_run_of_two_processes_is_not_taken_up_by_one(context, tmp_path):
    assert together(context, tmp_path / "run", changed(devices=2)) == ["done", "done"]
    with pytest.raises(SkiagramError, match="is of a run with 2 processes, not 1"):
        toy_training.train(tmp_path / "run")
