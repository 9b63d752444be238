"""A task small enough to train in milliseconds, for the tests of the training loop."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from shared.training import fit
from shared.training_settings import TrainingSettings

SETTINGS = TrainingSettings(
    epochs=3, steps_per_epoch=4, batch=4, optimiser="adamw", learning_rate=1e-2, schedule="cosine", warmup_steps=3,
    ema=0.9, clip_norm=5.0, device="cpu", workers=0,
)  # fmt: skip


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def sample(index: int) -> dict[str, Any]:
    x = torch.randn(4, generator=torch.Generator().manual_seed(index))
    return {"x": x, "y": x.sum()[None], "case": f"case-{index}"}


class Samples(Dataset[dict[str, Any]]):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return sample(index)


def indices(settings: TrainingSettings, step: int, rank: int, world: int) -> Iterator[int]:
    while True:
        first = (step * world + rank) * settings.batch
        yield from range(first, first + settings.batch)
        step += 1


def loss_of(network: nn.Module, batch: Any) -> Tensor:
    return ((network(batch["x"]) - batch["y"]) ** 2).mean()


def validate(network: nn.Module, rank: int, world: int) -> dict[str, list[float]]:
    """Seven cases, so that two processes have unequal shares."""
    cases = [sample(10_000 + index) for index in range(7)][rank::world]
    errors = [float((network(case["x"][None]) - case["y"]).abs()) for case in cases]
    return {"closeness": [-error for error in errors]}


def train(run: Path, settings: TrainingSettings = SETTINGS, **changes: Any) -> nn.Module:
    """Train the toy; ``changes`` replace arguments of ``fit``."""
    data = changes.pop("data", Samples())

    def batches_from(step: int, rank: int, world: int) -> Any:
        order = indices(settings, step, rank, world)
        return DataLoader(data, batch_size=settings.batch, sampler=order, num_workers=settings.workers)

    arguments = {
        "build": build, "loss_of": loss_of, "batches_from": batches_from, "validate": validate, "samples": 16,
        "metric": "closeness",
    }  # fmt: skip
    return fit(run=run, settings=settings, **(arguments | changes))
