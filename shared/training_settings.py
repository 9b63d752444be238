"""How long and how a network is trained: the settings of ``shared.training.fit``, the same for every task.

Needs no torch, so that a command line can show them at once.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from shared.config import Config


class TrainingSettings(Config):
    """Length, optimiser, hardware and memory of one training run."""

    epochs: PositiveInt = 5
    """An epoch ends with a validation, a checkpoint and new curves."""
    steps_per_epoch: PositiveInt | None = None
    """Optimiser steps in an epoch; None is one pass over the training cases."""
    batch: PositiveInt = 4
    """Samples per optimiser step on each device."""
    micro_batch: PositiveInt | None = None
    """Samples that are on the device at once, their gradients added up to those of a batch; None is the whole batch."""
    memory: Literal["fixed", "auto"] = "fixed"
    """auto: where CUDA runs out of memory, halve micro_batch, then checkpoint activations, and say so."""
    checkpoint_activations: bool = False
    """Compute activations again on the way back instead of keeping them: less memory, a third more time."""
    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    """sgd has Nesterov momentum of 0.99, as nnU-Net's."""
    learning_rate: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["constant", "cosine", "poly"] = "constant"
    """cosine falls to zero, poly with a power of 0.9 (nnU-Net's)."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises to its full value."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the exponential moving average of the weights, less in the first steps; 0 switches it off."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the gradients of a step; None leaves them as they are."""
    early_stop_epochs: PositiveInt | None = None
    """Stop after so many epochs without a better validation score."""
    time_limit_minutes: PositiveFloat | None = None
    """Stop after the epoch in which this time is over; a resumed run starts its clock anew."""
    seed: NonNegativeInt = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    devices: PositiveInt = 1
    """Devices on each node (processes, on the CPU); their batches make up one larger batch."""
    nodes: PositiveInt = 1
    """Machines, started by torchrun or Slurm."""
    workers: NonNegativeInt = 2
    """Processes that prepare batches, for each device."""
