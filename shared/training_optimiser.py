"""The optimisers, learning rate schedules and moving average that a run can choose."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from shared.training_settings import TrainingSettings

Tensors = tuple[Tensor, ...] | list[Tensor]

POLY_POWER = 0.9  # nnU-Net (Isensee et al., Nature Methods 2021)
NESTEROV_MOMENTUM = 0.99  # nnU-Net as well


def make_optimiser(parameters: Iterable[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """Build Adam, AdamW, or SGD with Nesterov momentum."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=rate, weight_decay=decay, momentum=NESTEROV_MOMENTUM, nesterov=True
        )  # fmt: skip
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(parameters, lr=rate, weight_decay=decay)


def learning_rate(step: int, total: int, settings: TrainingSettings) -> float:
    """Return the learning rate of a step (from 0) of ``total``: a function of the step alone, so nothing to restore.

    Over ``warmup_steps`` it rises in equal parts to its full value; then it is constant, or falls to zero as half a
    cosine or as ``(1 - t)^0.9``.
    """
    warm = min(settings.warmup_steps, total)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    gone = min((step - warm) / max(total - warm, 1), 1.0)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * gone))
    if settings.schedule == "poly":
        return settings.learning_rate * float((1 - gone) ** POLY_POWER)
    return settings.learning_rate


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def moving_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """Build the exponential moving average of weights and buffers, or None where ``decay`` is 0.

    BatchNorm's running statistics are averaged like the weights they belong to. The decay is ``rising``.
    """
    if decay == 0:
        return None

    def average(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        get_ema_multi_avg_fn(rising(decay, int(count)))(averaged, current, count)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def rising(decay: float, count: int) -> float:
    """Return the decay after ``count`` averages: it rises from 0.1 to ``decay`` as (1 + n) / (10 + n).

    As TensorFlow's ExponentialMovingAverage has it: else a short run would keep a part of what it began with.
    """
    return min(decay, (1 + count) / (10 + count))
