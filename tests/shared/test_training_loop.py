"""The training loop in one process: length, checkpoints, resuming, early stop, guards. Law 5 has its own file."""

import json
import logging
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from toy_training import SETTINGS, Samples, sample, train

from shared.errors import SetupError
from shared.training import NonFiniteLossError, WorkerError
from shared.training_failures import next_batch
from shared.training_folder import best_of, draw_curves


def changed(**values):
    return SETTINGS.model_copy(update=values)


def history(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def checkpoint(run, name="last"):
    return torch.load(run / f"{name}.ckpt", weights_only=True)


def scores(*values):
    """Validation that gives one score after another."""
    left = list(values)
    return lambda network, rank, world: {"closeness": [left.pop(0)]}


def test_a_run_leaves_checkpoints_metrics_events_and_curves(tmp_path):
    steps, said = [], []
    model = train(tmp_path, on_step=lambda *told: steps.append(told), say=said.append)
    records = history(tmp_path)
    assert [(record["epoch"], record["step"]) for record in records] == [(1, 4), (2, 8), (3, 12)]
    assert records[-1]["loss"] < records[0]["loss"]
    assert {"closeness", "learning_rate", "seconds", "samples_per_s", "peak_memory_bytes"} <= set(records[0])
    assert [step[:2] for step in steps] == [(done, 12) for done in range(1, 13)]
    assert sum(step[2] for step in steps[:4]) / 4 == pytest.approx(records[0]["loss"])
    best = best_of(records, "closeness")
    assert checkpoint(tmp_path, "best")["score"] == best["closeness"]
    for name, tensor in checkpoint(tmp_path, "best")["model"].items():
        assert torch.equal(tensor, model.state_dict()[name])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [4, 8, 12]
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert said == [
        f"{tmp_path}: finished after 3 epochs; best closeness {best['closeness']:.4f} after epoch {best['epoch']}"
    ]


def test_an_epoch_is_one_pass_where_no_steps_are_named(tmp_path):
    train(tmp_path, changed(steps_per_epoch=None, epochs=1), samples=18)
    assert history(tmp_path)[0]["step"] == 5  # 18 samples in batches of 4


def test_a_finished_run_says_so_and_does_nothing(tmp_path):
    train(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    said = []

    def untouched(step, rank, world):
        raise AssertionError("no batch is needed")

    train(tmp_path, batches_from=untouched, say=said.append)
    assert "12 of 12 steps are done" in said[0]
    assert "finished after 3 epochs" in said[1]
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_the_best_epoch_is_kept_and_the_first_of_equals(tmp_path):
    seen = []

    def watch(network, rank, world):
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"closeness": [[0.2, 0.7, 0.7][len(seen) - 1]]}

    model = train(tmp_path, validate=watch)
    assert checkpoint(tmp_path, "best")["epoch"] == 2
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, seen[1][name])
    assert not torch.equal(seen[1]["0.weight"], seen[2]["0.weight"])


def test_early_stop_counts_epochs_since_the_best_and_holds_after_resuming(tmp_path):
    settings = changed(epochs=9, early_stop_epochs=2)
    said = []
    train(tmp_path, settings, validate=scores(0.1, 0.5, 0.4, 0.5, 0.9), say=said.append)
    assert [record["closeness"] for record in history(tmp_path)] == [0.1, 0.5, 0.4, 0.5]
    assert "stopped after 4 epochs, the last 2 of them without a better closeness; best closeness 0.5000" in said[0]
    train(tmp_path, settings, validate=scores(), say=said.append)
    assert len(history(tmp_path)) == 4


def test_a_score_that_is_no_number_is_never_best(tmp_path):
    train(tmp_path, validate=scores(float("nan"), -3.0, float("nan")))
    assert [record["closeness"] for record in history(tmp_path)] == [None, -3.0, None]
    assert checkpoint(tmp_path, "best")["epoch"] == 2


def test_the_time_limit_ends_the_run_after_its_epoch_and_a_resumed_one_goes_on(tmp_path, monkeypatch):
    settings = changed(time_limit_minutes=1.0)
    clock = [0.0]
    monkeypatch.setattr("shared.training.time.monotonic", lambda: clock[0])

    def tick(step, total, loss):
        clock[0] += 10.0  # seconds

    said = []
    train(tmp_path, settings, on_step=tick, say=said.append)
    assert len(history(tmp_path)) == 2  # 80 s
    assert "stopped after 2 epochs, the time limit of 1 minutes being over" in said[0]
    train(tmp_path, settings, on_step=tick)
    assert len(history(tmp_path)) == 3


def test_ctrl_c_leaves_a_run_that_goes_on_from_that_very_step(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(whole)

    def interrupt(step, total, loss):
        if step == 6:  # in the middle of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train(cut, on_step=interrupt)
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoint(cut)["step"] == 7  # the signal reached step 7 while it ran
    steps = []
    train(cut, on_step=lambda step, total, loss: steps.append(step))
    assert steps == [8, 9, 10, 11, 12]
    for name, tensor in checkpoint(whole)["model"].items():
        assert torch.equal(tensor, checkpoint(cut)["model"][name])
    for one, other in zip(history(whole), history(cut), strict=True):
        assert (one["loss"], one["closeness"]) == (other["loss"], other["closeness"])


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    def impatient(step, total, loss):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # Python looks for signals between its own instructions

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, on_step=impatient)
    assert not (tmp_path / "last.ckpt").exists()


def test_long_epochs_are_saved_in_between(tmp_path, monkeypatch):
    monkeypatch.setattr("shared.training_folder.SAVE_EVERY_S", 0.0)
    saved = []

    def look(step, total, loss):
        saved.append(checkpoint(tmp_path)["step"] if (tmp_path / "last.ckpt").exists() else None)

    train(tmp_path, changed(epochs=1), on_step=look)
    assert saved == [None, 1, 2, 3]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 99])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    train(tmp_path)
    path = tmp_path / "last.ckpt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SetupError, match=r"last.ckpt: is no whole checkpoint .*; remove it to train anew"):
        train(tmp_path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(SetupError, match="last.ckpt"):
        train(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_network_or_length_is_named(tmp_path):
    train(tmp_path)
    with pytest.raises(SetupError, match=r"last.ckpt: is of another network .*give another run folder"):
        train(tmp_path, build=lambda: nn.Linear(4, 1))
    with pytest.raises(SetupError, match="is of a run with 12 steps, not 16"):
        train(tmp_path, changed(epochs=4))


def test_a_non_finite_loss_stops_with_the_cases_names(tmp_path):
    class Spoilt(Samples):
        def __getitem__(self, index):
            item = sample(index)
            return item | {"y": item["y"] * float("inf")} if index == 10 else item

    with pytest.raises(NonFiniteLossError, match=r"step 2: the loss is inf on \['case-8', 'case-9', 'case-10', 'ca"):
        train(tmp_path, data=Spoilt())
    with pytest.raises(NonFiniteLossError, match=r"step 2: the loss is inf on \['case-10'\]"):
        train(tmp_path, changed(micro_batch=1), data=Spoilt())


def test_non_finite_gradients_stop_before_they_spoil_the_weights(tmp_path):
    class Root(nn.Module):
        """Finite at zero, with an infinite slope."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return self.weight.sum().sqrt() + 0 * x.sum(1, keepdim=True)

    with pytest.raises(NonFiniteLossError, match=r"step 0: the gradients are not finite on \['case-0'"):
        train(tmp_path, changed(ema=0.0), build=Root)


class Failing(Samples):
    def __getitem__(self, index):
        if index == 9:
            raise ValueError("patch 9 is larger than its scan")
        return sample(index)


class Killed(Samples):
    def __getitem__(self, index):
        if index == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return sample(index)


def test_a_failing_worker_shows_its_own_traceback(tmp_path, caplog):
    with pytest.raises(WorkerError, match=r"step 2: a data worker failed: ValueError: patch 9 is larger") as caught:
        train(tmp_path, changed(workers=1), data=Failing())
    assert "\n" not in str(caught.value)
    shown = "\n".join(record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
    assert "Traceback" in shown
    assert 'raise ValueError("patch 9 is larger than its scan")' in shown


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the iterator that lost its worker
def test_a_worker_that_is_killed_ends_in_a_line_that_says_what_to_do(tmp_path):
    death = "(signal: Killed|is gone|exited unexpectedly)"  # as torch happens to notice it
    with pytest.raises(WorkerError, match=f"{death}.*fewer workers than 1.*--shm-size"):
        train(tmp_path, changed(workers=1), data=Killed())


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_is_killed_while_it_hands_a_batch_over_ends_in_the_same_line(error):
    class Torn:
        def __next__(self):
            raise error

    with pytest.raises(WorkerError, match=r"step 3: a data worker is gone \(.+\)\. .*fewer workers than 2.*--shm-size"):
        next_batch(Torn(), 3, changed(workers=2))
    with pytest.raises(type(error)):
        next_batch(Torn(), 3, changed(workers=0))


def test_without_workers_a_failure_of_the_data_is_what_it_was(tmp_path):
    with pytest.raises(ValueError, match="patch 9"):
        train(tmp_path, data=Failing())


def test_the_scaler_of_float16_is_restored(tmp_path, monkeypatch):
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision.amp import MixedPrecision

    def fabric():  # on the CPU, where make_fabric refuses float16
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
        made = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
        made.launch()
        return made

    settings = changed(precision="16-mixed")
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    train(whole, settings, fabric=fabric())

    def kill(step, total, loss):
        if step == 6:
            raise SystemExit

    with pytest.raises(SystemExit):
        train(cut, settings, fabric=fabric(), on_step=kill)
    train(cut, settings, fabric=fabric())
    one, other = checkpoint(whole), checkpoint(cut)
    assert one["scaler"] == other["scaler"]
    assert one["scaler"]["scale"] != 2.0**40
    for name, tensor in one["model"].items():
        assert torch.equal(tensor, other["model"][name])


def test_curves_hold_gaps_where_there_is_no_score(tmp_path):
    records = [{"epoch": n + 1, "loss": 1 / (n + 1), "dice": None if n == 2 else n / 10} for n in range(5)]
    draw_curves(records, "dice", tmp_path / "curves.png")
    first = (tmp_path / "curves.png").read_bytes()
    draw_curves(records[:2], "dice", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes() != first
