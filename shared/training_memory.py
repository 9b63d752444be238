"""Training in the memory there is: micro batches, activation checkpointing, and what to do when CUDA has no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from shared.training_settings import TrainingSettings

Batch = Mapping[str, Any]


@dataclass(slots=True)
class MemoryPlan:
    """What is on the device at once; ``lower`` makes it less."""

    micro_batch: int | None
    checkpoint_activations: bool

    def lower(self, batch: int) -> str | None:
        """Halve the micro batch of a ``batch``, else checkpoint activations; say so, or None if nothing is left."""
        now = min(self.micro_batch or batch, batch)
        if now > 1:
            self.micro_batch = now // 2
            return f"micro_batch {now} -> {now // 2}"
        if not self.checkpoint_activations:
            self.checkpoint_activations = True
            return "checkpoint_activations False -> True"
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether a device had no memory left; cuDNN and cuBLAS say so in a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "STATUS_ALLOC_FAILED" in str(error)


def advice(plan: MemoryPlan, settings: TrainingSettings) -> str:
    """Say in one line what was on the device when memory ran out, and which settings to lower."""
    now = min(plan.micro_batch or settings.batch, settings.batch)
    remedies = []
    if settings.memory == "fixed":
        remedies.append("memory auto, which finds what fits")
    if now > 1:
        remedies.append(f"micro_batch {now // 2}")
    if not plan.checkpoint_activations:
        remedies.append("checkpoint_activations true")
    if settings.precision == "32-true":
        remedies.append("precision bf16-mixed")
    remedies.append("a smaller patch or image")
    return (
        f"CUDA ran out of memory with micro_batch {now} of batch {settings.batch}, precision {settings.precision}, "
        f"checkpoint_activations {str(plan.checkpoint_activations).lower()}; give one of: {', '.join(remedies)}"
    )


def size_of(batch: Batch) -> int:
    """Return the number of samples in a batch: the length of its first entry."""
    return len(next(iter(batch.values())))


def micro_batches(batch: Batch, size: int | None) -> Iterator[tuple[Batch, float]]:
    """Cut a batch along the first dimension of its entries; each part comes with its share of the samples.

    Tensors and lists as long as the batch are cut; anything else goes along whole.
    """
    whole = size_of(batch)
    size = min(size or whole, whole)
    for start in range(0, whole, size):
        part = {
            name: value[start : start + size] if hasattr(value, "__len__") and len(value) == whole else value
            for name, value in batch.items()
        }
        yield part, min(size, whole - start) / whole


def checkpoint_activations(modules: Iterable[nn.Module]) -> None:
    """Let modules compute their activations again on the way back (Chen et al., arXiv 1604.06174, 2016).

    Outputs and gradients stay what they were, dropout included; BatchNorm's running statistics move once, not twice.
    """
    for module in modules:
        # A method, not a closure: a deep copy of the module then calls the copy.
        module.forward = MethodType(_recomputed, module)


def _recomputed(module: nn.Module, *inputs: Any, **named: Any) -> Any:
    forward = partial(type(module).forward, module)
    if not (module.training and torch.is_grad_enabled()):
        return forward(*inputs, **named)
    contexts = lambda: (nullcontext(), _statistics_at_rest(module))  # noqa: E731
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **named)


@contextmanager
def _statistics_at_rest(module: nn.Module) -> Iterator[None]:
    """Let BatchNorm normalise by its batch without moving its running statistics."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    before = [(norm.momentum, None if (n := norm.num_batches_tracked) is None else n.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)
