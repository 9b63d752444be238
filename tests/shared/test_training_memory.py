"""Micro batches, activation checkpointing, and what is done when CUDA has no memory left (a network plays CUDA)."""

import itertools
import json
import logging

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import nn
from toy_training import SETTINGS, build, loss_of, train

from shared.errors import SetupError
from shared.training_memory import MemoryPlan, checkpoint_activations, micro_batches
from shared.training_optimiser import learning_rate, make_optimiser, moving_average


def changed(**values):
    return SETTINGS.model_copy(update=values)


def weights(run):
    return torch.load(run / "last.ckpt", weights_only=True)["model"]


def history(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


class Small(nn.Module):
    """A device on which no more than ``room`` samples fit, a third more where activations are not kept."""

    room = 2

    def __init__(self, norm=False):
        super().__init__()
        self.inner = build()
        self.norm = nn.BatchNorm1d(4) if norm else nn.Identity()

    def forward(self, x):
        x = self.norm(x)
        if self.training and len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.inner(x)


class Norms(Small):
    def __init__(self):
        super().__init__(norm=True)


def test_micro_batches_are_cut_along_the_first_dimension_of_everything():
    batch = {"image": torch.arange(5), "boxes": [torch.tensor([n]) for n in range(5)], "case": list("abcde"), "k": 7}
    parts = list(micro_batches(batch, 2))
    assert [part["case"] for part, _ in parts] == [["a", "b"], ["c", "d"], ["e"]]
    assert [part["image"].tolist() for part, _ in parts] == [[0, 1], [2, 3], [4]]
    assert [len(part["boxes"]) for part, _ in parts] == [2, 2, 1]
    assert {part["k"] for part, _ in parts} == {7}
    assert [share for _, share in parts] == [0.4, 0.4, 0.2]
    assert len(list(micro_batches(batch, None))) == len(list(micro_batches(batch, 9))) == 1


@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_compute_the_step_of_a_whole_batch(tmp_path, size):
    train(tmp_path / "whole")
    train(tmp_path / "micro", changed(micro_batch=size))
    for name, tensor in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "micro")[name], tensor, rtol=1e-5, atol=1e-6)
    for one, other in zip(history(tmp_path / "whole"), history(tmp_path / "micro"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_auto_lowers_the_micro_batch_says_so_and_computes_what_it_would_have_from_the_start(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "auto", changed(memory="auto"), build=Norms)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == ["CUDA ran out of memory at step 0; going on with micro_batch 4 -> 2"]
    assert [record["micro_batch"] for record in history(tmp_path / "auto")] == [2, 2, 2]
    train(tmp_path / "given", changed(micro_batch=2), build=Norms)
    for name, tensor in weights(tmp_path / "given").items():  # BatchNorm's running statistics as well
        assert torch.equal(tensor, weights(tmp_path / "auto")[name]), name


def test_what_was_lowered_stays_lowered_after_resuming(tmp_path, caplog):
    def kill(step, total, loss):
        if step == 6:
            raise SystemExit

    with pytest.raises(SystemExit):
        train(tmp_path, changed(memory="auto"), build=Small, on_step=kill)
    caplog.clear()
    train(tmp_path, changed(memory="auto"), build=Small)
    assert not [record for record in caplog.records if "out of memory" in record.getMessage()]


class Kept(nn.Module):
    """A device that holds one sample, and that only if its activations are not kept."""

    def __init__(self):
        super().__init__()
        self.inner = build()
        self.block = Block()

    def forward(self, x):
        return self.inner(self.block(x))


class Block(nn.Module):
    def forward(self, x):
        if self.training and len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if self.training and torch.is_grad_enabled() and "forward" not in self.__dict__:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x.clone()


def test_auto_checkpoints_activations_when_one_sample_is_too_much(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train(tmp_path, changed(memory="auto"), build=Kept)
    said = [record.getMessage().partition("with ")[2] for record in caplog.records if "CUDA" in record.getMessage()]
    assert said == ["micro_batch 4 -> 2", "micro_batch 2 -> 1", "checkpoint_activations False -> True"]
    assert history(tmp_path)[0]["checkpoint_activations"] is True


def test_auto_ends_with_advice_when_nothing_is_left_to_lower(tmp_path):
    class Nothing(Small):
        room = 0

    with pytest.raises(SetupError, match=r"with micro_batch 1 of batch 4, .*checkpoint_activations true; give one of"):
        train(tmp_path, changed(memory="auto"), build=Nothing)


@pytest.mark.parametrize("text", ["", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"])
def test_fixed_memory_ends_with_the_settings_to_lower(tmp_path, text):
    def run_out(network, batch):
        raise RuntimeError(text) if text else torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(SetupError) as caught:
        train(tmp_path, loss_of=run_out)
    told = str(caught.value)
    assert "with micro_batch 4 of batch 4, precision 32-true, checkpoint_activations false" in told
    for remedy in ("memory auto", "micro_batch 2", "checkpoint_activations true", "precision bf16-mixed", "patch"):
        assert remedy in told
    assert "\n" not in told


def test_running_out_of_memory_in_validation_is_explained_too(tmp_path):
    def run_out(network, rank, world):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(SetupError, match="CUDA ran out of memory with micro_batch 4"):
        train(tmp_path, validate=run_out)


def test_another_failure_of_the_network_is_left_alone(tmp_path):
    def fail(network, batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(tmp_path, changed(memory="auto"), loss_of=fail)


def gradients(network, x):
    torch.manual_seed(3)
    network.zero_grad()
    (network(x) ** 2).mean().backward()
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def test_checkpointed_activations_give_the_same_gradients_with_dropout():
    torch.manual_seed(0)
    network = BasicUNet(3, 1, 2, features=(4, 4, 4, 4, 4, 4), dropout=0.3).train()
    x = torch.randn(2, 1, 32, 16, 16)
    wanted = gradients(network, x)
    counted = []
    network.down_1.convs.conv_0.register_forward_hook(lambda *_: counted.append(1))
    checkpoint_activations(network.children())
    for name, gradient in gradients(network, x).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-5, atol=1e-7)
    assert len(counted) == 2  # there and back again
    network.eval()(x)
    assert len(counted) == 3


def test_checkpointed_activations_move_running_statistics_once():
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Sequential(nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.ReLU())).train()

    x, plain, lean = torch.randn(4, 1, 9), network(), network()
    checkpoint_activations(lean.children())
    for name, gradient in gradients(plain, x).items():
        torch.testing.assert_close(gradients(lean, x)[name], gradient)
        lean.load_state_dict(plain.state_dict())
    gradients(plain, x + 1)
    gradients(lean, x + 1)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(lean.state_dict()[name], tensor)
    assert lean[0][1].num_batches_tracked == 2
    assert lean[0][1].momentum == 0.1


def test_a_plan_is_lowered_to_single_samples_first():
    plan = MemoryPlan(None, False)
    said = []
    while (step := plan.lower(5)) is not None:
        said.append(step)
    assert said == ["micro_batch 5 -> 2", "micro_batch 2 -> 1", "checkpoint_activations False -> True"]
    assert MemoryPlan(8, True).lower(2) == "micro_batch 2 -> 1"
    assert MemoryPlan(1, True).lower(2) is None


def test_learning_rates_follow_their_schedules():
    def rates(schedule, warmup=0):
        settings = changed(schedule=schedule, warmup_steps=warmup, learning_rate=2.0)
        return [learning_rate(step, 10, settings) for step in range(10)]

    assert rates("constant") == [2.0] * 10
    assert rates("constant", warmup=4)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates("cosine")[0] == 2.0
    assert rates("cosine")[5] == pytest.approx(1.0)
    assert rates("poly")[4] == pytest.approx(2 * 0.6**0.9)
    falling = rates("cosine", warmup=2)[2:]
    assert all(b < a for a, b in itertools.pairwise(falling))
    assert rates("cosine", warmup=99)[-1] == 2.0  # all of it is warm-up


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_each_optimiser_is_what_it_is_called_and_learns(tmp_path, name):
    optimiser = make_optimiser(build().parameters(), changed(optimiser=name, weight_decay=0.1))
    assert type(optimiser).__name__.lower() == name
    assert optimiser.param_groups[0]["weight_decay"] == 0.1
    if name == "sgd":
        assert (optimiser.param_groups[0]["momentum"], optimiser.param_groups[0]["nesterov"]) == (0.99, True)
    train(tmp_path, changed(optimiser=name, learning_rate=3e-3))
    assert history(tmp_path)[-1]["loss"] < history(tmp_path)[0]["loss"]


def test_the_moving_average_of_a_short_run_has_forgotten_where_it_began():
    """Else BatchNorm's first variance, 1, stays in it and is far above that of dark pictures."""
    model = nn.BatchNorm1d(2)
    average = moving_average(model, 0.999)
    for _ in range(300):
        average.update_parameters(model)
        model.running_var.fill_(0.01)
    torch.testing.assert_close(average.module.running_var, model.running_var, rtol=1e-3, atol=0)


def test_the_moving_average_holds_weights_and_running_statistics():
    model = nn.BatchNorm1d(2)
    average = moving_average(model, 0.9)
    for value in (1.0, 2.0):
        nn.init.constant_(model.weight, value)
        model.running_mean.fill_(10 * value)
        average.update_parameters(model)
    share = 2 / 11  # of the first, after one average: (1 + 1) / (10 + 1)
    assert average.module.weight[0].item() == pytest.approx(2 - share)
    assert average.module.running_mean[0].item() == pytest.approx(10 * (2 - share))
    assert moving_average(model, 0.0) is None


def test_clipping_bounds_the_step(tmp_path):
    def huge(network, batch):
        return loss_of(network, batch) * 1e6

    start = train(tmp_path / "none", changed(epochs=1, steps_per_epoch=1, learning_rate=1e-30), loss_of=huge)
    for limit in (None, 0.5):
        settings = changed(epochs=1, steps_per_epoch=1, optimiser="sgd", schedule="constant", learning_rate=1.0)
        settings = settings.model_copy(update={"clip_norm": limit, "warmup_steps": 0, "ema": 0.0})
        model = train(tmp_path / str(limit), settings, loss_of=huge)
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        moved = torch.sqrt(sum(((one - other) ** 2).sum() for one, other in pairs)).item()
        assert moved > 1e3 if limit is None else moved == pytest.approx(0.5 * 1.99, rel=1e-3)
