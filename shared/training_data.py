"""Batches for ``shared.training.fit``: a resumed run, and any number of processes, see the same samples in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import DataLoader, Dataset, Sampler

from shared.parallel import serve_parent
from shared.training_settings import TrainingSettings


class Consecutive(Sampler[int]):
    """Indices of one rank's samples from a step on: the ranks share out each step's global batch in order."""

    def __init__(self, batch: int, step: int, rank: int, world: int) -> None:
        self.batch, self.step, self.rank, self.world = batch, step, rank, world

    def __iter__(self) -> Iterator[int]:
        step = self.step
        while True:
            first = (step * self.world + self.rank) * self.batch
            yield from range(first, first + self.batch)
            step += 1


@lru_cache(maxsize=2)
def order_of_pass(seed: int, number: int, count: int) -> Int64[np.ndarray, " count"]:
    """Return the order of ``count`` samples in the pass of that number, a function of the seed."""
    return np.random.default_rng((seed, number)).permutation(count)


def batches(
    samples: Dataset[Any],
    settings: TrainingSettings,
    step: int = 0,
    rank: int = 0,
    world: int = 1,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[Any]:
    """Endless batches from an optimiser step on; a resumed run sees what an uninterrupted one would have seen.

    A step's ``settings.batch * world`` samples have consecutive indices, and rank ``r`` takes the ``r``-th
    ``settings.batch`` of them: several ranks see what one with the larger batch sees.

    Args:
        samples: endless, item ``i`` a function of ``i`` alone.
        settings: batch, workers and device.
        step: the first batch's.
        rank: this process.
        world: of so many.
        collate: makes a batch of a list of samples; torch's own if left out.
    """
    loader = DataLoader(
        samples,
        batch_size=settings.batch,
        sampler=Consecutive(settings.batch, step, rank, world),
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        pin_memory=torch.cuda.is_available() and settings.device != "cpu",
        collate_fn=collate,
        worker_init_fn=serve_parent,  # torch's own watch sees nothing where a fork server starts the workers
        generator=torch.Generator(),  # the loader's own seed is not used, and is not to be drawn from the network's
    )
    return iter(loader)
