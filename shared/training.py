"""The training loop every task uses: seeded, resumable, and readable from top to bottom.

Randomness in the data is a function of seed and index (the data set's duty), and the network's own (dropout) is
reseeded from seed and step here, so a resumed run repeats what an uninterrupted one would have done.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric, seed_everything
from torch import Tensor, nn

from shared.errors import SetupError, SkiagramError
from shared.runtime import parse_device

Batch = Mapping[str, Any]


@dataclass(slots=True)
class Fit:
    """What ``fit`` needs besides the data: length, optimiser, and how often to look at the result."""

    steps: int
    validate_every: int
    learning_rate: float
    optimiser: Literal["adam", "adamw"] = "adam"
    schedule: Literal["constant", "cosine"] = "constant"
    ema: float = 0.0
    clip_norm: float = 12.0
    seed: int = 0
    device: str = "auto"
    precision: Any = "32-true"
    on_step: Callable[[int, float], None] = field(default=lambda step, loss: None)


class NonFiniteLossError(SkiagramError):
    """The loss became NaN or infinite: names the step and the cases in the batch."""

    exit_status = 1


def make_fabric(device: str, precision: Any) -> Fabric:
    """Choose the accelerator; SetupError where CUDA was asked for and is not there."""
    kind, index = parse_device(device)
    if kind == "cuda" and index >= torch.cuda.device_count():
        raise SetupError(f"{device} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    on_cuda = kind == "cuda" or (kind == "auto" and torch.cuda.is_available())
    return Fabric(accelerator="cuda" if on_cuda else "cpu", devices=[index] if on_cuda else 1, precision=precision)


def fit(
    build: Callable[[], nn.Module],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    batches_from: Callable[[int], Iterable[Batch]],
    validate: Callable[[nn.Module], float],
    run: Path,
    settings: Fit,
) -> nn.Module:
    """Train a network and return it with its best weights (those of the highest ``validate``).

    Args:
        build: makes the network; called once the seed is set, so that its first weights are seeded too.
        loss_of: batch to scalar loss; a batch's ``case`` names it in errors.
        batches_from: endless batches from a given step on, on the CPU.
        validate: score of a network, higher is better.
        run: folder for ``last.ckpt``, ``best.ckpt`` and ``metrics.jsonl``; where ``last.ckpt`` exists, go on from it.
        settings: see ``Fit``.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite.
    """
    run.mkdir(parents=True, exist_ok=True)
    fabric = make_fabric(settings.device, settings.precision)
    seed_everything(settings.seed, verbose=False)
    model = build()
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(settings.ema)
    )
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    optimiser = kind(model.parameters(), lr=settings.learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, settings))
    network, optimiser = fabric.setup(model, optimiser)
    average.to(fabric.device)
    state: dict[str, Any] = {"model": network, "average": average, "optimiser": optimiser, "scheduler": scheduler}
    state |= {"step": 0, "best": -math.inf}
    if (run / "last.ckpt").exists():
        fabric.load(run / "last.ckpt", state)

    started, losses = time.monotonic(), []
    network.train()
    for batch in batches_from(state["step"]):
        if state["step"] >= settings.steps:
            break
        torch.manual_seed(settings.seed * 1_000_003 + state["step"])
        loss = loss_of(network, fabric.to_device(dict(batch)))
        if not torch.isfinite(loss):
            raise NonFiniteLossError(f"step {state['step']}: the loss is {loss.item()} on {batch.get('case')}")
        fabric.backward(loss)
        fabric.clip_gradients(network, optimiser, max_norm=settings.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
        scheduler.step()
        average.update_parameters(model)
        state["step"] += 1
        losses.append(loss.item())
        settings.on_step(state["step"], losses[-1])
        if state["step"] % settings.validate_every == 0 or state["step"] == settings.steps:
            candidate = average.module if settings.ema else model
            score = _validated(candidate, validate)
            network.train()
            improved = score > state["best"]
            state["best"] = max(score, state["best"])
            record = {
                "step": state["step"], "loss": sum(losses) / len(losses), "score": score,
                "learning_rate": scheduler.get_last_lr()[0], "seconds": round(time.monotonic() - started, 1),
            }  # fmt: skip
            losses = []
            _append(run / "metrics.jsonl", record)
            _save(fabric, run / "last.ckpt", state)
            if improved:
                _save(fabric, run / "best.ckpt", {"model": candidate.state_dict(), **record})
    model.load_state_dict(torch.load(run / "best.ckpt", map_location="cpu", weights_only=True)["model"])
    return model.cpu().eval()


def _rate(step: int, settings: Fit) -> float:
    """Share of the learning rate at a step: constant, or cosine to zero after a warm-up of 5 % (at most 200 steps)."""
    if settings.schedule == "constant":
        return 1.0
    warm_up = max(min(settings.steps // 20, 200), 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * min((step - warm_up) / max(settings.steps - warm_up, 1), 1)))


@torch.no_grad()
def _validated(model: nn.Module, validate: Callable[[nn.Module], float]) -> float:
    model.eval()
    return validate(model)


def _append(path: Path, record: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def _save(fabric: Fabric, path: Path, state: dict[str, Any]) -> None:
    """Write aside, then rename: a killed run leaves the previous checkpoint whole."""
    aside = path.with_suffix(".part")
    fabric.save(aside, state)
    aside.replace(path)
