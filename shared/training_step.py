"""One optimiser step, whole: micro batches, gradients averaged over processes, memory lowered where it ran out."""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from lightning_fabric import Fabric, seed_everything
from torch import Tensor, nn

from shared.errors import SetupError, SkiagramError
from shared.training_devices import average_buffers, average_gradients, gathered
from shared.training_failures import Interrupt, NonFiniteLossError, WorkerError, next_batch
from shared.training_memory import (
    Batch,
    MemoryPlan,
    advice,
    checkpoint_activations,
    is_out_of_memory,
    micro_batches,
)
from shared.training_optimiser import learning_rate, make_optimiser, moving_average, set_learning_rate
from shared.training_settings import TrainingSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a step in one process; all processes see those of all, and so decide alike."""

    loss: float = math.nan
    error: SkiagramError | None = None
    out_of_memory: bool = False
    interrupted: bool = False

    def portable(self) -> Outcome:
        """Return this with an error that any process can unpickle."""
        if self.error is None:
            return self
        error = SkiagramError(str(self.error))
        error.exit_status = self.error.exit_status
        return replace(self, error=error)


class Trainer:
    """A network in training: everything that ``last.ckpt`` holds, and the step that changes it."""

    def __init__(
        self,
        build: Callable[[], nn.Module],
        loss_of: Callable[[nn.Module, Batch], Tensor],
        blocks: Callable[[nn.Module], Iterable[nn.Module]],
        settings: TrainingSettings,
        total: int,
        fabric: Fabric,
    ) -> None:
        """Build the network from the seed and move it to its device; arguments as of ``fit``."""
        seed_everything(settings.seed, verbose=False)
        self.settings, self.total, self.fabric = settings, total, fabric
        self.interrupt = Interrupt()
        self.model = build()
        self._average = moving_average(self.model, settings.ema)
        self._loss_of, self._blocks = loss_of, blocks
        optimiser = make_optimiser(self.model.parameters(), settings)
        self._network, self._optimiser = fabric.setup(self.model, optimiser)
        if self._average is not None:
            self._average.to(fabric.device)
        self.memory = MemoryPlan(settings.micro_batch, settings.checkpoint_activations)
        self._recompute()
        self.interrupted = False
        """Ctrl-C or SIGTERM reached a process: all stop."""
        self.step = 0
        self.losses: list[float] = []
        self.history: list[dict[str, Any]] = []

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return bool(self.fabric.global_rank == 0)

    @property
    def candidate(self) -> nn.Module:
        """The network to validate and to keep: the moving average where there is one."""
        return self.model if self._average is None else self._average.module

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return learning_rate(max(self.step - 1, 0), self.total, self.settings)

    def advance(self, batches: Iterator[Batch]) -> float:
        """Do one optimiser step in all processes and return its loss, the mean over them.

        The loss is NaN where Ctrl-C left no batch to do it with; see ``interrupted``.

        Raises:
            SkiagramError: a loss is not finite, a data worker failed or memory ran out, in any of the processes.
        """
        batch: Batch | None = None
        while True:
            batch, outcome = self._attempt(batch, batches)
            outcomes = gathered(self.fabric, outcome.portable())
            failed = next((found.error for found in outcomes if found.error is not None), None)
            if failed is not None:
                self.stop(outcome.error or failed)
            if not any(found.out_of_memory for found in outcomes):
                break
            self._lower_memory()
        self.interrupted = any(found.interrupted for found in outcomes)
        loss = math.fsum(found.loss for found in outcomes) / len(outcomes)
        if not math.isnan(loss):
            self._update(batch or {})
            self.step += 1
            self.losses.append(loss)
        return loss

    def _attempt(self, batch: Batch | None, batches: Iterator[Batch]) -> tuple[Batch | None, Outcome]:
        """Gather this process's gradients of a step; what goes wrong is an outcome, for the others must hear of it."""
        buffers = [buffer.clone() for buffer in self.model.buffers()] if self.settings.memory == "auto" else []
        try:
            batch = next_batch(batches, self.step, self.settings) if batch is None else batch
            return batch, Outcome(self._gradients(batch), interrupted=self.interrupt.wanted)
        except SkiagramError as error:
            if self.interrupt.wanted and isinstance(error, WorkerError):  # stopped along with this process
                return batch, Outcome(interrupted=True)
            return batch, Outcome(error=error)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Out here the exception, and with it the frames that hold activations, is gone.
        for buffer, kept in zip(self.model.buffers(), buffers, strict=False):
            buffer.copy_(kept)
        return batch, Outcome(out_of_memory=True)

    def _gradients(self, batch: Batch) -> float:
        """Add up the gradients of a batch's micro batches, each weighted by its share, and return the loss."""
        self._optimiser.zero_grad()
        _seed(self.settings.seed, self.step, self.fabric.global_rank)
        parts, losses = [], []
        for part, share in micro_batches(batch, self.memory.micro_batch):
            with self.fabric.no_backward_sync(self._network):  # average_gradients does it
                loss = self._loss_of(self._network, self.fabric.to_device(dict(part)))
                self.fabric.backward(loss * share)
            parts.append((part, share))
            losses.append(loss.detach())
        total = 0.0
        for (part, share), value in zip(parts, torch.stack(losses).tolist(), strict=True):
            if not math.isfinite(value):
                raise NonFiniteLossError(f"step {self.step}: the loss is {value} on {part.get('case')}")
            total += share * value
        return total

    def _update(self, batch: Batch) -> None:
        """Average gradients over processes, clip them, and move the weights and their average."""
        average_gradients(self.fabric, self.model)
        limit = self.settings.clip_norm or math.inf
        norm = self.fabric.clip_gradients(
            self._network, self._optimiser, max_norm=limit, error_if_nonfinite=False
        )  # fmt: skip
        assert norm is not None
        # float16 overflows now and then: its scaler leaves such a step out.
        if self.settings.precision != "16-mixed" and not torch.isfinite(norm):
            self.stop(NonFiniteLossError(f"step {self.step}: the gradients are not finite on {batch.get('case')}"))
        set_learning_rate(self._optimiser, learning_rate(self.step, self.total, self.settings))
        self._optimiser.step()
        if self._average is not None:
            self._average.update_parameters(self.model)

    def _lower_memory(self) -> None:
        """Make less of the batch stay on the device, or stop with advice."""
        self._optimiser.zero_grad()
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        said = self.memory.lower(self.settings.batch) if self.settings.memory == "auto" else None
        if said is None:
            self.stop(SetupError(advice(self.memory, self.settings)))
        if self.first:
            log.warning("CUDA ran out of memory at step %d; going on with %s", self.step, said)
        self._recompute()

    def _recompute(self) -> None:
        if self.memory.checkpoint_activations:
            checkpoint_activations(self._blocks(self.model))

    def evaluate(
        self, validate: Callable[[nn.Module, int, int], Mapping[str, Sequence[float]]]
    ) -> dict[str, float | None]:
        """Return each metric's mean over the cases of all processes; None where that is not finite."""
        average_buffers(self.fabric, self.model, self.candidate)
        self.candidate.eval()
        with torch.no_grad(), self.fabric.autocast():
            own = validate(self.candidate, self.fabric.global_rank, self.fabric.world_size)
        self.model.train()
        scores: dict[str, list[float]] = {}
        for found in gathered(self.fabric, {name: list(map(float, values)) for name, values in own.items()}):
            for name, values in found.items():
                scores.setdefault(name, []).extend(values)
        means = {name: math.fsum(values) / max(len(values), 1) for name, values in scores.items()}
        return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}

    def state(self) -> dict[str, Any]:
        """Return all that a run needs to go on, as ``last.ckpt`` holds it."""
        return {
            "model": self.model.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "step": self.step, "total": self.total, "world": self.fabric.world_size,
            "losses": self.losses, "history": self.history, "memory": asdict(self.memory),
        }  # fmt: skip

    def load(self, path: Path) -> None:
        """Go on from a ``last.ckpt``.

        Raises:
            SetupError: it is damaged, or of a run with another network, length or number of processes.
        """
        state = load_checkpoint(path)
        for name, now in (("world", self.fabric.world_size), ("total", self.total)):
            if state[name] != now:
                what = {"world": "processes", "total": "steps"}[name]
                raise SetupError(f"{path}: is of a run with {state[name]} {what}, not {now}; go on with its settings")
        try:
            self.model.load_state_dict(state["model"])
            if self._average is not None:
                self._average.load_state_dict(state["average"])
            self._optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise SetupError(f"{path}: is of another network ({_line(error)}); give another run folder") from error
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.step, self.losses, self.history = state["step"], state["losses"], state["history"]
        self.memory = MemoryPlan(**state["memory"])
        self._recompute()

    def stop(self, error: SkiagramError | KeyboardInterrupt) -> NoReturn:
        """End the run for a reason that all processes share: the first one says it, the others leave quietly.

        They leave with status 0: on any other, Fabric kills the first before it has spoken.
        """
        raise error if self.first else SystemExit(0)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values, never code.

    Raises:
        SetupError: it is missing or damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise SetupError(f"{path}: is no whole checkpoint ({_line(error)}); remove it to train anew") from error
    return state


def _seed(seed: int, step: int, rank: int) -> None:
    """Make dropout and its like a function of seed, step and rank."""
    mixed = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(mixed[0]))


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
