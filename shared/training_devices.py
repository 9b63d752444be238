"""Where training runs: devices, processes and nodes, and what the processes tell one another."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from shared.errors import SetupError
from shared.runtime import parse_device
from shared.training_settings import TrainingSettings

log = logging.getLogger(__name__)
T = TypeVar("T")

# Rank 0 may preprocess a thousand scans while the others wait at a barrier.
PATIENCE = timedelta(hours=6)


def make_fabric(settings: TrainingSettings) -> Fabric:
    """Choose accelerator, processes and precision; nothing that was asked for is replaced by something else.

    Raises:
        SetupError: a device, a number of devices or a precision that is not there, or processes that torchrun or
            Slurm started in another number than the settings say.
    """
    kind, index = parse_device(settings.device)
    there = torch.cuda.device_count()
    on_cuda = kind == "cuda" or (kind == "auto" and torch.cuda.is_available())
    if on_cuda and max(index + 1, settings.devices) > there:
        wanted = settings.device if settings.devices == 1 else f"{settings.devices} CUDA devices"
        raise SetupError(f"{wanted} asked for, but torch sees {there} CUDA devices; give fewer devices, or device cpu")
    if settings.devices > 1 and ":" in settings.device:
        raise SetupError(f"device {settings.device} is one, devices is {settings.devices}; give device cuda")
    if settings.precision == "16-mixed" and not on_cuda:
        raise SetupError("precision 16-mixed needs CUDA; give bf16-mixed or 32-true")
    warn_of_emulation(settings.precision, on_cuda=on_cuda)
    _check_processes(settings)
    processes = settings.devices * settings.nodes
    accelerator = "cuda" if on_cuda else "cpu"
    precision = settings.precision
    return Fabric(
        accelerator=accelerator,
        devices=[index] if on_cuda and settings.devices == 1 else settings.devices,
        num_nodes=settings.nodes,
        # Buffers are averaged by average_buffers; a broadcast in forward would wait for a process that failed.
        strategy=DDPStrategy(timeout=PATIENCE, forward_sync_buffers=False) if processes > 1 else "auto",
        plugins=None if precision == "32-true" else [MixedPrecisionInside(precision, accelerator)],
    )


def warn_of_emulation(precision: str, *, on_cuda: bool) -> None:
    """Say that this GPU or CPU computes in bfloat16 by detours, which takes several times as long."""
    if precision != "bf16-mixed":
        return
    if on_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        log.warning("this GPU has no bfloat16 and emulates it slowly; precision 16-mixed is faster here")
    if not on_cuda and torch.backends.mkldnn.is_available() and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        log.warning("this CPU has no bfloat16 and emulates it slowly; precision 32-true is faster here")


class MixedPrecisionInside(MixedPrecision):
    """Lightning's mixed precision, but for what goes in: autocast lowers what gains by it, and true boxes stay exact.

    In bfloat16 a coordinate above 512 px would be a multiple of 4.
    """

    def convert_input(self, data: Any) -> Any:
        """Return a forward's arguments as they are."""
        return data


def _check_processes(settings: TrainingSettings) -> None:
    """Compare the processes that torchrun or Slurm started with those that the settings ask for."""
    wanted = settings.devices * settings.nodes
    for name, environment in (("torchrun", TorchElasticEnvironment), ("Slurm", SLURMEnvironment)):
        if environment.detect():
            try:
                started = environment().world_size()
            except RuntimeError as error:  # Slurm without --ntasks-per-node
                raise SetupError(f"{name}: {error}") from error
            if started != wanted:
                raise SetupError(
                    f"{name} started {started} processes, but devices {settings.devices} x nodes {settings.nodes} is "
                    f"{wanted}; give --devices (for each node) and --nodes that multiply to {started}"
                )
            return
    if settings.nodes > 1:
        raise SetupError(f"nodes is {settings.nodes}, but neither torchrun nor Slurm started this; start it with one")


def launch(settings: TrainingSettings) -> Fabric:
    """Make a Fabric and start its processes, if nobody else has; all but the first write nothing to stdout.

    On one machine Fabric starts the others by running this program's own command line again, each with its rank in
    the environment. From a notebook that is impossible: use the command line there.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # each process would introduce itself
    fabric = make_fabric(settings)
    fabric.launch()
    if fabric.global_rank > 0:
        sys.stdout.flush()
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 1)
    return fabric


def is_first_process() -> bool:
    """Say whether this is the process that writes and speaks, after training as well."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def gathered(fabric: Fabric, value: T) -> list[T]:
    """Return what every process gave, in the order of ranks; every process must call it. Values must pickle."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def first_then_others(fabric: Fabric, work: Callable[[], T]) -> T:
    """Do ``work`` in the first process, then in the others, which find on disk what it made; if it fails, stop all."""
    result: T | None = None
    if fabric.global_rank == 0:
        try:
            result = work()
        except BaseException:
            gathered(fabric, False)
            raise
    if not gathered(fabric, True)[0]:
        raise SystemExit(0)
    return work() if result is None else result


def average_gradients(fabric: Fabric, model: nn.Module) -> None:
    """Replace gradients by their mean over the processes.

    Done once a step and after all have agreed that it succeeded, not by DDP on the way back: one process out of
    memory in the middle would leave the others waiting.
    """
    if fabric.world_size == 1:
        return
    gradients = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:  # unused here, perhaps not in another process
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    _average(fabric, gradients)


def average_buffers(fabric: Fabric, *models: nn.Module) -> None:
    """Replace floating-point buffers, such as BatchNorm's running statistics, by their mean over the processes."""
    if fabric.world_size > 1:
        _average(fabric, [b for model in models for b in model.buffers() if b.is_floating_point()])


@torch.no_grad()
def _average(fabric: Fabric, tensors: list[torch.Tensor]) -> None:
    if not tensors:
        return
    mean = fabric.all_reduce(torch.cat([tensor.reshape(-1) for tensor in tensors]), reduce_op="mean")
    assert isinstance(mean, torch.Tensor)
    for tensor, part in zip(tensors, mean.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
