"""The training loop every task uses: seeded, resumable, on one device or many, and readable from top to bottom.

Randomness in the data is a function of seed and index (the data set's duty), the network's own (dropout) is reseeded
from seed, step and rank, and the learning rate is a function of the step: so a resumed run repeats what an
uninterrupted one would have done.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from shared.errors import SetupError
from shared.report import peak_memory_bytes
from shared.training_devices import gathered, launch
from shared.training_failures import NonFiniteLossError, WorkerError, worker_death
from shared.training_folder import RunFolder, best_of
from shared.training_memory import Batch, advice, is_out_of_memory
from shared.training_settings import TrainingSettings
from shared.training_step import Trainer, load_checkpoint

__all__ = ["NonFiniteLossError", "WorkerError", "fit"]

log = logging.getLogger(__name__)


def fit(
    build: Callable[[], nn.Module],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    batches_from: Callable[[int, int, int], Iterable[Batch]],
    validate: Callable[[nn.Module, int, int], Mapping[str, Sequence[float]]],
    run: Path,
    settings: TrainingSettings,
    *,
    samples: int,
    metric: str,
    blocks: Callable[[nn.Module], Iterable[nn.Module]] = nn.Module.children,
    fabric: Fabric | None = None,
    on_step: Callable[[int, int, float], None] = lambda step, total, loss: None,
    say: Callable[[str], None] = log.info,
) -> nn.Module:
    """Train a network and return it with its best weights (those of the highest ``metric``), on the CPU.

    The run folder gets ``last.ckpt``, ``best.ckpt``, ``metrics.jsonl``, ``curves.png`` and ``tensorboard/``. Where it
    holds a ``last.ckpt`` already, training goes on from there; a run that has ended says so and does nothing.

    Args:
        build: makes the network; called once the seed is set, so that its first weights are seeded too.
        loss_of: network and batch to scalar loss, a mean over the batch's samples; ``case`` names them in errors.
        batches_from: (step, rank, world) to this process's endless batches from that step on, on the CPU. A step of
            all processes is ``settings.batch * world`` consecutive samples, of which each takes its slice in turn.
        validate: (network, rank, world) to the scores of this process's share of the cases, by metric; higher is
            better. A metric is the mean over all cases.
        run: the run folder; where there are several nodes, on a file system that they share.
        settings: length, optimiser, hardware, memory.
        samples: how many make one pass, for an epoch where settings name no steps.
        metric: the one that decides which weights are best.
        blocks: the modules of a network whose activations may be computed again instead of kept.
        fabric: from ``launch(settings)``, where the caller needed it first.
        on_step: told step, total and loss after each step, in the first process.
        say: told in a sentence how the run began and ended, in the first process.

    Raises:
        SetupError: memory, a device or a checkpoint does not do.
        NonFiniteLossError: the loss became NaN or infinite.
        WorkerError: a data worker failed or was killed.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what was done is in ``last.ckpt``.
    """
    started = time.monotonic()
    fabric = fabric or launch(settings)
    per_epoch = settings.steps_per_epoch or -(-samples // (settings.batch * fabric.world_size))
    trainer = Trainer(build, loss_of, blocks, settings, settings.epochs * per_epoch, fabric)
    tell = say if trainer.first else log.debug
    folder = RunFolder(run, metric, active=trainer.first)
    if folder.last.exists():
        trainer.load(folder.last)
        tell(f"{run}: {trainer.step} of {trainer.total} steps are done")
    ended = _ended(trainer, metric)
    if ended is None:
        with _explained(trainer), trainer.interrupt:
            # Workers are forked before TensorBoard starts its thread, whose locks they might inherit.
            batches = iter(batches_from(trainer.step, fabric.global_rank, fabric.world_size))
            with folder.open(trainer.step):
                while ended is None:
                    begin = time.monotonic()
                    record = _train_epoch(trainer, per_epoch, batches, folder, on_step)
                    record |= trainer.evaluate(validate)
                    trainer.history.append(record | {"seconds": round(time.monotonic() - begin, 2)})
                    trainer.losses = []
                    folder.save_best(trainer.candidate.state_dict(), trainer.history)
                    folder.save_last(trainer.state())  # after the best, which it counts on
                    folder.write(trainer.history)
                    ended = _ended(trainer, metric) or _out_of_time(trainer, started)
    best = best_of(trainer.history, metric)
    tell(f"{run}: {ended}" + (f"; best {metric} {best[metric]:.4f} after epoch {best['epoch']}" if best else ""))
    fabric.barrier()  # best.ckpt is written by the first process
    trainer.model.load_state_dict(load_checkpoint(folder.best)["model"])
    return trainer.model.cpu().eval()


def _train_epoch(
    trainer: Trainer,
    steps: int,
    batches: Iterator[Batch],
    folder: RunFolder,
    on_step: Callable[[int, int, float], None],
) -> dict[str, Any]:
    """Train to the end of the epoch (a resumed one was begun before) and return its record, without scores."""
    epoch = len(trainer.history) + 1
    begin, first_step = time.monotonic(), trainer.step
    on_cuda = trainer.fabric.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(trainer.fabric.device)
    while trainer.step < epoch * steps:
        loss = trainer.advance(batches)
        if trainer.first and not math.isnan(loss):
            on_step(trainer.step, trainer.total, loss)
        if trainer.interrupted:
            folder.save_last(trainer.state())
            trainer.stop(KeyboardInterrupt())
        folder.save_at_times(trainer.state)
    samples = (trainer.step - first_step) * trainer.settings.batch * trainer.fabric.world_size
    peak = torch.cuda.max_memory_allocated(trainer.fabric.device) if on_cuda else peak_memory_bytes()
    return {
        "epoch": epoch,
        "step": trainer.step,
        "loss": math.fsum(trainer.losses) / len(trainer.losses),
        "learning_rate": trainer.rate,
        "samples_per_s": round(samples / max(time.monotonic() - begin, 1e-9), 3),
        "peak_memory_bytes": max(gathered(trainer.fabric, peak or 0)),
        **asdict(trainer.memory),
    }


def _ended(trainer: Trainer, metric: str) -> str | None:
    """Say why there is nothing left to do, or None."""
    patience, done = trainer.settings.early_stop_epochs, len(trainer.history)
    best = best_of(trainer.history, metric)
    if done and trainer.history[-1]["step"] >= trainer.total:
        return f"finished after {done} epochs"
    if patience is not None and done - (best["epoch"] if best else 0) >= patience:
        return f"stopped after {done} epochs, the last {patience} of them without a better {metric}"
    return None


def _out_of_time(trainer: Trainer, started: float) -> str | None:
    """Say that the time limit is over, by the first process's clock, or None."""
    limit = trainer.settings.time_limit_minutes
    if limit is None or gathered(trainer.fabric, time.monotonic() - started)[0] < 60 * limit:
        return None
    return f"stopped after {len(trainer.history)} epochs, the time limit of {limit:g} minutes being over"


@contextmanager
def _explained(trainer: Trainer) -> Iterator[None]:
    """Turn what torch says of memory and of data workers, wherever it says it, into words for people."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise SetupError(advice(trainer.memory, trainer.settings)) from error
        died = worker_death(error, trainer.settings)
        if died is None:
            raise
        raise died from error
