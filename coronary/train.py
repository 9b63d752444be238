"""Train the coronary network.

coronary train --preset smoke                                   # a laptop: minutes, on phantoms it makes itself
coronary train --preset lite --data ImageCAS --device cuda      # one GPU
coronary train --resume runs/coronary/lite                      # go on where it stopped
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn

from coronary.cases import find_cases, load_split, save_split, split_cases
from coronary.config import Config
from coronary.data import CachedCase, Patches, batches_from, cache_case
from coronary.model import build
from coronary.phantom import PhantomConfig, write_dataset
from shared.io.atomic import whole
from shared.metrics.overlap import dice
from shared.sliding_window import plan_windows, slide
from shared.training import Fit, fit

log = logging.getLogger(__name__)


def train(
    config: Config, run: Path, data: Path | None = None, on_step: Callable[[int, float], None] | None = None
) -> Path:
    """Train from ``data`` (ImageCAS's layout; None makes phantoms) and return the run folder.

    The folder holds ``config.json``, ``cases.json``, ``metrics.jsonl``, ``last.ckpt``, ``best.ckpt`` and the cache of
    preprocessed cases. Called again with the same folder it goes on from ``last.ckpt``, with the same cases.
    """
    run.mkdir(parents=True, exist_ok=True)
    with whole(run / "config.json") as aside:
        aside.write_text(config.model_dump_json(indent=2))
    split = run / "cases.json"
    if not split.exists():
        if data is None:
            data = run / "phantoms"
            write_dataset(data, count=config.phantoms, seed=config.training.seed, config=PhantomConfig())
        save_split(split, *split_cases(find_cases(data), config.validation_fraction, config.training.seed))
    training, validation = load_split(split)
    cache = run / "cache"
    cached = {case.name: cache_case(case, config.preprocessing, cache) for case in [*training, *validation]}
    patches = Patches([cached[case.name] for case in training], config)
    held_out = [cached[case.name] for case in validation[: config.validation_cases]]
    log.info("%d cases to train on, %d held out", len(training), len(validation))

    chosen = config.training
    steps_per_epoch = chosen.steps_per_epoch or -(-len(training) * config.sampling.patches_per_case // chosen.batch)
    settings = Fit(
        steps=chosen.epochs * steps_per_epoch, validate_every=steps_per_epoch, learning_rate=chosen.learning_rate,
        optimiser=chosen.optimiser, schedule=chosen.schedule, ema=chosen.ema, seed=chosen.seed, device=chosen.device,
        precision=chosen.precision, clip_norm=chosen.clip_norm or 1e9, on_step=on_step or (lambda step, loss: None),
    )  # fmt: skip
    fit(
        build=lambda: build(config),
        loss_of=_loss(config),
        batches_from=lambda step: batches_from(patches, step),
        validate=lambda model: mean_dice(model, held_out, config),
        run=run,
        settings=settings,
    )
    return run


def _loss(config: Config) -> Callable[[nn.Module, Any], Tensor]:
    """Dice over the lumen channel, with or without cross entropy, on soft targets of two channels."""
    kind = DiceCELoss if config.loss.cross_entropy else DiceLoss
    criterion = kind(softmax=True, include_background=config.loss.dice_of_background, batch=config.loss.dice_over_batch)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        loss: Tensor = criterion(model(batch["image"]).float(), batch["label"])
        return loss

    return loss_of


def mean_dice(model: nn.Module, cases: list[CachedCase], config: Config) -> float:
    """Mean Dice of whole cached cases, through the same sliding window that prediction uses."""
    device = next(model.parameters()).device

    def network(window: np.ndarray) -> np.ndarray:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled="bf16" in config.training.precision):
            return model(torch.from_numpy(window).to(device)).float().cpu().numpy()

    scores = []
    for case in cases:
        image = np.asarray(case.image, np.float32)
        shape: Any = image.shape
        plan = plan_windows(shape, config.inference.window, config.inference.overlap)
        difference, _ = slide(image, network, plan, blending=config.inference.blending, pad_value=float(image.min()))
        scores.append(dice(difference > 0, case.occupancy >= 128))
    return float(np.mean(scores))
